"""What the loop costs over the bare network: paired ratios in one run.

    python benchmarks/overhead.py [--size 256] [--rows 2] [--steps 10] [--repeats 7]

Each repeat times, one after the other, (a) the bare network at the grid's times, (b) `integrate`, (c) as many prox
solves, (d) `mpc_flow` with K = 1 on a deblurring measurement. Printed: the median over the repeats of (b) / (a) and of
(d) / (b + c). The README's claim is that both stay within 5 % of 1.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

import flowhelm as fh
from flowhelm import operators
from flowhelm.steer import mpc_flow


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    flow = fh.priors.load().sized(args.size, args.size)
    noise = fh.Noise(0, args.rows)
    x, times = flow.source(noise), flow.times(args.steps)
    y = fh.simulate(operators.deblur(flow.shape, sigma=1.6, border="circular"), x.clamp(-1, 1), 0.05, noise)

    @torch.no_grad()
    def bare() -> None:
        for t in times[:-1]:
            flow.net(x, t.float().expand(len(x)))

    @torch.no_grad()
    def proxes() -> None:
        for _ in times[:-1]:
            y.prox(x, 0.01)

    def sample() -> None:
        fh.run(fh.integrate(flow, x, times))

    def control() -> None:
        fh.run(mpc_flow(flow, y, x, times))

    for warm in (bare, sample, proxes, control):
        warm()
    rows = [[seconds(work) for work in (bare, sample, proxes, control)] for _ in range(args.repeats)]
    loop = statistics.median(b / a for a, b, _, _ in rows)
    mpc = statistics.median(d / (b + c) for _, b, c, d in rows)
    share = statistics.median(c / b for _, b, c, _ in rows)
    print(f"{args.rows} pictures of {args.size} x {args.size}, {args.steps} steps, {torch.get_num_threads()} threads")
    print(f"integrate / bare network            {loop:.3f}")
    print(f"prox solves / integrate             {share:.3f}")
    print(f"mpc_flow K=1 / (integrate + proxes) {mpc:.3f}")


if __name__ == "__main__":
    main()
