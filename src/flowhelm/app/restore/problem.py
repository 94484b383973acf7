"""A run's problem: what its settings name, read, opened and checked before the long work."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ... import known, latent, operators, raster, start
from ...clipping import unclipped
from ...fade import unfaded
from ...flow import Flow
from ...noise_level import LEVEL
from ...priors.bundled import Prior
from ...priors.pipelines import Pipeline
from ...rng import Noise
from ...solve import inversion_start
from ...step import Step
from ..errors import BadInput
from ..files import stacks
from ..files.atomic import check_writable
from ..files.pictures import Picture
from ..models import opening, precision
from ..models.device import exactly, to_device
from ..models.doctor import check_operator
from ..models.request import ModelRequest
from ..run import Noted, Run, Warned
from .noise import PHOTOGRAPHS
from .observation import Observed, framed, observe, sized
from .record import check_outputs, paths
from .request import RestoreSettings, function_of


class Problem(NamedTuple):
    """What is solved. `picture` as it was read (cropped to what the measurement shows, for a simulation)."""

    settings: RestoreSettings
    picture: Picture
    observed: Observed
    flow: Flow
    method: Callable[..., Iterator[Step]]
    noise: Noise

    @property
    def times(self) -> Tensor:
        """The grid, float64."""
        return torch.tensor(self.settings.times, dtype=torch.float64)

    @property
    def unseen(self) -> bool:
        """Whether the method repairs what it sees and is told neither the operator nor the noise."""
        return self.flow.prior_kind == "paired"


def opened(request: ModelRequest, work: opening.Work | None = None) -> Run[Prior | Pipeline]:
    """The prior of a run, told its prompt; BadInput for a pipeline that would not fit into the GPU for `work`."""
    if not opening.is_pipeline(request.prior):
        return opening.bundled_prior(request, request.device)
    pipeline = yield from opening.opened(request, work=work)
    return opening.told(pipeline, request)


def work_of(settings: RestoreSettings, shape: Sequence[int] | None = None) -> opening.Work | None:
    """What a pipeline is opened for, given the clean picture's shape or else by reading the picture; None of a bundled prior, or of
    a picture that cannot be read."""
    if not opening.is_pipeline(settings.prior):
        return None
    if shape is None:
        try:
            shape = tuple(read(settings).pixels.shape[1:])
            if not settings.simulate:
                builder = function_of("operator", settings.operator)
                with raster.within(settings.budget):
                    shape = operators.clean_shape(builder, shape, settings.operator_values)  # type: ignore[arg-type]
        except ValueError:  # said when it is its turn
            return None
    return opening.Work(
        settings.method, (shape[1], shape[2]), settings.steps or opening.STEPS, settings.method_options.stored(), settings.operator,
        settings.operator_options.stored(),
    )  # fmt: skip


def prepare(settings: RestoreSettings, out: Path, flow: Prior | Pipeline | None = None) -> Run[Problem]:
    """Reads and builds everything; whatever may be wrong with the input is found here, before the long work."""
    check_operator(settings.operator)
    exactly(settings.threads)
    to_device(settings.device)
    check_outputs(out, list(paths(settings).values()))
    check_writable(out.parent)
    return (yield from prepared(settings, read(settings), flow))


def read(settings: RestoreSettings) -> Picture:
    """The picture of a run."""
    count = channels(settings.operator, settings.simulate)
    with raster.within(settings.budget):
        return stacks.read(settings.photo or "", channels=count, span=settings.range, page=settings.page)


def channels(operator: str, simulate: bool) -> int:
    """That a picture is read with."""
    return 1 if operator == "colorize" and not simulate else 3


def prepared(settings: RestoreSettings, picture: Picture, flow: Prior | Pipeline | None = None) -> Run[Problem]:
    """Everything but the long work, for a picture in memory; the prior is opened if `flow` is not given."""
    device = to_device(settings.device)
    builder = function_of("operator", settings.operator)
    pipeline = opening.is_pipeline(settings.prior)
    if pipeline and settings.tile:
        raise BadInput("--tile cuts the networks of bundled priors; for a pipeline, --tiling cuts its decoder")
    if settings.masks_itself and (picture.alpha is None or bool((picture.alpha == 1).all())):
        raise BadInput("--mask alpha: nothing in the photograph is transparent; give a mask as a picture of its own")
    if settings.simulate and (factor := getattr(settings.operator_options, "factor", None)):
        picture = _cropped(picture, factor)
    measured_by = settings.seed if settings.measurement_seed is None else settings.measurement_seed
    rows = streams(measured_by).named("measurement") if settings.simulate else None
    grey = picture.grey and settings.operator != "colorize"
    values, pixels = settings.operator_values, unfaded(picture.pixels, settings.curve)
    if _cut(settings):
        pixels = unclipped(pixels, settings.std)
    if settings.masks_itself and picture.alpha is not None:  # of a member or a page, too, which no path names
        values = values | {"mask": picture.alpha[0]}
    with raster.within(settings.budget):  # a mask, a kernel
        observed = observe(builder, values, pixels.to(device), settings.std, grey=grey, simulate=rows)
    if (
        _cut(settings) and (share := float((observed.measurement.y.abs() > 1).float().mean())) >= 0.05
    ):  # of what is not masked
        yield Noted(
            f"noise was cut off in {share:.0%} of the picture's values, which are black or white; what it was is estimated"
        )
    if settings.simulate:
        alpha = None if picture.alpha is None else framed(observed, picture.alpha)
        picture = picture._replace(pixels=framed(observed, picture.pixels), alpha=alpha)
    if flow is None:
        flow = yield from opened(settings, work_of(settings, observed.shape))
    elif not pipeline:
        flow = opening.adapted(flow, settings)  # which may be of this picture alone
    if not pipeline:
        usual = precision.usual(flow, observed.shape[1] * observed.shape[2], settings.device)
        if settings.dtype is None and usual != "float32":
            yield Noted(
                "the network computes in bfloat16, which this processor is fast at; set --dtype float32 to change it"
            )
        settings = settings.changed(dtype=settings.dtype or usual)
        flow = precision.computing(flow, settings.dtype or usual)
    if observed.std > 1.05 * (most := flow.levels[1]):
        yield Warned(
            f"{settings.prior} was trained for noise up to {most:.2g}, and this picture has {observed.std:.2g}: some will stay; "
            "take a prior that knows as much"
        )
    try:
        whole = sized(flow, observed.shape, settings.tile)
    except ValueError as error:
        shown, clean = picture.pixels.shape[-2:], observed.shape[1:]
        if not pipeline or tuple(shown) == tuple(clean):
            raise
        raise BadInput(
            "{}; this operator restores {} x {} pixels from a photograph of {} x {}".format(error, *clean, *shown)
        ) from None
    if settings.keep and not observed.measurement.linear:
        raise BadInput(f"--keep: {settings.operator} is not linear, so that its measurement cannot be kept exactly")
    if settings.codec_error:
        honest = latent.honest(whole, observed.measurement, start.guess(observed.measurement))
        observed = observed._replace(measurement=honest, std=observed.std * honest.std / observed.measurement.std)
    noise, k = streams(settings.seed), settings.particles
    method = partial(function_of("method", settings.method), **settings.method_values)
    problem = Problem(settings, picture, observed, whole, method, noise.spawn(k) if k > 1 else noise)
    return problem._replace(settings=settings.changed(times=_times(problem)))


def _cut(settings: RestoreSettings) -> bool:
    """Whether a file's black and white are where noise was cut off: as it came, and unless the network has learnt from such files."""
    taught = str(settings.adapter) in known.ADAPTERS or known.kind(settings.prior) == "paired"
    raw = not settings.simulate and settings.curve is None and settings.operator in PHOTOGRAPHS
    return raw and not taught and settings.std > 2 * LEVEL


