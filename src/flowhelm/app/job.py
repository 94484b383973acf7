"""A run as the command line makes it: from settings that JSON can hold to files, interruptible at any moment.

Settings say everything: the same settings on the same machine give the same numbers to the bit.
"""

import inspect
import math
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import __version__, guide, latent, operators, restore, steer
from ..flow import Flow
from ..metrics import psnr, ssim
from ..priors import bundled
from ..priors.bundled import NAMES, Prior
from ..priors.pipelines import Pipeline
from ..rng import Noise
from ..step import Diverged, Step, run
from . import files, models
from .doctor import check_deepinv, installed
from .images import BadInput, Picture, check_writable, read, write, write_json
from .options import Plain, bind, options, pick, plain
from .presets import preset
from .presets import settings as settings_of
from .progress import Tell, progress
from .restore import Observed, framed, guess, misfit, observe, sized, viewable
from .restore import restore as steps_of
from .strip import strip

METHODS = (*steer.ALL, *restore.ALL)
SAVE_EVERY = 30.0  # seconds between resume files
PREVIEW_EVERY = 2.0
Say = Callable[[str], None]
Watch = Callable[[int, int, Tensor, float], None]
"""Told after each step: its number, how many there are, the estimate `(1, c, h, w)` on the CPU, the misfit. May raise `Stopped`."""


class Stopped(SystemExit):
    """By a signal; the status is what a shell expects: 130 for Ctrl-C."""


class Problem(NamedTuple):
    picture: Picture  # as read (cropped to what the measurement shows, for a simulation)
    observed: Observed
    flow: Flow
    method: Callable[..., Iterator[Step]]
    noise: Noise


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
) -> dict[str, Any]:
    """Settings with every default filled in, checked as far as possible without the picture.

    Args:
        keep: what was measured comes back exactly as it was measured; warm: time to begin at, from the photograph instead of from
            noise; codec_error: of the prior's decoder, added to the noise level. See `flowhelm.latent`.
        model: what a pipeline of diffusers is told and how it is opened, by the names of `models.settled`.
    """
    check_deepinv()
    if not (0 < std < math.inf):
        raise BadInput(f"--std: expected a number above 0, got {std}; for a photograph without noise give 0.005")
    if warm is not None and not 0 < warm < 1:
        raise BadInput(f"--warm: expected a time between 0 (noise) and 1 (the photograph), got {warm}")
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
        "times": None if pipeline else bundled.load(prior).times(steps or usual_steps).tolist(),
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
    changed = _differences(story["inputs"], inputs(settings))
    if changed:
        raise BadInput(
            f"{str(path)!r} cannot go on, since files have changed: {'; '.join(changed)}; start the run again"
        )
    for line in _differences(story["environment"], _environment(settings)):
        say(f"note: not as when the run began, so the last bits may differ: {line}")
    place = Place(story["index"], x, noise, carried, None, story["seconds"], story["evaluations"])
    made = _carry_out(settings, place, preview, say)
    path.unlink(missing_ok=True)
    return made


def item(
    settings: Mapping[str, Any],
    out: Path,
    *,
    flow: Prior | Pipeline,
    weights: Mapping[str, str],
    show: Callable[[int, int], AbstractContextManager[Tell]],
) -> dict[str, Any]:
    """One item of a batch: writes `out` and, of a simulation, what it was restored from; returns what a .run.json holds.

    Args:
        flow, weights: `opened(settings)` and `fingerprints(settings)`, which all items share; show: its progress.
    """
    read_from = inputs(settings, weights)
    problem = _prepare(settings, out, print, flow)
    settings = _timed(problem, settings)
    place = _loop(problem, settings, None, {}, False, {}, show=show)
    picture = _picture(problem, place.x, settings.get("keep"))
    result = _result(problem, settings, place.x, picture) | {"seconds": place.seconds, "evaluations": place.evaluations}
    shown = _shown(problem, settings)
    if settings["simulate"] and shown is not None:
        write(files.outputs(out)["degraded"], shown, problem.picture)
    write(out, picture, _like(problem, settings))
    return {"settings": settings, "inputs": read_from, "environment": _environment(settings), "result": result}


