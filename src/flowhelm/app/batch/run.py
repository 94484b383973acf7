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
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ... import raster
from ..errors import BadInput, Unwritable
from ..files import stacks
from ..files.atomic import check_writable, sha256, write_json
from ..models import provenance
from ..models.device import to_device
from ..options import own
from ..restore import run as restoration
from ..restore.request import RestoreSettings
from ..run import Done, Event, Failed, Planned, Run, Said, Stepped, Stopped, Warned
from . import manifest
from .description import settled
from .items import Batch, Item, found, posterior_of
from .listing import listed
from .manifest import DoneLine, FailedLine, Lines
from .posterior import Sets
from .ray import Where, spread
from .request import BatchRequest
from .worker import NoOutput, Worker, no_output, reason

ROWS = 8
"""Items that `rows: auto` runs together on a GPU, to begin with."""


class Sorted(NamedTuple):
    """Items that are left to do, how many are done, those that have failed before, with the reason, and those whose result is another
    file than the one that was written."""

    left: list[Item]
    done: int
    failed: dict[Item, str]
    changed: list[Item]


def batch(request: BatchRequest, *, retry: bool = False, ray: Where | None = None) -> Run[bool]:
    """Does what is left of a batch; True if every item is done.

    Args:
        request: by `request.filled`; retry: what has failed before, and results that were changed since, too.
        ray: spread over workers of Ray instead of in this process.
    """
    seen, base = listed(request), settled(request)
    this = Batch(request, base, provenance.weights(base))
    items, out = found(request, seen), this.out
    with suppress(OSError):
        out.mkdir(parents=True, exist_ok=True)
    check_writable(out)
    if ray is None:
        to_device(base.device)
    # of this process: workers of one that was killed may still write to theirs for a moment
    stage = out / ".batch" / secrets.token_hex(4)
    with manifest.opened(out / "manifest.jsonl") as (lines, damaged, add):
        for each in damaged:
            again = f"; {each.output} is made again" if each.output in {item.output for item in items} else ""
            yield Warned(
                f"line {each.number} of {out / 'manifest.jsonl'} is damaged; it is now in {manifest.ASIDE}{again}"
            )
        _clear(out)
        left, done, failed, changed = _sorted(items, this, lines, retry)
        before = dict(failed)  # the others are told as they fail
        missing = [item.output for item in (*left, *failed, *changed)]
        sets = Sets(items, missing, lines, out, lambda item: posterior_of(request, item))
        trouble, made = None, 0
        _describe(request, stage, out)
        try:
            if left:
                for event in _counted(_made(this, stage, left, ray), items, left, base):
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
        except NoOutput as error:
            trouble = str(error)
        except OSError as error:  # of the manifest itself, or of the folder before the first item
            trouble = no_output(error, out) or f"{str(out)!r} cannot be written to ({reason(error)})"
        finally:
            _clear(out)
    yield from _summary(items, done, made, failed, before, changed, trouble, out)
    whole = yield from sets.tell()
    if seen.passed_over:
        yield Said(seen.passed_over)
    return whole and not failed and not changed and trouble is None


def outlook(request: BatchRequest) -> str:
    """What a batch would do, in one line; nothing is written."""
    items, base = found(request), settled(request)
    this = Batch(request, base, provenance.weights(base))
    path = this.out / "manifest.jsonl"
    left, done, failed, changed = _sorted(items, this, manifest.read(path) if path.exists() else {}, False)
    since = f", {len(changed)} changed since" if changed else ""
    return f"{len(items)} items: {done} done, {len(failed)} failed before{since}, {len(left)} to do"


def rerun(path: Path, name: str, out: Path | None = None, *, trust: bool = False) -> Run[bool]:
    """Makes one item of a manifest again; True if the numbers are the same to the bit, else what differs is said.

    Args:
        name: of a picture or an output; out: the folder to write to, if not that of the manifest.
        trust: run code that the item's line names.
    """
    own.trust_file(path, manifest.code(path, name), trust)
    lines = [line for line in manifest.read(path).values() if isinstance(line, DoneLine)]
    fitting = [line for line in lines if name == line.output] or [line for line in lines if name == line.name]
    if len(fitting) != 1:
        which = ", ".join(line.output for line in fitting or lines) or "none"
        raise BadInput(f"--item {name!r}: expected one of the items that are done, {which}")
    output = Path(fitting[0].output)
    name = f"{output.stem.removesuffix('.restored')}.rerun{output.suffix}"
    return (yield from restoration.again(fitting[0], restoration.beside(path, output.with_name(name), out)))


