"""The pictures of the gallery: python examples/gallery.py FOLDER [NAME ...]

Or strips of before and after, stacked into one picture: python examples/gallery.py OUT.png STRIP.png [STRIP.png ...]

Each picture of the gallery is what one command makes; the commands stand on the page, docs/gallery.md.
"""

import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import flowhelm
from flowhelm import metrics
from flowhelm.app.files.pictures import read
from flowhelm.app.show.strip import strip
from flowhelm.interfaces.cli import main

HERE = Path(__file__).parent
HEIGHT = 256

# name: the picture, the clean one (or the part of the picture to degrade), and what is asked for
TASKS: dict[str, tuple[str, str | tuple[int, int, int], dict[str, Any]]] = {
    "deblur": (
        "astronaut_blurred.png", "astronaut.png",
        {"operator": "deblur", "operator_options": {"sigma": 1.6}, "std": 0.05},
    ),
    "inpaint": (
        "chelsea_scratched.png", "chelsea.png",
        {"operator": "inpaint", "operator_options": {"mask": HERE / "chelsea_mask.png"}},
    ),
    "superres": ("coffee_small.png", "coffee.png", {"operator": "superres", "operator_options": {"factor": 2}}),
    "box": ("coffee.png", (64, 64, 256), {"operator": "box", "operator_options": {"size": 48}, "std": 0.02}),
    "denoise": ("chelsea.png", (0, 0, 256), {"operator": "denoise", "std": 0.3}),
    "colorize": ("chelsea.png", (0, 0, 256), {"operator": "colorize"}),
    "jpeg": ("coffee.png", (64, 64, 256), {"operator": "jpeg", "operator_options": {"quality": 10}}),
    "phase": ("astronaut.png", (40, 60, 96), {"operator": "phase", "std": 0.01}),
}  # fmt: skip


@cache
def restorer() -> flowhelm.Restorer:
    return flowhelm.Restorer("photos-2")


def restored(name: str) -> Image.Image:
    """Before, after, and the truth."""
    file, reference, asked = TASKS[name]
    if isinstance(reference, str):
        made, shown = restorer()(HERE / file, **asked), read(HERE / file).pixels
        clean = read(HERE / reference).pixels
    else:
        top, left, side = reference
        clean = read(HERE / file).pixels[..., top : top + side, left : left + side]
        ready = restorer().prepare(clean[0], simulate=True, **asked)
        y = ready.problem.observed.measurement.y
        made, shown = restorer().run(ready), None if name == "phase" else y
        clean = ready.problem.picture.pixels
    before = [] if shown is None else [("input" + _decibels(shown, clean), shown)]
    picture, turned = made.picture[None], ""
    if name == "phase" and metrics.psnr(picture.flip(-2, -1), clean) > metrics.psnr(picture, clean):
        picture, turned = picture.flip(-2, -1), ", turned"  # a picture and its half turn measure alike
    after = ("restored" + turned + _decibels(picture, clean), picture)
    print(f"{name}: {made.settings['method']}, {made.evaluations} evaluations in {made.seconds:.0f} s")
    return strip([*before, after, ("clean", clean)], height=HEIGHT)


def steered() -> Image.Image:
    """Bags of the prior `fashion`, as they come and bright ones: the same seeds."""
    plain = flowhelm.generate("fashion", classes=["bag"], count=4, steps=25)
    with tempfile.TemporaryDirectory() as folder:
        words = "steer fashion --class bag -n 4 --reward brightness --method svdd --budget 400 --out"
        if status := main([*words.split(), str(Path(folder) / "bags")]):
            sys.exit(status)
        found = [read(path, channels=1).pixels for path in sorted(Path(folder).glob("bags.bag-*.best.png"))]
    return strip(
        [("as they come", row(list(plain[:, None]))), ("steered to brightness", row(found))], height=HEIGHT // 2
    )


def row(pictures: list[Tensor]) -> Tensor:
    """Pictures side by side, each pixel as 4 x 4."""
    whole = torch.cat(pictures, -1)
    return whole.repeat_interleave(4, -1).repeat_interleave(4, -2)


def _decibels(picture: Tensor, clean: Tensor) -> str:
    return f" {metrics.psnr(picture.cpu(), clean).item():.1f} dB" if picture.shape == clean.shape else ""


def stacked(paths: list[Path]) -> Image.Image:
    rows = [Image.open(path).convert("RGB") for path in paths]
    width = max(row.width for row in rows)
    rows = [row.resize((width, round(row.height * width / row.width)), Image.Resampling.LANCZOS) for row in rows]
    sheet = Image.new("RGB", (width, sum(row.height for row in rows)), "white")
    top = 0
    for each in rows:
        sheet.paste(each, (0, top))
        top += each.height
    return sheet


if __name__ == "__main__":
    out, *rest = map(Path, sys.argv[1:])
    if out.suffix:
        stacked(rest).save(out)
    else:
        out.mkdir(parents=True, exist_ok=True)
        for name in map(str, rest or [*TASKS, "steering"]):
            picture = steered() if name == "steering" else restored(name)
            picture.save(out / f"{name}.jpg", quality=90)
