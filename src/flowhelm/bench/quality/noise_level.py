"""How well the noise of a photograph is estimated, and what the estimate costs: white, Poisson-like and JPEG'd noise, and none.

    python -m flowhelm.bench.quality.noise_level --data test_photos.zip --cases 60
    python -m flowhelm.bench.quality.noise_level --data free_photos.zip --folder . --last 20 --cases 40

White noise of 2 to 50 of 255 levels and noise whose variance grows with the light are rounded and clipped to 8 bits, as a file has
them. Beside ours stand scikit-image's estimate_sigma (if PyWavelets is there) and deepinv's PatchCovarianceNoiseEstimator. The loss is
in PSNR of one call of the prior at the estimate, against one at the true level (after JPEG: at what remains, the root mean square error),
what was cut off filled in by the same level.
After JPEG our estimate is the level at which the prior errs least, which is above what remains, since JPEG smooths the colours' noise.
A clean picture is restored as `flowhelm restore` does it, and compared with itself.
"""

from __future__ import annotations

import io
import math
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image, JpegImagePlugin
from torch import Tensor

from ...app.files.dataset import whole
from ...app.files.pictures import Picture, read, to_pil
from ...app.restore.noise import estimated, of_photo
from ...clipping import unclipped
from ...compression import noise_before
from ...flow import NetFlow
from ...known import PHOTOS
from ...metrics import psnr
from ...noise_level import one_call
from ...priors.bundled import load
from ...rng import Noise

LEVELS = (2.0, 5.0, 10.0, 15.0, 25.0, 35.0, 50.0)
QUALITIES = (95, 75, 50)
UNIT = 127.5
"""8-bit levels per unit of a picture."""


def damaged(clean: Tensor, kind: str, level: float, quality: int, seed: int, file: Path) -> Tensor:
    """Clean `(1, 3, h, w)` with noise of so many levels, as 8 bits hold it; of JPEG the file is written."""
    share = torch.ones(()) if kind == "white" or kind == "jpeg" else light(clean)
    y = eight(clean + level / UNIT * share * Noise(seed, [0])(clean))
    if kind != "jpeg":
        return y
    to_pil(y).save(file, "JPEG", quality=quality)
    return read(file).pixels


def light(clean: Tensor) -> Tensor:
    """Standard deviations that grow as the root of the light, 1 in the mean square."""
    light = (clean + 1.1) / 2
    return (light / light.mean()).sqrt()


def eight(y: Tensor) -> Tensor:
    return ((y + 1) * UNIT).round().clamp(0, 255) / UNIT - 1


def remaining(restored: Tensor, before: float, file: Path) -> float:
    """What remains after a compression, predicted: noise of `before` is added to the restored picture, which is saved by the file's own
    tables; the root mean square difference."""
    with Image.open(file) as image:
        assert isinstance(image, JpegImagePlugin.JpegImageFile)
        tables = [list(image.quantization[key]) for key in sorted(image.quantization)]
        halved = JpegImagePlugin.get_sampling(image)
    packed = io.BytesIO()
    again = restored + before * Noise(99, [0])(restored)
    to_pil(again).save(packed, "JPEG", qtables=tables, subsampling=halved)
    found = torch.from_numpy(np.asarray(Image.open(packed), np.float32).copy()).movedim(-1, 0)[None] / UNIT - 1
    return float((found - restored).square().mean().sqrt())


def filled(flow: NetFlow, y: Tensor, std: float) -> Tensor:
    """What one call of the prior makes of a picture in which what was cut off is filled in."""
    return one_call(flow.sized(*y.shape[-2:]))(unclipped(y, std), std)


def others(y: Tensor) -> dict[str, float]:
    """What well-kept estimators say, in levels."""
    from deepinv.models import PatchCovarianceNoiseEstimator

    found = {"deepinv": float(PatchCovarianceNoiseEstimator.estimate_noise(y)) * UNIT}
    try:
        from skimage.restoration import estimate_sigma

        found["skimage"] = float(estimate_sigma(y[0].numpy(), channel_axis=0, average_sigmas=True)) * UNIT
    except ImportError:
        found["skimage"] = math.nan
    return found


