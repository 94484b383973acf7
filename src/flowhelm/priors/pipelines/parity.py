"""Does a family give what its pipeline gives? The same prompt, latents and steps through both, Euler steps on our side.

`python -m flowhelm.bench.pipelines.parity` compares all families on tiny random pipelines, `flowhelm doctor ORG/NAME --parity` one with
its weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...flow import FlowMap
from ...rng import Noise
from ...solve import integrate, jumps
from ...step import run
from .families import wrap


@dataclass(frozen=True)
class Parity:
    """Of one pipeline.

    Attributes:
        latents, pixels: largest difference at the end: of latents, in units of the largest one if that is above 1; of pictures in [0, 1].
        calls, ours: calls of the network that the pipeline made, and that the flow made.
        seconds, own: of the pipeline's call, and of ours, to latents, after one of each that does not count.
        gradient: whether the gradient of the decoded one-step estimate with respect to the state is finite and not 0.
        graph: whether the bound prompt holds an autograd graph, which it must not.
        dtype: of the network.
    """

    name: str
    latents: float
    pixels: float
    calls: int
    ours: int
    seconds: float
    own: float
    gradient: bool
    graph: bool
    dtype: torch.dtype = torch.float32

    @property
    def tolerance(self) -> float:
        """What rounding explains. In half precision a pipeline rounds its state at every step, and a flow does not."""
        return {torch.float32: 1e-5, torch.float16: 1e-2}.get(self.dtype, 5e-2)

    @property
    def good(self) -> bool:
        return (
            self.latents <= self.tolerance
            and self.pixels <= self.tolerance
            and self.ours <= self.calls
            and self.gradient
            and not self.graph
        )


def compare(
    pipe: Any,
    *,
    size: tuple[int, int],
    prompt: str | dict[str, Tensor],
    negative: str | dict[str, Tensor] | None = None,
    scale: float | None = None,
    steps: int = 3,
    seed: int = 0,
) -> Parity:
    """One pipeline against its family.

    Args:
        prompt, negative: texts, or embeddings by their names in the pipeline's call, of one row.
        scale: of guidance; None for the family's default.
    """
    flow = wrap(pipe, size=size)
    value = flow.scale if scale is None else scale
    words = [prompt] if isinstance(prompt, str) else prompt
    bound = flow.bind(words, negative=negative, scale=value)
    times, pipe = bound.visited(steps), flow.reference
    pipe.set_progress_bar_config(disable=True)
    before, after = (float(bound.factor(t)) for t in (times[0], times[-1]))
    x = flow.source(Noise(seed, rows=[0])).to(flow.net.device) / before
    given = {
        "height": size[0],
        "width": size[1],
        "num_inference_steps": steps,
        **flow.arguments(prompt, negative, value),
    }

    def theirs(kind: str) -> Any:
        return pipe(**given, latents=bound.native(x * before).to(flow.net.dtype), output_type=kind).images

    def ours() -> Tensor:
        moves = jumps(bound, x, times) if isinstance(bound, FlowMap) else integrate(bound, x, times)
        return run(moves).x * after

    picture, mine = theirs("pt"), ours()
    reference, calls, seconds = _timed(flow.net, lambda: bound.returned(theirs("latent")))
    _, own_calls, own = _timed(flow.net, ours)
    decoded = (bound.decode(mine) / 2 + 0.5).clamp(0, 1)
    z = x.clone().requires_grad_()
    t = torch.tensor(0.5, dtype=torch.float64)
    (slope,) = torch.autograd.grad(bound.decode(bound.ends(z, t).clean).square().mean(), z)
    held = [*bound.told.values(), *(bound.null or {}).values()]
    return Parity(
        flow.name,
        float((mine - reference).abs().max() / reference.abs().max().clamp(min=1)),
        float((decoded - picture[:, : decoded.shape[1]].to(decoded)).abs().max()),  # some add an opacity
        calls,
        own_calls,
        seconds,
        own,
        bool(slope.isfinite().all() and slope.abs().max() > 0),
        any(each.grad_fn is not None or each.requires_grad for each in held),
        flow.net.dtype,
    )


def _timed(net: torch.nn.Module, call: Callable[[], Tensor]) -> tuple[Tensor, int, float]:
    """What it returns, how often it called the network, and its seconds."""
    calls: list[None] = []
    hook = net.register_forward_pre_hook(lambda *_: calls.append(None))
    start = time.perf_counter()
    try:
        out = call()
    finally:
        hook.remove()
    return out, len(calls), time.perf_counter() - start
