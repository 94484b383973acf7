"""Colour Gaussian denoising by one network call: CBSD68 and Set5 at sigma 15, 25, 50 of 255, beside published figures.

    python -m flowhelm.bench.quality.denoising --data test_photos.zip --csv denoising.csv
    python -m flowhelm.bench.quality.denoising --data test_photos.zip --csv denoising.csv --ensemble    # one call for each look

A picture with noise of standard deviation s (2 sigma / 255 on [-1, 1]) times t = 1 / (1 + s) is a state of the linear path
at that t, and E[clean | x_t] is the estimate with the least mean squared error. The noise is not clamped and not rounded, the
estimate is clamped to [-1, 1] (by `metrics.psnr`), PSNR is over the three channels: as the yardsticks have it. One stream of
noise per picture and level. The pictures are the JPEG files of the archive; the yardsticks were measured on the
usual PNG files of the same pictures. Rows are appended to the CSV file; run the command again to go on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from torch import Tensor

from ...app.files.dataset import whole
from ...flow import NetFlow
from ...known import PHOTOS
from ...looks import ALL
from ...metrics import psnr, ssim
from ...priors.bundled import Prior, load
from ...restore.hqs import seen
from ...rng import Noise
from .. import kept

SIGMAS = (15, 25, 50)

# Mean PSNR on CBSD68, colour, known sigma, as collected in Zhang et al. 2021 (DRUNet, arXiv:2008.13751); CBM3D is Dabov
# et al. 2007, FFDNet Zhang et al. 2018 (arXiv:1710.04026). The networks were trained for this task alone, on more pictures.
PUBLISHED = {"CBM3D": (33.52, 30.71, 27.38), "FFDNet": (33.87, 31.21, 27.96), "DRUNet": (34.30, 31.69, 28.51)}


class Photo(NamedTuple):
    """A picture `(3, h, w)` in [-1, 1] with its set and its name."""

    folder: str
    name: str
    clean: Tensor


def photos(data: Path, folder: str, last: int | None = None, size: int | None = None) -> Iterator[Photo]:
    """The pictures of a folder by name, or the last of them; whole, or their middle."""
    for name, clean in whole(data, folder, last):
        height, width = (min(size or side, side) for side in clean.shape[1:])
        top, left = (clean.shape[1] - height) // 2, (clean.shape[2] - width) // 2
        yield Photo(folder, name, clean[:, top : top + height, left : left + width])


def noisy(clean: Tensor, name: str, sigma: float, seed: int) -> Tensor:
    """Clean `(3, h, w)` in [-1, 1] plus noise of sigma / 255 of the [0, 1] range, not clamped: `(1, 3, h, w)`."""
    return clean[None] + 2 * sigma / 255 * Noise(seed, [(name, str(sigma))])(clean[None])


@torch.no_grad()
def denoised(flow: NetFlow, noisy: Tensor, sigma: float, ensemble: bool = False) -> Tensor:
    """E[clean | noisy] `(b, 3, h, w)`, one evaluation; for priors along the linear path. Not clamped.

    Args:
        ensemble: the mean over all looks that the prior was made for, with one evaluation for each.
    """
    t, looks = torch.tensor(1 / (1 + 2 * sigma / 255), dtype=torch.float64), ALL[flow.looks if ensemble else "upright"]
    x, of = t.to(noisy) * noisy, flow.sized(*noisy.shape[-2:])
    return torch.stack([seen(of, x, t, look) for look in looks]).mean(0)


def multiply_adds(flow: NetFlow, side: int = 128) -> float:
    """Of one evaluation, per pixel: those of convolutions and matrices, counted on a picture of side x side pixels."""
    from torch.utils.flop_counter import FlopCounterMode

    x = torch.zeros(1, *flow.shape[:-2], side, side)
    with FlopCounterMode(display=False) as count, torch.no_grad():
        flow.sized(side, side).velocity(x, torch.tensor(0.9, dtype=torch.float64))
    return count.get_total_flops() / 2 / side**2


def named(flow: Prior, ensemble: bool) -> str:
    """What the prior is called in the table's file."""
    return f"{flow.name}, {len(ALL[flow.looks])} looks" if ensemble else flow.name


