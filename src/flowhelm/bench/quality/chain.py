"""Blur, noise and JPEG together, as a camera and a website leave them: one command, beside the chains of well-kept libraries.

    python -m flowhelm.bench.quality.chain --data test_photos.zip --pictures 12
    python -m flowhelm.bench.quality.chain --data test_photos.zip --pictures 12 --sharp     # how many sharp ones are taken for blurred

The middle of a clean picture is blurred, noise is added, and it is saved as a JPEG file. That file is restored as
`flowhelm restore photo.jpg` does it, without a number; by `--operator deblur --kernel auto`; and by the operator with the blur's true size.
Chains of scikit-image (with PyWavelets) and deepinv estimate the noise by their own estimators and are given the true size of the blur
wherever they use it; deepinv's plug-and-play scheme gets our prior. PSNR in dB.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer
from torch import Tensor

from ...app.files.dataset import whole
from ...app.files.pictures import read, to_pil
from ...app.restore.look import look
from ...app.restore.restorer import Restorer
from ...known import PHOTOS
from ...metrics import psnr
from ...operators.blur import kernel_of
from ...rng import Noise
from ..intervals import interval
from .blur import UNIT, blurred


class Damage(NamedTuple):
    """Deviation of the blur in pixels, of the noise in levels of 255, quality of the JPEG file."""

    sigma: float
    level: float
    quality: int


DAMAGES = (Damage(1.0, 10, 80), Damage(1.5, 5, 90), Damage(1.0, 20, 60), Damage(1.5, 3, 95), Damage(1.5, 0, 75))
SHARP = ((0, 95), (0, 75), (0, 60), (0, 10), (5, 90), (12, 85), (25, 70))
"""Noise in levels of 255, and quality, of files without blur."""
LEAST = 0.01
"""Noise below which deepinv's scheme is told of so much, in units of [0, 1]."""


def unasked(restorer: Restorer, file: Path) -> tuple[Tensor, str | None]:
    """What `flowhelm restore photo.jpg` makes of a file, `(3, h, w)`, and by which operator; None: it was left alone."""
    seen = look(file, restorer.prior)
    if seen.operator is None:
        return read(file).pixels[0], None
    std = "auto" if seen.sure is None else seen.sure
    made = restorer(
        file, seen.operator, std=std, operator_options=dict(seen.options), method_options=seen.method_options
    )
    return made.picture, seen.operator


def ours(restorer: Restorer, file: Path, damage: Damage) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """What the commands give of a file, by the words typed."""
    yield "`flowhelm restore photo.jpg`", lambda: unasked(restorer, file)[0]
    yield (
        "with `--operator deblur --kernel auto`",
        lambda: restorer(file, "deblur", operator_options={"kernel": "auto"}).picture,
    )
    yield (
        "with `--operator deblur --sigma TRUE`",
        lambda: restorer(file, "deblur", operator_options={"sigma": damage.sigma}).picture,
    )


def scikit(y: Tensor, damage: Damage) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Chains of scikit-image: denoise, then deblur with the true kernel."""
    from skimage import restoration

    picture = ((y + 1) / 2).permute(1, 2, 0).numpy().astype(np.float64)
    sigma = float(np.mean(restoration.estimate_sigma(picture, channel_axis=-1)))
    psf = kernel_of(damage.sigma).numpy().astype(np.float64)
    back = lambda found: torch.from_numpy(np.clip(found, 0, 1)).permute(2, 0, 1).float() * 2 - 1  # noqa: E731

    def means() -> np.ndarray:
        return restoration.denoise_nl_means(picture, 5, 6, 0.8 * sigma, sigma=sigma, fast_mode=True, channel_axis=-1)

    def variation() -> np.ndarray:
        return restoration.denoise_tv_chambolle(picture, weight=1.5 * sigma, channel_axis=-1)

    def each(found: np.ndarray, deblur: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return np.stack([deblur(found[..., c]) for c in range(3)], -1)

    yield "scikit-image: non-local means", lambda: back(means())
    yield "scikit-image: total variation", lambda: back(variation())
    yield (
        "scikit-image: non-local means, Wiener",
        lambda: back(each(means(), lambda c: restoration.wiener(c, psf, 0.05, clip=False))),
    )
    yield (
        "scikit-image: non-local means, Richardson-Lucy",
        lambda: back(each(means(), lambda c: restoration.richardson_lucy(np.clip(c, 1e-3, 1), psf, 5))),
    )


def deepinv(restorer: Restorer, y: Tensor, damage: Damage) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Chains of deepinv with our prior: its own estimate of the noise, one call, or its plug-and-play with the true blur."""
    from deepinv.models import PatchCovarianceNoiseEstimator
    from deepinv.optim import DPIR
    from deepinv.physics import Blur, GaussianNoise

    from ..rivals.deepinv import Handed

    flow = restorer.flow.sized(*y.shape[-2:])
    y01 = (y[None] + 1) / 2
    sigma = max(LEAST, float(PatchCovarianceNoiseEstimator.estimate_noise(y01)))  # its estimate may be NaN
    physics = Blur(filter=kernel_of(damage.sigma)[None, None], padding="replicate", noise_model=GaussianNoise(sigma))
    yield "deepinv: estimate, one call of our prior", lambda: 2 * Handed(flow)(y01, sigma)[0] - 1
    yield "deepinv: estimate, DPIR with our prior", lambda: 2 * DPIR(sigma, denoiser=Handed(flow))(y01, physics)[0] - 1


