"""A photographer's eight pictures: made, restored by one line without any number, and compared with OpenCV's usual tools.

    python examples/photographer.py OUT [NAME ...]

Needs scikit-image, whose wheel holds the pictures, and for the rivals opencv-python-headless; nothing is downloaded. Writes a strip of each
(as it came, restored, the best of OpenCV, the truth) and photographer.csv; PSNR in dB. OpenCV's tools get the settings that score best on
the very picture, which a person does not have; ours get none.
"""

from __future__ import annotations

import csv
import io
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data
from torch import Tensor

from flowhelm.app.files.pictures import read, to_pil
from flowhelm.app.show.strip import strip
from flowhelm.bench.quality.fade import faded
from flowhelm.interfaces.cli import main
from flowhelm.metrics import psnr
from flowhelm.recipes.scratched import scratched

Made = tuple[Tensor, Image.Image, str]
"""The truth, the picture as it came, and the suffix that it is saved under."""


def _tensor(levels: np.ndarray) -> Tensor:
    found = torch.from_numpy(np.atleast_3d(levels).astype(np.float32)).permute(2, 0, 1)[None]
    return found / 127.5 - 1


def _noisy(clean: Tensor, std: float, seed: int) -> Tensor:
    return clean + std * torch.from_numpy(np.random.default_rng(seed).standard_normal(clean.shape)).float()


def high_iso() -> Made:
    clean = _tensor(data.chelsea()[20:276, 96:352])
    return clean, to_pil(_noisy(clean, 0.2, 0)), ".png"


def unknown_blur() -> Made:
    clean = _tensor(data.astronaut())
    x = torch.arange(-8, 9.0)
    line = (-(x**2) / (2 * 1.6**2)).exp()
    kernel = (line[:, None] * line / line.sum() ** 2).expand(3, 1, 17, 17)
    wide = torch.nn.functional.pad(clean, (8,) * 4, mode="reflect")
    blurred = torch.nn.functional.conv2d(wide, kernel, groups=3)
    place = (..., slice(10, 266), slice(96, 352))
    return clean[place], to_pil(_noisy(blurred, 0.015, 1)[place]), ".png"


def scratched_scan() -> Made:
    clean = _tensor(data.coffee()[8:392, 110:494])
    return clean, to_pil(_noisy(scratched(clean, 7)[0], 0.02, 2)), ".png"


def strong_jpeg() -> Made:
    clean = _tensor(data.astronaut()[10:266, 96:352])
    file = io.BytesIO()
    to_pil(clean).save(file, "JPEG", quality=12)
    return clean, Image.open(file), ".jpg"


def small_web_picture() -> Made:
    clean = _tensor(data.coffee()[8:392, 110:494])
    small = torch.nn.functional.avg_pool2d(clean, 2)
    return clean, to_pil(_noisy(small, 0.02, 3)), ".png"


def faded_print() -> Made:
    clean = _tensor(data.astronaut())
    return clean, to_pil(faded(clean, 4)), ".png"


def grey_picture() -> Made:
    clean = _tensor(data.camera()[40:296, 100:356])
    return clean, to_pil(_noisy(clean, 0.12, 5)), ".png"


def three_megapixels() -> Made:
    """A wall of whole pictures, each mirrored beside itself, 2048 x 1536."""
    wall = np.zeros((1536, 2048, 3), np.uint8)
    for i, each in enumerate((data.astronaut(), data.coffee(), data.chelsea())):
        row = np.concatenate([each, each[:, ::-1]], 1)
        row = np.tile(row, (2, 3, 1))[:512, :2048]
        wall[512 * i : 512 * (i + 1)] = row
    clean = _tensor(wall)
    return clean, to_pil(_noisy(clean, 0.1, 6)), ".png"


MASKED = "flowhelm mask {photo} && flowhelm restore {photo} --operator inpaint --mask {stem}.mask.png"
PICTURES: dict[str, tuple[Callable[[], Made], str]] = {
    "high ISO": (high_iso, "flowhelm restore {photo}"),
    "unknown blur": (unknown_blur, "flowhelm restore {photo}"),
    "scratched scan": (scratched_scan, MASKED),
    "strong JPEG": (strong_jpeg, "flowhelm restore {photo}"),
    "small web picture": (small_web_picture, "flowhelm restore {photo} --operator superres"),
    "faded print": (faded_print, "flowhelm restore {photo} --unfade"),
    "grey picture": (grey_picture, "flowhelm restore {photo}"),
    "3 megapixels": (three_megapixels, "flowhelm restore {photo}"),
}


# --- OpenCV ---


