"""Many pictures, each as if it were alone: a batch that may be killed at any moment and goes on with the same command.

    OUT/job.json          the description, with every default filled in
    OUT/manifest.jsonl    one line for each item that was done or has failed; an item's last line counts
    OUT/NAME.restored.png (and NAME.degraded.png of a simulation)
    OUT/.batch/           what is being written; moved out of it when it is whole, and cleared at the next start

An item is one picture, one seed of the batch and one sample of it. It is done if its last line says so, for the same bytes of
what it reads and the same settings, and its picture is there. The picture is moved into its place before the line is written: a kill
between the two makes the item again, to the same picture.
"""

import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from ...interfaces.cli.progress import Say as Told
from ...interfaces.cli.progress import Tell, bar
from ..errors import BadInput, is_full
from ..files import atomic as files
from ..files import stacks as sources
from ..files.pictures import check_writable, write_json
from ..models import provenance
from ..restore import run as job
from .items import Item, found, inputs, key, settings_of
from .posterior import Sets
from .ray import Where, spread
from .request import settled
from .worker import Full, Maker

Add = Callable[[Mapping[str, Any]], None]
ROWS = 8
"""Items that `rows: auto` runs together on a GPU, to begin with."""


def batch(described: Mapping[str, Any], *, retry: bool = False, ray: Where | None = None, say: job.Say = print) -> bool:
    """Does what is left of a batch; True if no item has failed, now or before.

    Args:
        described: by `description.filled`; retry: what has failed before, too, though nothing has changed.
        ray: spread over workers of Ray instead of in this process.
    """
    out, items, base = Path(described["out"]), found(described), settled(described)
    with suppress(OSError):
        out.mkdir(parents=True, exist_ok=True)
    check_writable(out)
    if ray is None:
        files.to_device(base["device"])
    # of this process: workers of one that was killed may still write to theirs for a moment
    stage, weights, rows = out / ".batch" / secrets.token_hex(4), provenance.fingerprints(base), _rows(described)
    with job.signals(), _manifest(out / "manifest.jsonl") as (lines, add):
        _clear(out)
        write_json(out / "job.json", described)
        left, done, failed = _sorted(items, described, base, weights, lines, retry)
        sets = Sets(items, [*(i.output for i in left), *(i.output for i in failed)], lines, out)
        steps, full, made = len(base["times"] or range(base["steps"] + 1)) - 1, None, 0
        try:
            if left:
                stage.mkdir(parents=True)
                before = len(items) - len(left)
                with bar(len(items) * steps, before * steps) as told:
                    new, chunks = 0, _chunks(left, rows, described, base)

                    def at() -> int:
                        return before + made + new

                    if ray is not None:
                        told(before * steps, "Ray is started")
                        coming = spread(ray, chunks, described, base, weights, stage, rows, left[0], say)
                    else:
                        coming = _here(
                            Maker(described, base, weights, stage / "0", rows, left[0]), chunks, told, at, steps
                        )
                    with closing(coming):
                        for line in coming:
                            item = Item(*(line[name] for name in Item._fields))
                            add(line)
                            if line["status"] == "done":
                                made += 1
                                sets.add(line)
                            else:
                                failed[item] = line["reason"]
                                new += 1
                            if ray is not None:
                                told(at() * steps, f"{item.name} ({at()} of {len(items)})")
        except job.Stopped:
            say(f"stopped: {done + made} of {len(items)} are done; the same command goes on")
            raise
        except Full as error:
            full = str(error)
        except OSError as error:  # of the manifest itself
            if not is_full(error):
                raise BadInput(
                    f"{str(out)!r} cannot be written to ({error}); mend that, and the same command goes on"
                ) from error
            full = str(error)
        finally:
            _clear(out)
    _say_all(items, done, made, failed, full, out, say)
    return sets.tell(say) and not failed and full is None


def outlook(described: Mapping[str, Any]) -> str:
    """What a batch would do, in one line; nothing is written."""
    out, items, base = Path(described["out"]), found(described), settled(described)
    manifest = out / "manifest.jsonl"
    lines = _read(manifest.read_bytes()) if manifest.exists() else {}
    left, done, failed = _sorted(items, described, base, provenance.fingerprints(base), lines, False)
    return f"{len(items)} items: {done} done, {len(failed)} failed before, {len(left)} to do"


def rerun(manifest: Path, name: str, *, say: job.Say = print) -> bool:
    """Makes one item of a manifest again; True if the numbers are the same to the bit, else what differs is said.

    `name` is a picture's or an output's.
    """
    try:
        lines = [line for line in _read(manifest.read_bytes()).values() if line["status"] == "done"]
    except OSError as error:
        raise BadInput(
            f"{str(manifest)!r} cannot be read ({error.strerror}); name the manifest.jsonl of a batch"
        ) from None
    fitting = [line for line in lines if name == line["output"]] or [line for line in lines if name == line["name"]]
    if len(fitting) != 1:
        which = ", ".join(line["output"] for line in fitting or lines) or "none"
        raise BadInput(f"--item {name!r}: expected one of the items that are done, {which}")
    output = Path(fitting[0]["output"])
    again = manifest.parent / output.with_name(output.name.removesuffix(".restored.png") + ".rerun.png")
    return job.again(fitting[0], again, say)


