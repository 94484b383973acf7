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
import glob
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from .. import operators
from ..rng import digest
from . import files, job, provenance
from .description import settled
from .images import FORMATS, BadInput, check_writable, write_json
from .options import options, pick
from .posterior import Sets
from .problem import opened
from .progress import Say as Told
from .progress import Tell, bar

Add = Callable[[Mapping[str, Any]], None]


class Item(NamedTuple):
    """name: of the picture, below the folder or the fixed part of the glob that it was found by; output: below the folder OUT."""

    name: str
    photo: Path
    seed: int
    sample: int
    output: str

    @property
    def own_seed(self) -> int:
        """Of this item: nothing but the batch's seed, the picture's name and the sample's number is in it."""
        return digest(self.seed, (self.name, self.sample))


def batch(described: Mapping[str, Any], *, retry: bool = False, say: job.Say = print) -> bool:
    """Does what is left of a batch; True if no item has failed, now or before.

    Args:
        described: by `description.filled`; retry: what has failed before, too, though nothing has changed.
    """
    out, items, base = Path(described["out"]), found(described), settled(described)
    with suppress(OSError):
        out.mkdir(parents=True, exist_ok=True)
    check_writable(out)
    files.to_device(base["device"])
    stage, weights = out / ".batch", provenance.fingerprints(base)
    with job.signals(), _manifest(out / "manifest.jsonl") as (lines, add):
        _clear(stage)
        write_json(out / "job.json", described)
        left, done, failed = _sorted(items, base, weights, lines, out, retry)
        sets = Sets(items, [*(i.output for i in left), *(i.output for i in failed)], lines, out)
        steps, full, made = len(base["times"] or range(base["steps"] + 1)) - 1, None, 0
        try:
            flow: Any = opened(base) if left else None
            with bar(len(items) * steps, (len(items) - len(left)) * steps) as told:
                for number, item in enumerate(left, len(items) - len(left)):
                    _clear(stage)  # of what the one before has left, if it has failed
                    stage.mkdir()
                    show = _shown(told, number, len(items), steps, item)
                    head = {**item._asdict(), "photo": str(item.photo), "began": _now()}
                    settings = _settings(item, base, out)
                    try:
                        line = head | {"key": _key(item, settings, weights), "status": "done"}
                        target = stage / Path(item.output).name
                        line |= job.item(settings, target, flow=flow, weights=weights, show=show)
                        line["files"] = _move(stage, (out / item.output).parent)
                        add(line | {"ended": _now()})
                        made += 1
                        sets.add(line)
                    except Exception as error:  # one picture's fault must not cost the others
                        if _is_full(error):
                            full = str(error)
                            break
                        failed[item] = _reason(error)
                        # it may be gone meanwhile, or be readable again: what counts is what it is now
                        key = _key(item, settings, weights)
                        add(head | {"key": key, "status": "failed", "reason": failed[item], "ended": _now()})
        except job.Stopped:
            say(f"stopped: {done + made} of {len(items)} are done; the same command goes on")
            raise
        except OSError as error:  # of the manifest itself
            if not _is_full(error):
                raise BadInput(
                    f"{str(out)!r} cannot be written to ({error}); mend that, and the same command goes on"
                ) from error
            full = str(error)
        finally:
            _clear(stage)
    _say_all(items, done, made, failed, full, out, say)
    return sets.tell(say) and not failed and full is None


def outlook(described: Mapping[str, Any]) -> str:
    """What a batch would do, in one line; nothing is written."""
    out, items, base = Path(described["out"]), found(described), settled(described)
    manifest = out / "manifest.jsonl"
    lines = _read(manifest.read_bytes()) if manifest.exists() else {}
    left, done, failed = _sorted(items, base, provenance.fingerprints(base), lines, out, False)
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


