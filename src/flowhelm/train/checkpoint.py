"""The checkpoint of a run of `fit`: one safetensors file with all of its state, written whole or not at all.

net.*, average.*                     weights and buffers of the network and of its moving average
step.*, exp_avg.*, exp_avg_sq.*      of the optimiser, by the names of the weights
metadata                             the number of steps made, and the settings of the run
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


def save(
    path: Path,
    net: nn.Module,
    average: nn.Module | None,
    optimizer: torch.optim.Optimizer,
    step: int,
    settings: dict[str, Any],
) -> None:
    """Writes beside, then renames: a cut never leaves half a file. `step` steps are made; `settings` must be plain JSON."""
    tensors = _modules(net, average)
    for name, p in net.named_parameters():
        tensors |= {f"{moment}.{name}": value for moment, value in optimizer.state.get(p, {}).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    # copies, since tied weights share memory, which safetensors refuses
    save_file(
        {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()},
        part,
        {"step": str(step), "settings": json.dumps(settings)},
    )
    with open(part, "rb+") as file:
        os.fsync(file.fileno())  # a power cut must not leave the new name with old bytes
    os.replace(part, path)


def restore(
    path: Path,
    net: nn.Module,
    average: nn.Module | None,
    optimizer: torch.optim.Optimizer,
    settings: dict[str, Any],
) -> int:
    """Puts a checkpoint's state back, all of it or nothing; returns how many steps it has made.

    Raises:
        ValueError: a file that cannot be read, or is of other settings or of another network.
    """
    try:
        with safe_open(path, framework="pt") as f:
            about = f.metadata() or {}
            step, stored = int(about["step"]), json.loads(about["settings"])
            state = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118  (a handle, not a dict)
        if not isinstance(stored, dict) or not 0 <= step < 2**53:  # what a float can count
            raise ValueError(f"it says step {about['step'][:40]} and settings {about['settings'][:80]}")
    except Exception as error:  # safetensors raises its own type
        why = f"it lacks {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise ValueError(
            f"fit: '{path}' is no readable checkpoint ({why}); delete it to begin anew, or name another file"
        ) from error
    other = [f"{k} {str(stored.get(k))[:200]} (now {v})" for k, v in settings.items() if stored.get(k) != v]
    if other:
        raise ValueError(
            f"fit: '{path}' is of a run with other settings: {', '.join(other)}; use those, or another file"
        )
    here = {name: value.shape for name, value in _modules(net, average).items()}
    for name, p in net.named_parameters():
        moments = [f"{moment}.{name}" for moment in ("exp_avg", "exp_avg_sq")]
        if any(moment in state for moment in moments):
            here |= dict.fromkeys(moments, p.shape)
    there = {name: value.shape for name, value in state.items() if name.startswith(("net.", "average.", "exp_avg"))}
    if here != there:
        name = min(n for n in here.keys() | there.keys() if here.get(n) != there.get(n))
        raise ValueError(
            f"fit: '{path}' is of another network: expected '{name}' {_shape(here, name)}, got {_shape(there, name)}; "
            "use another file"
        )
    for prefix, module in (("net.", net), ("average.", average)):
        if module is not None:
            module.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    for name, p in net.named_parameters():
        if f"exp_avg.{name}" in state:
            made = {"step": state.get(f"step.{name}", torch.tensor(float(step))).to(p.device)}
            for moment in ("exp_avg", "exp_avg_sq"):  # laid out as the weights, so that the kernels round alike
                made[moment] = torch.empty_like(p).copy_(state[f"{moment}.{name}"])
            optimizer.state[p] = made
    return step


def _modules(net: nn.Module, average: nn.Module | None) -> dict[str, Tensor]:
    """Weights and buffers of both, by their names in a checkpoint."""
    both = (("net", net), ("average", average))
    return {f"{which}.{n}": v for which, module in both if module is not None for n, v in module.state_dict().items()}


def _shape(shapes: dict[str, torch.Size], name: str) -> str:
    return str(tuple(shapes[name])) if name in shapes else "none"