def _here(
    maker: Maker, chunks: Iterator[Sequence[Item]], told: Told, at: Callable[[], int], steps: int
) -> Generator[dict[str, Any], None, None]:
    """The lines of all items, made in this process."""

    @contextmanager
    def show(some: Sequence[Item], total: int, done: int) -> Iterator[Tell]:
        def tell(step: int, misfit: float) -> None:
            more = f" and {len(some) - 1} more" * (len(some) > 1)
            told(at() * steps + len(some) * step * steps // total, f"{some[0].name}{more}, misfit {misfit:4.2f}")

        yield tell

    for chunk in chunks:
        yield from maker.make(chunk, show)


def _rows(described: Mapping[str, Any]) -> int:
    """Items that may run together. On the CPU there is little to win, and an item stays what it is alone, to the bit."""
    rows = described.get("rows", 1)
    return rows if rows != "auto" else ROWS if described["device"].startswith("cuda") else 1


def _chunks(
    left: Sequence[Item], rows: int, described: Mapping[str, Any], base: Mapping[str, Any]
) -> Iterator[Sequence[Item]]:
    """Items that may run together, as far as that can be told without decoding; `Maker.make` looks closer."""
    if rows == 1:
        yield from ([item] for item in left)
        return
    waiting: dict[str, list[Item]] = {}
    for item in left:
        size = sources.size(item.photo)
        own = settings_of(item, described, base)["operator_options"]
        some = waiting.setdefault(json.dumps([size, own], default=str, sort_keys=True), [])
        some.append(item)
        if len(some) == rows:
            some[:], full = [], some[:]
            yield full
        elif sum(map(len, waiting.values())) >= 16 * rows:  # the first that came has waited long enough
            yield waiting.pop(next(name for name, each in waiting.items() if each))
    yield from filter(None, waiting.values())


def _sorted(
    items: Sequence[Item],
    described: Mapping[str, Any],
    base: Mapping[str, Any],
    weights: Mapping[str, str],
    lines: Mapping[str, Mapping[str, Any]],
    retry: bool,
) -> tuple[list[Item], int, dict[Item, str]]:
    """Items that are left to do, how many are done, and those that have failed before, with the reason."""
    left, done, failed, out = [], 0, {}, Path(described["out"])
    for item in items:
        line = lines.get(item.output)
        if line is None:
            left.append(item)
            continue
        settings, target = settings_of(item, described, base), out / item.output
        if line.get("key") != key(item, settings, inputs(settings, weights)):
            left.append(item)
        elif line["status"] == "done" and target.exists() and target.stat().st_size:
            done += 1
        elif line["status"] == "failed" and not retry:
            failed[item] = line["reason"]
        else:
            left.append(item)
    return left, done, failed


@contextmanager
def _manifest(path: Path) -> Iterator[tuple[dict[str, dict[str, Any]], Add]]:
    """The last line of each item, and what adds one: whole or not at all. Held against a second batch."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
    try:
        _hold(handle, path)
        data = path.read_bytes()
        os.ftruncate(handle, data.rfind(b"\n") + 1)  # what a kill or a full disk has cut

        def add(line: Mapping[str, Any]) -> None:
            text = json.dumps(line, sort_keys=True, allow_nan=False).encode() + b"\n"
            before = os.fstat(handle).st_size
            try:
                if os.write(handle, text) < len(text):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
                os.fsync(handle)
            except OSError:
                os.ftruncate(handle, before)
                raise

        yield _read(data), add
    finally:
        os.close(handle)


def _read(data: bytes) -> dict[str, dict[str, Any]]:
    """Lines by output; one that is damaged counts as none, so that its item is made again."""
    lines = {}
    for text in data.split(b"\n"):
        with suppress(ValueError, KeyError, TypeError):
            line = json.loads(text)
            lines[line["output"]] = line
    return lines


def _hold(handle: int, path: Path) -> None:
    """Until the handle is closed, by a kill too; where there are no such locks, two batches at once are the user's to avoid."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BadInput(
            f"another batch is writing to {str(path.parent)!r}; wait for it, or choose another out"
        ) from None
    except OSError:
        return


def _clear(out: Path) -> None:
    shutil.rmtree(out / ".batch", ignore_errors=True)


def _say_all(
    items: Sequence[Item], done: int, made: int, failed: Mapping[Item, str], full: str | None, out: Path, say: job.Say
) -> None:
    before = f" ({done} of them before)" if done else ""
    say(f"{len(items)} items: {done + made} done{before}, {len(failed)} failed; see {out / 'manifest.jsonl'}")
    for item, reason in failed.items():
        say(f"  {item.output}: {reason}")
    if failed:
        say("what has changed since is tried again by the same command, everything with --retry")
    if full is not None:
        say(f"stopped, since the disk is full ({full}); make room, and the same command goes on")
