"""The memory of a fine-tuning (`flowhelm align`): two updates of an adapter, walked on tensors without data.

The reward is the brightness of the pictures, which holds next to nothing itself: a reward that is a network has its own memory.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from typing import Any

import torch

from ... import priors, rewards
from ...flow import Flow, Wrapped
from ...learning import Copy
from ...rng import Noise
from ...step import Step, Update
from ..errors import BadInput

Tuning = Callable[..., Iterator[Update]]


def begun(method: Tuning, options: Mapping[str, Any], flow: Flow, rows: int, steps: int, device: str) -> Iterator[Step]:
    """Two updates, and after each a sheet of as many pictures as it has rows, as the steps of a method."""
    if taken := [name for name in ("updates", "done", "value", "old") if name in options]:
        raise BadInput(f"--{taken[0]}: two updates are planned, which need as much as many; leave it out")
    wanted = inspect.signature(method).parameters
    values = dict(options) | {"steps": steps}
    if "group" in wanted and "group" not in values:
        if rows < 2:
            raise BadInput(f"{method.__name__} compares pictures: expected --particles of at least 2, got {rows}")
        values["group"] = rows
    tuned, inner = adapted(flow, 8)
    base = innermost(flow)
    value = priors.field(base) if "value" in wanted else None
    trained = [*inner.trained(), *(value.parameters() if value is not None else ())]
    if value is not None:
        values["value"] = value.told(*getattr(base, "condition", ()))
    if "old" in wanted:
        values["old"] = Copy(inner.trained())
    adam = torch.optim.AdamW(trained, 1e-4)
    made = method(tuned, flow, rewards.brightness, adam, noise=Noise(0, rows), updates=2, **values)
    for update in made:
        yield Step(update.index, 2, torch.ones(()), torch.zeros(rows, *flow.shape, device=device), torch.empty(0), {})


def adapted(flow: Flow, rank: int) -> tuple[Flow, Any]:
    """The flow with an adapter in its network, inside whatever is wrapped around it; and that inner flow."""
    if isinstance(flow, Wrapped):
        made, inner = adapted(flow.flow, rank)
        same = copy(flow)
        object.__setattr__(same, "flow", made)  # a wrapper may be frozen
        return same, inner
    with_lora: Any = getattr(flow, "with_lora", None)
    if with_lora is None:
        raise BadInput(f"{type(flow).__name__} has no network that an adapter could be trained of")
    made = with_lora(rank)
    return made, made


def innermost(flow: Flow) -> Flow:
    """What everything is wrapped around."""
    return innermost(flow.flow) if isinstance(flow, Wrapped) else flow
