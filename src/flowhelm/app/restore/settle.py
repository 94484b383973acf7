"""From a request to settings: every default filled in, checked as far as possible without the picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from ... import known, raster, start
from ...cards import from_picture
from ...known import ADAPTERS, STUDENTS
from ...priors import bundled, denoisers
from ...priors.bundled import NAMES, Prior
from ...priors.pipelines import Pipeline
from ..errors import BadInput
from ..files import stacks
from ..files.compression import jpeg_quality
from ..files.pictures import Picture
from ..models import opening
from ..models.doctor import check_deepinv
from ..options import own
from ..options.signature import complete
from . import blur, fade, presets
from .noise import PHOTOGRAPHS, estimated
from .presets import STD
from .problem import channels
from .request import ITSELF, Restoration, RestoreRequest, RestoreSettings, function_of


def settle(
    request: RestoreRequest,
    *,
    flow: Prior | Pipeline | None = None,
    drawn: bool = False,
    picture: Picture | Literal["later"] | None = None,
) -> RestoreSettings:
    """Settings of a run.

    Args:
        flow: the prior, if it is open already. drawn: the run is one of several samples.
        picture: the photograph, if it was read already; "later": there is none yet, and nothing is estimated from it.

    Raises:
        BadInput: what does not fit, or an operator that no photograph can be the measurement of.

    What the photograph tells is found here, for every door: the noise, and the quality of a JPEG file by its own tables.
    """
    kind = known.kind(request.prior) if flow is None else flow.prior_kind
    if denoisers.named(request.prior):
        bundled.weights(request.prior)  # if it cannot be had, that is said before anything slow is imported
    check_deepinv()
    builder = function_of("operator", request.operator)
    if request.operator == "phase" and not request.simulate:
        raise BadInput(
            "phase: no picture file holds Fourier magnitudes; add --simulate to make them from a clean picture"
        )
    pipeline = opening.is_pipeline(request.prior)
    guessed = request.std == "auto" and not request.simulate and request.operator in PHOTOGRAPHS
    std = STD if request.std == "auto" else request.std
    chosen = dict(request.operator_options)
    blurred: blur.Trust | None = None
    sure = 0.0
    if blur.asked(request.operator, chosen):
        if request.simulate:
            raise BadInput("deblur: with --simulate the blur is what you say; give --sigma as a number")
        blurred = "believed"
    tables = tells_quality(request.operator, request.operator_options, request.simulate)
    if request.unfade and request.simulate:
        raise BadInput("--unfade is for a print that has faded; leave it out with --simulate")
    if picture is None and (guessed or blurred or tables or request.unfade):
        with raster.within(request.budget):
            picture = stacks.read(str(request.photo), channels=channels(request.operator, False), page=request.page)
    if (guessed or blurred) and isinstance(picture, Picture) and flow is None and not pipeline:
        flow = opening.plain(request.prior) if kind == "flow" else None
    looking = flow if kind == "flow" else bundled.load("photos")  # a restorer and a compressor see no noise
    curve = fade.curve_of(picture.pixels) if request.unfade and isinstance(picture, Picture) else None
    if isinstance(picture, Picture):
        picture = picture._replace(pixels=fade.unfaded(picture.pixels, curve))
    if guessed and isinstance(picture, Picture):
        std, back = estimated(request.operator, picture, looking, curve is None and _alone(request, drawn))
        if back:
            request = request.changed(adapter=Path("jpeg"))
        if request.operator in ("deblur", "motion"):
            sure = blur.rounded(std, picture.jpeg)
            std = float(f"{blur.rounded(std, picture.jpeg, blur.SOFT):.3g}")
        request = request.changed(std=std)
    if blurred and isinstance(picture, Picture):
        quality = None if picture.jpeg is None else jpeg_quality(picture.jpeg)
        found = blur.estimated(chosen, picture, sure or std, looking, quality)
        chosen, blurred = found.options, found.trust
    # in what type a bundled prior computes, the size of the picture says
    of_prior = opening.settled(request) | ({} if pipeline else {"dtype": request.dtype})
    if tables and isinstance(picture, Picture):
        chosen["quality"] = _quality(picture)
    if request.operator == "inpaint" and str(chosen.get("mask")) == ITSELF and not Path(ITSELF).exists():
        chosen["mask"] = str(request.photo)  # a mask is read by its transparency
    operator_options = complete(builder, chosen)
    method, base, usual_steps = _usual(request, std, operator_options.model_dump(mode="json"), pipeline, drawn, kind)
    method_options = complete(function_of("method", method), base | request.method_options)
    steps = request.steps or usual_steps
    pictured = from_picture(function_of("method", method))
    begun = "--inverted" if request.inverted else "" if request.warm is None else "--warm"
    if pictured and begun:
        raise BadInput(f"{begun}: {method} always starts from the degraded picture; leave out {begun}")
    start.check_kind(function_of("method", method), kind, request.prior)
    if kind == "tokens" and begun:
        raise BadInput(f"{begun}: {request.prior} has no state between noise and a picture; leave out {begun}")
    if kind == "paired" and begun:
        raise BadInput(f"{begun}: {method} always starts from the mean of its regressor; leave out {begun}")
    if not pipeline:
        start.check(function_of("method", method), bundled.levels(request.prior), request.prior, request.warm or 0.0)
    later = pipeline or pictured  # the size of the picture or its noise decides the grid
    times = None if later else (flow or opening.plain(request.prior)).times(steps).tolist()
    by_name = request.prior in (*NAMES, *STUDENTS) or denoisers.named(request.prior)
    file = not by_name and (Path(request.prior).exists() or not pipeline)
    given = {name: getattr(request, name) for name in _TAKEN_OVER} | {"std": std}
    given["operator"] = own.word(request.operator) or request.operator
    more = {"steps": steps} if later else {}
    return RestoreSettings.of(
        given
        | of_prior
        | opening.adapter_path(request)
        | more
        | ({"drawn": True} if drawn else {})
        | ({"estimated": True} if guessed else {})
        | ({} if request.memory is None else {"memory": request.memory})
        | ({"blurred": blurred} if blurred else {})
        | ({"unfade": True, "curve": curve} if request.unfade else {})
        | {
            "photo": str(request.photo.absolute()),
            "out": str(_out(request).absolute()),
            "operator_options": operator_options,
            "method": own.word(method) or method,
            "method_options": method_options,
            "times": times,
            "tile": None if request.tile == "auto" else request.tile,
            "prior": own.word(request.prior) or (str(Path(request.prior).absolute()) if file else request.prior),
            "threads": request.threads or torch.get_num_threads(),
        },
        "restore",
    )


def _alone(request: RestoreRequest, drawn: bool) -> bool:
    """Whether it is the one call of the prior that the adapter `jpeg` is of."""
    usual = request.method in (None, "hqs") and request.steps in (None, 1) and request.look == "faithful" and not drawn
    return usual and request.operator == "denoise" and request.prior == ADAPTERS["jpeg"] and request.adapter is None


def asks_picture(request: Restoration) -> bool:
    """Whether settings are of the picture: they differ from one of a batch to the next."""
    guessed = request.std == "auto" and not request.simulate and request.operator in PHOTOGRAPHS
    blurred = blur.asked(request.operator, request.operator_options)
    return (
        guessed
        or blurred
        or request.unfade
        or tells_quality(request.operator, request.operator_options, request.simulate)
    )


def tells_quality(operator: str, operator_options: Mapping[str, Any], simulate: bool) -> bool:
    """Whether the quality of a compression is that of the photograph's own tables."""
    return operator == "jpeg" and "quality" not in operator_options and not simulate


