"""The one training loop: AdamW with warm-up and cosine, clipping, accumulation, a moving average, exact resume.

    for step:  loss = mean of loss(flow, data(batch number), generator of (seed, batch number)), `accumulate` times
               clip the gradient;  AdamW at the step's rate
               average += max(1 / (step + 1), 1 - ema) (weights - average)

A run's whole state is its weights, their average, the optimiser's moments and one integer: data and every draw are
functions of (seed, batch number). So a run that was killed goes on, from its last checkpoint, to the very same weights
(to the bit on a CPU; on a GPU, if its kernels are deterministic).

On a GPU each step waits for the device once, to see whether loss and gradient are finite before the weights are
touched; the next batch is on its way by then.

Sources: Loshchilov & Hutter 2019 (arXiv:1711.05101) for AdamW, 2017 (arXiv:1608.03983) for the cosine, here without
restarts and to a floor. The average is the usual exponential one, but a plain mean of all steps at first.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from ..adapter import Adaptable
from ..rng import digest
from ..step import Diverged, Update
from .checkpoint import restore, save
from .data import Batch, Data, seeded

if TYPE_CHECKING:
    from accelerate import Accelerator  # type: ignore[import-not-found, import-untyped, unused-ignore]


class Trained(Protocol):
    """What the network that is trained is of: a `NetFlow`, a pipeline's flow, a `Masked`, or a network as it is, `Alone`."""

    @property
    def net(self) -> nn.Module: ...


@dataclass(frozen=True, eq=False)
class Alone:
    """A network that is trained as it is, such as a tokenizer."""

    net: nn.Module


Loss = Callable[[Any, Batch, torch.Generator], Tensor]
"""(what is trained, batch, generator on its device) -> one number per row `(b,)`."""


