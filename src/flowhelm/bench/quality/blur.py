"""How well an unknown blur is undone: Gaussians of 0.8 to 3 pixels, discs and lines, with noise, beside the same by who knows them.

    python -m flowhelm.bench.quality.blur --data test_photos.zip --cases 40

A picture is blurred, what the blur reaches beyond is cut off, and noise is added, rounded and clipped to 8 bits. It is restored as
`flowhelm restore --operator deblur --kernel auto` does it, noise estimated as well, and by the default method with the true kernel and the
true noise. The loss is in PSNR. What the command warns of is counted apart. With --estimate
nothing is restored: the kernel and its size alone.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from torch import Tensor
from torch.nn import functional as fn

from ...app.files.dataset import whole
from ...app.restore import blur, noise
from ...app.restore.restorer import Restored, Restorer
from ...blur_kind import blur_kind
from ...known import PHOTOS
from ...metrics import psnr
from ...operators.blur import KERNELS, kernel_of
from ...rng import Noise

STDS = (0.01, 0.02, 0.03)
UNIT = 127.5
NEAR, BELOW = 1.0, 0.1
"""dB: how near to the known blur counts as near, and how far below its input a result may be."""


class Case(NamedTuple):
    """A picture that was blurred. `true`: options of `deblur`."""

    name: str
    true: dict[str, Any]
    std: float
    clean: Tensor
    y: Tensor


def kinds(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Half of them Gaussians of 0.8 to 3 pixels, a quarter discs of radius 1.5 to 5, a quarter lines of 4 to 15 pixels at any angle."""
    rng = np.random.default_rng(seed)
    found: list[dict[str, Any]] = []
    for i in range(count):
        share = rng.random()
        if i % 4 == 1:
            found.append({"kernel": "disc", "sigma": (1.5 + 3.5 * share) / 2})
        elif i % 4 == 3:
            found.append({"kernel": "line", "sigma": (4 + 11 * share) / math.sqrt(12), "angle": 180 * rng.random()})
        else:
            found.append({"kernel": "gaussian", "sigma": 0.8 * (3 / 0.8) ** share})
    return found


