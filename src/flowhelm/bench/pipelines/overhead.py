"""What our sampling loop costs beside a pipeline's own call: the same prompt, latents and steps, in pairs.

    python -m flowhelm.bench.pipelines.overhead                          # tiny networks: the loop itself is what is measured
    python -m flowhelm.bench.pipelines.overhead --width 512 --layers 8   # a network that takes its time, as real ones do

Both go to latents; prompts are embedded before. One of each first, then pairs in turn, and the median of the ratios with its
quartiles: a machine that is slow for a while is slow for both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from ...priors.pipelines import wrap
from ...rng import Noise
from ...solve import integrate
from ...step import run
from . import tiny

FAMILIES = ("flux", "flux2", "sd3")


class Overhead(NamedTuple):
    """name; milliseconds a step of the pipeline and of ours, medians; ratio ours / theirs: median and quartiles."""

    name: str
    theirs: float
    ours: float
    ratio: float
    low: float
    high: float


def measure(pipe: Any, told: dict[str, Any], *, steps: int, pairs: int, device: str = "cpu") -> Overhead:
    """Of one pipeline; `told` as for `parity.compare`."""
    pipe.set_progress_bar_config(disable=True)
    pipe.to(device)
    flow = wrap(pipe, size=told["size"])
    prompt, negative, scale = told["prompt"], told.get("negative"), told.get("scale", flow.scale)
    bound = flow.bind([prompt] if isinstance(prompt, str) else prompt, negative=negative, scale=scale)
    x = flow.source(Noise(0, rows=[0])).to(device)
    height, width = told["size"]
    embedded = {name: each for name, each in bound.told.items() if name in flow.needs}
    against = None if bound.null is None else {name: each for name, each in bound.null.items() if name in flow.needs}
    given = {"height": height, "width": width, "num_inference_steps": steps, **flow.arguments(embedded, against, scale)}
    latents = bound.native(x)

    def theirs() -> Any:
        return pipe(**given, latents=latents, output_type="latent").images

    def ours() -> Any:
        return run(integrate(bound, x, bound.visited(steps))).x

    times = [(_seconds(theirs, device), _seconds(ours, device)) for _ in range(pairs + 1)][1:]
    ratios = [b / a for a, b in times]
    low, _, high = statistics.quantiles(ratios, n=4)
    one, other = (1000 * statistics.median(column) / steps for column in zip(*times, strict=True))
    return Overhead(type(pipe).__name__, one, other, statistics.median(ratios), low, high)


def _seconds(call: Callable[[], Any], device: str) -> float:
    start = time.perf_counter()
    call()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def rows(width: int, layers: int, side: int, *, steps: int, pairs: int, device: str) -> Iterator[Overhead]:
    for name in FAMILIES:
        torch.manual_seed(0)
        build: Any = tiny.CASES[name][0]
        told = tiny.CASES[name][1]
        yield measure(
            build(width=width, layers=layers), told | {"size": (side, side)}, steps=steps, pairs=pairs, device=device
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=32, help="of the networks (default: 32)")
    parser.add_argument("--layers", type=int, default=1, help="of each kind (default: 1)")
    parser.add_argument("--side", type=int, default=32, help="of the pictures in pixels (default: 32)")
    parser.add_argument("--steps", type=int, default=20, help="of each run (default: 20)")
    parser.add_argument("--pairs", type=int, default=15, help="of runs (default: 15)")
    parser.add_argument("--device", default="cpu")
    a = parser.parse_args()
    print(f"{'pipeline':30} {'ms a step':>10} {'ours':>8} {'ratio':>7}   quartiles")
    for r in rows(a.width, a.layers, a.side, steps=a.steps, pairs=a.pairs, device=a.device):
        print(f"{r.name:30} {r.theirs:10.2f} {r.ours:8.2f} {r.ratio:7.3f}   {r.low:.3f} to {r.high:.3f}")


if __name__ == "__main__":
    main()