def fit(
    flow: Trained,
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
) -> Generator[Update, None, None]:
    """Trains `flow.net` in place, on the device where it is; yields after every step. The network is left in training mode.

    Args:
        loss: such as `flow_matching`, with its options bound by `functools.partial`.
        data: batch number -> batch; moved to the network's device here.
        steps: of the optimiser. average: a copy of the network (`copy.deepcopy(flow.net)`) that becomes its moving average.
        rate: the highest learning rate; see `scheduled` for `warmup` (steps) and `final` (a share of the rate).
        weight_decay: of matrices and kernels; biases and other vectors have none.
        clip: greatest norm of the gradient; math.inf for no clipping. accumulate: batches per step (and process).
        ema: decay of the average per step. seed: of every draw, those of dropout included.
        bf16: autocast; the weights stay float32. compiled: torch.compile the network (never the loop).
        checkpoint: a safetensors file, written every `minutes` (beside, then renamed), at the end, and when the iterator is
            closed (by `break`, too); resumed from if it is there.
        accelerator: of Hugging Face accelerate, for several devices or machines, data-parallel; process r of n takes batches
            r, r + n, ... Its first process writes the checkpoint, which all must be able to read. n processes make the run
            of one process with n times `accumulate`, and one may resume the other.

    Yields:
        Update: the loss is the mean over the step's batches (of all processes); info: `rate`, and `norm` of the gradient
        before clipping. All 0-dim; the loss and the norm on the device.

    Raises:
        Diverged: loss or gradient not finite. The weights are left, and the checkpoint is written, as before that step.
        ValueError: an option out of its range; a checkpoint that cannot be read or is of another run.
    """
    if steps < 1 or accumulate < 1 or not rate > 0 or not clip > 0 or not 0 <= ema < 1:
        raise ValueError(
            "fit: expected steps and accumulate of at least 1, rate and clip above 0 and ema in [0, 1), "
            f"got {steps}, {accumulate}, {rate}, {clip} and {ema}"
        )
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    if accelerator:
        _check(accelerator)
    net = flow.net
    device = accelerator.device if accelerator else next(net.parameters()).device
    for module in (net, average):
        if module is not None:
            module.to(device)  # before the optimiser: its moments go where the weights are
    learnt = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in learnt if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in learnt if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=rate, betas=betas, fused=True,
    )  # fmt: skip
    optimizer.zero_grad(set_to_none=True)  # a gradient that someone left there
    settings = dict(
        steps=steps, rate=rate, warmup=warmup, final=final, betas=list(betas), weight_decay=weight_decay, clip=clip,
        accumulate=accumulate * world, ema=ema, seed=seed, bf16=bf16,
    )  # fmt: skip
    first = restore(checkpoint, net, average, optimizer, settings) if checkpoint and checkpoint.exists() else 0
    if first >= steps:
        return
    writes, saved, written = checkpoint is not None and rank == 0, time.monotonic(), first
    wrapped: nn.Module = accelerator.prepare_model(net) if accelerator else net
    model: nn.Module = torch.compile(wrapped) if compiled else wrapped  # type: ignore[assignment]
    model.train()
    trained: Any = flow.with_net(model) if isinstance(flow, Adaptable) else replace(flow, net=model)  # type: ignore[type-var]
    weights: list[Tensor] = list(net.parameters())
    averaged: list[Tensor] = list(average.parameters()) if average else []
    buffers = list(net.buffers())  # running statistics: as they were before this step, in `kept`
    kept = list(average.buffers()) if average else [b.clone() for b in buffers]

    def fetch(number: int) -> Batch:
        _seed(device, digest(seed, ("data", number * world + rank)))  # for pipelines that draw globally
        batch = data(number * world + rank)
        source = None if batch.source is None else _to(batch.source, device)
        return Batch(_to(batch.clean, device), tuple(_to(c, device) for c in batch.condition), source, number)

    def keep(done: int) -> None:
        assert checkpoint is not None
        save(checkpoint, net, average, optimizer, done, settings)

    batch = fetch(first * accumulate)
    for step in range(first, steps):
        now = scheduled(step, steps, rate=rate, warmup=warmup, final=final)
        for group in optimizer.param_groups:
            group["lr"] = now
        total = torch.zeros((), device=device)
        for number in range(step * accumulate, (step + 1) * accumulate):
            index, last = number * world + rank, number + 1 == (step + 1) * accumulate
            _seed(device, digest(seed, ("layers", index)))  # for layers that draw for themselves, as dropout does
            with accelerator.no_sync(wrapped) if accelerator and not last else nullcontext():
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    value = loss(trained, batch, seeded(seed, index, device, purpose="loss")).mean() / accumulate
                value.backward()
            total += value.detach()
            if number + 1 < steps * accumulate:
                batch = fetch(number + 1)
        total = accelerator.reduce(total, "mean") if accelerator else total
        norm = nn.utils.clip_grad_norm_(learnt, clip)
        if not (total + norm).isfinite():  # the only wait for the device in the loop; finds a divergence in time
            optimizer.zero_grad(set_to_none=True)
            if buffers:
                torch._foreach_copy_(buffers, kept)
            if writes:
                keep(step)
            raise Diverged(
                f"the loss is not finite at step {step + 1} of {steps}; lower the rate (now {now:.2g}) and begin anew"
                + (f"; the state before it is in '{checkpoint}'" if checkpoint else ""),
                None,
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            if averaged:
                torch._foreach_lerp_(averaged, weights, max(1 / (step + 1), 1 - ema))
            if buffers:
                torch._foreach_copy_(kept, buffers)
        if writes and (step + 1 == steps or time.monotonic() - saved > 60 * minutes):
            keep(step + 1)
            saved, written = time.monotonic(), step + 1
        try:
            yield Update(step + 1, steps, total, {"rate": torch.tensor(now), "norm": norm.detach()})
        except GeneratorExit:
            if writes and written <= step:
                keep(step + 1)
            raise


def scheduled(step: int, steps: int, *, rate: float, warmup: int = 500, final: float = 0.01) -> float:
    """The learning rate of a step, counted from 0: a linear warm-up times a cosine from `rate` to `final * rate`.

    rate min(1, (step + 1) / warmup) (final + (1 - final) (1 + cos(pi step / steps)) / 2)
    """
    cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
    return rate * min(1.0, (step + 1) / max(warmup, 1)) * (final + (1 - final) * cosine)


def _check(accelerator: Accelerator) -> None:
    """What would silently be another run: gradients scaled, divided twice, or cut into shards."""
    kind = accelerator.distributed_type.value
    if kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "TP"):
        raise ValueError(f"fit: expected a data-parallel accelerator, got {kind}; weights in shards are not supported")
    if accelerator.mixed_precision not in ("no", "bf16"):
        raise ValueError(
            f"fit: expected an accelerator without mixed precision or with bf16, got {accelerator.mixed_precision}"
        )
    if accelerator.gradient_accumulation_steps != 1:
        raise ValueError("fit: expected an accelerator that does not accumulate; give fit `accumulate` instead")


def _seed(device: torch.device, number: int) -> None:
    """Seeds the global generators that a run can meet; torch.manual_seed looks for every kind of device, 0.1 ms long."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(number)
    else:
        torch.manual_seed(number)


def _to(x: Tensor, device: torch.device) -> Tensor:
    """To the device without waiting for it, which takes pinned memory."""
    return (x.pin_memory() if device.type == "cuda" and x.device.type == "cpu" else x).to(device, non_blocking=True)
