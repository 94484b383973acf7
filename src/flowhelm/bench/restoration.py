"""Restoration table: photographs x tasks x methods against what one gets without a prior.

    python -m flowhelm.bench.restoration test_photos.zip --folder CBSD68 --images 20 --size 256 --out table.csv

Every method sees the same measurement (noise std 0.05 on [-1, 1], one noise stream per picture) and the same source.
Rows are appended to the CSV file as they are finished; run the command again to go on, rows that exist are kept.
Evaluations and backward passes are counted, not declared.
"""

from __future__ import annotations

import csv
import io
import math
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from torch import Tensor

from ..control import flower
from ..flow import Flow, NetFlow
from ..guide import counted
from ..inner import adam
from ..measure import Measurement, simulate
from ..metrics import psnr, residual_ratio, ssim
from ..operators import baseline, box, deblur, random_mask, superres
from ..priors import load
from ..restore import dps, flow_dps, pnp_flow
from ..rng import Noise
from ..steer import mpc_flow, mpc_flow_dt
from ..step import Step, run

STD = 0.05
TASKS: dict[str, Callable[..., Any]] = {
    "deblur": partial(deblur, sigma=1.6, border="circular"),
    "superres": partial(superres, factor=2),
    "random": partial(random_mask, missing=0.7),
    "box": box,
}

Method = Callable[..., Iterator[Step]]


class Entry(NamedTuple):
    """A method with its settings for one task. `draws` says that it takes a `noise`."""

    method: Method
    steps: int
    draws: bool


def entries(task: str) -> dict[str, Entry]:
    """What is compared, in the settings of `SETTINGS`; strengths are multiples of 1 / std^2."""
    of = SETTINGS[task]
    unit = 1 / STD**2
    few = partial(adam, iterations=8, rate=0.1)
    renoised = partial(mpc_flow, renoise=1.0)
    return {
        "MPC-Flow K=1": Entry(partial(mpc_flow, strength=of["k1"] * unit), 32, False),
        "MPC-Flow K=1, renoise": Entry(partial(renoised, strength=of["renoise"] * unit), 50, True),
        "MPC-Flow K=1, renoise, flower": Entry(
            partial(renoised, strength=of["flower"] * unit, energy=flower), int(of["steps"]), True
        ),
        "PnP-Flow": Entry(partial(pnp_flow, decay=0.01, rate=of["pnp"]), 64, True),
        "FlowDPS": Entry(partial(flow_dps, rate=of["flow_dps"], inner=int(of["inner"])), 32, True),
        "DPS": Entry(partial(dps, step=of["dps"]), 32, False),
        "MPC-Flow K=2": Entry(partial(mpc_flow, strength=of["k2"] * unit, horizon=2, inner=few), 6, False),
        "MPC-Flow dt": Entry(partial(mpc_flow_dt, strength=of["dt"] * unit, inner=few), 6, False),
    }


# Chosen on eight centre crops of 128 x 128 of pictures that were held apart from the prior's training; a coarse search.
SETTINGS: dict[str, dict[str, float]] = {
    "deblur": {
        "k1": 0.25, "renoise": 0.5, "flower": 2.0, "steps": 50, "pnp": 1.9,
        "flow_dps": 1.9, "inner": 15, "dps": 10.0, "k2": 0.5, "dt": 0.3,
    },
    "superres": {
        "k1": 0.25, "renoise": 0.5, "flower": 1.0, "steps": 50, "pnp": 1.9,
        "flow_dps": 7.6, "inner": 5, "dps": 8.0, "k2": 0.1, "dt": 0.1,
    },
    "random": {
        "k1": 1.0, "renoise": 1.0, "flower": 2.0, "steps": 100, "pnp": 1.0,
        "flow_dps": 1.0, "inner": 3, "dps": 8.0, "k2": 1.0, "dt": 0.1,
    },
    "box": {
        "k1": 0.25, "renoise": 0.5, "flower": 1.5, "steps": 100, "pnp": 1.0,
        "flow_dps": 1.0, "inner": 3, "dps": 6.0, "k2": 0.25, "dt": 0.1,
    },
}  # fmt: skip


def baselines(task: str, y: Measurement) -> dict[str, Tensor]:
    """Restorations without a prior, by name."""
    if task == "deblur":
        return {"Wiener": baseline.wiener(y.y, y.operator, y.std)}
    if task == "superres":
        return {"bicubic": baseline.bicubic(y.y, 2)}
    mask = y.operator.mask[0]  # type: ignore[attr-defined]  # deepinv's inpainting physics
    return {"nearest": baseline.nearest(y.y, mask), "biharmonic": baseline.biharmonic(y.y, mask)}