def rerun(path: Path, *, say: Say = print) -> bool:
    """Runs again what a JSON file describes; True if the numbers are the same to the bit."""
    return again(files.get_run(path), path.with_name(f"{path.name.removesuffix('.run.json')}.rerun.png"), say)


def again(old: Mapping[str, Any], out: Path, say: Say = print) -> bool:
    """Runs again what a .run.json holds; writes `out` only if the numbers are not the same to the bit."""
    settings = old["settings"]
    problem = _prepare(settings, out, say)
    place = _loop(problem, settings, None, files.outputs(out), False, {})
    picture = _picture(problem, _decoded(problem, place.x, place.carried), settings.get("keep"))
    if files.hash_of(picture) == old["result"]["sha256"]:
        say("identical to the bit")
        return True
    write(out, picture, _like(problem, settings))
    say(f"not identical: {out} is what came out now")
    differences = [
        *_differences(old["inputs"], inputs(settings)),
        *_differences(old["environment"], _environment(settings)),
    ]
    for line in differences or ["nothing that is recorded has changed"]:
        say(f"  {line}")
    return False


def _carry_out(
    settings: Mapping[str, Any], place: Place | None, preview: bool, say: Say, watch: Watch | None = None
) -> dict[str, Any]:
    out = Path(settings["out"])
    paths = files.outputs(out)
    problem = _prepare(settings, out, say)
    if settings["times"] is None:
        models.hint(settings, say)
    settings = _timed(problem, settings)
    story = {"settings": settings, "inputs": inputs(settings), "environment": _environment(settings)}
    place = _loop(problem, settings, place, paths, preview, story, say, watch=watch)
    whole = _decoded(problem, place.x, place.carried)
    picture = _picture(problem, whole, settings.get("keep"))
    like = _like(problem, settings)
    result = _result(problem, settings, whole, picture) | {"seconds": place.seconds, "evaluations": place.evaluations}
    write(out, picture, like)
    files.put_picture(paths["strip"], _strip(problem, settings, picture, result))
    write_json(paths["run"], made := {**story, "result": result})
    written = [out, paths["strip"], paths["run"]]
    shown = _shown(problem, settings)
    if settings["simulate"] and shown is not None:
        write(paths["degraded"], shown, problem.picture)
        written.append(paths["degraded"])
    for name in ("preview", "partial", "resume"):
        paths[name].unlink(missing_ok=True)
    _summary(result, written, say)
    return made