def blurred(picture: Tensor, true: dict[str, Any], std: float, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """The middle of a clean picture `(3, size, size)`, and what a file holds of it after blur and noise."""
    kernel = kernel_of(**true)
    y = fn.conv2d(picture[:, None], kernel.flip(0, 1)[None, None])[:, 0]
    top, left = ((side - size) // 2 for side in y.shape[-2:])
    rows, columns = (side // 2 for side in kernel.shape)
    clean = picture[:, rows + top : rows + top + size, columns + left : columns + left + size]
    y = y[:, top : top + size, left : left + size]
    y = y + std * Noise(seed, [0])(y[None])[0]
    return clean, ((y + 1) * UNIT).round().clamp(0, 255) / UNIT - 1


def made(data: Path, folder: str, cases: int, size: int) -> list[Case]:
    room = size + 60
    photos = [(name, p) for name, p in whole(data, folder) if min(p.shape[-2:]) >= room]
    found = []
    for i, true in enumerate(kinds(cases)):
        name, picture = photos[(7 * i) % len(photos)]
        found.append(Case(Path(name).stem, true, STDS[i % 3], *blurred(picture, true, STDS[i % 3], size, i)))
    return found


def main(
    data: Annotated[Path, typer.Option(help="zip archive of pictures")],
    prior: Annotated[str, typer.Option(help="bundled prior or weights file")] = PHOTOS,
    cases: Annotated[int, typer.Option(min=4, help="how many")] = 40,
    folder: Annotated[str, typer.Option(help="of the archive")] = "CBSD68",
    size: Annotated[int, typer.Option(min=64, help="side of the pictures")] = 192,
    skip: Annotated[int, typer.Option(min=0, help="so many cases of them are left out, from the first on")] = 0,
    estimate: Annotated[bool, typer.Option("--estimate", help="do not restore: the kernel and its size alone")] = False,
) -> None:
    """Restore each case without and with its blur known, and print a line for each kind."""
    if estimate:
        _estimates(made(data, folder, cases, size)[skip:])
        return
    restorer = Restorer(prior, threads=torch.get_num_threads())
    rows: list[dict[str, Any]] = []
    for case in made(data, folder, cases, size)[skip:]:
        began = time.process_time()
        blind = restorer(case.y, "deblur", operator_options={"kernel": "auto"})
        middle = time.process_time()
        known = restorer(case.y, "deblur", std=case.std, operator_options=case.true)
        ratio = (middle - began) / (time.process_time() - middle)
        rows.append(_row(case, blind, known, ratio))
        print(rows[-1]["text"], flush=True)
    print("\n| blur | cases | named | within 1 dB | mean loss | worst | below the input | of them told | time |")
    print("| --- " * 9 + "|")
    for kind in (*dict.fromkeys(r["kind"] for r in rows), "all"):
        some = [r for r in rows if kind in ("all", r["kind"])]
        below = [r for r in some if r["gain"] < -BELOW]
        print(
            f"| {kind} | {len(some)} | {sum(r['named'] for r in some)} | {sum(r['loss'] < NEAR for r in some)} "
            f"({np.mean([r['loss'] < NEAR for r in some]):.0%}) | {np.mean([r['loss'] for r in some]):.2f} dB | "
            f"{max(r['loss'] for r in some):.2f} dB | {len(below)} | {sum(r['told'] for r in below)} | "
            f"{np.median([r['ratio'] for r in some]):.1f} x |"
        )
    print(f"\nwarned of: {sum(r['told'] for r in rows)} of {len(rows)}")


def _true(case: Case) -> str:
    return blur.words({"angle": 0, **case.true, "sigma": round(case.true["sigma"], 2)})


def _estimates(cases: list[Case]) -> None:
    """Prints how well kernels are named and sizes are met."""
    rows: list[tuple[str, bool, float]] = []
    for case in cases:
        found = blur_kind(case.y[None], max(noise.level(case.y[None], None), noise.LEAST_OTHER), KERNELS)
        if found is not None:
            kind = str(case.true["kernel"])
            rows.append((kind, found.kernel == kind, found.sigma / float(case.true["sigma"]) - 1))
            print(
                f"{case.name:8} noise {case.std:g}, {_true(case)}: "
                f"{blur.words(found._asdict())}, evidence {found.evidence:.0f}",
                flush=True,
            )
    print(
        "\n| blur | cases | named | size within 10 % | mean error of the size | worst of the named |\n"
        + "| --- " * 6
        + "|"
    )
    for kind in (*dict.fromkeys(r[0] for r in rows), "all"):
        some = [r for r in rows if kind in ("all", r[0])]
        off = [abs(r[2]) for r in some if r[1]]
        near = sum(each < 0.1 for each in off)
        print(f"| {kind} | {len(some)} | {len(off)} | {near} | {np.mean(off):.1%} | {max(off):.1%} |")


def _row(case: Case, blind: Restored, known: Restored, ratio: float) -> dict[str, Any]:
    found = blind.settings["operator_options"]
    before, without, with_ = (float(psnr(p[None], case.clean[None])) for p in (case.y, blind.picture, known.picture))
    told = blind.settings.get("blurred") != "believed"
    text = (
        f"{case.name:8} noise {case.std:g}, {_true(case)}: taken for {blur.words(found)}"
        f"{' (warned)' * told}; {before:.2f} dB -> {without:.2f} (known {with_:.2f}), {ratio:.1f} times as long"
    )
    kind = case.true["kernel"]
    return {
        "kind": kind, "named": found["kernel"] == kind, "loss": with_ - without, "gain": without - before, "told": told, "ratio": ratio,
        "text": text,
    }  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
