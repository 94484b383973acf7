"""The blur of a photograph, where nothing is said of it: `--sigma auto`, `--kernel auto`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch.nn import functional as fn

from ... import start
from ...blur_kind import LEAST, LEAST_SIGMA, MOST_SIGMA, SIDE, Found, blur_kind
from ...compression import STRONG, jpeg_quality, noise_before
from ...flow import NetFlow
from ...noise_level import one_call
from ...operators.blur import KERNELS, deblur
from ...operators.jpeg import as_noise
from ...priors.pipelines import Pipeline
from ...restore.hqs import hqs
from ...step import run
from ..errors import BadInput
from ..files.pictures import Picture
from ..options.request import Plain
from ..run import Event, Noted, Warned
from .noise import fits
from .observation import framed, observe, sized
from .request import RestoreSettings

AUTO = "auto"
Trust = Literal["believed", "milder", "unseen"]
CLEAR = 20.0
"""Nats of evidence below which no blur is believed in."""
WORTH, SURE = 0.9, 100.0
"""Blur that is worth the trouble where nothing was said, in pixels, and its evidence: sharp photographs are soft by half a pixel."""
PACKED = 0.015
"""The same where a JPEG file's rounding looks like a blur, in nats per pixel, and more for blurs beyond 2 pixels, in proportion: it lies
between what sharp photographs have (a few of a hundred, saved at 62 to 86, seem moved by a pixel) and those with a line of 1.3 pixels."""
UNSEEN = 0.3
"""The standard deviation, in pixels, of the Gaussian that is taken where no blur is seen: the picture is hardly sharpened."""
RINGS = 0.6
"""The share of what a restoration changes that may lie beyond the darkest and the brightest nearby: with the true blur 0.2 to 0.57, with
two fifths too much 0.6 to 0.77, with a line a third too short 0.67 (on pictures of the prior's training)."""
MILDER = (1.0, 0.8, 0.6)
"""What an estimate is multiplied by, in turn, until nothing rings."""
FINE = 90
"""The quality of a JPEG file below which what was rounded away makes a blur seem larger than it is, by a tenth to a quarter."""
SOFT = 0.5
"""How much of what JPEG rounds away of a sharp picture it rounds away of a blurred one, where it is restored; chosen on pictures that
`bench.quality.chain` does not show."""
TRIAL, STEPS = 256, 8
"""The side of the middle of a picture that is tried, and the steps."""


class Blur(NamedTuple):
    """Options of `deblur`, and how far they are trusted."""

    options: dict[str, Plain]
    trust: Trust


def asked(operator: str, options: Mapping[str, Any]) -> bool:
    """Whether the options of an operator leave the blur to be estimated."""
    return operator == "deblur" and AUTO in (options.get("sigma"), options.get("kernel"))


def rounded(std: float, jpeg: Path | bytes | None, share: float = 1.0) -> float:
    """The noise in a picture for who takes back its blur: in a JPEG file there is what was rounded away, too, and noise that the
    compression has made too fine to be sure of. Too much taken for noise costs sharpness, too little rings.

    Args:
        jpeg: the file that the picture comes from, if it is one of JPEG.
        share: how much of what JPEG rounds away of a sharp picture counts. All of it, to be sure of a blur.
    """
    quality = None if jpeg is None else jpeg_quality(jpeg)
    if jpeg is None or quality is None:
        return std
    return math.hypot(max(std, noise_before(jpeg)), 0.0 if quality <= STRONG else share * as_noise(quality))


def vague(std: float, quality: int | None) -> bool:
    """Whether a blur seems larger than it is, since what JPEG has rounded away looks like one: not where noise is stronger than that."""
    return quality is not None and quality < FINE and std < 2 * as_noise(quality)


def seen(
    picture: Picture, std: float, flow: NetFlow | Pipeline | None, quality: int | None = None
) -> dict[str, Plain] | None:
    """The blur of a picture of which nothing was said, as options of `deblur`; None where none is surely worth the trouble.

    Args:
        quality: of the JPEG file that it comes from.
    """
    if quality is not None and quality < STRONG:  # what is left out by so strong a compression looks like a blur
        return None
    found = blur_kind(picture.pixels, std, KERNELS)
    if found is None or found.sigma < WORTH or largest(found):
        return None
    looked_at = math.prod(min(side, SIDE) for side in picture.pixels.shape[-2:])
    if found.evidence < max(SURE, PACKED * looked_at * max(1.0, found.sigma / 2) * vague(std, quality)):
        return None
    taken, trust = _tried(found, picture, std, flow, vague(std, quality))
    return options_of(taken) if trust != "unseen" else None


def estimated(
    options: Mapping[str, Any],
    picture: Picture,
    std: float,
    flow: NetFlow | Pipeline | None,
    quality: int | None = None,
) -> Blur:
    """The blur of a picture with noise `std`, given the options that were typed; the milder one where it would ring.

    Args:
        quality: of the JPEG file that it comes from.

    Raises:
        BadInput: options that do not fit, or a picture that is too small.
    """
    kernel = str(options.get("kernel", "gaussian"))
    if kernel == AUTO and options.get("sigma", AUTO) != AUTO:
        raise BadInput(
            "deblur: --kernel auto estimates the size of the blur, too; leave out --sigma, or name the kernel"
        )
    among = KERNELS if kernel == AUTO else {kernel: KERNELS[kernel]}
    if "angle" in options and kernel == "line":
        angle = float(options["angle"])
        among = {"line": lambda sigma, _: KERNELS["line"](sigma, angle)}
    found = blur_kind(picture.pixels, std, among)
    if found is None:
        raise BadInput(
            f"deblur: a picture of at least {LEAST} x {LEAST} pixels is needed to estimate its blur, got {picture.pixels.shape[-1]} x "
            f"{picture.pixels.shape[-2]}; give --sigma as a number"
        )
    if "angle" in options:
        found = found._replace(angle=float(options["angle"]))
    taken, trust = _tried(found, picture, std, flow, vague(std, quality))
    return Blur({**options, **options_of(taken)}, trust)


def _tried(
    found: Found, picture: Picture, std: float, flow: NetFlow | Pipeline | None, large: bool = False
) -> tuple[Found, Trust]:
    """The largest of the sizes in `MILDER` that does not ring when the middle of the picture is restored with it."""
    if not clear(found):
        return found._replace(kernel="gaussian", sigma=UNSEEN, angle=0.0), "unseen"
    first = 1 if large or largest(found) else 0  # the size is not sure
    for much in MILDER[first:]:
        taken = found._replace(sigma=found.sigma * much)
        if not fits(flow, picture.pixels) or overshoot(picture, taken, std, flow) <= RINGS:
            return taken, "believed" if much == 1 else "milder"
    return found._replace(kernel="gaussian", sigma=UNSEEN, angle=0.0), "unseen"


def clear(found: Found) -> bool:
    """Whether there is a blur at all."""
    return found.evidence >= CLEAR and found.sigma > LEAST_SIGMA * 1.02


def largest(found: Found) -> bool:
    """Whether a blur is the largest that is looked for."""
    return found.sigma >= MOST_SIGMA * (1.45 if found.kernel == "line" else 0.97)


@torch.no_grad()
def overshoot(picture: Picture, found: Found, std: float, flow: NetFlow) -> float:
    """How much of what restoring the middle of a picture changes lies beyond the darkest and brightest within five pixels: rings."""
    height, width = picture.pixels.shape[-2:]
    top, left = (max(0, side - TRIAL) // 2 for side in (height, width))
    place = next(flow.net.parameters()).device
    y = picture.pixels[..., top : top + TRIAL, left : left + TRIAL].to(place)
    observed = observe(deblur, options_of(found), y, std, grey=picture.grey)
    whole = sized(flow, observed.shape, 0)
    x, times = start.begin(hqs, whole, observed.measurement, STEPS)
    restored = framed(observed, run(hqs(whole, observed.measurement, x, times)).x)
    smooth = one_call(sized(flow, (y.shape[1], y.shape[2], y.shape[3]), 0))(y, std)
    highest, lowest = fn.max_pool2d(smooth, 11, 1, 5), -fn.max_pool2d(-smooth, 11, 1, 5)
    beyond = (restored - highest - 0.02).clamp(min=0) + (lowest - 0.02 - restored).clamp(min=0)
    return float((beyond.square().mean() / (restored - smooth).square().mean().clamp(min=1e-12)).sqrt())


def options_of(found: Found) -> dict[str, Plain]:
    """Of `deblur`."""
    told: dict[str, Plain] = {"sigma": float(f"{found.sigma:.3g}"), "kernel": found.kernel}
    return told | ({"angle": round(found.angle, 1)} if found.kernel == "line" else {})


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
