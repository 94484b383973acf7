"""What comes of a run: the picture, its figures, and what is shown and said of them."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import latent
from ...metrics import psnr, ssim
from ...rng import Noise
from ..files import atomic as files
from ..files.pictures import Picture
from ..show.strip import strip
from .observed import framed, misfit, viewable
from .problem import Problem

Say = Callable[[str], None]


def finished(
    problem: Problem, settings: Mapping[str, Any], x: Tensor, carried: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Any]]:
    """The restored picture of the last state, `(1, c, h, w)`, and what a .run.json says of it."""
    whole = answer(problem, [settings], x, carried)
    picture = picture_of(problem, whole, settings.get("keep"))
    return picture, result_of(problem, settings, whole, picture)


def decoded(problem: Problem, clean: Tensor, info: Mapping[str, Tensor]) -> Tensor:
    """The pictures `(b, c, h, w)` of an estimate, one for each that was measured: the mean of weighted particles, which errs least;
    else the first row, the best one."""
    rows = len(problem.observed.measurement.y)
    pictures = problem.flow.decode(clean).unflatten(0, (rows, -1))
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
    groups = x.unflatten(0, (len(noise), -1))
    if "log_w" not in info:
        return groups[:, 0]
    shares = info["log_w"].cpu().double().softmax(1).nan_to_num(1 / groups.shape[1]).cumsum(1)
    index = torch.searchsorted(shares, noise.uniform()[:, None]).clamp(max=groups.shape[1] - 1)[:, 0]
    return groups[torch.arange(len(groups)), index.to(x.device)]


def answer(problem: Problem, settings: Sequence[Mapping[str, Any]], x: Tensor, info: Mapping[str, Tensor]) -> Tensor:
    """The pictures `(b, c, h, w)` of the end of runs that ran together, each with its settings; of several samples those which were
    drawn of their particles."""
    if not settings[0].get("drawn"):
        return decoded(problem, x, info)
    noise = Noise([each["seed"] for each in settings], rows=[0] * len(settings))
    return problem.flow.decode(chosen(x, info, noise.named("chosen")))


def picture_of(problem: Problem, picture: Tensor, keep: bool | None = False) -> Tensor:
    """The restored photograph, of the size of what was measured; `keep` what was measured exactly."""
    if keep:
        picture = latent.projected(problem.observed.measurement, picture)
    return framed(problem.observed, picture).cpu()


def like(problem: Problem, settings: Mapping[str, Any]) -> Picture:
    return problem.picture._replace(grey=False) if settings["operator"] == "colorize" else problem.picture


def measured(problem: Problem, settings: Mapping[str, Any]) -> Tensor | None:
    """The measurement as a picture of its own size; None where it is none."""
    if settings["operator"] == "phase":
        return None
    return problem.observed.measurement.y.cpu() if settings["simulate"] else problem.picture.pixels


def strip_of(problem: Problem, settings: Mapping[str, Any], picture: Tensor, result: Mapping[str, Any]) -> Any:
    shown, clean = measured(problem, settings), problem.picture.pixels
    caption = "restored" + (f" {result['psnr']:.2f} dB" if result.get("psnr") else "")
    if problem.picture.grey and settings["operator"] != "colorize":
        picture = picture.mean(1, keepdim=True)
    panels = [("input", shown)] * (shown is not None) + [(caption, picture)] + [("clean", clean)] * settings["simulate"]
    return strip(panels, height=min(1000, max(image.shape[-2] for _, image in panels)))  # type: ignore[union-attr, arg-type]


def result_of(problem: Problem, settings: Mapping[str, Any], whole: Tensor, picture: Tensor) -> dict[str, Any]:
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


def summary(result: Mapping[str, Any], written: list[Path], say: Say) -> None:
    say("wrote " + ", ".join(short(path) for path in written))
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


def short(path: Path) -> str:
    """Relative where that is shorter."""
    try:
        return min(str(path), os.path.relpath(path), key=len)
    except ValueError:  # another drive
        return str(path)
