"""A run's problem: what its settings name, read, opened and checked before the long work."""

import json
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import latent, operators, restore, steer
from ...flow import Flow
from ...priors import bundled
from ...priors.bundled import Prior
from ...priors.pipelines import Pipeline
from ...rng import Noise
from ...step import Step
from ..errors import BadInput
from ..files import atomic as files
from ..files import stacks as sources
from ..files.pictures import Picture, check_writable
from ..models import opening as models
from ..models import provenance
from ..models.doctor import check_deepinv
from ..options.signature import bind, pick
from .observed import Observed, framed, guess, observe, sized

METHODS = (*steer.ALL, *restore.ALL)
Say = Callable[[str], None]


class Problem(NamedTuple):
    picture: Picture  # as read (cropped to what the measurement shows, for a simulation)
    observed: Observed
    flow: Flow
    method: Callable[..., Iterator[Step]]
    noise: Noise


def opened(settings: Mapping[str, Any], work: models.Work | None = None, say: Say = print) -> Prior | Pipeline:
    """The prior of a run, told its prompt; BadInput for a pipeline that would not fit into the GPU for `work`."""
    if not models.is_pipeline(settings["prior"]):
        return bundled.load(settings["prior"], settings["device"])
    return models.told(models.opened(settings["prior"], settings, work=work, say=say), settings)


def work_of(settings: Mapping[str, Any], shape: Sequence[int] | None = None) -> models.Work | None:
    """What a pipeline is opened for, given the clean picture's shape or else by reading the picture; None of a bundled prior, or of
    a picture that cannot be read."""
    if not models.is_pipeline(settings["prior"]):
        return None
    if shape is None:
        builder = pick("operator", settings["operator"], operators.ALL)
        try:
            shape = tuple(sources.read(settings["photo"], span=settings.get("range")).pixels.shape[1:])
            if not settings["simulate"]:
                shape = operators.clean_shape(builder, shape, bind(builder, settings["operator_options"]))  # type: ignore[arg-type]
        except ValueError:  # said when it is its turn
            return None
    return models.Work(
        settings["method"], (shape[1], shape[2]), settings["steps"], settings["method_options"], settings["operator"],
        settings["operator_options"],
    )  # fmt: skip


def prepare(settings: Mapping[str, Any], out: Path, say: Say, flow: Prior | Pipeline | None = None) -> Problem:
    """Reads and builds everything; whatever may be wrong with the input is found here, before the long work."""
    check_deepinv()
    torch.set_num_threads(settings["threads"])
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    files.to_device(settings["device"])
    files.check_outputs(out, [Path(p) for p in provenance.paths(settings).values()])
    check_writable(out.parent)
    return prepared(
        settings, sources.read(settings["photo"], channels=channels(settings), span=settings.get("range")), say, flow
    )


def channels(settings: Mapping[str, Any]) -> int:
    """That the picture of a run is read with."""
    return 1 if settings["operator"] == "colorize" and not settings["simulate"] else 3


def prepared(
    settings: Mapping[str, Any], picture: Picture, say: Say = print, flow: Prior | Pipeline | None = None
) -> Problem:
    """Everything but the long work, for a picture in memory; `flow` is opened if it is not given."""
    device = files.to_device(settings["device"])
    builder = pick("operator", settings["operator"], operators.ALL)
    chosen = pick("method", settings["method"], METHODS)
    colour = settings["operator"] == "colorize"
    pipeline = models.is_pipeline(settings["prior"])
    if pipeline and settings["tile"]:
        raise BadInput("--tile cuts the networks of bundled priors; for a pipeline, --tiling cuts its decoder")
    if settings["simulate"] and (factor := settings["operator_options"].get("factor")):
        picture = _cropped(picture, factor)
    simulated = streams({"seed": settings.get("measurement_seed", settings["seed"])}).named("measurement")
    rows: Noise | None = simulated if settings["simulate"] else None
    grey = picture.grey and not colour
    values = bind(builder, settings["operator_options"])
    observed = observe(builder, values, picture.pixels.to(device), settings["std"], grey=grey, simulate=rows)
    if settings["simulate"]:
        alpha = None if picture.alpha is None else framed(observed, picture.alpha)
        picture = picture._replace(pixels=framed(observed, picture.pixels), alpha=alpha)
    method = partial(chosen, **bind(chosen, settings["method_options"]))
    if flow is None:
        flow = opened(settings, work_of(settings, observed.shape), say)
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
    return Problem(picture, observed, whole, method, streams(settings).spawn(k) if k > 1 else streams(settings))


def joined(problems: Sequence[Problem]) -> Problem:
    """Several as one batch, a row for each, in the same order; what `alike` tells apart must be equal. The streams begin anew."""
    first = problems[0]
    if len(problems) == 1:
        return first
    y = torch.cat([each.observed.measurement.y for each in problems])
    observed = first.observed._replace(measurement=replace(first.observed.measurement, y=y))
    seeds, keys = ([value for p in problems for value in getattr(p.noise, what)] for what in ("seeds", "keys"))
    return first._replace(observed=observed, noise=Noise(seeds, keys))


def alike(problem: Problem, settings: Mapping[str, Any]) -> Hashable:
    """Equal for problems that may run together: of one size, operator, noise level and grid."""
    observed = problem.observed
    told = {name: settings[name] for name in ("operator", "operator_options", "method", "method_options", "times")}
    # the decoder's error is of the picture
    own = settings["seed"] if settings.get("codec_error") else None
    return observed.shape, observed.measurement.y.shape, observed.measurement.std, json.dumps(told, sort_keys=True), own


def timed(problem: Problem, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """With the grid of times: a pipeline's depends on the size of the picture."""
    times = settings["times"] or problem.flow.times(settings["steps"]).tolist()
    if (warm := settings.get("warm")) and times[0] == 0:
        times = latent.later(torch.tensor(times, dtype=torch.float64), warm).tolist()
    return {**settings, "times": times}


def streams(settings: Mapping[str, Any]) -> Noise:
    return Noise(settings["seed"], rows=[0])  # one key for every picture: the result depends on the seed alone


def _cropped(picture: Picture, factor: int) -> Picture:
    """To sides that are multiples of `factor`."""
    height, width = (side - side % factor for side in picture.pixels.shape[-2:])
    if not height or not width:
        raise BadInput(f"superres: the picture is smaller than the factor {factor}; choose a smaller --factor")
    alpha = None if picture.alpha is None else picture.alpha[..., :height, :width]
    return picture._replace(pixels=picture.pixels[..., :height, :width], alpha=alpha)


def begun(problem: Problem, settings: Mapping[str, Any], times: Tensor) -> Tensor | None:
    """The state to begin from, if it is not the source."""
    if not settings.get("warm"):
        return None
    begin = guess(problem.observed)
    begin = begin.repeat_interleave(len(problem.noise) // len(begin), 0)
    return latent.warm(problem.flow, begin, times, float(times[0]), problem.noise)[0]
