"""What comes of a run: the picture, its figures, and what is shown and said of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ... import latent
from ...fade import sentence, unfaded
from ...metrics import psnr, ssim
from ...rng import Noise
from ..files.atomic import hash_of
from ..files.pictures import Picture
from ..run import Event, Said, Warned
from ..show.strip import strip
from .observation import framed, misfit, viewable
from .problem import Problem
from .record import Place, RestoreResult
from .request import RestoreSettings

MUCH = 0.6
"""Share of missing pixels above which a mask may well be meant the other way round."""


def finished(problem: Problem, place: Place) -> tuple[Tensor, RestoreResult]:
    """The restored picture of the last state, `(1, c, h, w)`, and what a .run.json says of it."""
    whole = answer(problem, [problem.settings], place)
    picture = picture_of(problem, whole)
    return picture, result_of(problem, whole, picture, place.seconds, place.evaluations)


def decoded(problem: Problem, clean: Tensor, info: Mapping[str, Tensor]) -> Tensor:
    """The pictures `(b, c, h, w)` of an estimate, one for each that was measured: the mean of weighted particles, which errs least;
    else the first row, the best one."""
    rows = len(problem.observed.measurement.y)
    pictures: Tensor = problem.flow.decode(clean).unflatten(0, (rows, -1))
    if pictures.shape[1] == 1 or "log_w" not in info:
        return pictures[:, 0]
    weights = info["log_w"].softmax(1).nan_to_num(1 / pictures.shape[1]).to(pictures)
    return torch.cat([torch.einsum("k,kchw->chw", w, each)[None] for w, each in zip(weights, pictures, strict=True)])


def chosen(x: Tensor, info: Mapping[str, Tensor], noise: Noise) -> Tensor:
    """One state `(b, ...)` of each group of weighted particles, drawn by the weights: a sample, as their mean is none.

    States without weights, one for each row of `noise`, are what they are.
    """
    if len(x) == len(noise):
        return x
    groups: Tensor = x.unflatten(0, (len(noise), -1))
    if "log_w" not in info:
        return groups[:, 0]
    shares = info["log_w"].cpu().double().softmax(1).nan_to_num(1 / groups.shape[1]).cumsum(1)
    index = torch.searchsorted(shares, noise.uniform()[:, None]).clamp(max=groups.shape[1] - 1)[:, 0]
    return groups[torch.arange(len(groups)), index.to(x.device)]


def answer(problem: Problem, settings: Sequence[RestoreSettings], place: Place) -> Tensor:
    """The pictures `(b, c, h, w)` of the end of runs that ran together, each with its settings; of several samples those which were
    drawn of their particles."""
    if not settings[0].drawn:
        return decoded(problem, place.x, place.carried)
    noise = Noise([each.seed for each in settings], rows=[0] * len(settings))
    return problem.flow.decode(chosen(place.x, place.carried, noise.named("chosen")))


def picture_of(problem: Problem, picture: Tensor, *, keep: bool | None = None) -> Tensor:
    """The restored photograph, of the size of what was measured; with `keep` (default: as set) what was measured exactly."""
    if problem.settings.keep if keep is None else keep:
        picture = latent.projected(problem.observed.measurement, picture)
    picture = framed(problem.observed, picture)
    weight = getattr(problem.observed.measurement.operator, "weight", None)
    if weight is not None and not problem.settings.simulate:  # a soft mask: its edge is mixed with the photograph
        weight, photo = weight.to(picture), unfaded(problem.picture.pixels, problem.settings.curve).to(picture)
        mixed = weight * photo + (1 - weight) * picture.clamp(-1, 1)
        picture = torch.where((weight > 0) & (weight < 1), mixed, picture)
    return picture.cpu()


def notes(problem: Problem) -> Iterator[Event]:
    """What a person should know of what was read: which page it is, and what share a mask leaves out."""
    if problem.picture.note:
        yield Said(f"the picture {problem.picture.note}")
    if problem.settings.unfade:
        yield Said(sentence(problem.settings.curve))
    if problem.settings.operator == "inpaint":
        missing = 1 - float(problem.observed.seen.float().mean())
        yield Said(f"{100 * missing:.3g} % of the picture counts as missing")
        if missing > MUCH:
            yield Warned(
                "the mask leaves out most of the picture: white is known, black or transparent is missing; if yours is "
                "the other way round, give --invert-mask true"
            )


def like(problem: Problem) -> Picture:
    """What the file of the result takes over from the photograph's."""
    if problem.settings.masks_itself:  # what was transparent is filled in
        return problem.picture._replace(alpha=None)
    return problem.picture._replace(grey=False) if problem.settings.operator == "colorize" else problem.picture


