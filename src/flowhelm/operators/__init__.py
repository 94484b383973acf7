"""Builders of measurement operators by name, in units a person types.

A builder is `builder(shape, *, option=...)`, where `shape` is the (channels, height, width) of the clean
picture; it returns a deepinv `Physics` on the CPU (`.to(device)` moves it), or of `denoise` an `Identity`, that acts on pictures
`(b, c, h, w)` in [-1, 1] and adds no noise by itself. The linear ones have `A_adjoint`, `A_dagger` and an
exact `prox_l2`, in closed form (with an open border and a kernel that is no product of a column and a row: by conjugate
gradients); the others (`jpeg`, `saturate`, `phase`, `blur_linear_light`) have a differentiable `A` only.
"""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from flowhelm.entry import check
from flowhelm.measure import Function, Operator

from .blur import deblur, kernel_of, motion, traced
from .colour import colorize
from .denoise import denoise
from .jpeg import jpeg
from .mask import box, demosaic, inpaint, random_mask
from .nonlinear import blur_linear_light, clean_side, phase, saturate
from .resample import superres

ALL = (
    denoise,
    inpaint,
    box,
    random_mask,
    deblur,
    motion,
    superres,
    colorize,
    demosaic,
    jpeg,
    saturate,
    phase,
    blur_linear_light,
)

__all__ = ["ALL", "built", "clean_shape", *(builder.__name__ for builder in ALL)]


def built(
    builder: Callable[..., Any], shape: tuple[int, ...], options: Mapping[str, Any], device: Any = "cpu"
) -> Operator:
    """The operator of a builder, on a device; of a builder of your own also one that returns a plain callable.

    Raises:
        ValueError: the builder returns neither an operator with A nor a callable.
    """
    made = builder(shape, **options)
    if not isinstance(made, Operator):
        if not callable(made):
            raise ValueError(
                f"{builder.__name__}: expected an operator with A(image), or a function of the picture, got {type(made).__name__}; "
                "return measure.Linear(function, shape) for a linear one"
            )
        made = Function(made)
    return made.to(device) if hasattr(made, "to") else made


def clean_shape(
    builder: Callable[..., Any], measured: tuple[int, int, int], options: Mapping[str, Any]
) -> tuple[int, int, int]:
    """The clean picture's (c, h, w), given that of a measured one and the options that `builder` will get.

    A builder of your own says it by a function `builder.clean_shape(measured, **options)`; without, the two are of one shape.

    Raises TypeError for an option the builder does not have, ValueError for a value that it refuses and a measurement it cannot give.
    """
    check(builder, measured, **options)
    chosen = signature(builder).bind(measured, **options)
    chosen.apply_defaults()
    channels, height, width = measured
    if hasattr(builder, "clean_shape"):
        return tuple(builder.clean_shape(measured, **options))
    if builder in (deblur, motion) and chosen.arguments["border"] == "open":
        told = chosen.arguments
        blurred = builder is deblur
        kernel = kernel_of(told["sigma"], told["kernel"], told["angle"]) if blurred else traced(told["kernel"])
        return channels, height + kernel.shape[0] - 1, width + kernel.shape[1] - 1
    if builder is superres:
        factor = chosen.arguments["factor"]
        return channels, height * factor, width * factor
    if builder is colorize:
        if channels != 1:
            raise ValueError(
                f"colorize: expected a grey picture of 1 channel, got {channels}; convert it to grey first"
            )
        return 3, height, width
    if builder is phase:
        oversampling = chosen.arguments["oversampling"]
        return channels, clean_side(height, oversampling), clean_side(width, oversampling)
    return measured