def _timed(problem: Problem, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """With the grid of times: a pipeline's depends on the size of the picture."""
    times = settings["times"] or problem.flow.times(settings["steps"]).tolist()
    if (warm := settings.get("warm")) and times[0] == 0:
        times = latent.later(torch.tensor(times, dtype=torch.float64), warm).tolist()
    return {**settings, "times": times}


def opened(settings: Mapping[str, Any]) -> Prior | Pipeline:
    """The prior of a run, told its prompt."""
    if not models.is_pipeline(settings["prior"]):
        return bundled.load(settings["prior"], settings["device"])
    return models.told(models.opened(settings["prior"], settings), settings)


def _prepare(settings: Mapping[str, Any], out: Path, say: Say, flow: Prior | Pipeline | None = None) -> Problem:
    """Reads and builds everything; whatever may be wrong with the input is found here, before the long work."""
    check_deepinv()
    torch.set_num_threads(settings["threads"])
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    device = files.to_device(settings["device"])
    files.check_outputs(out, [Path(p) for p in _paths(settings).values()])
    check_writable(out.parent)
    builder = pick("operator", settings["operator"], operators.ALL)
    chosen = pick("method", settings["method"], METHODS)
    colour = settings["operator"] == "colorize"
    picture = read(settings["photo"], channels=1 if colour and not settings["simulate"] else 3)
    pipeline = models.is_pipeline(settings["prior"])
    if pipeline and settings["tile"]:
        raise BadInput("--tile cuts the networks of bundled priors; for a pipeline, --tiling cuts its decoder")
    if settings["simulate"] and (factor := settings["operator_options"].get("factor")):
        picture = _cropped(picture, factor)
    rows: Noise | None = _streams(settings).named("measurement") if settings["simulate"] else None
    grey = picture.grey and not colour
    values = bind(builder, settings["operator_options"])
    observed = observe(builder, values, picture.pixels.to(device), settings["std"], grey=grey, simulate=rows)
    if settings["simulate"]:
        alpha = None if picture.alpha is None else framed(observed, picture.alpha)
        picture = picture._replace(pixels=framed(observed, picture.pixels), alpha=alpha)
    method = partial(chosen, **bind(chosen, settings["method_options"]))
    if flow is None and pipeline:
        work = models.Work(
            settings["method"], observed.shape[1:], settings["steps"], settings["method_options"], settings["operator"],
            settings["operator_options"],
        )  # fmt: skip
        flow = models.told(models.opened(settings["prior"], settings, work=work, say=say), settings)
    elif flow is None:
        flow = bundled.load(settings["prior"], settings["device"])
    try:
        whole = sized(flow, observed.shape, settings["tile"])
    except ValueError as error:
        shown, clean = picture.pixels.shape[-2:], observed.shape[1:]
        if not pipeline or tuple(shown) == tuple(clean):
            raise
        raise BadInput(
            "{}; this operator restores {} x {} pixels from a photograph of {} x {}".format(error, *clean, *shown)
        ) from None
    if settings.get("keep") and not observed.measurement.linear:
        raise BadInput(f"--keep: {settings['operator']} is not linear, so that its measurement cannot be kept exactly")
    if settings.get("codec_error"):
        honest = latent.honest(whole, observed.measurement, guess(observed))
        observed = observed._replace(measurement=honest, std=observed.std * honest.std / observed.measurement.std)
    k = int(settings["method_options"].get("particles", 1))
    return Problem(picture, observed, whole, method, _streams(settings).spawn(k) if k > 1 else _streams(settings))


def _loop(
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
    if place is None and settings.get("warm"):
        begin = guess(problem.observed).repeat_interleave(len(noise), 0)
        x = latent.warm(problem.flow, begin, times, float(times[0]), noise)[0]
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
            _carried(problem.method, step.info),
            picture := _decoded(problem, step.clean, step.info),
            spent + now - began,
            evaluations + counted.count.rows,
        )
        # of a whole trajectory's passes, in steps of the grid
        fit = float(misfit(problem.observed, picture))
        tell(step.index * total // step.total, fit)
        if story and not whole and now - saved > SAVE_EVERY:
            keep(place)
            saved = time.monotonic()
        if preview and now - seen > PREVIEW_EVERY:
            write(paths["preview"], _picture(problem, picture), _like(problem, settings))
            seen = time.monotonic()
        if watch is not None:
            watch(step.index, step.total, _picture(problem, picture, settings.get("keep")), fit)

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
                    write(paths["partial"], _picture(problem, place.clean), _like(problem, settings))
                    say(f"after step {place.done} of {passes}: the estimate so far is {_short(paths['partial'])}")
                if going:
                    keep(place)
                    say(f"go on with: flowhelm restore --resume {_short(paths['resume'])}")
                for name in ("preview",) if going else ("preview", "resume"):
                    paths[name].unlink(missing_ok=True)
            raise
    assert place is not None
    return place


@contextmanager
def signals() -> Iterator[None]:
    """SIGINT and SIGTERM raise Stopped here (once: while the last estimate is saved, they are not heard)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(128 + number)

    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    for each in before:
        signal.signal(each, stop)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _streams(settings: Mapping[str, Any]) -> Noise:
    return Noise(settings["seed"], rows=[0])  # one key for every picture: the result depends on the seed alone


def _cropped(picture: Picture, factor: int) -> Picture:
    """To sides that are multiples of `factor`."""
    height, width = (side - side % factor for side in picture.pixels.shape[-2:])
    if not height or not width:
        raise BadInput(f"superres: the picture is smaller than the factor {factor}; choose a smaller --factor")
    alpha = None if picture.alpha is None else picture.alpha[..., :height, :width]
    return picture._replace(pixels=picture.pixels[..., :height, :width], alpha=alpha)


def _carried(method: Callable[..., Any], info: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is to be kept of a step's info, so that `_going_on` can make the next one of it."""
    hints = inspect.get_annotations(method.func if isinstance(method, partial) else method, eval_str=True)
    if "carried" in hints:
        return dict(info)
    return {name: each for name, each in info.items() if hints.get(name) == Tensor | None}


def _going_on(method: Callable[..., Any], carried: Mapping[str, Tensor]) -> dict[str, Any]:
    """The options by which a method takes up what it carried: `carried` as a whole, else one each (a plan, weights)."""
    return {"carried": carried} if "carried" in inspect.signature(method).parameters else dict(carried)


def _decoded(problem: Problem, clean: Tensor, info: Mapping[str, Tensor]) -> Tensor:
    """The picture `(1, c, h, w)` of an estimate: the mean of weighted particles, which errs least; else the first row, the best one."""
    pictures = problem.flow.decode(clean)
    if len(pictures) == 1 or "log_w" not in info:
        return pictures[:1]
    weights = info["log_w"].softmax(1).nan_to_num(1 / len(pictures)).to(pictures)
    return torch.einsum("bk,kchw->bchw", weights, pictures)


def _picture(problem: Problem, picture: Tensor, keep: bool | None = False) -> Tensor:
    """The restored photograph, of the size of what was measured; `keep` what was measured exactly."""
    if keep:
        picture = latent.projected(problem.observed.measurement, picture)
    return framed(problem.observed, picture).cpu()


def _like(problem: Problem, settings: Mapping[str, Any]) -> Picture:
    return problem.picture._replace(grey=False) if settings["operator"] == "colorize" else problem.picture


def _shown(problem: Problem, settings: Mapping[str, Any]) -> Tensor | None:
    """The measurement as a picture of its own size; None where it is none."""
    if settings["operator"] == "phase":
        return None
    return problem.observed.measurement.y.cpu() if settings["simulate"] else problem.picture.pixels


def _strip(problem: Problem, settings: Mapping[str, Any], picture: Tensor, result: Mapping[str, Any]) -> Any:
    shown, clean = _shown(problem, settings), problem.picture.pixels
    caption = "restored" + (f" {result['psnr']:.2f} dB" if result.get("psnr") else "")
    if problem.picture.grey and settings["operator"] != "colorize":
        picture = picture.mean(1, keepdim=True)
    panels = [("input", shown)] * (shown is not None) + [(caption, picture)] + [("clean", clean)] * settings["simulate"]
    return strip(panels, height=min(1000, max(image.shape[-2] for _, image in panels)))  # type: ignore[union-attr, arg-type]


def _result(problem: Problem, settings: Mapping[str, Any], whole: Tensor, picture: Tensor) -> dict[str, Any]:
    result: dict[str, Any] = {
        "sha256": files.hash_of(picture),
        "residual": _number(misfit(problem.observed, whole.to(problem.observed.seen))),
    }
    if settings["simulate"]:
        clean, size = problem.picture.pixels, problem.observed.shape
        result |= _scores("", picture, clean)
        if clean.shape[1:] != size:
            shown = "{} x {}".format(*clean.shape[-2:])
            result["scored"] = f"{shown} of {size[1]} x {size[2]} pixels: a border is only blurred into the rest"
        before = None if settings["operator"] == "phase" else viewable(problem.observed, problem.observed.measurement.y)
        if before is not None:
            result |= _scores("degraded_", before.cpu(), clean)
    return result


def _scores(prefix: str, picture: Tensor, clean: Tensor) -> dict[str, float | None]:
    large = min(clean.shape[-2:]) >= 11  # the window of SSIM
    return {
        f"{prefix}psnr": _number(psnr(picture, clean)),
        f"{prefix}ssim": _number(ssim(picture, clean)) if large else None,
    }


def _number(value: Tensor) -> float | None:
    """None for what JSON cannot hold: the PSNR of equal pictures."""
    return float(value) if value.isfinite() else None


def _numbers(place: Place) -> dict[str, Any]:
    return {"index": place.done, "seconds": place.seconds, "evaluations": place.evaluations}


def _summary(result: Mapping[str, Any], written: list[Path], say: Say) -> None:
    say("wrote " + ", ".join(_short(path) for path in written))
    say(
        f"misfit {result['residual']:.2f} of the noise (1 fits), {result['evaluations']} evaluations in {result['seconds']:.1f} s"
    )
    if result.get("psnr") is not None:
        before = result.get("degraded_psnr")
        line = f"PSNR {result['psnr']:.2f} dB" + (f" (degraded {before:.2f})" if before is not None else "")
        if result["ssim"] is not None:
            line += f", SSIM {result['ssim']:.3f}"
            line += f" (degraded {result['degraded_ssim']:.3f})" if result.get("degraded_ssim") is not None else ""
        say(line)
        if "scored" in result:
            say(f"scores and pictures are of {result['scored']}")
    if not 0.2 < result["residual"] < 1.5:
        way = "too large" if result["residual"] > 1 else "too small"
        say(f"warning: the misfit is {way}; --std, the operator or its options may not fit this photograph")


def _short(path: Path) -> str:
    """Relative where that is shorter."""
    try:
        return min(str(path), os.path.relpath(path), key=len)
    except ValueError:  # another drive
        return str(path)


def _paths(settings: Mapping[str, Any]) -> dict[str, str]:
    """Files that a run reads."""
    builder = pick("operator", settings["operator"], operators.ALL)
    typed = {o.name for o in options(builder).values() if Path in o.kinds}
    extra = {name: str(value) for name, value in settings["operator_options"].items() if name in typed}
    # an archive of kernels may be followed by the kernel's name
    extra = {name: v if Path(v).exists() else v.rpartition(":")[0] or v for name, v in extra.items()}
    prior = {} if models.is_pipeline(settings["prior"]) else {"prior": str(files.weights(settings["prior"]))}
    return {"photo": settings["photo"]} | prior | extra


def inputs(settings: Mapping[str, Any], weights: Mapping[str, str] | None = None) -> dict[str, str]:
    """Hashes of what a run reads."""
    read = {name: path for name, path in _paths(settings).items() if name != "prior"}
    found = {f"{name} sha256": files.sha256(Path(path)) for name, path in read.items()}
    return found | dict(fingerprints(settings) if weights is None else weights)


def fingerprints(settings: Mapping[str, Any]) -> dict[str, str]:
    """Of the weights of a run."""
    prior = _paths(settings).get("prior")
    found = {} if prior is None else {"prior sha256": files.sha256(Path(prior))}
    if models.is_pipeline(settings["prior"]):
        found["prior fingerprint"] = models.fingerprint(settings["prior"])
        if (settings.get("quantize") or "").endswith(".gguf"):
            found["quantize fingerprint"] = models.fingerprint_of_file(Path(settings["quantize"]))
    return found


def _environment(settings: Mapping[str, Any]) -> dict[str, str]:
    cuda = settings["device"].startswith("cuda")
    return {
        "flowhelm": __version__,
        "torch": torch.__version__,
        **{name: installed(name) for name in ("torchvision", "deepinv", "numpy", "Pillow")},
        **{n: installed(n) for n in ("diffusers", "transformers") if models.is_pipeline(settings["prior"])},
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": torch.cuda.get_device_name(settings["device"])
        if cuda
        else torch.backends.cpu.get_cpu_capability(),
    }


def _differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    return [f"{name} was {old.get(name)}, is {new[name]}" for name in new if old.get(name) != new[name]]