def measured(problem: Problem) -> Tensor | None:
    """The measurement as a picture of its own size; None where it is none."""
    if problem.settings.operator == "phase":
        return None
    return problem.observed.measurement.y.cpu() if problem.settings.simulate else problem.picture.pixels


def strip_of(problem: Problem, picture: Tensor, result: RestoreResult) -> Any:
    """Input, result and, of a simulation, the clean picture side by side."""
    shown, clean = measured(problem), problem.picture.pixels
    caption = "restored" + (f" {result.psnr:.2f} dB" if result.psnr else "")
    if problem.picture.grey and problem.settings.operator != "colorize":
        picture = picture.mean(1, keepdim=True)
    panels = [(caption, picture)] + [("clean", clean)] * problem.settings.simulate
    if shown is not None:
        panels.insert(0, ("input", shown))
    return strip(panels, height=min(1000, max(image.shape[-2] for _, image in panels)))


def result_of(problem: Problem, whole: Tensor, picture: Tensor, seconds: float, evaluations: int) -> RestoreResult:
    """The figures of a restored picture; `whole` is it with its margin."""
    found: dict[str, Any] = {
        "sha256": hash_of(picture),
        "residual": _number(misfit(problem.observed, whole.to(problem.observed.seen))),
    }
    if problem.settings.simulate:
        clean, size = problem.picture.pixels, problem.observed.shape
        found |= _scores("", picture, clean)
        if clean.shape[1:] != size:
            shown = "{} x {}".format(*clean.shape[-2:])
            found["scored"] = f"{shown} of {size[1]} x {size[2]} pixels: a border is only blurred into the rest"
        phase = problem.settings.operator == "phase"
        before = None if phase else viewable(problem.observed, problem.observed.measurement.y)
        if before is not None:
            found |= _scores("degraded_", before.cpu(), clean)
    return RestoreResult(**found, seconds=seconds, evaluations=evaluations)


def _scores(prefix: str, picture: Tensor, clean: Tensor) -> dict[str, float | None]:
    large = min(clean.shape[-2:]) >= 11  # the window of SSIM
    return {
        f"{prefix}psnr": _number(psnr(picture, clean)),
        f"{prefix}ssim": _number(ssim(picture, clean)) if large else None,
    }


def _number(value: Tensor) -> float | None:
    """None for what JSON cannot hold: the PSNR of equal pictures."""
    return float(value) if value.isfinite() else None


def summary(result: RestoreResult, unseen: bool = False) -> Iterator[Event]:
    """The figures of a result that a person can use, and a warning where it fits the photograph badly; `unseen`: as it may, by a method
    that is not told the noise."""
    plural = "s" * (result.evaluations != 1)
    yield Said(f"{result.evaluations} evaluation{plural} of the prior in {result.seconds:.1f} s")
    if result.psnr is not None:
        before = result.degraded_psnr
        line = f"PSNR {result.psnr:.2f} dB" + (f" (degraded {before:.2f})" if before is not None else "")
        if result.ssim is not None:
            line += f", SSIM {result.ssim:.3f}"
            line += f" (degraded {result.degraded_ssim:.3f})" if result.degraded_ssim is not None else ""
        yield Said(line)
        if result.scored:
            yield Said(f"scores and pictures are of {result.scored}")
    if unseen:
        return
    if result.residual is None or result.residual >= 1.5:
        off = "far" if result.residual is None else f"by {result.residual:.1f} times its noise"
        yield Warned(
            f"the result differs from the photo {off}; if it lacks detail, lower --std; if it looks wrong, check the operator and "
            "its options"
        )
    elif result.residual <= 0.2:
        yield Warned(
            "the result follows the photo more closely than its noise level allows; if it looks noisy, raise --std; if not, all is well"
        )