def _times(problem: Problem) -> list[float]:
    """The grid: a pipeline's depends on the size of the picture, that of a start from the picture on its noise."""
    settings, y = problem.settings, problem.observed.measurement
    steps = settings.steps or opening.STEPS
    times: list[float] = settings.times or start.grid(problem.method, problem.flow, steps, y).tolist()
    if settings.warm and times[0] == 0:
        times = latent.later(torch.tensor(times, dtype=torch.float64), settings.warm).tolist()
    return times


def joined(problems: Sequence[Problem]) -> Problem:
    """Several as one batch, a row for each, in the same order; what `alike` tells apart must be equal. The streams begin anew."""
    first = problems[0]
    if len(problems) == 1:
        return first
    y = torch.cat([each.observed.measurement.y for each in problems])
    observed = first.observed._replace(measurement=replace(first.observed.measurement, y=y))
    seeds, keys = ([value for p in problems for value in getattr(p.noise, what)] for what in ("seeds", "keys"))
    return first._replace(observed=observed, noise=Noise(seeds, keys))


def alike(problem: Problem) -> Hashable:
    """Equal for problems that may run together: of one size, operator, noise level and grid."""
    observed, settings = problem.observed, problem.settings
    told = settings.model_dump(
        mode="json", include={"adapter", "dtype", "operator", "operator_options", "method", "method_options", "times"}
    )
    # the decoder's error is of the picture
    own = settings.seed if settings.codec_error else None
    return observed.shape, observed.measurement.y.shape, observed.measurement.std, json.dumps(told, sort_keys=True), own


def streams(seed: int) -> Noise:
    return Noise(seed, rows=[0])  # one key for every picture: the result depends on the seed alone


def _cropped(picture: Picture, factor: int) -> Picture:
    """To sides that are multiples of `factor`."""
    height, width = (side - side % factor for side in picture.pixels.shape[-2:])
    if not height or not width:
        raise BadInput(f"superres: the picture is smaller than the factor {factor}; choose a smaller --factor")
    alpha = None if picture.alpha is None else picture.alpha[..., :height, :width]
    return picture._replace(pixels=picture.pixels[..., :height, :width], alpha=alpha)


def begun(problem: Problem) -> Tensor | None:
    """The state to begin from, if it is not that of the method."""
    settings, y, times = problem.settings, problem.observed.measurement, problem.times
    if not settings.warm and not settings.inverted:
        return None
    begin = start.guess(y).repeat_interleave(len(problem.noise) // len(y.y), 0)
    if settings.inverted:
        return inversion_start(problem.flow, problem.flow.encode(begin), times)
    return latent.warm(problem.flow, begin, times, float(times[0]), problem.noise)[0]