def main(
    data: Annotated[Path, typer.Option(help="zip archive with CBSD68/ and Set5/")],
    prior: Annotated[str, typer.Option(help="bundled prior or weights file")] = PHOTOS,
    cases: Annotated[int, typer.Option(min=4, help="how many, over kinds, levels and pictures")] = 60,
    folder: Annotated[str, typer.Option(help="of the archive")] = "CBSD68",
    last: Annotated[int | None, typer.Option(min=1, help="only the last so many pictures by name")] = None,
    only: Annotated[str | None, typer.Option(help="of the cases those of this noise: white, poisson or jpeg")] = None,
) -> None:
    """Estimate, denoise, and print a line for each kind of noise."""
    flow, photos = load(prior), list(whole(data, folder, last))
    rows: list[dict[str, Any]] = []
    kinds = ("white", "white", "poisson", "jpeg")
    folder_ = tempfile.TemporaryDirectory()  # goes when the command ends
    for i in range(cases):
        name, picture = photos[(7 * i) % len(photos)]
        clean, kind = picture[None], kinds[i % len(kinds)]
        if only not in (None, kind):
            continue
        level, quality = LEVELS[(i // len(kinds)) % len(LEVELS)], QUALITIES[(i // len(kinds)) % len(QUALITIES)]
        file = Path(folder_.name) / f"{i}.jpg"
        y = damaged(clean, kind, level, quality, i, file)
        denoise = partial(filled, flow, y)
        remains = float((y - clean).square().mean().sqrt())
        true = remains if kind == "jpeg" else level / UNIT
        found = of_photo(y, flow, file if kind == "jpeg" else None).std()
        loss = float(psnr(denoise(true), clean) - psnr(denoise(max(found, 0.001)), clean))
        row: dict[str, Any] = {"kind": kind, "name": name, "true": true * UNIT, "ours": found * UNIT, "loss": loss}
        if kind == "jpeg":
            before = noise_before(file)
            back = remaining(denoise(max(found, 0.001)), before, file)
            row |= {"level": level, "before": before * UNIT, "back": back * UNIT}
        rows.append(row | others(y))
        told = f"true {true * UNIT:5.2f}, estimated {found * UNIT:5.2f}, loss {loss:5.2f} dB"
        print(f"{kind:8} {Path(name).stem:8} level {level:4.0f}: {told}", flush=True)
    print(
        "\n| noise | cases | ours | skimage | deepinv | worst of ours | mean loss | worst loss |\n" + "| --- " * 8 + "|"
    )
    for kind in dict.fromkeys(r["kind"] for r in rows):
        some = [r for r in rows if r["kind"] == kind]
        rms = {
            who: math.sqrt(np.mean([(r[who] - r["true"]) ** 2 for r in some])) for who in ("ours", "skimage", "deepinv")
        }
        worst = max(abs(r["ours"] - r["true"]) for r in some)
        print(
            f"| {kind} | {len(some)} | {rms['ours']:.2f} | {rms['skimage']:.2f} | {rms['deepinv']:.2f} | {worst:.2f} | "
            f"{np.mean([r['loss'] for r in some]):.2f} dB | {max(r['loss'] for r in some):.2f} dB |"
        )
    for least, most in ((0.0, 8.0), (8.0, 100.0)):
        some = [r for r in rows if least <= r.get("level", -1) < most]
        for what, found_, true_ in (
            ("noise before the compression", "before", "level"),
            ("what remains", "back", "true"),
        ):
            near = [abs(r[found_] / r[true_] - 1) for r in some]
            share = f"{sum(each <= 0.15 for each in near)} of {len(near)}"
            print(
                f"JPEG, noise of {least:g} to {most:g} levels: {what} within 15 % in {share}, worst {max(near, default=0):.0%}"
            )
    if only is not None:
        return
    clean_scores = []
    for name, picture in photos[:: max(1, len(photos) // 12)]:
        clean = picture[None]
        std, _ = estimated("denoise", Picture(clean), flow)
        clean_scores.append((float(psnr(one_call(flow.sized(*clean.shape[-2:]))(clean, std), clean)), Path(name).stem))
    folder_.cleanup()
    low, which = min(clean_scores)
    mean = np.mean([s for s, _ in clean_scores])
    print(f"\nclean: {len(clean_scores)} pictures come back at {mean:.1f} dB, the worst ({which}) at {low:.1f}")


if __name__ == "__main__":
    typer.run(main)
