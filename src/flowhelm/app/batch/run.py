"""Many pictures, each as if it were alone: a batch that may be killed at any moment and goes on with the same command.

    OUT/job.json          the description, with every default filled in
    OUT/manifest.jsonl    one line for each item that was done or has failed; an item's last line counts
    OUT/NAME.restored.png (and NAME.degraded.png of a simulation)
    OUT/.batch/           what is being written; moved out of it when it is whole, and cleared at the next start

An item is one picture, one seed of the batch and one sample of it. It is done if its last line says so, for the same bytes of
what it reads and the same settings, and its picture is there. The picture is moved into its place before the line is written: a kill
between the two makes the item again, to the same picture.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..errors import BadInput, is_full
from ..files import stacks
from ..files.atomic import check_writable, write_json
from ..models import provenance
from ..models.device import to_device
from ..restore import run as restoration
from ..restore.request import RestoreSettings
from ..run import Done, Event, Failed, Planned, Run, Said, Stepped, Stopped
from . import manifest
from .description import settled
from .items import Item, found, inputs, key, settings_of
from .manifest import DoneLine, FailedLine, Lines
from .posterior import Sets
from .ray import Where, spread
from .request import BatchRequest
from .worker import Full, Worker

ROWS = 8
"""Items that `rows: auto` runs together on a GPU, to begin with."""


class Sorted(NamedTuple):
    """Items that are left to do, how many are done, and those that have failed before, with the reason."""

    left: list[Item]
    done: int
    failed: dict[Item, str]


def batch(request: BatchRequest, *, retry: bool = False, ray: Where | None = None) -> Run[bool]:
    """Does what is left of a batch; True if no item has failed, now or before.

    Args:
        request: by `request.filled`; retry: what has failed before, too, though nothing has changed.
        ray: spread over workers of Ray instead of in this process.
    """
    out, items, base = Path(request.out or ""), found(request), settled(request)
    with suppress(OSError):
        out.mkdir(parents=True, exist_ok=True)
    check_writable(out)
    if ray is None:
        to_device(base.device)
    # of this process: workers of one that was killed may still write to theirs for a moment
    stage, weights = out / ".batch" / secrets.token_hex(4), provenance.weights(base)
    with manifest.opened(out / "manifest.jsonl") as (lines, add):
        _clear(out)
        write_json(out / "job.json", request.model_dump(mode="json"))
        left, done, failed = _sorted(items, request, base, weights, lines, retry)
        before = dict(failed)  # the others are told as they fail
        sets = Sets(items, [*(i.output for i in left), *(i.output for i in failed)], lines, out)
        full, made = None, 0
        try:
            if left:
                stage.mkdir(parents=True)
                coming = _made(request, base, weights, stage, left, ray)
                for event in _counted(coming, items, left, base):
                    if isinstance(event, DoneLine):
                        add(event)
                        made += 1
                        sets.add(event)
                        yield Done(event.output, event)
                    elif isinstance(event, FailedLine):
                        add(event)
                        failed[Item(*(getattr(event, name) for name in Item._fields))] = event.reason
                        yield Failed(event.output, event.reason)
                    else:
                        yield event
        except Stopped:
            yield Said(f"stopped: {done + made} of {len(items)} are done; the same command goes on")
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
    yield from _summary(items, done, made, failed, before, full, out)
    whole = yield from sets.tell()
    return whole and not failed and full is None


def outlook(request: BatchRequest) -> str:
    """What a batch would do, in one line; nothing is written."""
    path, items, base = Path(request.out or "") / "manifest.jsonl", found(request), settled(request)
    lines = manifest.read(path) if path.exists() else {}
    left, done, failed = _sorted(items, request, base, provenance.weights(base), lines, False)
    return f"{len(items)} items: {done} done, {len(failed)} failed before, {len(left)} to do"


def rerun(path: Path, name: str) -> Run[bool]:
    """Makes one item of a manifest again; True if the numbers are the same to the bit, else what differs is said.

    `name` is a picture's or an output's.
    """
    lines = [line for line in manifest.read(path).values() if isinstance(line, DoneLine)]
    fitting = [line for line in lines if name == line.output] or [line for line in lines if name == line.name]
    if len(fitting) != 1:
        which = ", ".join(line.output for line in fitting or lines) or "none"
        raise BadInput(f"--item {name!r}: expected one of the items that are done, {which}")
    output = Path(fitting[0].output)
    again = path.parent / output.with_name(output.name.removesuffix(".restored.png") + ".rerun.png")
    return (yield from restoration.again(fitting[0], again))


def _made(
    request: BatchRequest,
    base: RestoreSettings,
    weights: Mapping[str, str],
    stage: Path,
    left: Sequence[Item],
    ray: Where | None,
) -> Iterator[Event | DoneLine | FailedLine]:
    """The lines of all items that are left, here or on Ray, and how far they are."""
    rows = _rows(request)
    chunks = _chunks(left, rows, request, base)
    if ray is not None:
        yield from spread(ray, chunks, request, base, weights, stage, rows, left[0])
        return
    worker = Worker(request, base, weights, stage / "0", rows)
    yield from worker.open(left[0])
    for chunk in chunks:
        yield from worker.make(chunk)


def _counted(
    coming: Iterator[Event | DoneLine | FailedLine], items: Sequence[Item], left: Sequence[Item], base: RestoreSettings
) -> Iterator[Event | DoneLine | FailedLine]:
    """The same, with the steps of the whole batch in the place of an item's."""
    steps = (base.steps or 1) if base.times is None else len(base.times) - 1
    total, ended = len(items) * steps, len(items) - len(left)
    yield Planned(total, ended * steps)
    with closing(coming) as events:  # type: ignore[type-var]
        for event in events:
            if isinstance(event, Stepped):
                yield replace(event, index=ended * steps + event.index * steps // event.total, total=total)
                continue
            if isinstance(event, DoneLine | FailedLine):
                ended += 1
                yield event
                yield Stepped(ended * steps, total, f"{event.name} ({ended} of {len(items)})", name=event.name)
            else:
                yield event


def _rows(request: BatchRequest) -> int:
    """Items that may run together. On the CPU there is little to win, and an item stays what it is alone, to the bit."""
    return request.rows if request.rows != "auto" else ROWS if request.device.startswith("cuda") else 1


def _chunks(left: Sequence[Item], rows: int, request: BatchRequest, base: RestoreSettings) -> Iterator[Sequence[Item]]:
    """Items that may run together, as far as that can be told without decoding; `Worker.make` looks closer."""
    if rows == 1:
        yield from ([item] for item in left)
        return
    waiting: dict[str, list[Item]] = {}
    for item in left:
        size, own = stacks.size(item.photo), settings_of(item, request, base).operator_options.stored()
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
    request: BatchRequest,
    base: RestoreSettings,
    weights: Mapping[str, str],
    lines: Lines,
    retry: bool,
) -> Sorted:
    left, done, failed, out = [], 0, {}, Path(request.out or "")
    for item in items:
        line = lines.get(item.output)
        if line is None:
            left.append(item)
            continue
        settings, target = settings_of(item, request, base), out / item.output
        if line.key != key(item, settings, inputs(settings, weights)):
            left.append(item)
        elif isinstance(line, DoneLine) and target.exists() and target.stat().st_size:
            done += 1
        elif isinstance(line, FailedLine) and not retry:
            failed[item] = line.reason
        else:
            left.append(item)
    return Sorted(left, done, failed)


def _clear(out: Path) -> None:
    shutil.rmtree(out / ".batch", ignore_errors=True)


def _summary(
    items: Sequence[Item],
    done: int,
    made: int,
    failed: Mapping[Item, str],
    before: Mapping[Item, str],
    full: str | None,
    out: Path,
) -> Iterator[Event]:
    earlier = f" ({done} of them before)" if done else ""
    yield Said(f"{len(items)} items: {done + made} done{earlier}, {len(failed)} failed; see {out / 'manifest.jsonl'}")
    for item, reason in before.items():
        yield Said(f"failed before: {item.output}: {reason}")
    if failed:
        yield Said("what has changed since is tried again by the same command, everything with --retry")
    if full is not None:
        yield Said(f"stopped, since the disk is full ({full}); make room, and the same command goes on")
