"""What is measured: tasks, and the protocols that name several of them.

A protocol is a function of the pictures' shape (c, h, w) that returns its tasks. Noise levels are in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import operators
from ...app.options import own
from ...measure import Measurement
from ...metrics import residual_ratio
from ...rng import Noise

Shape = tuple[int, int, int]


class Task(NamedTuple):
    """An operator, by its builder and the builder's options, and the noise's standard deviation."""

    name: str
    builder: Callable[..., Any]
    options: Mapping[str, Any]
    std: float

    @property
    def operator(self) -> str:
        """In words: `deblur:border=circular,sigma=1.6`."""
        words = ",".join(f"{key}={value}" for key, value in sorted(self.options.items()))
        name = own.name_of(self.builder)
        code = f"@{own.sha256(name)[:8]}" if own.word(name) else ""
        return own.short(name) + code + f":{words}" * bool(words)


class Problem(NamedTuple):
    """Clean pictures and what was measured of them.

    Where a mask leaves nothing of a picture nothing is seen: there y is 0, and the residual is not counted.
    """

    clean: Tensor
    y: Measurement
    seen: Tensor

    def shown(self, image: Tensor) -> Tensor:
        """The part of a picture that the measurement shows: an open blur has a margin beyond it."""
        crop = getattr(self.y.operator, "crop", None)
        return image if crop is None else crop(image)

    def residual(self, image: Tensor) -> Tensor:
        """Root mean square of A(image) - y in units of the noise, `(b,)`: 1 is calibrated."""
        with torch.no_grad():
            residual = self.y.residual(image)
        share = self.seen.expand(residual[:1].shape).mean().sqrt()
        return residual_ratio(residual, self.y.std) / share


def measured(task: Task, clean: Tensor, names: Sequence[str], seed: int) -> Problem:
    """Measures clean `(b, c, h, w)`. The noise of a picture depends on the seed and its name alone."""
    operator = operators.built(task.builder, tuple(clean.shape[1:]), task.options, clean.device)
    with torch.no_grad():
        y = operator.A(clean)
        y = y + task.std * Noise(seed, list(names)).named("measurement")(y)
    counts = Measurement(y[:1], operator, task.std).seen(1)
    return Problem(clean, Measurement(counts * y, operator, task.std), counts)


def pnp_flow(shape: Shape) -> tuple[Task, ...]:
    """Of PnP-Flow (Martin et al. 2025, arXiv:2410.02423), which MPC-Flow and Flower use as well.

    Their sizes are 128 (blur of 1 pixel, x2, box of 40) and 256 (3 pixels, x4, box of 80); smaller pictures get what 128 gets, the
    box in proportion. Deviations: the mask's places are of another generator; noise on unseen pixels is left out.
    """
    large = min(shape[1:]) >= 256
    side = max(1, round(min(shape[1:]) * 40 / 128))
    return (
        Task("denoise", operators.denoise, {}, 0.2),
        Task("deblur", operators.deblur, {"sigma": 3.0 if large else 1.0, "border": "circular"}, 0.05),
        Task("superres", operators.superres, {"factor": 4 if large else 2, "filter": "decimate"}, 0.05),
        Task("random", operators.random_mask, {"missing": 0.7}, 0.01),
        Task("box", operators.box, {"size": side}, 0.05),
    )


def photographs(shape: Shape) -> tuple[Task, ...]:
    """A blur of 1.6 pixels, x2 from averages, 70 % missing, a box of a quarter: all with noise of 0.05."""
    return (
        Task("deblur", operators.deblur, {"sigma": 1.6, "border": "circular"}, 0.05),
        Task("superres", operators.superres, {"factor": 2}, 0.05),
        Task("random", operators.random_mask, {"missing": 0.7}, 0.05),
        Task("box", operators.box, {}, 0.05),
    )


def defaults(shape: Shape) -> tuple[Task, ...]:
    """What the defaults of `restore` are chosen by: linear tasks, each with noise of 0.01, 0.05 and 0.2 (1, 6 and 25 8-bit levels)."""
    side = max(1, round(min(shape[1:]) * 40 / 128))
    kinds: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
        "denoise": (operators.denoise, {}),
        "blur 1": (operators.deblur, {"sigma": 1.0, "border": "circular"}),
        "blur 1.6": (operators.deblur, {"sigma": 1.6, "border": "circular"}),
        "decimated": (operators.superres, {"factor": 2, "filter": "decimate"}),
        "averaged x2": (operators.superres, {"factor": 2}),
        "averaged x4": (operators.superres, {"factor": 4}),
        "demosaic": (operators.demosaic, {}),
        "random": (operators.random_mask, {"missing": 0.7}),
        "box": (operators.box, {"size": side}),
    }
    if shape[0] != 3:
        del kinds["demosaic"]
    return tuple(
        Task(f"{name}, {std:g}", builder, options, std)
        for std in (0.01, 0.05, 0.2)
        for name, (builder, options) in kinds.items()
    )


def nonlinear(shape: Shape) -> tuple[Task, ...]:
    """Phase retrieval, clipping, JPEG and a blur in linear light, with the noise of 0.05 that DAPS (arXiv:2407.01521) uses."""
    return (
        Task("phase", operators.phase, {"oversampling": 2.0}, 0.05),
        Task("clipping", operators.saturate, {"gain": 2.0}, 0.05),
        Task("jpeg", operators.jpeg, {"quality": 10}, 0.05),
        Task("blur", operators.blur_linear_light, {"sigma": 1.6}, 0.05),
    )


ALL: tuple[Callable[[Shape], tuple[Task, ...]], ...] = (pnp_flow, photographs, defaults, nonlinear)
