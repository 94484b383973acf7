"""A batch on Ray: an actor for each GPU, or for so many cores, that loads the prior once and makes item after item.

Only the batch itself writes the manifest. An actor that dies is started again by Ray, which gives it its task again; an item that three
have died of has failed. Ray is an extra: pip install 'flowhelm[cluster]'.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import signal
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import BadInput
from ..restore.request import RestoreSettings
from ..run import Event, Noted, Said, Stopped, drive, handlers_kept
from .items import Batch, Item
from .manifest import DoneLine, FailedLine, lines_of, now
from .request import BatchRequest
from .worker import NoOutput, Worker, failed

TRIES = 3
_FOLDER = "flowhelm-ray-"
_RUNNING = Path("/tmp/ray/ray_current_cluster")
"""Where `ray start` says that it runs."""
_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
# Of a Ray for one batch. It takes an address of the network for the loopback interface's, but where it knows no clusters.
_ALONE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_worker_register_timeout_seconds": "300",  # on a busy machine a worker takes longer to start than Ray expects
}


class Where(NamedTuple):
    """address: `local` for a Ray of this batch alone, `auto` for one that runs already, else local, or a cluster's address.

    workers: None for one for each GPU, or for each `cores` cores.
    """

    address: str
    workers: int | None = None
    cores: int = 1


class Actor:
    """What runs in an actor: a `Worker`, opened there, and opened again when Ray has started it again. Ctrl-C is heard by the batch
    alone. What it is given and what it answers is JSON, as on disk: it is read by the same models."""

    def __init__(self, request: dict[str, Any], base: dict[str, Any], *given: Any, example: Item):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        weights, stage, rows = given
        settings = RestoreSettings.of(base, "a worker of Ray")
        whole = BatchRequest.of(request, "a worker of Ray")
        self.worker = Worker(Batch(whole, settings, weights), stage / secrets.token_hex(4), rows)
        self.wrong: str | None = None
        try:
            drive(self.worker.open(example))
        except ValueError as error:
            self.wrong = str(error)

    def make(self, chunk: Sequence[Item]) -> tuple[bytes, str | None, str | None]:
        """The lines; why nothing can be written; that the prior cannot be opened."""
        if self.wrong is not None:
            return b"", None, self.wrong
        lines = []
        try:
            for event in self.worker.make(chunk):
                if isinstance(event, DoneLine | FailedLine):
                    lines.append(event.model_dump_json(exclude_unset=True).encode())
        except NoOutput as error:
            return b"\n".join(lines), str(error), None
        finally:
            self.worker.clear()
        return b"\n".join(lines), None, None


def spread(
    where: Where, chunks: Iterator[Sequence[Item]], batch: Batch, stage: Path, rows: int, example: Item
) -> Iterator[Event | DoneLine | FailedLine]:
    """The lines of all items, in the order in which they are done. `stage`: a folder that is there, seen by every worker.

    Raises:
        BadInput: there is no Ray, too little of it, or the prior cannot be opened.
        NoOutput: the results cannot be written.
    """
    gpus = batch.base.device.startswith("cuda")
    yield Noted("starting Ray, which takes some seconds")
    with _ray(where, gpus) as (ray, workers):
        yield Said(f"{workers} workers of {where.cores} cores" + " and a GPU each" * gpus)
        base = batch.base.changed(threads=where.cores)
        actor = ray.remote(num_cpus=where.cores, num_gpus=int(gpus), max_restarts=-1, max_task_retries=TRIES - 1)(Actor)
        told = batch.request.model_dump(mode="json"), base.stored(), batch.weights, stage, rows
        hands = [actor.remote(*told, example=example) for _ in range(workers)]
        again, flying = deque[Sequence[Item]](), dict[Any, tuple[Any, Sequence[Item]]]()
        deaths = 0  # of workers, before anything was made; it may be no fault of the items
        doubted: list[FailedLine] = []

        def feed(hand: Any) -> None:
            chunk = again.popleft() if again else next(chunks, None)
            if chunk is not None:
                flying[hand.make.remote(chunk)] = hand, chunk

        for hand in hands * 2:  # one that it makes, and one so that it need not wait
            feed(hand)
        while flying:
            (ready,), _ = ray.wait(list(flying), num_returns=1)
            hand, chunk = flying.pop(ready)
            try:
                lines, full, wrong = ray.get(ready)
            except ray.exceptions.RayTaskError:
                raise  # a fault of the program
            except ray.exceptions.RayError as error:
                deaths += deaths >= 0
                if deaths > workers:
                    why = " ".join(str(error).split())[:500]
                    raise BadInput(
                        f"the workers of Ray die as they start ({why}); mend that, or leave --ray out"
                    ) from error
                if len(chunk) > 1:  # each alone, to see which one it is
                    again.extend([item] for item in chunk)
                else:
                    why = f"the worker that made it died {TRIES} times ({' '.join(str(error).split())[:200]})"
                    doubted.append(failed(chunk[0], batch, now(), why))
            else:
                deaths = -1
                if wrong is not None:
                    raise BadInput(wrong)
                yield from lines_of(lines)[0].values()
                if full is not None:
                    raise NoOutput(full)
            if deaths < 0:
                yield from doubted
                doubted.clear()
            feed(hand)
        yield from doubted


@contextmanager
def _ray(where: Where, gpus: bool) -> Iterator[tuple[Any, int]]:
    """Ray, connected to, and how many workers; shut down in the end. A local one listens on the loopback interface only."""
    address = where.address
    if address == "auto" and not os.environ.get("RAY_ADDRESS") and not _RUNNING.exists():
        address = "local"
    os.environ.update(_ENVIRONMENT)  # before the import, which reads them
    if address == "local":
        os.environ.update(_ALONE)
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # once: Ray reads it once in a process
    try:
        import ray
    except ImportError:
        raise BadInput("--ray needs Ray; install it: pip install 'flowhelm[cluster]'") from None
    with handlers_kept(), suppress(OSError):
        _sweep()
    folder = None
    try:
        with handlers_kept():
            if address != "local":
                try:
                    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
                except ConnectionError:
                    raise BadInput(
                        f"--ray: nobody answers at {address!r}; is that Ray's address? --ray local starts one"
                    ) from None
            else:
                count = where.workers or (None if gpus else max(1, (os.cpu_count() or 1) // where.cores))
                folder = tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-", dir=_short_temporary())
                _started(
                    ray, num_cpus=None if count is None else count * where.cores, include_dashboard=False,
                    object_store_memory=100 * 2**20, log_to_driver=False, logging_level=logging.ERROR,
                    _temp_dir=folder,
                )  # fmt: skip
        has = ray.cluster_resources()
        most = int(min(has.get("CPU", 0) // where.cores, has.get("GPU", 0) if gpus else has.get("CPU", 0)))
        if (where.workers or 1) > most:
            raise BadInput(
                f"--workers: expected at most {most}, for Ray has {has.get('CPU', 0):g} cores and {has.get('GPU', 0):g} GPUs, "
                f"got {where.workers or 1}"
            )
        yield ray, where.workers or most
    finally:
        with handlers_kept():
            ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _started(ray: Any, **how: Any) -> None:
    for left in reversed(range(TRIES)):
        try:
            ray.init(address="local", _node_ip_address="127.0.0.1", **how)
            return
        except Stopped:
            raise
        except (Exception, SystemExit) as error:  # on a busy machine it does not wait long enough for itself
            ray.shutdown()
            if not left:
                raise BadInput(f"Ray could not be started ({' '.join(str(error).split())[:300]})") from error


def _short_temporary() -> Path:
    """The temporary folder, or /tmp where its name is long: a socket's path has 107 characters at most, and Ray adds 80 of its own."""
    usual, short = Path(tempfile.gettempdir()), Path("/tmp")
    return short if len(str(usual)) > 12 and os.access(short, os.W_OK) else usual


def _sweep() -> None:
    """Folders of batches that were killed, so that they could not."""
    for path in _short_temporary().glob(f"{_FOLDER}*"):
        pid = re.match(rf"{_FOLDER}(\d+)-", path.name)
        if pid and path.stat().st_uid == os.getuid() and not Path(f"/proc/{pid[1]}").exists():
            shutil.rmtree(path, ignore_errors=True)