def found(described: Mapping[str, Any]) -> list[Item]:
    """The items of a batch, in the order of the inputs and, in a folder, of their names.

    Raises:
        BadInput: no picture at all, or two with one output, or an output that is also an input.
    """
    out = Path(described["out"])
    pictures: dict[str, str] = {}
    for text in described["inputs"]:
        for name, path in _pictures(text, out):
            pictures.setdefault(os.path.normpath(path), name)
    if not pictures:
        raise BadInput(
            f"there is no picture in {', '.join(map(repr, described['inputs']))}; expected {' '.join(FORMATS)}"
        )
    taken: dict[str, str] = {}
    items = []
    seeds, samples = described["seeds"], described["samples"]
    for photo, name in pictures.items():
        stem = Path(name).with_suffix("").as_posix()
        for seed in seeds:
            for sample in range(samples):
                marks = f".seed-{seed}" * (len(seeds) > 1) + f".sample-{sample}" * (samples > 1)
                output = f"{stem}{marks}.restored.png"
                other = taken.setdefault(os.path.normcase(output), photo)
                if other != photo:
                    raise BadInput(f"{other!r} and {photo!r} would both become {output!r}; restore them in two batches")
                if os.path.normpath(out / output) in pictures:
                    raise BadInput(f"{str(out / output)!r} would be overwritten, but is read; choose another out")
                items.append(Item(name, Path(photo), seed, sample, output))
    return items


def _pictures(text: str, out: Path) -> Iterator[tuple[str, Path]]:
    path = Path(text)
    if path.is_dir() or (glob.has_magic(text) and not path.exists()):
        fixed = path
        while glob.has_magic(str(fixed)):
            fixed = fixed.parent
        # sorted, for the order in a folder is not the same everywhere
        listed = path.iterdir() if path.is_dir() else map(Path, glob.glob(text, recursive=True))
        for each in sorted(listed):
            usual = each.suffix.lower() in FORMATS and not each.name.startswith(".")
            if usual and out not in each.parents and each.is_file():
                yield each.relative_to(fixed).as_posix(), each
    else:  # there or not: what is named is wanted
        yield path.name, path


def _settings(item: Item, base: Mapping[str, Any], out: Path) -> dict[str, Any]:
    stem = Path(item.name).stem
    own = {k: v.replace("{stem}", stem) if isinstance(v, str) else v for k, v in base["operator_options"].items()}
    # samples are of one posterior if they are of one measurement
    one = {"measurement_seed": item._replace(sample=0).own_seed} if base.get("drawn") and base["simulate"] else {}
    return {
        **base, "photo": str(item.photo), "out": str(out / item.output), "seed": item.own_seed, "operator_options": own, **one,
    }  # fmt: skip


def _key(item: Item, settings: Mapping[str, Any], weights: Mapping[str, str]) -> str:
    """Of what is read and what is done with it; not of where it lies, nor of how many threads do it."""
    builder = pick("operator", settings["operator"], operators.ALL)
    paths = {o.name for o in options(builder).values() if Path in o.kinds}
    told = {k: v for k, v in settings.items() if k not in ("photo", "out", "threads", "prior", "operator_options")}
    told["operator_options"] = {k: v for k, v in settings["operator_options"].items() if k not in paths}
    try:
        inputs = provenance.inputs(settings, weights)
    except BadInput as error:
        inputs = {"unreadable": str(error)}
    text = json.dumps([item.output, told, inputs], sort_keys=True)
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()


def _sorted(
    items: Sequence[Item],
    base: Mapping[str, Any],
    weights: Mapping[str, str],
    lines: Mapping[str, Mapping[str, Any]],
    out: Path,
    retry: bool,
) -> tuple[list[Item], int, dict[Item, str]]:
    """Items that are left to do, how many are done, and those that have failed before, with the reason."""
    left, done, failed = [], 0, {}
    for item in items:
        line = lines.get(item.output, {})
        target = out / item.output
        if line.get("key") != _key(item, _settings(item, base, out), weights):
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


def _move(stage: Path, folder: Path) -> dict[str, str]:
    """Everything in the stage into its place; names and hashes of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    hashes = {}
    for path in sorted(stage.iterdir()):
        hashes[path.name] = files.sha256(path)
        os.replace(path, folder / path.name)
    return hashes


def _clear(stage: Path) -> None:
    shutil.rmtree(stage, ignore_errors=True)


def _shown(told: Told, number: int, count: int, steps: int, item: Item) -> Callable[..., Any]:
    @contextmanager
    def show(total: int, index: int) -> Iterator[Tell]:
        def tell(step: int, misfit: float) -> None:
            told(number * steps + step * steps // total, f"{item.name} ({number + 1} of {count}), misfit {misfit:4.2f}")

        yield tell

    return show


def _is_full(error: BaseException | None) -> bool:
    """Whether it comes of a disk that is full: no fault of the picture, and the next one would fail alike."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"


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


def _now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
