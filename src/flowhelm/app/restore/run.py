"""A run as the command line makes it: from settings that JSON can hold to files, interruptible at any moment.

Settings say everything: the same settings on the same machine give the same numbers to the bit.
"""

import inspect
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import guide, operators
from ...interfaces.cli.progress import Tell, progress
from ...priors import bundled
from ...priors.bundled import NAMES, Prior
from ...priors.pipelines import Pipeline
from ...step import Diverged, Step, run
from ..errors import BadInput
from ..files import atomic as files
from ..files.pictures import write, write_json
from ..models import opening as models
from ..models import provenance
from ..models.doctor import check_deepinv
from ..options.request import Plain
from ..options.signature import pick, plain
from ..run import Stopped, signals
from .observed import misfit
from .observed import restore as steps_of
from .presets import preset
from .presets import settings as settings_of
from .problem import METHODS, Problem, begun, joined, prepare, timed
from .result import answer, decoded, finished, like, measured, picture_of, short, strip_of, summary

MOST_STEPS, MOST_THREADS, STD = 100_000, 1024, (1e-6, 1e3)
SAVE_EVERY = 30.0  # seconds between resume files
PREVIEW_EVERY = 2.0
Say = Callable[[str], None]
Watch = Callable[[int, int, Tensor, float], None]
"""Told after each step: its number, how many there are, the estimate `(1, c, h, w)` on the CPU, the misfit. May raise `Stopped`."""


class Place(NamedTuple):
    """Where a run stands: the last whole step, the noise streams after it, and what it took so far."""

    done: int
    x: Tensor
    noise: Tensor
    carried: Mapping[str, Tensor]  # what the method needs of its last step besides the state, to go on
    clean: Tensor | None  # the estimate as a picture
    seconds: float
    evaluations: int


def settle(
    photo: Path,
    operator: str,
    *,
    given: Mapping[str, Mapping[str, Plain]],
    method: str | None,
    steps: int | None,
    std: float,
    seed: int,
    prior: str,
    simulate: bool,
    out: Path | None,
    threads: int | None,
    device: str,
    tile: int | None,
    model: Mapping[str, Any] | None = None,
    keep: bool = False,
    warm: float | None = None,
    codec_error: bool = False,
    flow: Prior | Pipeline | None = None,
) -> dict[str, Any]:
    """Settings with every default filled in, checked as far as possible without the picture.

    Args:
        keep: what was measured comes back exactly as it was measured; warm: time to begin at, from the photograph instead of from
            noise; codec_error: of the prior's decoder, added to the noise level. See `flowhelm.latent`.
        model: what a pipeline of diffusers is told and how it is opened, by the names of `models.settled`.
        flow: the prior, if it is open already.
    """
    check_deepinv()
    if not (0 < std < math.inf):
        raise BadInput(f"--std: expected a number above 0, got {std}; for a photograph without noise give 0.005")
    if not STD[0] <= std <= STD[1]:  # of pixels in [-1, 1]; its square must be a number, and so must one over it
        raise BadInput(f"--std: expected a number from {STD[0]:g} to {STD[1]:g}, got {std:g}")
    if warm is not None and not 0 < warm < 1:
        raise BadInput(f"--warm: expected a time between 0 (noise) and 1 (the photograph), got {warm}")
    for name, value, most in (("--steps", steps, MOST_STEPS), ("--threads", threads, MOST_THREADS)):
        if value is not None and value > most:
            raise BadInput(f"{name}: expected at most {most}, got {value}")
    builder = pick("operator", operator, operators.ALL)
    if operator == "phase" and not simulate:
        raise BadInput(
            "phase: no picture file holds Fourier magnitudes; add --simulate to make them from a clean picture"
        )
    pipeline = models.is_pipeline(prior)
    opening = models.settled(prior, device=device, **(model or {}))
    usual, usual_options, usual_steps = preset(operator, std)
    chosen = pick("method", method or (models.METHOD if pipeline else usual), METHODS)
    operator_options = plain(builder, given.get("operator", {}))
    base: dict[str, Any] = dict(usual_options)
    if pipeline:  # the presets are of priors over pixels
        base, usual_steps = {}, models.STEPS
    elif chosen.__name__ != usual:
        found = settings_of(chosen.__name__, operator, operator_options, std, Path(prior).stem)
        base, usual_steps = dict(found.options), found.steps or usual_steps
    out = out or photo.with_name(f"{photo.stem}.restored.png")
    out = out / f"{photo.stem}.restored.png" if out.is_dir() else out
    return {
        "photo": str(photo.absolute()),
        "out": str(out.absolute()),
        "operator": operator,
        "operator_options": operator_options,
        "method": chosen.__name__,
        "method_options": plain(chosen, base | dict(given.get("method", {}))),
        # of a pipeline they depend on the size of the picture, too
        "times": None if pipeline else (flow or bundled.load(prior)).times(steps or usual_steps).tolist(),
        "std": std,
        "seed": seed,
        "prior": str(Path(prior).absolute())
        if prior not in NAMES and (Path(prior).exists() or not pipeline)
        else prior,
        "simulate": simulate,
        "threads": threads or torch.get_num_threads(),
        "device": device,
        "tile": tile,
        "keep": keep,
        "warm": warm,
        "codec_error": codec_error,
        **opening,
        **({"steps": steps or usual_steps} if pipeline else {}),
    }


