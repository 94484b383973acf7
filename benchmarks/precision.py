"""Does bf16 pay on this processor? Pixels a second of the bundled prior's network, float32 against bf16 autocast, in one run.

python benchmarks/precision.py
"""

import time

import torch

from flowhelm.priors.unet import UNet


def main() -> None:
    net = UNet((48, 96, 128, 192), 2).to(memory_format=torch.channels_last)
    x = torch.randn(8, 3, 96, 96).contiguous(memory_format=torch.channels_last)
    t = torch.rand(8)
    rates: dict[str, list[float]] = {"train": [], "evaluate": []}
    for bf16 in (False, True):
        for kind in rates:
            for turn in range(4):
                if turn == 1:  # the first is to warm up
                    began = time.perf_counter()
                with torch.set_grad_enabled(kind == "train"), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    loss = net(x, t).square().mean()
                if kind == "train":
                    loss.backward()
            rates[kind].append(3 * 8 * 96 * 96 / (time.perf_counter() - began))
    for kind, (single, half) in rates.items():
        print(f"{kind:9s} float32 {single:,.0f} pixels/s, bf16 {half:,.0f} pixels/s, ratio {half / single:.2f}")


if __name__ == "__main__":
    main()