def taken_for_blurred(photos: list[Tensor], prior: str) -> None:
    """Prints of how many clean pictures, with noise and saved, `flowhelm look` names a blur."""
    print("| noise | quality | pictures | taken for blurred |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "photo.jpg"
        for level, quality in SHARP:
            count = 0
            for seed, clean in enumerate(photos):
                noisy = clean + level / UNIT * Noise(seed, [0])(clean)
                to_pil(noisy).save(file, "JPEG", quality=quality)
                count += look(file, prior).operator == "deblur"
            print(f"| {level} | {quality} | {len(photos)} | {count} |", flush=True)


def main(
    data: Annotated[Path, typer.Option(help="zip archive of pictures")],
    prior: Annotated[str, typer.Option(help="bundled prior or weights file")] = PHOTOS,
    pictures: Annotated[int, typer.Option(min=2, help="of each kind of damage")] = 12,
    folder: Annotated[str, typer.Option(help="of the archive")] = "CBSD68",
    size: Annotated[int, typer.Option(min=64, help="side of the pictures")] = 192,
    sharp: Annotated[bool, typer.Option("--sharp", help="count the pictures without blur that get one named")] = False,
) -> None:
    """Damage, restore, and print a column for each kind of damage."""
    if sharp:
        taken_for_blurred([p[None] for _, p in whole(data, folder)][::3][:pictures], prior)
        return
    if not all(map(find_spec, ("skimage", "pywt"))):
        raise typer.BadParameter("scikit-image and PyWavelets are missing: pip install scikit-image PyWavelets")
    restorer = Restorer(prior, threads=torch.get_num_threads())
    photos = [p for _, p in whole(data, folder) if min(p.shape[-2:]) >= size + 60][::3][:pictures]
    scores: dict[str, list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as place:
        for i, damage in enumerate(DAMAGES):
            for j, picture in enumerate(photos):
                kernel = {"kernel": "gaussian", "sigma": damage.sigma}
                clean, y = blurred(picture, kernel, damage.level / UNIT, size, j)
                file = Path(place) / f"{i}_{j}.jpg"
                to_pil(y[None]).save(file, "JPEG", quality=damage.quality)
                y = read(file).pixels[0]
                with torch.no_grad():
                    rows = [("as it came", lambda y=y: y)]
                    for label, restored in (
                        *rows, *ours(restorer, file, damage), *scikit(y, damage), *deepinv(restorer, y, damage),
                    ):  # fmt: skip
                        kept = scores.setdefault(label, [[] for _ in DAMAGES])
                        kept[i].append(float(psnr(restored()[None].clamp(-1, 1), clean[None])))
                print(
                    f"blur {damage.sigma:g}, noise {damage.level:g}, quality {damage.quality}: {j + 1} of {len(photos)}",
                    flush=True,
                )
    print(
        "\n| PSNR, dB | "
        + " | ".join(f"blur {d.sigma:g}, noise {d.level:g}, quality {d.quality}" for d in DAMAGES)
        + " |"
    )
    print("| --- " * (1 + len(DAMAGES)) + "|")
    for label, columns in scores.items():
        print(f"| {label} | " + " | ".join(f"{np.mean(column):.2f}" for column in columns) + " |")
    mine = list(scores)[1]
    best = max(
        (label for label in scores if ":" in label and "flowhelm" not in label), key=lambda k: float(np.mean(scores[k]))
    )
    margins = [
        interval([a - b for a, b in zip(*pair, strict=True)]).shown(2)
        for pair in zip(scores[mine], scores[best], strict=True)
    ]
    print(f"\n{mine} above '{best}', paired: " + ", ".join(margins))


if __name__ == "__main__":
    typer.run(main)
