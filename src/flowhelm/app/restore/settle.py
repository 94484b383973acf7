"""From a request to settings: every default filled in, checked as far as possible without the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from ... import fade, known, raster, start
from ...cards import from_picture
from ...compression import jpeg_quality
from ...cost import most_of
from ...known import ADAPTERS
from ...priors import bundled, denoisers
from ...priors.bundled import Prior
from ...priors.pipelines import Pipeline
from ..errors import BadInput
from ..files import stacks
from ..files.pictures import Picture
from ..models import opening
from ..models.doctor import check_operator
from ..options import own
from ..options.signature import complete
from . import blur, presets
from .noise import PHOTOGRAPHS, estimated, unseen
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
    check_operator(request.operator)
    builder = function_of("operator", request.operator)
    if request.operator == "phase" and not request.simulate:
        raise BadInput(
            "phase: no picture file holds Fourier magnitudes; add --simulate to make them from a clean picture"
        )
    pipeline = opening.is_pipeline(request.prior)
    request, told, flow, doubted = _looked(request, kind, flow, drawn, picture)
    # in what type a bundled prior computes, the size of the picture says
    of_prior = opening.settled(request) | ({} if pipeline else {"dtype": request.dtype})
    chosen = dict(request.operator_options)
    if request.operator == "inpaint" and str(chosen.get("mask")) == ITSELF and not Path(ITSELF).exists():
        chosen["mask"] = str(request.photo)  # a mask is read by its transparency
    operator_options = complete(builder, chosen)
    # what a compression has done is not white, and Stein's estimate would keep it
    if request.adapter is not None or ("estimated" in told and jpeg_quality(request.photo) is not None):
        doubted |= {"sure": False}
    name, base, usual_steps = _usual(request, operator_options.model_dump(mode="json"), pipeline, drawn, kind, doubted)
    method, steps = function_of("method", name), request.steps or usual_steps
    method_options = complete(method, base | request.method_options)
    pictured = from_picture(method)
    _check_start(request, name, kind, pictured)
    start.check_kind(method, kind, request.prior)
    if not pipeline:
        start.check(method, bundled.levels(request.prior), request.prior, request.warm or 0.0)
    later = pipeline or pictured  # the size of the picture or its noise decides the grid
    settings = {each: getattr(request, each) for each in _TAKEN_OVER} | of_prior | opening.adapter_path(request) | told
    settings |= {"steps": steps} if later else {}
    settings |= {"drawn": True} if drawn else {}
    settings |= {} if request.memory is None else {"memory": request.memory}
    return RestoreSettings.of(
        settings
        | {
            "photo": str(request.photo.absolute()),
            "out": str(_out(request).absolute()),
            "prior": opening.where(request.prior),
            "operator": own.word(request.operator) or request.operator,
            "operator_options": operator_options,
            "method": own.word(name) or name,
            "method_options": method_options,
            "times": None if later else (flow or opening.plain(request.prior)).times(steps).tolist(),
            "tile": None if request.tile == "auto" else request.tile,
            "threads": request.threads or torch.get_num_threads(),
        },
        "restore",
    )


_TAKEN_OVER = ("std", "seed", "page", "simulate", "device", "keep", "warm", "inverted", "codec_error")


def asked_of_picture(request: Restoration) -> set[str]:
    """What is to be found in the photograph itself, and so differs from one of a batch to the next."""
    asked = {
        "noise": request.std == "auto" and not request.simulate and request.operator in PHOTOGRAPHS,
        "blur": blur.asked(request.operator, request.operator_options),
        "quality": request.operator == "jpeg" and "quality" not in request.operator_options and not request.simulate,
        "fading": request.unfade,
    }
    return {name for name, it in asked.items() if it}


def _looked(
    request: RestoreRequest,
    kind: str,
    flow: Prior | Pipeline | None,
    drawn: bool,
    picture: Picture | Literal["later"] | None,
) -> tuple[RestoreRequest, dict[str, Any], Prior | Pipeline | None, presets.Options]:
    """The request with what the photograph tells, what its settings say of that, the prior if it was opened to look, and options of the
    usual method that differ, since it is an estimate."""
    asked = asked_of_picture(request)
    if request.simulate and "blur" in asked:
        raise BadInput("deblur: with --simulate the blur is what you say; give --sigma as a number")
    if request.simulate and request.unfade:
        raise BadInput("--unfade is for a print that has faded; leave it out with --simulate")
    told: dict[str, Any] = {"estimated": True} if "noise" in asked else {}
    told |= {"blurred": "believed"} if "blur" in asked else {}
    told |= {"unfade": True, "curve": None} if request.unfade else {}
    std = STD if request.std == "auto" else request.std
    if picture is None and asked:
        with raster.within(request.budget):
            picture = stacks.read(str(request.photo), channels=channels(request.operator, False), page=request.page)
    if not asked or not isinstance(picture, Picture):
        return request.changed(std=std), told, flow, {}
    if request.unfade:
        told["curve"] = fade.curve_of(picture.pixels)
        picture = picture._replace(pixels=fade.unfaded(picture.pixels, told["curve"]))
    looking: Any = None
    if asked & {"noise", "blur"}:
        if kind == "flow" and flow is None and not opening.is_pipeline(request.prior):
            flow = opening.plain(request.prior)
        looking = flow if kind == "flow" else bundled.load()  # a restorer and a compressor see no noise
    sure = std
    doubted: presets.Options = {}
    if "noise" in asked:
        alone = told.get("curve") is None and _alone(request, drawn)
        std, back = estimated(request.operator, picture, looking, alone)
        request = request.changed(adapter=Path("jpeg")) if back else request
        doubted = dict(presets.QUIET) if "blur" in asked and unseen(std) else {}
        if request.operator in ("deblur", "motion"):
            sure = blur.rounded(std, picture.jpeg)
            std = float(f"{blur.rounded(std, picture.jpeg, blur.SOFT):.3g}")
    quality, chosen = None if picture.jpeg is None else jpeg_quality(picture.jpeg), dict(request.operator_options)
    if "blur" in asked:
        chosen, told["blurred"] = blur.estimated(chosen, picture, sure, looking, quality)
    if "quality" in asked:
        if quality is None:
            raise BadInput(
                "jpeg: how strongly the picture was compressed is not known, since it is no JPEG file; give the file itself, or "
                "--quality, from 1 (worst) to 100"
            )
        chosen["quality"] = quality
    return request.changed(std=std, operator_options=chosen), told, flow, doubted


def _alone(request: RestoreRequest, drawn: bool) -> bool:
    """Whether it is the one call of the prior that the adapter `jpeg` is of."""
    usual = request.method in (None, "hqs") and request.steps in (None, 1) and request.look == "faithful" and not drawn
    return usual and request.operator == "denoise" and request.prior == ADAPTERS["jpeg"] and request.adapter is None


def _check_start(request: RestoreRequest, method: str, kind: str, pictured: bool) -> None:
    """Raises BadInput where a method does not begin with a state that could be given."""
    begun = "--inverted" if request.inverted else "" if request.warm is None else "--warm"
    if begun and (pictured or kind in ("tokens", "paired")):
        always = f"{method} always starts from the {'degraded picture' if pictured else 'mean of its regressor'}"
        why = f"{request.prior} has no state between noise and a picture" if kind == "tokens" else always
        raise BadInput(f"{begun}: {why}; leave out {begun}")


def check_cost(settings: RestoreSettings, most: int, more: str = "") -> None:
    """Raises BadInput if a run costs `most` evaluations or more, counted without the picture and the prior; `more` ends the sentence."""
    method, values = function_of("method", settings.method), settings.method_values
    if most_of(method, values, settings.step_count or 1, known.kind(settings.prior), most) >= most:
        raise BadInput(
            f"this asks for more than {most} evaluations of the network and the operator; take fewer steps than "
            f"{settings.step_count or 1}, or smaller options of {settings.method}{more}"
        )


def _usual(
    request: RestoreRequest,
    operator_options: dict[str, Any],
    pipeline: bool,
    drawn: bool,
    kind: str,
    doubted: presets.Options,
) -> tuple[str, dict[str, Any], int]:
    """The method, its options and the number of steps where nothing else is said: those of the nearest preset.

    Args:
        doubted: what its options are to be, if it has them, since what is known of the picture is an estimate.
    """
    std = float(request.std)
    if kind in presets.OF_KIND:
        if request.quality == "best":
            raise BadInput(f"--quality best is for priors that are flows; give --steps with {request.prior}")
        usual, options, steps = presets.OF_KIND[kind]
        sampled = {"answer": "sample"} if drawn and usual == "vble" else {}
        return request.method or usual, options | sampled if request.method in (None, usual) else {}, steps
    usual, options, steps = presets.preset(
        request.operator, std, request.look, prior=request.prior, drawn=drawn, quality=request.quality
    )
    if request.quality == "best":
        _check_best(request, pipeline, drawn)
    if pipeline:  # the presets are of priors over pixels
        return request.method or opening.METHOD, {}, opening.STEPS
    if request.method in (None, usual):
        return usual, options | {name: value for name, value in doubted.items() if name in options}, steps
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
