"""Train the bundled prior `photos`: a small fully convolutional velocity network on patches of photographs.

    python recipes/photos.py --data bsds400.zip --out runs/photos --steps 10000

Run it again to go on where it was cut off: the checkpoint holds weights, moving average, optimiser and
step, and everything random is drawn from (seed, step), so a resumed run equals an unbroken one.

Loss: conditional flow matching (Lipman et al. 2023, arXiv:2210.02747, eq. 23) on the linear path, divided
by the variance that a Gaussian prior leaves (see flowhelm.priors.unet), with logit(t) ~ N(0.8, 1.5^2),
stratified over the batch. `HELD_APART` pictures of the archive are never trained on: the loss curve and the
presets of the command line are measured on them.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import os
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from torch import Tensor

from flowhelm.priors.unet import UNet

HELD_APART = 24  # the last ones by name


def pictures(archive: Path) -> list[Tensor]:
    """Every picture of the archive as uint8 `(3, h, w)`, sorted by name."""
    with zipfile.ZipFile(archive) as z:
        names = sorted(n for n in z.namelist() if n.lower().endswith((".jpg", ".jpeg", ".png")))
        images = [Image.open(io.BytesIO(z.read(n))).convert("RGB") for n in names]
    return [torch.from_numpy(np.asarray(i).copy()).permute(2, 0, 1) for i in images]


def patches(images: list[Tensor], count: int, size: int, generator: torch.Generator) -> Tensor:
    """`count` random crops, mirrored and turned by quarters, in [-1, 1]: `(count, 3, size, size)`."""
    draw = lambda n: int(torch.randint(n, (), generator=generator))  # noqa: E731
    rows = []
    for _ in range(count):
        image = images[draw(len(images))]
        top, left = draw(image.shape[1] - size + 1), draw(image.shape[2] - size + 1)
        patch = torch.rot90(image[:, top : top + size, left : left + size], draw(4), (1, 2))
        rows.append(patch.flip(2) if draw(2) else patch)
    return torch.stack(rows).float() / 127.5 - 1


def draw_times(count: int, generator: torch.Generator) -> Tensor:
    """logit(t) ~ N(0.8, 1.5^2), one draw from each of `count` equally likely strata."""
    quantile = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return torch.sigmoid(0.8 + 1.5 * torch.special.ndtri(quantile.clamp(1e-4, 1 - 1e-4)))


def flow_matching(net: UNet, clean: Tensor, source: Tensor, t: Tensor) -> Tensor:
    """Squared error of the network's own (normalised) output, one per row."""
    linear, rest, inward = net.scales(t)
    x = t[:, None, None, None] * clean + (1 - t)[:, None, None, None] * source
    target = (clean - source - linear * x) / rest
    return (net.residual(inward * x, t) - target).square().flatten(1).mean(1)


