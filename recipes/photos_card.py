"""Measure the prior `photos` on the pictures that its recipe held apart, and draw its curve and its samples.

    python recipes/photos_card.py --data bsds400.zip --log runs/photos/log.csv --out docs/img

Prints denoising PSNR (E[clean | x_t] of a noisy crop, one evaluation) at several noise levels, and writes
photos_curve.png and photos_samples.png.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import torch
from photos import HELD_APART, pictures
from PIL import Image, ImageDraw

import flowhelm as fh
from flowhelm.app.images import to_pil
from flowhelm.metrics import psnr
from flowhelm.path import linear, mix, time_at_snr


@torch.no_grad()
def denoising(flow: fh.NetFlow, clean: torch.Tensor, std: float) -> tuple[float, float]:
    """Mean PSNR of the noisy crops and of their denoised versions; std on [-1, 1]."""
    t = time_at_snr(linear, torch.tensor(1 / std))
    noise = fh.Noise(0, len(clean))(clean)
    estimate = flow.ends(mix(linear, noise, clean, t), t).clean
    return float(psnr(clean + std * noise, clean).mean()), float(psnr(estimate, clean).mean())


def curve(log: Path, out: Path) -> None:
    """Training and held-apart loss over steps, as a plain drawing."""
    rows = list(csv.DictReader(log.open(newline="")))
    series = {"loss": "#4878a8", "held_out": "#c05030"}
    image = Image.new("RGB", (720, 360), "white")
    draw = ImageDraw.Draw(image)
    last = max(float(r["step"]) for r in rows)
    low, high = 0.12, 0.5
    place = lambda step, loss: (60 + 640 * step / last, 320 - 290 * (min(loss, high) - low) / (high - low))  # noqa: E731
    for tick in (0.15, 0.2, 0.3, 0.4, 0.5):
        draw.line([place(0, tick), place(last, tick)], fill="#dddddd")
        draw.text((20, place(0, tick)[1] - 6), f"{tick:.2f}", fill="black")
    for step in range(0, int(last) + 1, 2000):
        draw.text((place(step, low)[0] - 12, 328), str(step), fill="black")
    for i, (key, colour) in enumerate(series.items()):
        points = [place(float(r["step"]), float(r[key])) for r in rows if r[key] != "nan"]
        draw.line(points, fill=colour, width=2)
        draw.text((560, 40 + 16 * i), key.replace("_", "-"), fill=colour)
    draw.text((300, 344), "training step", fill="black")
    image.save(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--prior", default="photos")
    parser.add_argument("--out", type=Path, default=Path("docs/img"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    size = 192
    rows = [p[:, (p.shape[1] - size) // 2 :, (p.shape[2] - size) // 2 :] for p in pictures(args.data)[-HELD_APART:]]
    clean = torch.stack([r[:, :size, :size] for r in rows]).float() / 127.5 - 1
    flow = fh.priors.load(args.prior).sized(size, size)
    print(f"| noise std on [-1, 1] | noisy PSNR | denoised PSNR |  ({len(clean)} held-apart crops of {size} x {size})")
    for std in (0.05, 0.1, 0.2, 0.4):
        noisy, denoised = denoising(flow, clean, std)
        print(f"| {std} | {noisy:.2f} | {denoised:.2f} |")
    noise = fh.Noise(0, 8)
    samples = fh.run(fh.integrate(flow, flow.source(noise), flow.times(50), transition=fh.transition.heun)).x
    sheet = torch.cat([torch.cat(list(samples[i : i + 4]), 2) for i in (0, 4)], 1)
    to_pil(sheet).save(args.out / "photos_samples.png")
    if args.log:
        curve(args.log, args.out / "photos_curve.png")


if __name__ == "__main__":
    main()