def _made(
    batch: Batch, stage: Path, left: Sequence[Item], ray: Where | None
) -> Iterator[Event | DoneLine | FailedLine]:
    """The lines of all items that are left, here or on Ray, and how far they are."""
    rows = _rows(batch.request)
    chunks = _chunks(left, rows, batch)
    if ray is not None:
        yield from spread(ray, chunks, batch, stage, rows, left[0])
        return
    worker = Worker(batch, stage / "0", rows)
    yield from worker.open(left[0])
    for chunk in chunks:
        yield from worker.make(chunk)


def _counted(
    coming: Iterator[Event | DoneLine | FailedLine], items: Sequence[Item], left: Sequence[Item], base: RestoreSettings
) -> Iterator[Event | DoneLine | FailedLine]:
    """The same, with the steps of the whole batch in the place of an item's."""
    steps = base.step_count or 1
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


def _chunks(left: Sequence[Item], rows: int, batch: Batch) -> Iterator[Sequence[Item]]:
    """Items that may run together, as far as that can be told without decoding; `Worker.make` looks closer."""
    if rows == 1:
        yield from ([item] for item in left)
        return
    waiting: dict[str, list[Item]] = {}
    for item in left:
        with raster.within(batch.request.budget):
            size, own = stacks.size(item.photo), batch.settings(item).operator_options.stored()
        some = waiting.setdefault(json.dumps([size, own], default=str, sort_keys=True), [])
        some.append(item)
        if len(some) == rows:
            some[:], full = [], some[:]
            yield full
        elif sum(map(len, waiting.values())) >= 16 * rows:  # the first that came has waited long enough
            yield waiting.pop(next(name for name, each in waiting.items() if each))
    yield from filter(None, waiting.values())


def _sorted(items: Sequence[Item], batch: Batch, lines: Lines, retry: bool) -> Sorted:
    left, done, failed, changed = list[Item](), 0, dict[Item, str](), list[Item]()
    for item in items:
        line = lines.get(item.output)
        if line is None:
            left.append(item)
            continue
        target = batch.out / item.output
        if line.key != batch.key(item, failed=isinstance(line, FailedLine)):
            left.append(item)
        elif isinstance(line, DoneLine) and target.name in line.files and target.is_file() and target.stat().st_size:
            if not _changed(line, target.parent):
                done += 1
            else:
                (left if retry else changed).append(item)
        elif isinstance(line, FailedLine) and not retry:
            failed[item] = line.reason
        else:
            left.append(item)
    return Sorted(left, done, failed, changed)


def _changed(line: DoneLine, folder: Path) -> bool:
    """Whether a file that was written is another one now. What is not there was taken away; the result alone must be there."""
    return any(
        sha256(folder / name) != hashed
        for name, hashed in line.files.items()
        if Path(name).name == name and (folder / name).is_file()
    )


def _describe(request: BatchRequest, stage: Path, out: Path) -> None:
    """job.json, written where a kill leaves nothing that the next start does not clear."""
    try:
        stage.mkdir(parents=True)
        write_json(stage / "job.json", request.model_dump(mode="json"))
        os.replace(stage / "job.json", out / "job.json")
    except OSError as error:
        raise Unwritable(f"{str(out)!r} cannot be written to ({reason(error)}); choose another out") from error


def _clear(out: Path) -> None:
    shutil.rmtree(out / ".batch", ignore_errors=True)


def _summary(
    items: Sequence[Item],
    done: int,
    made: int,
    failed: Mapping[Item, str],
    before: Mapping[Item, str],
    changed: Sequence[Item],
    trouble: str | None,
    out: Path,
) -> Iterator[Event]:
    earlier = f" ({done} of them before)" if done else ""
    yield Said(f"{len(items)} items: {done + made} done{earlier}, {len(failed)} failed; see {out / 'manifest.jsonl'}")
    for item, why in before.items():
        yield Said(f"failed before: {item.output}: {why}")
    for item in changed:
        yield Said(
            f"changed since it was written: {item.output}; it is left as it is: --retry makes it again, and so does the same command "
            "when it is deleted"
        )
    if failed:
        yield Said("what has changed since is tried again by the same command, everything with --retry")
    if trouble is not None:
        yield Said(f"stopped, since {trouble}; mend that, and the same command goes on")
