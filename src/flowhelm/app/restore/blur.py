"""The blur of a photograph, where nothing is said of it: `--sigma auto`, `--kernel auto`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from torch import Tensor

from ...blur_kind import LEAST, LEAST_SIGMA, MOST_SIGMA, Found, blur_kind
from ...operators.blur import KERNELS
from ..errors import BadInput
from ..options.request import Plain
from ..run import Event, Noted, Warned
from .request import RestoreSettings

AUTO = "auto"
Trust = Literal["believed", "milder", "unseen"]
CLEAR = 20.0
"""Nats of evidence below which no blur is believed in."""
UNSEEN = 0.3
"""The standard deviation, in pixels, of the Gaussian that is taken where no blur is seen: the picture is hardly sharpened."""
MILDER = 0.8
"""What an estimate is multiplied by that is not sure."""


class Blur(NamedTuple):
    """Options of `deblur`, and how far they are trusted."""

    options: dict[str, Plain]
    trust: Trust


def asked(operator: str, options: Mapping[str, Any]) -> bool:
    """Whether the options of an operator leave the blur to be estimated."""
    return operator == "deblur" and AUTO in (options.get("sigma"), options.get("kernel"))


def seen(pixels: Tensor, std: float) -> Found | None:
    """The blur of pixels `(1, c, h, w)` with noise `std`, of any kind."""
    return blur_kind(pixels, std, KERNELS)


def estimated(options: Mapping[str, Any], pixels: Tensor, std: float) -> Blur:
    """The blur of pixels `(1, c, h, w)` with noise `std`, given the options that were typed. Raises BadInput."""
    kernel = str(options.get("kernel", "gaussian"))
    if kernel == AUTO and options.get("sigma", AUTO) != AUTO:
        raise BadInput(
            "deblur: --kernel auto estimates the size of the blur, too; leave out --sigma, or name the kernel"
        )
    among = KERNELS if kernel == AUTO else {kernel: KERNELS[kernel]}
    if "angle" in options and kernel == "line":
        angle = float(options["angle"])
        among = {"line": lambda sigma, _: KERNELS["line"](sigma, angle)}
    found = blur_kind(pixels, std, among)
    if found is None:
        raise BadInput(
            f"deblur: a picture of at least {LEAST} x {LEAST} pixels is needed to estimate its blur, got {pixels.shape[-1]} x "
            f"{pixels.shape[-2]}; give --sigma as a number"
        )
    if "angle" in options:
        found = found._replace(angle=float(options["angle"]))
    return Blur({**options, **options_of(trusted(found))}, trust(found))


def options_of(found: Found) -> dict[str, Plain]:
    """Of `deblur`."""
    told: dict[str, Plain] = {"sigma": float(f"{found.sigma:.3g}"), "kernel": found.kernel}
    return told | ({"angle": round(found.angle, 1)} if found.kernel == "line" else {})


def trust(found: Found) -> Trust:
    if found.evidence < CLEAR or found.sigma <= LEAST_SIGMA * 1.02:
        return "unseen"
    return "milder" if found.sigma >= MOST_SIGMA * (1.45 if found.kernel == "line" else 0.97) else "believed"


def trusted(found: Found) -> Found:
    """What is restored with: the milder, the less is known."""
    how = trust(found)
    if how == "unseen":
        return found._replace(kernel="gaussian", sigma=UNSEEN, angle=0.0)
    return found._replace(sigma=found.sigma * MILDER) if how == "milder" else found


def told(settings: RestoreSettings) -> Iterator[Event]:
    """What a person is told of a blur that was estimated."""
    if settings.blurred is None:
        return
    seen = words(settings.operator_options.model_dump())
    if settings.blurred == "believed":
        yield Noted(f"the picture seems to be {seen}; set --sigma to change it, a smaller one if edges have rings")
    elif settings.blurred == "milder":
        yield Warned(
            f"the picture's blur is stronger than can be estimated; it is restored as {seen}: set --sigma, or scale it down"
        )
    else:
        yield Warned(
            "no blur is seen in the picture, so it is hardly sharpened; if you know that it is blurred, set --sigma (1, say)"
        )


def words(options: Mapping[str, Any]) -> str:
    """A blur as a person names it."""
    kernel, sigma = options["kernel"], float(options["sigma"])
    if kernel == "disc":
        return f"out of focus by a disc of radius {2 * sigma:.3g} pixels"
    if kernel == "line":
        return f"moved along a line of {math.sqrt(12) * sigma:.3g} pixels at {float(options['angle']):g} degrees"
    return f"blurred by a Gaussian of {sigma:g} pixels"


def typed(options: Mapping[str, Any]) -> str:
    """A blur as options of the command line."""
    line = f" --angle {float(options['angle']):g}" if options["kernel"] == "line" else ""
    kernel = "" if options["kernel"] == "gaussian" else f" --kernel {options['kernel']}"
    return f"--operator deblur{kernel} --sigma {float(options['sigma']):g}{line}"
