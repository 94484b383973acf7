"""How well `flowhelm mask` finds scratches, dust and creases, and what filling them in gains.

    python -m flowhelm.bench.quality.flaws --data test_photos.zip

Each picture is given scratches, dust and a crease (`recipes.scratched`). Recall counts damaged pixels that are marked or beside a mark,
precision marked ones that are damaged or beside damage. PSNR is of the whole picture: as it came, filled in by the default of
`flowhelm restore --operator inpaint` behind the mask that was found, and behind the true one. On the clean pictures themselves it is
counted on how many `flowhelm look` speaks of scratches, and of the damaged ones likewise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from torch import Tensor
from torch.nn import functional as fn

from ...app.files.dataset import whole
from ...app.files.pictures import Picture, to_pil
from ...app.restore.mask import believed
from ...app.restore.restorer import Restorer
from ...flaws import flaws
from ...known import PHOTOS
from ...metrics import psnr
from ...recipes.scratched import scratched
from ...start import filled


def found(marked: Tensor, damage: Tensor) -> tuple[float, float]:
    """Recall and precision of masks that are 1 where something is, a pixel beside it allowed."""

    def wide(mask: Tensor) -> Tensor:
        return fn.max_pool2d(mask, 3, 1, 1)

    recall = float((damage * wide(marked)).sum() / damage.sum())
    return recall, float((marked * wide(damage)).sum() / marked.sum().clamp(min=1))


def main(
    data: Annotated[Path, typer.Option(help="zip archive of clean pictures")],
    folder: Annotated[str, typer.Option(help="of the archive")] = "CBSD68",
    restored: Annotated[int, typer.Option(min=0, help="how many, evenly spaced, are restored by the prior, too")] = 8,
    every: Annotated[int, typer.Option(min=1, help="which of the pictures, counted from the first")] = 1,
    sensitivity: Annotated[float, typer.Option(min=0, max=1, help="of the mask")] = 0.6,
    size: Annotated[int, typer.Option(min=64, help="side of the crops that are restored")] = 256,
) -> None:
    """Damage, mark, fill in, and print a line for each picture."""
    photos = list(enumerate(whole(data, folder)))[::every]
    restorer, rows = Restorer(PHOTOS), []
    chosen = {round(i * len(photos) / max(restored, 1)) for i in range(restored)}
    for k, (i, (name, picture)) in enumerate(photos):
        clean = picture[None]
        damaged, truth = scratched(clean, 1000 + i)
        bare = flaws(damaged, sensitivity=sensitivity)
        known = 1 - fn.max_pool2d(1 - bare, 3, 1, 1)
        row = [*found(1 - bare, 1 - truth)]
        row += [float(psnr(each, clean)) for each in (damaged, filled(damaged, known), filled(damaged, truth))]
        row += [float(believed(Picture(clean))), float(believed(Picture(damaged)))]
        row += [float(1 - flaws(clean, sensitivity=sensitivity).mean())]
        if k in chosen:
            place = (..., slice(size), slice(size))
            row.append(float(psnr(damaged[place], clean[place])))
            for mask in (known, truth):
                made = restorer(
                    damaged[place][0], "inpaint", operator_options={"mask": to_pil(mask[place] * 2 - 1)}, std=0.02
                )
                row.append(float(psnr(made.picture[None], clean[place])))
        rows.append(row)
        said = f"recall {row[0]:.2f}, precision {row[1]:.2f}; {row[2]:.2f} -> {row[3]:.2f} (true mask {row[4]:.2f}) dB"
        by = "; restored {:.2f} -> {:.2f} ({:.2f})".format(*row[8:]) if k in chosen else ""
        print(f"{Path(name).stem:8} {said}{by}{', clean one believed' * bool(row[5])}", flush=True)
    mean = [sum(row[k] for row in rows) / len(rows) for k in range(8)]
    more = [row[8:] for row in rows if len(row) > 8]
    print(f"\n{len(rows)} pictures: recall {mean[0]:.2f}, precision {mean[1]:.2f}")
    print(f"filled by a smooth surface: {mean[2]:.2f} -> {mean[3]:.2f}, true mask {mean[4]:.2f} dB; "
          f"worse than it came: {sum(row[3] < row[2] for row in rows)}")  # fmt: skip
    if more:
        means = [sum(row[k] for row in more) / len(more) for k in range(3)]
        print(f"filled by the prior, {len(more)}: {means[0]:.2f} -> {means[1]:.2f}, true mask {means[2]:.2f} dB; "
              f"worse than it came: {sum(row[1] < row[0] for row in more)}")  # fmt: skip
    print(
        f"look speaks of scratches: {sum(row[5] for row in rows):.0f} clean, {sum(row[6] for row in rows):.0f} damaged pictures"
    )
    print(f"marked on the clean ones: {100 * mean[7]:.2f} %")


if __name__ == "__main__":
    typer.run(main)