def start(
    settings: Mapping[str, Any], *, preview: bool = False, say: Say = print, watch: Watch | None = None
) -> dict[str, Any]:
    """Runs from the beginning; returns what it wrote to the JSON file."""
    return _carry_out(settings, None, preview, say, watch)


def resume(path: Path, *, preview: bool = False, say: Say = print) -> dict[str, Any]:
    """Goes on where a stopped run was; the result is that of a run that was never stopped."""
    x, noise, carried, story = files.get_resume(path)
    settings = story["settings"]
    changed = provenance.differences(story["inputs"], provenance.inputs(settings))
    if changed:
        raise BadInput(
            f"{str(path)!r} cannot go on, since files have changed: {'; '.join(changed)}; start the run again"
        )
    for line in provenance.differences(story["environment"], provenance.environment(settings)):
        say(f"note: not as when the run began, so the last bits may differ: {line}")
    place = Place(story["index"], x, noise, carried, None, story["seconds"], story["evaluations"])
    made = _carry_out(settings, place, preview, say)
    path.unlink(missing_ok=True)
    return made


def rerun(path: Path, *, say: Say = print) -> bool:
    """Runs again what a JSON file describes; True if the numbers are the same to the bit."""
    return again(files.get_run(path), path.with_name(f"{path.name.removesuffix('.run.json')}.rerun.png"), say)


def again(old: Mapping[str, Any], out: Path, say: Say = print) -> bool:
    """Runs again what a .run.json holds; writes `out` only if the numbers are not the same to the bit."""
    settings = old["settings"]
    problem = prepare(settings, out, say)
    # as many copies as ran together: with another number of rows the network's kernels round otherwise
    rows, row = settings.get("rows", 1), settings.get("row", 0)
    together = joined([problem] * rows)
    place = loop(together, settings, None, files.outputs(out), False, {})
    whole = answer(together, [settings] * rows, place.x, place.carried)[row : row + 1]
    picture = picture_of(problem, whole, settings.get("keep"))
    if files.hash_of(picture) == old["result"]["sha256"]:
        say("identical to the bit")
        return True
    write(out, picture, like(problem, settings))
    say(f"not identical: {out} is what came out now")
    for line in provenance.changes(old, provenance.story(settings)):
        say(f"  {line}")
    return False


def _carry_out(
    settings: Mapping[str, Any], place: Place | None, preview: bool, say: Say, watch: Watch | None = None
) -> dict[str, Any]:
    out = Path(settings["out"])
    paths = files.outputs(out)
    problem = prepare(settings, out, say)
    if settings["times"] is None:
        models.hint(settings, say)
    settings = timed(problem, settings)
    story = provenance.story(settings)
    place = loop(problem, settings, place, paths, preview, story, say, watch=watch)
    picture, result = finished(problem, settings, place.x, place.carried)
    result |= {"seconds": place.seconds, "evaluations": place.evaluations}
    write(out, picture, like(problem, settings))
    files.put_picture(paths["strip"], strip_of(problem, settings, picture, result))
    write_json(paths["run"], made := {**story, "result": result})
    written = [out, paths["strip"], paths["run"]]
    shown = measured(problem, settings)
    if settings["simulate"] and shown is not None:
        write(paths["degraded"], shown, problem.picture)
        written.append(paths["degraded"])
    for name in ("preview", "partial", "resume"):
        paths[name].unlink(missing_ok=True)
    summary(result, written, say)
    return made