def save(path: Path, tensors: dict[str, Tensor], step: int) -> None:
    """Write beside, then rename: a cut never leaves half a file."""
    save_file(tensors, str(path) + ".part", metadata={"step": str(step)})
    os.replace(str(path) + ".part", path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="zip archive of photographs")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint, log and weights")
    parser.add_argument("--steps", type=int, default=16_000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--widths", type=int, nargs="+", default=[48, 96, 128, 192])
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bf16", action="store_true", help="autocast; slower than float32 on CPUs without bf16 units")
    parser.add_argument("--minutes", type=float, default=3.0, help="between checkpoints")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    images = pictures(args.data)
    train, apart = images[:-HELD_APART], images[-HELD_APART:]
    torch.manual_seed(args.seed)
    net = UNet(tuple(args.widths), args.blocks).to(args.device, memory_format=torch.channels_last)
    average = {n: p.detach().clone() for n, p in net.named_parameters()}
    decay = [p for p in net.parameters() if p.ndim > 1]
    plain = [p for p in net.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 1e-2}, {"params": plain, "weight_decay": 0.0}],
        lr=args.rate, betas=(0.9, 0.99), fused=True,
    )  # fmt: skip

    checkpoint, first = args.out / "checkpoint.safetensors", 0
    if checkpoint.exists():
        state = load_file(checkpoint)
        first = int(state["step"])
        with torch.no_grad():
            for name, p in net.named_parameters():
                p.copy_(state[f"net.{name}"])
                average[name].copy_(state[f"average.{name}"])
                optimizer.state[p] = {
                    "step": torch.tensor(float(first), device=p.device),
                    "exp_avg": state[f"mean.{name}"].to(p.device),
                    "exp_avg_sq": state[f"square.{name}"].to(p.device),
                }
        print(f"resumed at step {first}")

    def keep(step: int) -> None:
        tensors = {"step": torch.tensor(step)}
        for name, p in net.named_parameters():
            tensors |= {f"net.{name}": p.detach().contiguous(), f"average.{name}": average[name].contiguous()}
            tensors |= {f"mean.{name}": optimizer.state[p]["exp_avg"].contiguous()}
            tensors |= {f"square.{name}": optimizer.state[p]["exp_avg_sq"].contiguous()}
        save(checkpoint, tensors, step)
        weights = {n: a.half().contiguous() for n, a in average.items()}
        save_file(
            weights, str(args.out / "photos.part"), metadata={"config": json.dumps(net.config), "step": str(step)}
        )
        os.replace(args.out / "photos.part", args.out / "photos.safetensors")

    def held_out() -> float:
        """Loss of the averaged weights on fixed patches of pictures that were never trained on."""
        raw = {n: p.detach().clone() for n, p in net.named_parameters()}
        generator = torch.Generator().manual_seed(1234)
        with torch.no_grad():
            for name, p in net.named_parameters():
                p.copy_(average[name])
            losses = []
            for _ in range(6):
                clean = patches(apart, 16, args.patch, generator)
                source = torch.randn(clean.shape, generator=generator)
                t = draw_times(16, generator)
                losses.append(flow_matching(net, *(a.to(args.device) for a in (clean, source, t))).mean())
            for name, p in net.named_parameters():
                p.copy_(raw[name])
        return float(torch.stack(losses).mean())

    log = args.out / "log.csv"
    if not log.exists():
        log.write_text("step,loss,held_out,seconds\n")
    saved, running, began = time.monotonic(), None, time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("photos", total=args.steps, completed=first)
        for step in range(first, args.steps):
            generator = torch.Generator().manual_seed((args.seed << 32) + step)
            clean = patches(train, args.batch, args.patch, generator)
            source = torch.randn(clean.shape, generator=generator)
            t = draw_times(args.batch, generator)
            clean, source, t = (a.to(args.device, non_blocking=True) for a in (clean, source, t))
            rate = (
                args.rate * min(1, (step + 1) / 500) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / args.steps)))
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            with torch.autocast(args.device, torch.bfloat16, enabled=args.bf16):
                loss = flow_matching(net, clean, source, t).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            if not torch.isfinite(norm):
                raise SystemExit(f"the loss diverged at step {step}; the last good state is {checkpoint}")
            optimizer.step()
            with torch.no_grad():
                weight = max(1 / (step + 1), 1 / 1000)  # an average of everything at first, of 1000 steps later
                torch._foreach_lerp_(list(average.values()), list(net.parameters()), weight)
            running = loss.detach() if running is None else torch.lerp(running, loss.detach(), 0.01)
            bar.update(task, completed=step + 1)
            if (step + 1) % 250 == 0:
                bar.update(task, description=f"photos loss {float(running):.4f}")
                test = held_out() if (step + 1) % 1000 == 0 else float("nan")
                with log.open("a", newline="") as f:
                    csv.writer(f).writerow(
                        [step + 1, f"{float(running):.5f}", f"{test:.5f}", f"{time.monotonic() - began:.0f}"]
                    )
            if time.monotonic() - saved > 60 * args.minutes or step + 1 == args.steps:
                keep(step + 1)
                saved = time.monotonic()


if __name__ == "__main__":
    main()
