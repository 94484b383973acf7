"""A batch on Ray: an actor for each GPU, or for so many cores, that loads the prior once and makes item after item.

Only the batch itself writes the manifest. An actor that dies costs nothing: what it was given goes to another, and an item that
three have died of has failed. Ray is an extra: pip install 'flowhelm[cluster]'.
"""

import logging
import os
import re
import secrets
import shutil
import signal
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import BadInput
from ..run import Stopped, handlers_kept
from .items import Item
from .worker import Full, Maker, failed, now

AHEAD = 2
"""Chunks that an actor has been given: one that it makes, and one so that it need not wait."""
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


class Worker:
    """What runs in an actor: a `Maker`, opened there. Ctrl-C is heard by the batch alone."""

    def __init__(self, *given: Any):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.given = given

    def open(self) -> str | None:
        """What is wrong, if the prior cannot be opened."""
        try:
            self.maker = Maker(*self.given)
        except ValueError as error:
            return str(error)
        return None

    def make(self, chunk: Sequence[Item]) -> list[dict[str, Any]]:
        lines = []
        try:
            for line in self.maker.make(chunk, lambda *_: nullcontext(lambda *_: None)):
                lines.append(line)
        except Full as error:
            lines.append({"status": "full", "reason": str(error)})
        finally:
            self.maker.clear()
        return lines


def spread(
    where: Where,
    chunks: Iterator[Sequence[Item]],
    described: Mapping[str, Any],
    base: Mapping[str, Any],
    weights: Mapping[str, str],
    stage: Path,
    rows: int,
    example: Item,
    say: Callable[[str], None],
) -> Generator[dict[str, Any], None, None]:
    """The lines of all items, in the order in which they are done. `stage`: a folder that is there, seen by every worker.

    Raises:
        BadInput: there is no Ray, too little of it, or the prior cannot be opened.
        Full: the disk is.
    """
    gpus, cause = base["device"].startswith("cuda"), None
    with _ray(where, gpus) as (ray, workers):
        say(f"{workers} workers of {where.cores} cores" + " and a GPU each" * gpus)
        base = {**base, "threads": where.cores}
        actor = ray.remote(num_cpus=where.cores, num_gpus=int(gpus), max_restarts=0, max_task_retries=0)(Worker)
        pending, tries, made = deque[Sequence[Item]](), Counter[Item](), 0
        hands: list[Any] = [None] * workers
        given: list[deque[tuple[Any, Sequence[Item]]]] = [deque() for _ in hands]  # in the order in which they are made
        starts = 0  # of workers, with nothing that was answered since

        def feed(who: int) -> None:
            nonlocal made, starts
            while len(given[who]) < AHEAD:
                if not pending and (more := next(chunks, None)) is not None:
                    pending.append(more)
                if not pending:
                    return
                if hands[who] is None:
                    starts += 1
                    if starts > TRIES * workers:
                        why = " ".join(str(cause).split())[:500]
                        raise BadInput(f"the workers of Ray die as they start ({why}); mend that, or leave --ray out")
                    hands[who] = actor.remote(described, base, weights, stage / str(made), rows, example)
                    made += 1
                    given[who].append((hands[who].open.remote(), ()))
                chunk = pending.popleft()
                given[who].append((hands[who].make.remote(chunk), chunk))

        for who in range(workers):
            feed(who)
        while any(given):
            flying = {ref: who for who, each in enumerate(given) for ref, _ in each}
            (ready,), _ = ray.wait(list(flying), num_returns=1)
            who = flying[ready]
            dead = False
            while given[who] and not dead:
                ref, chunk = given[who][0]
                if not ray.wait([ref], timeout=0)[0]:
                    break
                try:
                    told = ray.get(ref)
                except ray.exceptions.RayTaskError:
                    raise  # a fault of the program
                except ray.exceptions.RayError as error:
                    dead, cause = True, error
                    continue
                given[who].popleft()
                if isinstance(told, str):
                    raise BadInput(told)
                starts = 0
                for line in told or ():
                    if line["status"] == "full":
                        raise Full(line["reason"])
                    yield line
            if dead:
                hands[who] = None
                _, blamed = given[who][0]  # the others were only waiting
                for _, chunk in [*given[who]][:0:-1]:
                    pending.appendleft(chunk)
                given[who].clear()
                for item in reversed(blamed):
                    tries[item] += 1
                    if tries[item] < TRIES:
                        pending.appendleft([item])  # alone, to see which one it is
                        continue
                    why = f"the worker that made it died {TRIES} times ({' '.join(str(cause).split())[:200]})"
                    yield failed(item, described, base, weights, now(), why)
            for each in range(workers):
                feed(each)


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
