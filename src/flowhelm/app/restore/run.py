"""A restoration from settings to files, interruptible at any moment.

    for event in restore(settle(request)): ...

Settings say everything: the same settings on the same machine give the same numbers to the bit.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ... import guide
from ...cards import carried, resumed
from ...step import Diverged, Step, finite
from ..errors import BadInput
from ..files.atomic import hash_of, put_picture, raw_run, write_json
from ..files.names import check_below, check_lengths
from ..files.pictures import write
from ..models import opening, provenance
from ..options import own
from ..run import Event, Noted, Planned, Run, Said, Stepped, Stopped, Written, near
from . import blur, noise, record
from .observation import misfit, steps_of
from .outlook import outlook
from .problem import Problem, begun, joined, prepare
from .record import Place, RestoreFile, RestoreStory
from .request import RestoreSettings
from .result import answer, decoded, finished, like, measured, notes, picture_of, strip_of, summary

SAVE_EVERY = 30.0  # seconds between resume files
PREVIEW_EVERY = 2.0


def restore(settings: RestoreSettings, *, preview: bool = False) -> Run[RestoreFile]:
    """Runs from the beginning; returns what it wrote to the JSON file. `preview`: keep the estimate in a .preview.png meanwhile."""
    return (yield from _carried_out(settings, None, preview))


def resume(path: Path, out: Path | None = None, *, preview: bool = False, trust: bool = False) -> Run[RestoreFile]:
    """Goes on where a stopped run was; the result is that of a run that was never stopped.

    Args:
        out: the result, if not beside the file. trust: run code that the file names.
    """
    own.trust_file(path, record.code_of_resume(path), trust)
    place, story = record.get_resume(path)
    settings = story.settings.changed(out=str(out or _out_of(path, story.settings.out)))
    changed = provenance.differences(story.inputs, record.inputs(settings))
    if changed:
        raise BadInput(
            f"{str(path)!r} cannot go on, since files have changed: {'; '.join(changed)}; start the run again"
        )
    for line in provenance.differences(story.environment, provenance.environment(settings)):
        yield Noted(f"not as when the run began, so the last bits may differ: {line}")
    made = yield from _carried_out(settings, place, preview)
    path.unlink(missing_ok=True)
    return made


def _out_of(path: Path, named: str | None) -> Path:
    """Where a run goes on to: beside its resume file, whatever that says, by the name there if it belongs to the file's."""
    out = path.absolute().with_name(Path(named or "").name or "unnamed")
    if record.outputs(out)["resume"].name != path.name:
        out = out.with_name(f"{path.name.removesuffix(record.RESUME)}.restored.png")
    check_below(path.parent, record.outputs(out).values())
    return out


def rerun(path: Path, out: Path | None = None, *, trust: bool = False) -> Run[bool]:
    """Runs again what a JSON file describes; True if the numbers are the same to the bit.

    Args:
        out: the folder to write to, if not the file's own. trust: run code that the file names.
    """
    own.trust_file(path, own.words_of(raw_run(path)["settings"]), trust)
    old = record.get_run(path)
    name = f"{path.name.removesuffix('.run.json')}.rerun.png"
    return (yield from again(old, beside(path, Path(name), out)))


def beside(path: Path, name: Path, out: Path | None) -> Path:
    """Where something goes that a file describes: into its folder or into `out`, never elsewhere, by no link either. BadInput."""
    folder = out or path.parent
    check_below(folder, [folder / name])
    return folder / name


def again(old: RestoreFile, out: Path) -> Run[bool]:
    """Runs again what a .run.json holds; writes `out` only if the numbers are not the same to the bit."""
    settings = old.settings
    problem = yield from prepare(settings, out)
    # as many copies as ran together: with another number of rows the network's kernels round otherwise
    together = joined([problem] * settings.rows)
    place = yield from loop(together)
    whole = answer(together, [settings] * settings.rows, place)[settings.row : settings.row + 1]
    picture = picture_of(problem, whole)
    if hash_of(picture) == old.result.sha256:
        yield Said("identical to the bit")
        return True
    write(out, picture, like(problem))
    yield Said(f"not identical: {out} is what came out now")
    for line in old.differences(record.story_of(settings)):
        yield Said(f"  {line}")
    return False


class Keeping(NamedTuple):
    """What is written while a run goes on: the resume file, by the run's story, and a preview."""

    paths: Mapping[str, Path]
    story: RestoreStory
    preview: bool


