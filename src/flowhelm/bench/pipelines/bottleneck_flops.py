"""What bottleneck sampling saves on FLUX.1-dev, counted: torch's counter of FLOPs, the network of its size without weights.

    python -m flowhelm.bench.pipelines.bottleneck_flops --size 1024 --steps 28

Networks on meta have shapes and no numbers, so no weights are needed and nothing is computed. Steps are those that `sample.bottleneck`
takes on the pipeline's own grids, whose shift grows with the number of tokens. Text: 512 tokens, as the pipeline has them.
"""

from __future__ import annotations

import math
from collections import Counter
from functools import cache, partial
from typing import Annotated, Any, Self

import torch
import typer
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ...flow import Pixels
from ...grids import shifted
from ...path import linear
from ...rng import Noise
from ...sample import bottleneck
from ...step import run

PATCH, TEXT, STRIDE = 16, 512, 8
WAYS = ((0.05, 0.9, 2), (0.05, 0.9, 4), (0.0, 0.9, 2), (0.0, 0.95, 2))
"""down, up, factor"""


@cache
def network() -> Any:
    """FLUX.1-dev's transformer, 12 billion weights, none of them there: the defaults of diffusers are its config."""
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        return FluxTransformer2DModel(guidance_embeds=True)


@cache
def flops(side: int) -> int:
    """Of one evaluation, for a picture of side x side pixels."""
    tokens, empty = (side // PATCH) ** 2, partial(torch.empty, device="meta")
    with FlopCounterMode(display=False) as count, torch.no_grad():
        network()(
            hidden_states=empty(1, tokens, 64), encoder_hidden_states=empty(1, TEXT, 4096), pooled_projections=empty(1, 768),
            timestep=empty(1), img_ids=empty(tokens, 3), txt_ids=empty(TEXT, 3), guidance=empty(1), return_dict=False,
        )  # fmt: skip
    return count.get_total_flops()


class Sizes(Pixels):
    """A velocity of 0 that notes at which size it was asked; the times are FLUX.1-dev's."""

    path = staticmethod(linear)

    def __init__(self, side: int, asked: Counter[int]):
        self.size, self.shape, self.asked = (side, side), (1, side // STRIDE, side // STRIDE), asked

    def sized(self, height: int, width: int) -> Self:
        return type(self)(height, self.asked)

    def times(self, steps: int) -> Tensor:
        tokens = (self.size[0] // PATCH) ** 2
        return shifted(steps, math.exp(0.5 + 0.65 * (tokens - 256) / 3840))

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        self.asked[self.size[0]] += 1
        return torch.zeros_like(x)


def counts(side: int, steps: int, down: float = 0.05, up: float = 0.9, factor: int = 2) -> Counter[int]:
    """Evaluations by size."""
    asked: Counter[int] = Counter()
    flow, noise = Sizes(side, asked), Noise(0, 1)
    run(bottleneck(flow, flow.source(noise), flow.times(steps), down=down, up=up, factor=factor, noise=noise))
    return asked


def main(
    size: Annotated[int, typer.Option(help="side of the pictures, a multiple of 64")] = 1024,
    steps: Annotated[int, typer.Option(help="of the plain run")] = 28,
) -> None:
    """FLOPs of bottleneck sampling on FLUX.1-dev beside the plain run's."""
    whole = steps * flops(size)
    print(f"| FLUX.1-dev, {size} x {size}, {steps} steps | evaluations, by side | TFLOPs | times fewer |")
    print(f"| --- | --- | --- | --- |\n| plain | {steps} x {size} | {whole / 1e12:.0f} | 1.00 |")
    for down, up, factor in WAYS:
        asked = counts(size, steps, down, up, factor)
        spent = sum(n * flops(side) for side, n in asked.items())
        by_side = " + ".join(f"{n} x {side}" for side, n in sorted(asked.items(), reverse=True))
        print(
            f"| down {down:g}, up {up:g}, side / {factor} | {by_side} | {spent / 1e12:.0f} | {whole / spent:.2f} |",
            flush=True,
        )
    print(
        f"\nOne evaluation: {', '.join(f'{flops(s) / 1e12:.1f} TFLOPs at {s}' for s in (size, size // 2, size // 4))}."
    )


if __name__ == "__main__":
    typer.run(main)
