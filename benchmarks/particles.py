"""What the particle machinery costs over the bare network: paired ratios in one run.

    python benchmarks/particles.py [--prior aerial] [--particles 8] [--steps 10] [--repeats 9]

Each repeat times, one after the other, (a) the bare network on all particles, once per evaluation that the method makes, and (b) the
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
    parser.add_argument("--prior", default="aerial")
    parser.add_argument("--particles", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    flow, k = fh.priors.load(args.prior), args.particles
    times = fh.grids.uniform(args.steps)

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
        "fk, glass": method(partial(steer.fk, particles=k, transition=partial(glass, inner=2)), k),
        "svdd": method(partial(steer.svdd, draws=k), 1),
        "rbf": method(partial(steer.rbf, draws=k), 1),
    }
    print(f"{k} particles or draws on {args.prior}, {args.steps} steps, {torch.get_num_threads()} threads")
    for name, work in works.items():
        calls: list[int] = []
        hook = flow.net.register_forward_pre_hook(lambda net, inputs, calls=calls: calls.append(len(inputs[0])))
        work()  # warm, and to see what it asks of the network
        hook.remove()
        states = {rows: flow.source(fh.Noise(0, rows)) for rows in set(calls)}

        @torch.no_grad()
        def bare(calls: list[int] = calls, states: dict[int, torch.Tensor] = states) -> None:
            for rows in calls:
                flow.net(states[rows], torch.full((rows,), 0.5))

        bare()
        pairs = [(seconds(bare), seconds(work)) for _ in range(args.repeats)]
        low, middle, high = statistics.quantiles((b / a for a, b in pairs), n=4)
        print(f"{name:16} {len(calls):3d} calls   {middle:.3f}   ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