def evaluate(flow: Prior, photo: Photo, sigma: float, seed: int, ensemble: bool = False) -> dict[str, Any]:
    """One row of the table's file."""
    y = noisy(photo.clean, photo.name, sigma, seed)
    began = time.perf_counter()
    image = denoised(flow, y, sigma, ensemble)
    seconds = time.perf_counter() - began
    clean = photo.clean[None]
    return {
        "prior": named(flow, ensemble), "seed": seed, "set": photo.folder, "image": photo.name, "sigma": sigma,
        "noisy": f"{10 * math.log10(4 / float((y - clean).double().square().mean())):.4f}",
        "psnr": f"{float(psnr(image, clean)):.4f}",
        "ssim": f"{float(ssim(image, clean)):.5f}",
        "seconds": f"{seconds:.2f}",
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: mean PSNR ± standard error over the pictures, SSIM, and the yardsticks for CBSD68."""
    lines = []
    for folder in dict.fromkeys(r["set"] for r in rows):
        of = {s: [r for r in rows if r["set"] == folder and float(r["sigma"]) == s] for s in SIGMAS}
        of = {s: some for s, some in of.items() if some}
        lines += [f"\n**{folder}**, {max(map(len, of.values()))} pictures, PSNR in dB (± standard error of the mean)\n"]
        lines += ["| | " + " | ".join(f"sigma {s}" for s in of) + " |", "| --- |" + " --- |" * len(of)]
        for what, key, digits in (("noisy", "noisy", 2), ("this prior", "psnr", 2), ("this prior, SSIM", "ssim", 4)):
            cells = []
            for some in of.values():
                values = torch.tensor([float(r[key]) for r in some], dtype=torch.float64)
                error = (
                    f" ± {float(values.std()) / len(values) ** 0.5:.2f}" if key == "psnr" and len(values) > 1 else ""
                )
                cells.append(f"{float(values.mean()):.{digits}f}{error}")
            lines.append(f"| {what} | " + " | ".join(cells) + " |")
        if folder == "CBSD68":
            for who, figures in PUBLISHED.items():
                given = dict(zip(SIGMAS, figures, strict=True))
                lines.append(f"| {who} (published) | " + " | ".join(f"{given[s]:.2f}" for s in of) + " |")
    return "\n".join(lines)


def main(
    data: Annotated[Path, typer.Option(help="zip archive with CBSD68/ and Set5/")],
    prior: Annotated[str, typer.Option(help="bundled prior or weights file")] = PHOTOS,
    folder: Annotated[
        list[str] | None, typer.Option(help="folders of the archive, . for its top; CBSD68 and Set5 if not given")
    ] = None,
    images: Annotated[int | None, typer.Option(help="only the first ones of each folder, by name")] = None,
    last: Annotated[int | None, typer.Option(help="only the last ones of each folder, by name")] = None,
    size: Annotated[
        int | None, typer.Option(help="side of centre crops in pixels; whole pictures if not given")
    ] = None,
    seed: Annotated[int, typer.Option(help="of the noise")] = 0,
    ensemble: Annotated[bool, typer.Option("--ensemble", help="the mean over all looks at the picture")] = False,
    out: Annotated[
        Path | None, typer.Option("--csv", help="file of one row per picture and sigma, appended to")
    ] = None,
) -> None:
    """Denoise photographs with one evaluation each; print means beside the published figures."""
    flow = load(prior)
    parameters = sum(p.numel() for p in flow.net.parameters())
    print(
        f"prior {named(flow, ensemble)}: {parameters:,} parameters, {multiply_adds(flow):,.0f} multiply-adds per pixel and evaluation"
    )
    stored = kept.stored(out)
    rows: list[dict[str, Any]] = [r for r in stored if (r["prior"], r["seed"]) == (named(flow, ensemble), str(seed))]
    done = {(r["image"], float(r["sigma"])) for r in rows}
    count: dict[str, int] = {}
    todo = []
    for photo in (one for of in folder or ["CBSD68", "Set5"] for one in photos(data, of, last, size)):
        count[photo.folder] = count.get(photo.folder, 0) + 1
        if images is None or count[photo.folder] <= images:
            todo += [(photo, sigma) for sigma in SIGMAS if (photo.name, sigma) not in done]
    began = time.monotonic()
    for i, (photo, sigma) in enumerate(todo, 1):
        row = evaluate(flow, photo, sigma, seed, ensemble)
        rows.append(row)
        kept.append(out, row)
        left = (time.monotonic() - began) / i * (len(todo) - i)
        print(f"\r{i} of {len(todo)}, {left:.0f} s left   ", end="" if i < len(todo) else "\n", flush=True)
    print(table(rows))


if __name__ == "__main__":
    typer.run(main)
