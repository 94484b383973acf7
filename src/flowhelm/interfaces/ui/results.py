"""What came of runs, as pictures, tables and words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ...app.files.pictures import read, to_pil
from ...app.restore import record
from ...app.restore.request import RestoreSettings
from ...metrics import posterior_maps
from . import folder

HOT = ((0, 0, 0), (96, 24, 110), (204, 62, 62), (250, 154, 40), (255, 246, 170))
ROW = ["when", "picture or prior", "task or reward", "method", "evaluations", "time", "score", "run"]


def pair(settings: RestoreSettings) -> tuple[Image.Image, Image.Image]:
    """Before and after, of one size: what was measured, and what was restored."""
    out = Path(settings.out or "")
    degraded = record.outputs(out)["degraded"]
    before = _opened(degraded if settings.simulate and degraded.is_file() else Path(settings.photo or ""))
    after = _opened(out)
    return before if before.size == after.size else before.resize(after.size, Image.Resampling.NEAREST), after


def spread(pictures: Sequence[Path]) -> tuple[Image.Image, Image.Image, float]:
    """Mean of samples, their standard deviation laid over it in colour, and what the hottest colour stands for, in 8-bit levels."""
    levels = torch.stack([torch.from_numpy(np.array(_opened(path))) for path in pictures]).movedim(-1, 1).float()
    maps = posterior_maps(levels)
    mean, deviation = maps.mean.movedim(0, -1).numpy(), maps.std.mean(0).numpy()
    top = max(float(np.quantile(deviation, 0.995)), 1e-6)
    share = np.clip(deviation / top, 0, 1)
    colours = np.stack([np.interp(share, np.linspace(0, 1, len(HOT)), [c[i] for c in HOT]) for i in range(3)], -1)
    grey = np.repeat(mean.mean(-1, keepdims=True), 3, -1)
    weight = 0.25 + 0.65 * share[..., None]
    return _image(mean), _image((1 - weight) * grey * 0.7 + weight * colours), top


def large(picture: Any) -> Image.Image:
    """A small picture by repetition, so that its pixels show."""
    found = to_pil(picture)
    times = max(1, 256 // max(found.size))
    return found.resize((found.width * times, found.height * times), 0)


def costs(runs: Sequence[folder.Run]) -> tuple[list[str], list[list[str]]]:
    """Head and lines of a table: what each restoration was, what it cost, and how well it did, if that is known."""
    scored = any(each.result.psnr is not None for each in runs)
    head = ["run", "task", "method", "prior", "noise", "seed", "steps", "evaluations", "seconds", "misfit"]
    lines = []
    for i, each in enumerate(runs):
        settings, result = each.settings, each.result
        line = [
            f"{chr(ord('A') + i)}, {each.when}", settings.operator, settings.method, Path(settings.prior).stem, f"{settings.std:g}",
            str(settings.seed), str(settings.step_count), str(result.evaluations), f"{result.seconds:.1f}", _short(result.residual),
        ]  # fmt: skip
        lines.append(line + ([_short(result.psnr), _short(result.ssim, 3)] if scored else []))
    return head + ["PSNR", "SSIM"] * scored, lines


def row(run: folder.Run) -> list[str]:
    """A line of the history."""
    settings, result = run.settings, run.result
    if run.steered:
        task, score = " + ".join(settings.reward), "" if result.reward is None else f"reward {result.reward:.4g}"
    else:
        task, score = settings.operator, "" if result.psnr is None else f"{result.psnr:.2f} dB"
    return [
        run.when, run.what, task, settings.method, str(result.evaluations), f"{result.seconds:.1f} s", score,
        run.name.removesuffix(folder.END),
    ]  # fmt: skip


def line(run: folder.Run) -> str:
    """A restoration in a list to choose from."""
    settings, name = run.settings, Path(run.name).name.removesuffix(folder.END)
    score = "" if run.result.psnr is None else f", {run.result.psnr:.2f} dB"
    steps = settings.step_count
    return f"{run.when}  {name}: {settings.operator}, {settings.method}, {steps} step{'s' * (steps != 1)}{score}"


def _opened(path: Path) -> Image.Image:
    return to_pil(read(path).pixels).convert("RGB")


def _image(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))


def _short(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"