def rivals(
    name: str, came: np.ndarray, mask: np.ndarray | None, size: tuple[int, int]
) -> Iterator[tuple[str, np.ndarray]]:
    """Its usual tools for a kind of damage, each with several settings."""
    import cv2

    cv2.setNumThreads(1)
    grey = came.ndim == 2
    if name in ("high ISO", "strong JPEG", "grey picture", "3 megapixels"):
        for h in (10,) if name == "3 megapixels" else (3, 6, 10, 15, 20, 27):
            many = (
                cv2.fastNlMeansDenoising(came, None, h) if grey else cv2.fastNlMeansDenoisingColored(came, None, h, h)
            )
            yield "fastNlMeansDenoising", many
        for spread in (20, 40, 80):
            yield "bilateralFilter", cv2.bilateralFilter(came, -1, spread, 3 if spread > 20 else 2)
    if name == "unknown blur":
        for sigma in (1, 1.5, 2, 3):
            for amount in (0.3, 0.7, 1.2, 2):
                yield (
                    "unsharp mask",
                    cv2.addWeighted(came, 1 + amount, cv2.GaussianBlur(came, (0, 0), sigma), -amount, 0),
                )
    if name == "scratched scan":
        holes = 255 - mask if mask is not None else np.zeros(came.shape[:2], np.uint8)
        for radius in (2, 4, 8):
            yield "inpaint, Telea, our mask", cv2.inpaint(came, holes, radius, cv2.INPAINT_TELEA)
        yield "inpaint, Navier-Stokes, our mask", cv2.inpaint(came, holes, 3, cv2.INPAINT_NS)
        for side in (3, 5, 7):
            yield "medianBlur", cv2.medianBlur(came, side)
    if name == "small web picture":
        for how, word in ((cv2.INTER_LANCZOS4, "Lanczos"), (cv2.INTER_CUBIC, "cubic")):
            large = cv2.resize(came, size, interpolation=how)
            yield word, large
            for amount in (0.3, 0.7):
                yield (
                    f"{word}, unsharp",
                    cv2.addWeighted(large, 1 + amount, cv2.GaussianBlur(large, (0, 0), 1), -amount, 0),
                )
            yield f"{word}, detailEnhance", cv2.detailEnhance(large, sigma_s=5, sigma_r=0.1)
    if name == "faded print":
        for limit in (1.0, 2.0):
            space = cv2.cvtColor(came, cv2.COLOR_RGB2LAB)
            space[..., 0] = cv2.createCLAHE(limit, (8, 8)).apply(np.ascontiguousarray(space[..., 0]))
            yield "CLAHE", cv2.cvtColor(space, cv2.COLOR_LAB2RGB)
        yield (
            "normalize each channel",
            np.stack(
                [cv2.normalize(np.ascontiguousarray(came[..., k]), None, 0, 255, cv2.NORM_MINMAX) for k in range(3)], -1
            ),
        )
        yield (
            "equalizeHist each channel",
            np.stack([cv2.equalizeHist(np.ascontiguousarray(came[..., k])) for k in range(3)], -1),
        )


def best_rival(name: str, came: Image.Image, mask: Path, clean: Tensor) -> tuple[str, Tensor, float] | None:
    try:
        import cv2  # noqa: F401
    except ImportError:
        return None
    began = time.perf_counter()
    hidden = np.asarray(Image.open(mask)) if mask.exists() else None
    made = [(word, _tensor(y)) for word, y in rivals(name, np.asarray(came), hidden, clean.shape[:1:-1])]
    seconds = (time.perf_counter() - began) / len(made)
    word, best = max(made, key=lambda each: float(psnr(each[1], clean)))
    return word, best, seconds


def restored(name: str, out: Path) -> dict[str, str]:
    """Makes, restores, compares; the row of the table."""
    make, line = PICTURES[name]
    stem = name.replace(" ", "_")
    clean, came, suffix = make()
    work = out / "work"
    work.mkdir(parents=True, exist_ok=True)
    photo = work / f"{stem}{suffix}"
    came.save(photo, **({"quality": "keep"} if suffix == ".jpg" else {}))
    result = work / f"{stem}.restored.png"
    result.unlink(missing_ok=True)
    began = time.perf_counter()
    for command in line.format(photo=photo, stem=work / stem).split(" && "):
        if main(shlex.split(command)[1:]):
            sys.exit(1)
    seconds = time.perf_counter() - began
    grey = clean.shape[1] == 1
    before = read(photo, channels=1 if grey else 3).pixels
    if before.shape != clean.shape:
        before = torch.nn.functional.interpolate(before, clean.shape[-2:], mode="nearest")
    after = read(result, channels=1 if grey else 3).pixels if result.exists() else before
    rival = best_rival(name, came, work / f"{stem}.mask.png", clean)
    scores = [float(psnr(before, clean)), float(psnr(after, clean))]
    panels = [(f"as it came {scores[0]:.1f}", before), (f"restored {scores[1]:.1f}", after)]
    row = {
        "picture": name, "line": line.format(photo="photo" + suffix, stem="photo"), "came": f"{scores[0]:.2f}",
        "restored": f"{scores[1]:.2f}", "seconds": f"{seconds:.0f}", "opencv": "", "tool": "", "tool_seconds": "",
    }  # fmt: skip
    if rival is not None:
        word, best, spent = rival
        row |= {"opencv": f"{float(psnr(best, clean)):.2f}", "tool": word, "tool_seconds": f"{spent:.2f}"}
        panels.append((f"OpenCV {float(psnr(best, clean)):.1f}", best))
    panels.append(("the truth", clean))
    crop = (..., slice(0, 384), slice(0, 384)) if name == "3 megapixels" else (...,)
    strip([(word, each[crop]) for word, each in panels], height=288).convert("RGB").save(
        out / f"{stem}.jpg", quality=88
    )
    return row


if __name__ == "__main__":
    out = Path(sys.argv[1])
    rows = []
    for name in sys.argv[2:] or PICTURES:
        rows.append(restored(name, out))
        print(rows[-1], flush=True)
    with open(out / "photographer.csv", "w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    for row in rows:  # of the table in docs/photographer.md
        line = row["line"].replace(" && ", "` and `")
        print(f"| {row['picture']} | `{line}` | {row['came']} | {row['restored']} | {row['opencv']} ({row['tool']}) |")
    worse = [row["picture"] for row in rows if float(row["restored"]) < float(row["came"])]
    print(f"worse than it came: {', '.join(worse) or 'none'}")
