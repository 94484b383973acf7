"""What pictures are told: conditions of a bundled prior, a prompt of a pipeline, and their guidance. For drawing and for steering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ... import guide
from ...flow import Guidance
from ...priors.bundled import Prior
from ..errors import BadInput
from ..files.names import part
from ..models import opening as models
from ..models.request import size_of
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
    if size_of(request.size) is not None and not pipeline:
        raise BadInput(f"--size is for pipelines of diffusers; the prior {request.prior!r} has its own")
    guidance_of(request)
    if pipeline:
        return models.settled(request)
    return models.settled(request.changed(prompt=None, scale=None)) | {"prompt": request.prompt, "scale": request.scale}


def guidance_of(request: Conditions) -> Guidance | None:
    """`--guidance` and `--scale`: the scale alone means cfg, the guidance alone its own scale."""
    nothing = request.guidance is None and request.scale is None
    return None if nothing else guidance(request.guidance or "cfg", request.scale)


def guidance(name: str, scale: float | None) -> Guidance:
    chosen: Any = pick("guidance", name, guide.GUIDANCES)
    return chosen if scale is None else partial(chosen, scale=scale)


def conditioned(
    flow: Prior,
    labels: Sequence[str | None],
    prompt: str | None,
    numbers: Mapping[str, float] | None,
    rule: Guidance | None,
) -> Prior:
    """A bundled prior, told the class of each row (all have one, or none), and what all rows are told; itself if that is nothing.

    Raises:
        ValueError: a condition that the prior does not know, or guidance without any.
    """
    classes, rows = [name for name in labels if name is not None], len(labels)
    if not (classes or prompt is not None or numbers):
        if rule is not None:
            raise BadInput(
                f"guidance of prior '{getattr(flow, 'name', 'of your own')}': expected a class, a prompt or a number, got none"
            )
        return flow
    if not hasattr(flow, "told"):  # code of your own
        raise BadInput("a prior of your own takes no class, prompt or number here; build them into its function")
    return flow.told(
        classes or None, prompts=None if prompt is None else [prompt] * rows, numbers=[numbers] * rows if numbers else None,
        guidance=rule,
    )  # fmt: skip


def own_guidance(flow: Prior) -> Guidance | None:
    """What a prior is guided by if nothing is said of it, and it is told anything at all."""
    return guidance("cfg", flow.scale) if flow.scale != 1 else None


def prior_name(prior: str) -> str:
    """How files that are made of a prior begin."""
    if models.is_pipeline(prior):
        return Path(prior).resolve().name if Path(prior).is_dir() else prior.rpartition("/")[2]
    return Path(prior).stem


def picture_name(prior: str, label: str | None, number: int) -> str:
    return f"{part('_'.join((label or prior_name(prior)).split()))}-{number:03d}"
