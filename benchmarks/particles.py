"""What the particle machinery costs over the bare network: paired ratios in one run.

    python benchmarks/particles.py [--prior aerial] [--particles 8] [--steps 10] [--repeats 9]

Each repeat times, one after the other, (a) the velocities alone on all particles, once per evaluation that the method makes, and (b) the
method with a reward that costs nothing. Printed: the median of (b) / (a) with its quartiles, for Feynman-Kac steering with
`ancestral` and with `glass`, SVDD and RBF. Methods that score the end make no evaluation there.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import torch

import flowhelm as fh
from flowhelm import steer
from flowhelm.budget import Budget
from flowhelm.transition import glass


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--prior", default="aerial", help="a bundled one, or flux2: a random FLUX.2 of 13 million weights"
    )
    parser.add_argument("--particles", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    k = args.particles
    if args.prior == "flux2":
        from flowhelm.bench.pipelines import tiny
        from flowhelm.priors.pipelines import wrap

        flow = wrap(tiny.flux2(width=256, layers=4), size=(64, 64)).bind(tiny.embeddings(48))
    else:
        flow = fh.priors.load(args.prior)
    times, half = fh.grids.uniform(args.steps), torch.tensor(0.5, dtype=torch.float64)
    if not flow.pixels:
        patch.object(
            type(flow), "decode", lambda self, clean: clean
        ).start()  # a reward of the latent: no decoder in the ratio

    def reward(image: torch.Tensor) -> torch.Tensor:
        return image[:, 0, 0, 0]

    def method(call: Callable[..., Any], rows: int) -> Callable[[], Budget]:
        def work() -> Budget:
            budget, noise = Budget(), fh.Noise(0, rows)
            fh.run(call(flow, reward, flow.source(noise), times, budget=budget, noise=noise))
            return budget

        return work

    works = {
        "fk, ancestral": method(partial(steer.fk, particles=k), k),
        "fk, glass": method(partial(steer.fk, particles=k, transition=partial(glass, inner=2, midpoint=False)), k),
        "svdd": method(partial(steer.svdd, draws=k), 1),
        "rbf": method(partial(steer.rbf, draws=k), 1),
    }
    print(f"{k} particles or draws on {args.prior}, {args.steps} steps, {torch.get_num_threads()} threads")
    for name, work in works.items():
        calls: list[int] = []
        own = type(flow).velocity
        with patch.object(
            type(flow), "velocity", lambda self, x, t, own=own, calls=calls: (calls.append(len(x)), own(self, x, t))[1]
        ):
            work()  # warm, and to see what it asks of the network
        states = {rows: flow.source(fh.Noise(0, rows)) for rows in set(calls)}

        @torch.no_grad()
        def bare(calls: list[int] = calls, states: dict[int, torch.Tensor] = states) -> None:
            for rows in calls:
                flow.velocity(states[rows], half)

        bare()
        pairs = [(seconds(bare), seconds(work)) for _ in range(args.repeats)]
        low, middle, high = statistics.quantiles((b / a for a, b in pairs), n=4)
        print(f"{name:16} {len(calls):3d} calls   {middle:.3f}   ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
