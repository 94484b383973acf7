"""From a request to settings: every default filled in, checked as far as possible without the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...priors import bundled
from ...priors.bundled import NAMES, Prior
from ...priors.pipelines import Pipeline
from ..errors import BadInput
from ..models import opening
from ..models.doctor import check_deepinv
from ..options.signature import complete
from . import presets
from .request import RestoreRequest, RestoreSettings, function_of


def settle(request: RestoreRequest, *, flow: Prior | Pipeline | None = None, drawn: bool = False) -> RestoreSettings:
    """Settings of a run.

    Args:
        flow: the prior, if it is open already. drawn: the run is one of several samples.

    Raises:
        BadInput: what does not fit, or an operator that no photograph can be the measurement of.
    """
    check_deepinv()
    builder = function_of("operator", request.operator)
    if request.operator == "phase" and not request.simulate:
        raise BadInput(
            "phase: no picture file holds Fourier magnitudes; add --simulate to make them from a clean picture"
        )
    pipeline = opening.is_pipeline(request.prior)
    of_prior = opening.settled(request)
    operator_options = complete(builder, request.operator_options)
    method, base, usual_steps = _usual(request, operator_options.model_dump(mode="json"), pipeline)
    method_options = complete(function_of("method", method), base | request.method_options)
    steps = request.steps or usual_steps
    times = None if pipeline else (flow or bundled.load(request.prior)).times(steps).tolist()
    file = request.prior not in NAMES and (Path(request.prior).exists() or not pipeline)
    given = {name: getattr(request, name) for name in _TAKEN_OVER}
    more = {"steps": steps} if pipeline else {}  # of a pipeline the times depend on the size of the picture, too
    return RestoreSettings.of(
        given
        | of_prior
        | more
        | ({"drawn": True} if drawn else {})
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


_TAKEN_OVER = ("operator", "std", "seed", "page", "simulate", "device", "keep", "warm", "codec_error")


def _usual(
    request: RestoreRequest, operator_options: dict[str, Any], pipeline: bool
) -> tuple[str, dict[str, Any], int]:
    """The method, its options and the number of steps where nothing else is said: those of the nearest preset."""
    usual, options, steps = presets.preset(request.operator, request.std)
    if pipeline:  # the presets are of priors over pixels
        return request.method or opening.METHOD, {}, opening.STEPS
    if request.method in (None, usual):
        return usual, dict(options), steps
    function_of("method", str(request.method))
    found = presets.settings(
        str(request.method), request.operator, operator_options, request.std, Path(request.prior).stem
    )
    return str(request.method), dict(found.options), found.steps or steps


def usual_method(operator: str, prior: str) -> str:
    """The method that is taken where none is named."""
    function_of("operator", operator)
    return opening.METHOD if opening.is_pipeline(prior) else presets.preset(operator, 1.0)[0]


def _out(request: RestoreRequest) -> Path:
    name = f"{request.photo.stem}.restored.png"
    out = request.out or request.photo.with_name(name)
    return out / name if out.is_dir() else out