def _carried_out(settings: RestoreSettings, place: Place | None, preview: bool) -> Run[RestoreFile]:
    out = Path(settings.out or "")
    paths = record.outputs(out)
    check_lengths(paths.values())
    problem = yield from prepare(settings, out)
    if settings.times is None:
        yield from opening.hint(settings)
    yield from notes(problem)
    settings = problem.settings
    packed = str(settings.adapter) == "jpeg"  # which leaves more or less of the picture than a noise level says
    if settings.estimated:
        yield noise.told(settings.std, problem.unseen, packed)
    yield from blur.told(settings)
    story = record.story_of(settings)
    text = outlook(problem) if place is None else ""
    place = yield from loop(problem, place, Keeping(paths, story, preview), text)
    picture, result = finished(problem, place)
    write(out, picture, like(problem))
    put_picture(paths["strip"], strip_of(problem, picture, result))
    made = RestoreFile.model_construct(**dict(story), result=result)
    write_json(paths["run"], made.stored())
    written = [out, paths["strip"], paths["run"]]
    shown = measured(problem)
    if settings.simulate and shown is not None:
        write(paths["degraded"], shown, problem.picture)
        written.append(paths["degraded"])
    for name in ("preview", "partial", "resume"):
        paths[name].unlink(missing_ok=True)
    yield Written(written)
    yield from summary(result, problem.unseen or packed)
    return made


def loop(problem: Problem, place: Place | None = None, keeping: Keeping | None = None, text: str = "") -> Run[Place]:
    """Steps to the end; `text` is said before. Who stops it, and a divergence, leave the last estimate and, with `keeping`,
    a resume file."""
    times, noise, method = problem.times, problem.noise, problem.method
    total, counted = len(times) - 1, guide.counted(problem.flow)
    spent, evaluations, index = 0.0, 0, 0
    if place is None:
        x = begun(problem._replace(flow=counted))
    else:
        noise.restore(place.noise)
        spent, evaluations, index, x = place.seconds, place.evaluations, place.done, place.x
        if place.carried:
            method = partial(method, **resumed(method, place.carried))
        if index == total:
            return place
    began = saved = seen = time.monotonic()
    whole = False  # the method improves a whole trajectory: its state is the end, from where nothing goes on
    passes = total  # of the method, by its own count
    yield Planned(total, index, text)
    steps = steps_of(counted, problem.observed, method, times, noise, x=x, index=index)
    try:
        for step in finite(steps):
            now, passes = time.monotonic(), step.total
            whole = bool(step.t == times[-1]) and (step.index < step.total or step.total != total)
            estimate = decoded(problem, step.clean, step.info)
            # one assignment: a signal finds the old place or the new one, never half of it
            place = Place(
                step.index, step.x, noise.state(), carried(problem.method, step.info), estimate, spent + now - began,
                evaluations + counted.count.rows,
            )  # fmt: skip
            if keeping is not None and not whole and now - saved > SAVE_EVERY:
                record.put_resume(keeping.paths["resume"], place, keeping.story)
                saved = time.monotonic()
            if keeping is not None and keeping.preview and now - seen > PREVIEW_EVERY:
                write(keeping.paths["preview"], picture_of(problem, estimate, keep=False), like(problem))
                seen = time.monotonic()
            yield _told(problem, step, estimate)
    except (Stopped, KeyboardInterrupt, Diverged, GeneratorExit) as error:
        if keeping is not None and place is not None:
            kept = _kept(problem, place, keeping, passes, going=not isinstance(error, Diverged) and not whole)
            if not isinstance(error, GeneratorExit):
                yield from kept
        raise
    if place is None:
        raise ValueError("the method made no step; expected a grid of at least two times")
    return place


def _told(problem: Problem, step: Step, estimate: Tensor) -> Stepped:
    fit = float(misfit(problem.observed, estimate).mean())
    return Stepped(
        step.index, step.total, "", partial(picture_of, problem, estimate), {"misfit": fit}, step=step
    )  # fmt: skip


def _kept(problem: Problem, place: Place, keeping: Keeping, passes: int, going: bool) -> list[Event]:
    """Leaves the estimate so far and, if it can be gone on from, the resume file; what there is to say of it."""
    paths, told = keeping.paths, list[Event]()
    if place.clean is not None:
        write(paths["partial"], picture_of(problem, place.clean, keep=False), like(problem))
        told.append(Said(f"after step {place.done} of {passes}: the estimate so far is {near(paths['partial'])}"))
    if going:
        record.put_resume(paths["resume"], place, keeping.story)
        told.append(Said(f"go on with: flowhelm restore --resume {near(paths['resume'])}"))
    for name in ("preview",) if going else ("preview", "resume"):
        paths[name].unlink(missing_ok=True)
    return told