def crops(archive: Path, folder: str, images: int, size: int) -> Tensor:
    """Centre crops of the first pictures (by name) that are large enough: `(images, 3, size, size)` in [-1, 1]."""
    from PIL import Image

    rows: list[Tensor] = []
    with zipfile.ZipFile(archive) as z:
        names = sorted(n for n in z.namelist() if n.startswith(folder) and n.lower().endswith((".jpg", ".png")))
        for name in names:
            picture = np.asarray(Image.open(io.BytesIO(z.read(name))).convert("RGB"))
            top, left = ((side - size) // 2 for side in picture.shape[:2])
            if min(top, left) >= 0 and len(rows) < images:
                rows.append(torch.from_numpy(picture[top : top + size, left : left + size].copy()).permute(2, 0, 1))
    if len(rows) < images:
        raise typer.BadParameter(
            f"expected {images} pictures of at least {size} pixels in {archive}/{folder}, got {len(rows)}"
        )
    return torch.stack(rows).float() / 127.5 - 1


def evaluate(flow: Flow, task: str, clean: Tensor, chosen: Sequence[str], seed: int) -> Iterator[dict[str, object]]:
    """One row per picture for each baseline and each chosen entry that is not in the file yet."""
    y = simulate(TASKS[task](tuple(clean.shape[1:])), clean, STD, Noise(seed, len(clean)).named("measurement"))

    def rows(name: str, image: Tensor, cost: tuple[int, int, float]) -> Iterator[dict[str, object]]:
        scores = zip(psnr(image, clean), ssim(image, clean), residual_ratio(y.residual(image), STD), strict=True)
        for i, (p, s, r) in enumerate(scores):
            yield {
                "task": task,
                "method": name,
                "image": i,
                "psnr": f"{float(p):.4f}",
                "ssim": f"{float(s):.5f}",
                "residual": f"{float(r):.4f}",
                "evaluations": cost[0],
                "backward": cost[1],
                "seconds": f"{cost[2]:.2f}",
            }

    if "baselines" in chosen:
        for name, image in baselines(task, y).items():
            yield from rows(name, image, (0, 0, 0.0))
    for name, entry in entries(task).items():
        if name in chosen:
            tally, noise, began = counted(flow), Noise(seed, len(clean)), time.perf_counter()
            x = flow.source(noise)
            options = {"noise": noise} if entry.draws else {}
            last = run(entry.method(tally, y, x, flow.times(entry.steps), **options))
            cost = (tally.count.calls, tally.count.backward, (time.perf_counter() - began) / len(clean))
            yield from rows(name, flow.decode(last.x), cost)


def table(path: Path) -> str:
    """Markdown: mean PSNR, SSIM, residual / std, cost, and the paired margin over the best baseline with its 95 % interval."""
    rows = list(csv.DictReader(path.open(newline="")))
    lines = []
    for task in dict.fromkeys(r["task"] for r in rows):
        of = {
            m: [r for r in rows if r["task"] == task and r["method"] == m]
            for m in dict.fromkeys(r["method"] for r in rows)
        }
        of = {m: sorted(r, key=lambda row: int(row["image"])) for m, r in of.items() if r}
        mean = {m: sum(float(r["psnr"]) for r in rs) / len(rs) for m, rs in of.items()}
        plain = [m for m in of if m in ("Wiener", "bicubic", "nearest", "biharmonic")]
        reference = max(plain, key=mean.__getitem__)
        count = len(of[reference])
        lines += [f"\n**{task}**, {count} pictures, margin over {reference}\n"]
        lines += [
            "| method | PSNR | SSIM | residual/std | evaluations | backward | s/picture | margin dB (95 %) | wins |"
        ]
        lines += ["| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
        for m, rs in of.items():
            gains = torch.tensor([float(a["psnr"]) - float(b["psnr"]) for a, b in zip(rs, of[reference], strict=True)])
            half = 1.96 * float(gains.std()) / math.sqrt(len(gains)) if len(gains) > 1 else float("nan")
            margin = "-" if m == reference else f"{float(gains.mean()):+.2f} ± {half:.2f}"
            wins = "-" if m == reference else f"{int((gains > 0).sum())}/{count}"
            average = {k: sum(float(r[k]) for r in rs) / len(rs) for k in ("ssim", "residual", "seconds")}
            lines.append(
                f"| {m} | {mean[m]:.2f} | {average['ssim']:.3f} | {average['residual']:.2f} | {rs[0]['evaluations']} | "
                f"{rs[0]['backward']} | {average['seconds']:.1f} | {margin} | {wins} |"
            )
    return "\n".join(lines)


def main(
    archive: Annotated[Path, typer.Argument(help="zip archive of photographs")],
    folder: Annotated[str, typer.Option(help="folder inside the archive")] = "CBSD68",
    images: Annotated[int, typer.Option(help="how many, by name")] = 20,
    size: Annotated[int, typer.Option(help="side of the centre crops in pixels")] = 256,
    task: Annotated[list[str] | None, typer.Option(help="deblur, superres, random, box; all if not given")] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="rows to compute, 'baselines' among them; all if not given")
    ] = None,
    prior: Annotated[str, typer.Option(help="bundled prior or weights file")] = "photos",
    seed: Annotated[int, typer.Option()] = 0,
    out: Annotated[Path, typer.Option(help="CSV file, appended to")] = Path("restoration.csv"),
) -> None:
    """Restore photographs with every method; print means, costs and margins over the baselines."""
    clean = crops(archive, folder, images, size)
    flow: NetFlow = load(prior).sized(size, size)
    done = {(r["task"], r["method"]) for r in csv.DictReader(out.open(newline=""))} if out.exists() else set()
    with out.open("a", newline="") as f:
        writer: csv.DictWriter[str] | None = None
        for t in task or list(TASKS):
            wanted = method or ["baselines", *entries(t)]
            for m in wanted:
                if (t, m) in done or (
                    m == "baselines" and any(d[0] == t and d[1] in ("Wiener", "bicubic", "biharmonic") for d in done)
                ):
                    continue
                print(f"{time.strftime('%H:%M:%S')} {t}: {m} ...", flush=True)
                for row in evaluate(flow, t, clean, [m], seed):
                    writer = writer or csv.DictWriter(f, list(row))
                    if f.tell() == 0:
                        writer.writeheader()
                    writer.writerow(row)
                f.flush()
    print(table(out))


if __name__ == "__main__":
    typer.run(main)
