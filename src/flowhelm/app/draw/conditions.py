"""What pictures are told: conditions of a bundled prior, a prompt of a pipeline, and their guidance. For drawing and for steering."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from ... import guide
from ...flow import Guidance
from ...priors.bundled import Prior
from ..errors import BadInput
from ..models import opening as models
from ..options.signature import pick
from .request import Conditions


def settled(request: Conditions) -> dict[str, Any]:
    """What a run's settings say of its prior and of what that is told; `models.settled` for pictures that are drawn.

    Raises:
        BadInput: an option that the prior does not take.
    """
    pipeline = models.is_pipeline(request.prior)
    if pipeline and (request.classes or request.numbers):
        word = "class" if request.classes else "number"
        raise BadInput(f"--{word} is for bundled priors; say it in the --prompt")
    found = models.settled(request if pipeline else request.changed(prompt=None, scale=None))
    if not pipeline:
        found |= {"prompt": request.prompt, "scale": request.scale}
        if request.size is not None:
            raise BadInput(f"--size is for pipelines of diffusers; the prior {request.prior!r} has its own")
    guidance_of(request)
    if request.size is not None:
        models.size_of(request.size)
    return found


def guidance_of(request: Conditions) -> Guidance | None:
    """`--guidance` and `--scale`: the scale alone means cfg, the guidance alone its own scale."""
    if request.guidance is None and request.scale is None:
        return None
    return guidance(request.guidance or "cfg", request.scale)


def guidance(name: str, scale: float | None) -> Guidance:
    chosen: Any = pick("guidance", name, guide.GUIDANCES)
    return chosen if scale is None else partial(chosen, scale=scale)


def own_guidance(flow: Prior) -> Guidance | None:
    """What a prior is guided by if nothing is said of it, and it is told anything at all."""
    return guidance("cfg", flow.scale) if flow.scale != 1 else None


def prior_name(prior: str) -> str:
    """How files that are made of a prior begin."""
    if models.is_pipeline(prior):
        return Path(prior).resolve().name if Path(prior).is_dir() else prior.rpartition("/")[2]
    return Path(prior).stem