def _quality(picture: Picture) -> int:
    found = None if picture.jpeg is None else jpeg_quality(picture.jpeg)
    if found is None:
        raise BadInput(
            "jpeg: how strongly the picture was compressed is not known, since it is no JPEG file; give the file itself, or "
            "--quality, from 1 (worst) to 100"
        )
    return found


_TAKEN_OVER = ("operator", "seed", "page", "simulate", "device", "keep", "warm", "inverted", "codec_error")


def _usual(
    request: RestoreRequest, std: float, operator_options: dict[str, Any], pipeline: bool, drawn: bool, kind: str
) -> tuple[str, dict[str, Any], int]:
    """The method, its options and the number of steps where nothing else is said: those of the nearest preset."""
    if kind in presets.OF_KIND:
        if request.quality == "best":
            raise BadInput(f"--quality best is for priors that are flows; give --steps with {request.prior}")
        usual, options, steps = presets.OF_KIND[kind]
        sampled = {"answer": "sample"} if drawn and usual == "vble" else {}
        return request.method or usual, options | sampled if request.method in (None, usual) else {}, steps
    usual, options, steps = presets.preset(request.operator, std, request.look, drawn=drawn, quality=request.quality)
    if request.quality == "best":
        _check_best(request, pipeline, drawn)
    if pipeline:  # the presets are of priors over pixels
        return request.method or opening.METHOD, {}, opening.STEPS
    if request.method in (None, usual):
        return usual, dict(options), steps
    function_of("method", str(request.method))
    found = presets.settings(str(request.method), request.operator, operator_options, std, Path(request.prior).stem)
    return str(request.method), dict(found.options), found.steps or steps


def _check_best(request: RestoreRequest, pipeline: bool, drawn: bool) -> None:
    for given, what in (
        (request.steps is not None, "chooses the steps; leave out --steps"), (request.method is not None, "is for the usual method; leave "
        "out --method, and give --steps instead of it"), (request.look != "faithful" or drawn, "is for the mean of --look faithful"),
        (pipeline, "is for bundled priors; give --steps"),
    ):  # fmt: skip
        if given:
            raise BadInput(f"--quality best {what}")


def _out(request: RestoreRequest) -> Path:
    name = f"{request.photo.stem}.restored.png"
    out = request.out or request.photo.with_name(name)
    return out / name if out.is_dir() else out
