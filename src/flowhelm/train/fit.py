"""The one training loop: AdamW with warm-up and cosine, clipping, accumulation, a moving average, exact resume.

    for step:  loss = mean of loss(flow, data(batch number), generator of (seed, batch number)), `accumulate` times
               clip the gradient;  AdamW at the step's rate
               average += (1 - ema) (weights - average)

A run's whole state is its weights, their average, the optimiser's moments and one integer: data and every draw are
functions of (seed, batch number). So a run that was killed goes on, from its last checkpoint, to the very same weights.

Sources: Loshchilov & Hutter 2019 (arXiv:1711.05101) for AdamW, 2017 (arXiv:1608.03983) for the cosine; the average is
that of Karras et al. 2024 (arXiv:2312.02696, section 3) with a fixed decay, warmed up as 1 / (step + 1).
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..flow import NetFlow
from ..step import Diverged, Update
from .data import Batch, Data, seeded

if TYPE_CHECKING:
    from accelerate import Accelerator  # type: ignore[import-not-found,unused-ignore]

Loss = Callable[[NetFlow, Batch, torch.Generator], Tensor]
"""(flow, batch, generator on the flow's device) -> one number per row `(b,)`."""


def fit(
    flow: NetFlow,
    loss: Loss,
    data: Data,
    *,
    steps: int,
    average: nn.Module | None = None,
    rate: float = 1e-3,
    warmup: int = 500,
    final: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.01,
    clip: float = 1.0,
    accumulate: int = 1,
    ema: float = 0.999,
    seed: int = 0,
    bf16: bool = False,
    compiled: bool = False,
    checkpoint: Path | None = None,
    minutes: float = 3.0,
    accelerator: Accelerator | None = None,
) -> Iterator[Update]:
    """Trains `flow.net` in place; yields after every step.

    Args:
        loss: such as `flow_matching`, with its options bound by `functools.partial`.
        data: batch number -> batch; moved to the network's device here.
        steps: of the optimiser. average: a copy of the network (`copy.deepcopy(flow.net)`) that becomes its moving average.
        rate: the highest learning rate, reached after `warmup` steps; a cosine takes it to `final` times that.
        weight_decay: of matrices and kernels; biases and other vectors have none.
        clip: greatest norm of the gradient. accumulate: batches per step.
        ema: decay of the average per step. seed: of every draw.
        bf16: autocast. compiled: torch.compile the network (never the loop).
        checkpoint: a safetensors file, written every `minutes` (beside, then renamed) and at the end; resumed from if it is there.
        accelerator: of Hugging Face accelerate, for several devices or machines; process r of n takes batches r, r + n, ...

    Yields:
        Update with info `rate` and `norm` (of the gradient before clipping), 0-dim tensors, not synchronised with the device.

    Raises:
        Diverged: loss or gradient not finite. The weights are left, and the checkpoint is written, as before that step.
        ValueError: the checkpoint is of a run with other settings.
    """
    net = flow.net
    device = accelerator.device if accelerator else next(net.parameters()).device
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in net.parameters() if p.requires_grad and p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in net.parameters() if p.requires_grad and p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=rate, betas=betas, fused=True,
    )  # fmt: skip
    settings = dict(
        steps=steps, rate=rate, warmup=warmup, final=final, betas=list(betas), weight_decay=weight_decay, clip=clip,
        accumulate=accumulate, ema=ema, seed=seed, bf16=bf16,
    )  # fmt: skip
    first = _restore(checkpoint, net, average, optimizer, settings) if checkpoint and checkpoint.exists() else 0
    model: nn.Module = torch.compile(net) if compiled else net  # type: ignore[assignment]
    if accelerator:
        model, optimizer = accelerator.prepare(model.to(device), optimizer)
    trained, rank, world = (
        replace(flow, net=model),
        *((accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)),
    )
    main, saved = rank == 0, time.monotonic()
    pairs = [(a, w) for a, w in zip(average.parameters(), net.parameters(), strict=True)] if average else []
    net.train()
    for step in range(first, steps):
        now = (
            rate
            * min(1.0, (step + 1) / max(warmup, 1))
            * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * step / steps)))
        )
        for group in optimizer.param_groups:
            group["lr"] = now
        total = torch.zeros((), device=device)
        for micro in range(accumulate):
            index = (step * accumulate + micro) * world + rank
            torch.manual_seed((seed << 32) + index)  # for layers that draw for themselves, as dropout does
            batch = Batch(*_to(data(index), device))
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                value = loss(trained, batch, seeded(seed, index, device)).mean() / accumulate
            (accelerator.backward if accelerator else torch.Tensor.backward)(value)
            total += value.detach()
        norm = nn.utils.clip_grad_norm_(net.parameters(), clip)
        if not (
            total + norm
        ).isfinite():  # the only wait for the device in the loop; it is what finds a divergence in time
            optimizer.zero_grad(set_to_none=True)
            if checkpoint and main:
                _save(checkpoint, net, average, optimizer, step, settings)
            kept = f"; the state before it is in {checkpoint}" if checkpoint else ""
            raise Diverged(
                f"the loss is not finite at step {step + 1} of {steps}{kept}; lower the rate (now {now:.2g})", None
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if pairs:
            with torch.no_grad():
                torch._foreach_lerp_([a for a, _ in pairs], [w for _, w in pairs], max(1 / (step + 1), 1 - ema))
        if checkpoint and main and (step + 1 == steps or time.monotonic() - saved > 60 * minutes):
            _save(checkpoint, net, average, optimizer, step + 1, settings)
            saved = time.monotonic()
        yield Update(step + 1, steps, total, {"rate": torch.tensor(now), "norm": norm.detach()})


def _to(batch: Batch, device: torch.device) -> tuple[Tensor, tuple[Tensor, ...]]:
    return batch.clean.to(device, non_blocking=True), tuple(c.to(device, non_blocking=True) for c in batch.condition)


def _save(
    path: Path, net: nn.Module, average: nn.Module | None, optimizer: torch.optim.Optimizer, step: int, settings: dict
) -> None:
    """Write beside, then rename: a cut never leaves half a file."""
    tensors = {f"net.{name}": value for name, value in net.state_dict().items()}
    if average:
        tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    for name, p in net.named_parameters():
        for moment in ("exp_avg", "exp_avg_sq"):
            if p in optimizer.state:
                tensors[f"{moment}.{name}"] = optimizer.state[p][moment]
    part = path.with_name(path.name + ".part")
    save_file(
        {k: v.detach().cpu().contiguous() for k, v in tensors.items()},
        part,
        {"step": str(step), "settings": json.dumps(settings)},
    )
    os.replace(part, path)


def _restore(
    path: Path, net: nn.Module, average: nn.Module | None, optimizer: torch.optim.Optimizer, settings: dict
) -> int:
    """Puts a checkpoint's state back; returns how many steps it has made."""
    with safe_open(path, framework="pt") as f:
        about = f.metadata()
        stored = json.loads(about["settings"])
        other = [f"{k} {stored.get(k)} (now {v})" for k, v in settings.items() if stored.get(k) != v]
        if other:
            raise ValueError(
                f"fit: {path} is of a run with other settings: {', '.join(other)}; use those, or another folder"
            )
        step, keys = int(about["step"]), set(f.keys())
        for prefix, module in (("net.", net), ("average.", average)):
            if module is not None:
                module.load_state_dict({k.removeprefix(prefix): f.get_tensor(k) for k in keys if k.startswith(prefix)})
        for name, p in net.named_parameters():
            if f"exp_avg.{name}" in keys:
                moments = {m: f.get_tensor(f"{m}.{name}").to(p) for m in ("exp_avg", "exp_avg_sq")}
                like = {m: torch.empty_like(p).copy_(v) for m, v in moments.items()}  # in the layout of the weights
                optimizer.state[p] = {"step": torch.tensor(float(step), device=p.device), **like}
    return step
