"""Restoring pictures in memory: what the command line does between reading a file and writing one.

    flow   = priors.load("photos-2")
    y      = observe(operators.deblur, {"sigma": 1.6}, photo, std=0.05)
    noise  = Noise(seed, rows=[0] * len(photo))
    times = start.grid(hqs, flow, 24, y.measurement)
    for step in steps_of(sized(flow, y.shape), y, hqs, times, noise): ...
    picture = framed(y, flow.decode(step.x))

The rows of a batch do not depend on one another: with the same key of `noise` each is what it would be alone.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ... import guide, operators, start
from ...flow import Flow, NetFlow
from ...masked import Masked
from ...measure import Measurement, Operator
from ...metrics import residual_ratio
from ...operators.baseline import bicubic
from ...priors.pipelines import Pipeline
from ...rng import Noise
from ...step import Step

ROOMY = 6_000_000
"""Pixels up to which the network sees a picture whole: about 0.35 GiB a megapixel for the bundled prior."""
TILE = 2048


class Observed(NamedTuple):
    """A measurement of pictures, with what is needed to judge and to show it.

    measurement  what a method is given
    std          of the noise in one entry of y (the measurement's own is larger for grey pictures)
    seen         1 where y was measured and 0 where not, broadcast to y
    shape        (c, h, w) of the clean picture, with its margin if a blur has one: see `framed`
    """

    measurement: Measurement
    std: float
    seen: Tensor
    shape: tuple[int, int, int]


def observe(
    builder: Callable[..., Any],
    options: Mapping[str, Any],
    pictures: Tensor,
    std: float,
    *,
    grey: bool = False,
    simulate: Noise | None = None,
) -> Observed:
    """What `builder(shape, **options)` measures: `pictures` (b, c, h, w) as they are, or degraded if `simulate`.

    `grey`: the three channels are copies of one. They count as one then: the noise is the same in all of them, and
    the measurement's std is sqrt(3) times as large.
    """
    shape: tuple[int, int, int] = tuple(pictures.shape[1:])  # type: ignore[assignment]
    if simulate is None:
        shape = operators.clean_shape(builder, shape, options)
    operator = operators.built(builder, shape, options, pictures.device)
    y = pictures
    with torch.no_grad():
        if simulate is None and builder not in operators.ALL:
            _check_shape(builder, operator, shape, pictures)
        if simulate is not None:
            y = operator.A(pictures)
            y = y + std * simulate(y[:, :1] if grey else y)
    # the noise of what is not looked at would count as misfit
    counts = Measurement(y[:1], operator, std).seen(1)
    copies = y.shape[1] if grey else 1
    return Observed(Measurement(counts * y, operator, std * math.sqrt(copies)), std, counts, shape)


def _check_shape(builder: Callable[..., Any], operator: Operator, shape: tuple[int, ...], pictures: Tensor) -> None:
    """Raises ValueError if code of your own makes something else of a clean picture than what was measured."""
    made = tuple(operator.A(pictures.new_zeros(1, *shape)).shape[1:])
    if made != tuple(pictures.shape[1:]):
        raise ValueError(
            f"{builder.__name__}: of a picture of shape {tuple(shape)} it makes {made}, and what was measured is "
            f"{tuple(pictures.shape[1:])}; say what shape the clean picture has: {builder.__name__}.clean_shape = lambda measured, "
            "**options: (channels, height, width)"
        )


def framed(observed: Observed, picture: Tensor) -> Tensor:
    """What the measurement shows of a clean picture `(b, c, h, w)`: an open blur restores a margin beyond it too."""
    crop = getattr(observed.measurement.operator, "crop", None)
    return picture if crop is None else crop(picture)


def misfit(observed: Observed, picture: Tensor) -> Tensor:
    """Root mean square residual of what was seen, in units of std, `(b,)`: 1 fits the noise."""
    with torch.no_grad():
        residual = observed.measurement.residual(picture)
    share = observed.seen.expand(residual[:1].shape).mean().sqrt()
    return residual_ratio(residual, observed.std) / share.cpu().to(residual)


def sized(flow: Flow, shape: tuple[int, int, int], tile: int | None = None) -> Flow:
    """The prior for a picture (c, h, w), its network call cut into tiles of `tile` pixels: 0 never, None as memory asks.

    A pipeline's network, which looks everywhere, is never cut. ValueError for a size that it does not take.
    """
    channels, height, width = shape
    if isinstance(flow, Pipeline):
        if channels != 3 or tile:
            raise ValueError(
                f"expected a picture of 3 channels and no tiles for {flow.name}, got {channels} and {tile}"
            )
        return flow.sized(height, width)
    if isinstance(flow, Masked):
        if tile:
            raise ValueError(f"expected no tiles for '{flow.name}', whose tokens all belong to one picture, got {tile}")
        return flow.sized(height, width, channels)
    if not hasattr(flow, "sized"):  # code of your own, of one size
        with torch.no_grad():
            own = tuple(flow.decode(torch.zeros(1, *flow.shape)).shape[1:])
        if own != tuple(shape) or tile:
            raise ValueError(f"expected a picture of shape {own} and no tiles for this prior, got {tuple(shape)}")
        return flow
    if channels != flow.shape[0]:
        raise ValueError(f"expected a picture of {flow.shape[0]} channels for this prior, got {channels}")
    if tile is None:
        tile = TILE if height * width > ROOMY else 0
    whole: Flow = flow.sized(height, width)
    if tile and isinstance(flow, NetFlow):
        return guide.tiled(whole, tile, reach=_int(flow.net.reach), stride=_int(flow.net.stride))
    return whole


def steps_of(
    flow: Flow,
    observed: Observed,
    method: Callable[..., Iterator[Step]],
    times: Tensor,
    noise: Noise,
    *,
    x: Tensor | None = None,
    index: int = 0,
) -> Iterator[Step]:
    """The steps of `method(flow, y, x, times, noise=noise)`, from its beginning or, to go on, from the state `x` of step `index`.

    To go on exactly, `noise` must stand where it stood: `noise.restore(state)` with the `noise.state()` of that step. A method
    that improves a whole trajectory again and again steps by its own count and cannot go on from a state.
    """
    y = observed.measurement
    x = start.state(method, flow, y, noise) if x is None else x
    for step in method(flow, y, x.to(y.y.device), times[index:], noise=noise):
        yield step._replace(index=index + step.index, total=index + step.total)


def viewable(observed: Observed, y: Tensor) -> Tensor | None:
    """The measurement enlarged to the size of what it shows, in the picture's channels: what one has without a method.

    None if it is no picture.
    """
    channels, height, width = framed(observed, y.new_empty(1, *observed.shape)).shape[1:]
    if y.shape[-2] > height or y.shape[-1] > width:
        return None
    y = y.expand(-1, channels, -1, -1)
    if y.shape[-2:] == (height, width):
        return y
    return bicubic(y, height // y.shape[-2])


def _int(value: object) -> int:
    return int(cast("int", value))
