"""What a prior over pixels computes in: float32, or bfloat16 where that is faster and nobody would see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import torch

from ...flow import Flow, NetFlow
from ..errors import BadInput
from .request import Dtype

F = TypeVar("F", bound=Flow)
LARGE = 1_000_000
"""Pixels of a picture from which on the time counts: a small one is done before anybody waits."""


def usual(flow: Flow, pixels: int, device: str) -> Dtype:
    """What a prior computes in where nobody says it: bfloat16 for a large picture on a processor with instructions for it (AMX or
    AVX512-BF16), where it takes half the time (measured on one of each; `python -m flowhelm.bench.quality.precision`); else float32."""
    found: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch do not say
    quick = torch.device(device).type == "cpu" and bool(found.get("amx_bf16") or found.get("avx512_bf16"))
    return "bfloat16" if quick and pixels >= LARGE and _takes(flow) else "float32"


def computing(flow: F, dtype: Dtype) -> F:
    """A prior whose network computes in that type; its weights, the state and all the rest stay float32. Raises BadInput."""
    if dtype == "float32" and getattr(flow, "autocast", None) is None:
        return flow
    if dtype == "float16" or not (isinstance(flow, NetFlow) and _takes(flow)):
        raise BadInput(
            f"--dtype {dtype}: expected float32, or bfloat16 of a prior that is a flow over pixels; leave out --dtype"
        )
    return replace(flow, autocast=torch.bfloat16 if dtype == "bfloat16" else None)


def _takes(flow: Flow) -> bool:
    return isinstance(flow, NetFlow) and flow.prior_kind == "flow"
