"""From a request to settings: every default filled in, checked as far as possible without the picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from ...cards import from_picture
from ...priors import bundled
from ...priors.bundled import NAMES, Prior
from ...priors.pipelines import Pipeline
from ..errors import BadInput
from ..files import stacks
from ..files.compression import jpeg_quality
from ..files.pictures import Picture
from ..models import opening
from ..models.doctor import check_deepinv
from ..options.signature import complete
from . import fade, presets
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
        picture: the photograph, if it was read already; "later": there is none yet, and what it would tell is not asked.

    Raises:
        BadInput: what does not fit, or an operator that no photograph can be the measurement of.

    What the photograph tells is found here, for every door: the noise, and the quality of a JPEG file by its own tables.
    """
    check_deepinv()
    builder = function_of("operator", request.operator)
    if request.operator == "phase" and not request.simulate:
        raise BadInput(
            "phase: no picture file holds Fourier magnitudes; add --simulate to make them from a clean picture"
        )
    pipeline = opening.is_pipeline(request.prior)
    guessed = request.std == "auto" and not request.simulate and request.operator in PHOTOGRAPHS
    std = STD if request.std == "auto" else request.std
    tables = tells_quality(request.operator, request.operator_options, request.simulate)
    if request.unfade and request.simulate:
        raise BadInput("--unfade is for a print that has faded; leave it out with --simulate")
    if picture is None and (guessed or tables or request.unfade):
        picture = stacks.read(str(request.photo), channels=channels(request.operator, False), page=request.page)
    curve = fade.curve_of(picture.pixels) if request.unfade and isinstance(picture, Picture) else None
    if guessed and isinstance(picture, Picture):
        if flow is None and not pipeline:
            flow = bundled.load(request.prior)
        std = estimated(request.operator, picture._replace(pixels=fade.unfaded(picture.pixels, curve)), flow)
        request = request.changed(std=std)
    of_prior = opening.settled(request)
    chosen = dict(request.operator_options)
    if tables and isinstance(picture, Picture):
        chosen["quality"] = _quality(picture)
    if request.operator == "inpaint" and str(chosen.get("mask")) == ITSELF and not Path(ITSELF).exists():
        chosen["mask"] = str(request.photo)  # a mask is read by its transparency
    operator_options = complete(builder, chosen)
    method, base, usual_steps = _usual(request, std, operator_options.model_dump(mode="json"), pipeline, drawn)
    method_options = complete(function_of("method", method), base | request.method_options)
    steps = request.steps or usual_steps
    pictured = from_picture(function_of("method", method))
    if pictured and request.warm is not None:
        raise BadInput(f"--warm: {method} always starts from the degraded picture; leave out --warm")
    later = pipeline or pictured  # the size of the picture or its noise decides the grid
    times = None if later else (flow or bundled.load(request.prior)).times(steps).tolist()
    file = request.prior not in NAMES and (Path(request.prior).exists() or not pipeline)
    given = {name: getattr(request, name) for name in _TAKEN_OVER} | {"std": std}
    more = {"steps": steps} if later else {}
    return RestoreSettings.of(
        given
        | of_prior
        | more
        | ({"drawn": True} if drawn else {})
        | ({"estimated": True} if guessed else {})
        | ({"unfade": True, "curve": curve} if request.unfade else {})
        | {
            "photo": str(request.photo.absolute()),
            "out": str(_out(request).absolute()),
            "operator_options": operator_options,
            "method": method,
            "method_options": method_options,
            "times": times,
            "tile": None if request.tile == "auto" else request.tile,
            "prior": str(Path(request.prior).absolute()) if file else request.prior,
            "threads": request.threads or torch.get_num_threads(),
        },
        "restore",
    )


def asks_picture(request: Restoration) -> bool:
    """Whether settings are of the picture: they differ from one of a batch to the next."""
    guessed = request.std == "auto" and not request.simulate and request.operator in PHOTOGRAPHS
    return guessed or request.unfade or tells_quality(request.operator, request.operator_options, request.simulate)


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


_TAKEN_OVER = ("operator", "seed", "page", "simulate", "device", "keep", "warm", "codec_error")


def _usual(
    request: RestoreRequest, std: float, operator_options: dict[str, Any], pipeline: bool, drawn: bool
) -> tuple[str, dict[str, Any], int]:
    """The method, its options and the number of steps where nothing else is said: those of the nearest preset."""
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


def usual_method(operator: str, prior: str, look: presets.Look = "faithful", *, drawn: bool = False) -> str:
    """The method that is taken where none is named."""
    function_of("operator", operator)
    return opening.METHOD if opening.is_pipeline(prior) else presets.preset(operator, 1.0, look, drawn=drawn)[0]


def _out(request: RestoreRequest) -> Path:
    name = f"{request.photo.stem}.restored.png"
    out = request.out or request.photo.with_name(name)
    return out / name if out.is_dir() else out