def loop(
    problem: Problem,
    settings: Mapping[str, Any],
    place: Place | None,
    paths: Mapping[str, Path],
    preview: bool,
    story: Mapping[str, Any],
    say: Say = print,
    show: Callable[[int, int], AbstractContextManager[Tell]] = progress,
    watch: Watch | None = None,
) -> Place:
    """Steps to the end; a signal or a divergence leaves the last estimate and, if `story` is not empty, a resume file."""
    times = torch.tensor(settings["times"], dtype=torch.float64)
    total, counted, noise = len(times) - 1, guide.counted(problem.flow), problem.noise
    spent, evaluations, index, x, method = 0.0, 0, 0, None, problem.method
    if place is not None:
        noise.restore(place.noise)
        spent, evaluations, index, x = place.seconds, place.evaluations, place.done, place.x
        if place.carried:
            method = partial(method, **_going_on(method, place.carried))
    if place is None:
        x = begun(problem, settings, times)
    began = saved = seen = time.monotonic()
    whole = False  # the method improves a whole trajectory: its state is the end, from where nothing goes on
    passes = total  # of the method, by its own count

    def keep(place: Place) -> None:
        files.put_resume(paths["resume"], place.x, place.noise, place.carried, {**story, **_numbers(place)})

    def each(step: Step) -> None:
        nonlocal place, saved, seen, whole, passes
        now, passes = time.monotonic(), step.total
        whole = bool(step.t == times[-1]) and (step.index < step.total or step.total != total)
        # one assignment: a signal finds the old place or the new one, never half of it
        place = Place(
            step.index,
            step.x,
            noise.state(),
            carried(problem.method, step.info),
            picture := decoded(problem, step.clean, step.info),
            spent + now - began,
            evaluations + counted.count.rows,
        )
        # of a whole trajectory's passes, in steps of the grid
        fit = float(misfit(problem.observed, picture).mean())
        tell(step.index * total // step.total, fit)
        if story and not whole and now - saved > SAVE_EVERY:
            keep(place)
            saved = time.monotonic()
        if preview and now - seen > PREVIEW_EVERY:
            write(paths["preview"], picture_of(problem, picture), like(problem, settings))
            seen = time.monotonic()
        if watch is not None:
            watch(step.index, step.total, picture_of(problem, picture, settings.get("keep")), fit)

    if place is not None and index == total:
        return place
    with signals():
        try:
            with show(total, index) as tell:
                run(steps_of(counted, problem.observed, method, times, noise, x=x, index=index), each)
        except (Stopped, Diverged) as error:
            if story and place is not None:
                going = isinstance(error, Stopped) and not whole
                if place.clean is not None:
                    write(paths["partial"], picture_of(problem, place.clean), like(problem, settings))
                    say(f"after step {place.done} of {passes}: the estimate so far is {short(paths['partial'])}")
                if going:
                    keep(place)
                    say(f"go on with: flowhelm restore --resume {short(paths['resume'])}")
                for name in ("preview",) if going else ("preview", "resume"):
                    paths[name].unlink(missing_ok=True)
            raise
    assert place is not None
    return place


def carried(method: Callable[..., Any], info: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is to be kept of a step's info, so that `_going_on` can make the next one of it."""
    hints = inspect.get_annotations(method.func if isinstance(method, partial) else method, eval_str=True)
    if "carried" in hints:
        return dict(info)
    return {name: each for name, each in info.items() if hints.get(name) == Tensor | None}


def _going_on(method: Callable[..., Any], carried: Mapping[str, Tensor]) -> dict[str, Any]:
    """The options by which a method takes up what it carried: `carried` as a whole, else one each (a plan, weights)."""
    return {"carried": carried} if "carried" in inspect.signature(method).parameters else dict(carried)


def _numbers(place: Place) -> dict[str, Any]:
    return {"index": place.done, "seconds": place.seconds, "evaluations": place.evaluations}
