"""What the training loop costs over its bare parts: paired ratios in one run.

    python benchmarks/training.py [--size 32] [--batch 16] [--steps 8] [--repeats 9] [--device cpu] [--threads 1]

Each repeat times, one after the other and in turning order, as many steps of (a) forward, backward and fused AdamW by
hand, on batches and draws that are there already, (b) `fit` without average, clipping or checkpoint, whose batches and
loss are those of (a), (c) `fit` as it is used: `flow_matching`, clipping at 1, the moving average. (b) - (a) is the
loop: the schedule, the seeds, the norm of the gradient, and the look at whether it is finite. Printed: the medians of
b / a and c / a over the repeats.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from flowhelm.flow import NetFlow
from flowhelm.priors.unet import UNet
from flowhelm.step import Update
from flowhelm.train import Batch, fit, flow_matching


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8, help="of one block")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    net = UNet((32, 64, 64), 1, channels=1, data_std=0.8)
    net = net.to(args.device, memory_format=torch.channels_last)
    shape = (1, args.size, args.size)
    clean, source = (torch.randn(args.batch, *shape, device=args.device) for _ in range(2))
    t = torch.rand(args.batch, device=args.device)
    x, target = t.view(-1, 1, 1, 1) * clean + (1 - t).view(-1, 1, 1, 1) * source, clean - source
    total = (args.repeats + 1) * args.steps

    def bare() -> Iterator[Tensor]:
        ours = copy.deepcopy(net)
        optimizer = torch.optim.AdamW(ours.parameters(), lr=1e-4, fused=True)
        while True:
            loss = (ours(x, t) - target).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            yield loss

    def given(flow: NetFlow, batch: Batch, generator: torch.Generator) -> Tensor:
        return (flow.net(x, t) - target).square().flatten(1).mean(1)

    def loop() -> Iterator[Update]:
        return fit(NetFlow(copy.deepcopy(net), shape), given, lambda index: Batch(clean), steps=total, clip=math.inf)

    def whole() -> Iterator[Update]:
        ours = NetFlow(copy.deepcopy(net), shape)
        return fit(ours, flow_matching, lambda index: Batch(clean), steps=total, average=copy.deepcopy(ours.net))

    runs = [bare(), loop(), whole()]

    # on one thread its own time on the processor, so that other programs do not count
    clock = time.process_time if args.device == "cpu" and args.threads == 1 else time.perf_counter

    def seconds(steps: Iterator[object]) -> float:
        began = clock()
        for _ in range(args.steps):
            next(steps)
        if args.device.startswith("cuda"):
            torch.cuda.synchronize()
        return clock() - began

    for each in runs:
        seconds(each)
    rows = []
    for repeat in range(args.repeats):
        order = [(repeat + i) % 3 for i in range(3)]
        took = {i: seconds(runs[i]) for i in order}
        rows.append([took[i] for i in range(3)])
    parameters = sum(p.numel() for p in net.parameters())
    print(
        f"UNet of {parameters / 1e6:.2f} M weights, {args.batch} pictures of {args.size} x {args.size}, {args.device}, "
        f"{torch.get_num_threads()} threads, {args.repeats} blocks of {args.steps} steps, "
        f"{statistics.median(a for a, _, _ in rows) / args.steps * 1e3:.1f} ms a bare step"
    )
    for name, column in (("the loop alone / bare step", 1), ("fit as it is used / bare step", 2)):
        ratios = sorted(row[column] / row[0] for row in rows)
        print(f"{name:32}{statistics.median(ratios):.3f}   ({ratios[0]:.3f} to {ratios[-1]:.3f})")


if __name__ == "__main__":
    main()
