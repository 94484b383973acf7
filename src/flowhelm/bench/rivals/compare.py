"""Our samplers against those of deepinv and azula: same prior, operators, measurements and evaluations, in the same run.

    python -m flowhelm.bench.rivals.compare --library deepinv --data test_photos.zip --task deblur --tune 2 --csv rivals.csv
    python -m flowhelm.bench.rivals.compare --library deepinv --data test_photos.zip --images 20 --size 128 --evaluations 50

The first finds the settings (both sides get the same number of trials on the last pictures by name, which the table does not
use), the second makes the table with them. Theirs run as their documentation has it, with our prior handed over in their own
interface. Every picture is restored alone, the two sides of a pair one after the other in alternating order, on one thread.
Evaluations, backward passes and the seconds inside the network are counted at the network, so what is left of the seconds is
the loop. Rows are appended to the CSV file; run the command again to go on.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from ...app.files.dataset import pictures
from ...flow import Flow
from ...known import PHOTOS
from ...measure import LinearOperator, Measurement, simulate
from ...metrics import psnr, residual_ratio, ssim
from ...operators import box, deblur, denoise, random_mask, superres
from ...priors.bundled import load
from ...rng import Noise
from ...step import Diverged
from .. import kept
from ..intervals import interval
from .ours import DEFAULT, OURS, Contestant, Metered, Problem, Rival, Setting

TASKS: dict[str, Callable[..., LinearOperator]] = {
    "deblur": partial(deblur, sigma=1.6, border="circular"),
    "superres": partial(superres, factor=2),
    "random": partial(random_mask, missing=0.7),
    "box": box,
    "denoise": denoise,
}
STD = {"denoise": 0.2}  # the others 0.05
LIBRARIES = ("deepinv", "azula")

# What `--tune` found, by task and "library sampler" (or ours); where nothing is said, the first of the trials.
SETTINGS: dict[str, dict[str, Setting]] = {}


def rivals(library: str) -> dict[str, Rival]:
    """The library's samplers by name.

    Raises:
        ValueError: unknown library, or one that is not installed.
    """
    try:
        if library == "deepinv":
            from .deepinv import RIVALS
        elif library == "azula":
            from .azula import RIVALS
        else:
            raise ValueError(f"library: expected one of {', '.join(LIBRARIES)}, got '{library}'")
    except ImportError as error:
        raise ValueError(f"library: '{library}' cannot be imported ({error}); pip install {library}") from None
    return RIVALS


def observed(task: str, clean: Tensor, noise: Noise) -> Measurement:
    """The measurement of pictures `(b, c, h, w)`. What a mask hides holds no noise, as in deepinv: else it would only
    lengthen the residual whose norm DPS divides by."""
    y = simulate(TASKS[task](tuple(clean.shape[1:])), clean, STD.get(task, 0.05), noise.named("measurement"))
    if task not in ("random", "box"):
        return y
    assert isinstance(y.operator, LinearOperator)
    return replace(y, y=y.operator.A(y.y))  # a mask is a projection


class Bench:
    """The rows of one command and the CSV file that they are kept in.

    Args:
        key: what all rows share: library, evaluations, size, seed.
    """

    def __init__(self, flow: Flow, key: dict[str, str], evaluations: int, seed: int, out: Path | None):
        self.flow, self.key, self.evaluations, self.seed, self.out = flow, key, evaluations, seed, out
        stored = kept.stored(out)
        self.rows = [r for r in stored if all(r[k] == v for k, v in key.items())]
        self.spent, self.made, self.left = 0.0, 0, 0

    def row(
        self, part: str, task: str, picture: str, clean: Tensor, by: str, name: str, who: Contestant, setting: Setting
    ) -> dict[str, str]:
        """The row from the file, or a new one; clean is one picture `(1, c, h, w)`."""
        key = self.key | {
            "part": part, "task": task, "picture": picture, "by": by, "method": name,
            "setting": spelled(setting),
        }  # fmt: skip
        self.left -= 1
        for old in self.rows:
            if all(old[k] == v for k, v in key.items()):
                return old
        noise = partial(Noise, self.seed, [(task, picture)])
        y = observed(task, clean, noise())
        problem = Problem(Metered(self.flow), y, self.evaluations, noise, partial(TASKS[task], tuple(clean.shape[1:])))
        solve = who.prepare(problem, **setting)
        began = time.perf_counter()
        try:
            image = solve()
        except Diverged:  # theirs return what is not finite; a trial may end so
            image = torch.full_like(clean, torch.nan)
        seconds = time.perf_counter() - began
        meter = problem.flow.meter
        row = key | {
            "psnr": f"{float(psnr(image, clean)):.4f}", "ssim": f"{float(ssim(image, clean)):.5f}",
            "residual": f"{float(residual_ratio(y.residual(image), y.std)):.4f}",
            "forward": str(meter.forward), "backward": str(meter.backward),
            "seconds": f"{seconds:.4f}", "network": f"{meter.seconds:.4f}",
        }  # fmt: skip
        self._keep(row)
        self.spent, self.made = self.spent + seconds, self.made + 1
        print(
            f"\r{task}, {picture}: {name}, {self.spent / self.made * self.left / 60:.0f} min left  ",
            end="",
            file=sys.stderr,
        )
        return row

    def _keep(self, row: dict[str, str]) -> None:
        self.rows.append(row)
        if self.out is None:
            return
        kept.append(self.out, row)

    def setting(self, task: str, name: str, who: Contestant) -> Setting:
        """The best that was tried in this file, else that of `SETTINGS`, else the documented one."""
        tried: dict[str, list[float]] = {}
        for r in self.rows:
            if (r["part"], r["task"], r["method"]) == ("tune", task, name):
                tried.setdefault(r["setting"], []).append(float(r["psnr"]))
        complete = {s: values for s, values in tried.items() if len(values) == max(map(len, tried.values()))}
        if len(complete) == len(who.trials):
            finite = {s: statistics.mean(v) for s, v in complete.items() if all(map(math.isfinite, v))}
            if finite:
                return dict(json.loads(max(finite, key=finite.__getitem__)))
        return SETTINGS.get(task, {}).get(name, who.trials[0])


def spelled(setting: Setting) -> str:
    """As the file has it."""
    return json.dumps(setting, sort_keys=True)


def contestants(library: str, chosen: Sequence[str]) -> dict[str, tuple[str, Contestant]]:
    """Everyone in the pairs: name -> (by whom, sampler). Names of the other library's begin with its name."""
    all_ = {f"{library} {name}": (library, rival.theirs) for name, rival in chosen_of(library, chosen).items()}
    ours = dict.fromkeys([*(rival.ours for rival in chosen_of(library, chosen).values()), DEFAULT])
    return all_ | {name: ("flowhelm", OURS[name]) for name in ours}


def chosen_of(library: str, chosen: Sequence[str]) -> dict[str, Rival]:
    """The library's samplers named in `chosen`, all if it is empty."""
    known = rivals(library)
    if unknown := [name for name in chosen if name not in known]:
        raise ValueError(f"method: expected some of {', '.join(known)}, got '{unknown[0]}'")
    return {name: rival for name, rival in known.items() if not chosen or name in chosen}


def tune(bench: Bench, tasks: Sequence[str], clean: Tensor, library: str, chosen: Sequence[str]) -> None:
    """Tries every setting on the pictures and prints the best as an entry of `SETTINGS`."""
    everyone = contestants(library, chosen)
    bench.left = len(tasks) * len(clean) * sum(len(who.trials) for _, who in everyone.values())
    for task in tasks:
        for name, (by, who) in everyone.items():
            for setting in who.trials:
                for i, picture in enumerate(clean):
                    bench.row("tune", task, f"apart {i}", picture[None], by, name, who, setting)
        print(f'\r    "{task}": {{')
        for name, (_, who) in everyone.items():
            print(f'        "{name}": {dict(bench.setting(task, name, who))},')
        print("    },", flush=True)


def compare(bench: Bench, tasks: Sequence[str], clean: Tensor, library: str, chosen: Sequence[str]) -> None:
    """Every pair on every picture, and the default for reference."""
    of = chosen_of(library, chosen)
    bench.left = len(tasks) * len(clean) * (2 * len(of) + 1)
    for task in tasks:
        for i, picture in enumerate(clean):
            for name, rival in of.items():
                sides = [
                    (library, f"{library} {name}", rival.theirs),
                    (f"flowhelm against {name}", rival.ours, OURS[rival.ours]),
                ]
                for by, known, who in sides[:: 1 if i % 2 else -1]:  # who goes first alternates
                    bench.row("table", task, str(i), picture[None], by, known, who, bench.setting(task, known, who))
            who = OURS[DEFAULT]
            bench.row("table", task, str(i), picture[None], "flowhelm", DEFAULT, who, bench.setting(task, DEFAULT, who))


def table(rows: Sequence[Mapping[str, str]], library: str) -> str:
    """Markdown: per task and pair the means, the paired difference in PSNR with its 95 % interval, the paired ratio of seconds."""
    rows = [r for r in rows if r["part"] == "table" and r["library"] == library]
    lines = []
    for task in dict.fromkeys(r["task"] for r in rows):
        here = [r for r in rows if r["task"] == task]
        lines += [f"\n**{task}**, {len({r['picture'] for r in here})} pictures\n"]
        lines += [
            "| theirs | ours | PSNR theirs | ours | ours - theirs (95 %) | better on | SSIM theirs | ours | evaluations, backward "
            "theirs | ours | s/picture theirs | ours | seconds ours/theirs (quartiles) | outside the network, theirs | ours "
            f"| {DEFAULT} - theirs (95 %) | seconds {DEFAULT}/theirs (quartiles) |"
        ]
        lines += ["| --- |" + " --- |" * 16]
        rest = {r["picture"]: r for r in here if r["by"] == "flowhelm"}
        for name in dict.fromkeys(r["method"] for r in here if r["by"] == library):
            short = name.removeprefix(f"{library} ")
            theirs = {r["picture"]: r for r in here if r["method"] == name}
            ours = {r["picture"]: r for r in here if r["by"] == f"flowhelm against {short}"}
            both = [(theirs[p], ours[p], rest[p]) for p in theirs if p in ours and p in rest]
            if both:
                lines.append(_line(short, both))
        if rest:
            mean = {k: statistics.mean(float(r[k]) for r in rest.values()) for k in ("psnr", "ssim", "seconds")}
            one = next(iter(rest.values()))
            lines.append(
                f"\n{DEFAULT}, our default: PSNR {mean['psnr']:.2f}, SSIM {mean['ssim']:.4f}, {one['forward']} evaluations, "
                f"{one['backward']} backward, {mean['seconds']:.2f} s/picture"
            )
    return "\n".join(lines)


def _line(name: str, rows: Sequence[Sequence[Mapping[str, str]]]) -> str:
    """One pair; each of the rows is (theirs, ours, the default) on one picture."""

    def mean(side: int, key: str) -> float:
        return statistics.mean(float(of[side][key]) for of in rows)

    def gain(side: int) -> str:
        gains = [float(of[side]["psnr"]) - float(of[0]["psnr"]) for of in rows]
        found = interval(gains)
        return f"{found.value:+.2f} ± {found.half:.2f}"

    def ratio(side: int) -> str:
        ratios = torch.tensor([float(of[side]["seconds"]) / float(of[0]["seconds"]) for of in rows])
        low, middle, high = ratios.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
        return f"{middle:.3f} ({low:.3f} to {high:.3f})"

    theirs, ours, _ = rows[0]
    wins = sum(float(of[1]["psnr"]) > float(of[0]["psnr"]) for of in rows)
    outside = [1 - mean(side, "network") / mean(side, "seconds") for side in (0, 1)]
    return (
        f"| {name} | {ours['method']} | {mean(0, 'psnr'):.2f} | {mean(1, 'psnr'):.2f} | {gain(1)} | {wins}/{len(rows)} "
        f"| {mean(0, 'ssim'):.4f} | {mean(1, 'ssim'):.4f} "
        f"| {theirs['forward']}, {theirs['backward']} | {ours['forward']}, {ours['backward']} "
        f"| {mean(0, 'seconds'):.2f} | {mean(1, 'seconds'):.2f} | {ratio(1)} | {outside[0]:.1%} | {outside[1]:.1%} "
        f"| {gain(2)} | {ratio(2)} |"
    )


def main(
    library: Annotated[str, typer.Option(help=", ".join(LIBRARIES))],
    data: Annotated[Path, typer.Option(help="zip archive of photographs")],
    folder: Annotated[str, typer.Option(help="folder inside the archive")] = "CBSD68",
    images: Annotated[int, typer.Option(help="how many, by name")] = 20,
    size: Annotated[int, typer.Option(help="side of the centre crops in pixels")] = 128,
    task: Annotated[list[str] | None, typer.Option(help=", ".join(TASKS) + "; all if not given")] = None,
    method: Annotated[list[str] | None, typer.Option(help="their samplers; all if not given")] = None,
    evaluations: Annotated[int, typer.Option(help="of the network, per picture (per particle)")] = 50,
    tune_on: Annotated[
        int, typer.Option("--tune", help="search the settings on this many of the last pictures by name, and stop")
    ] = 0,
    prior: Annotated[str, typer.Option(help="bundled prior or weights file")] = PHOTOS,
    seed: Annotated[int, typer.Option()] = 0,
    out: Annotated[Path | None, typer.Option("--csv", help="file of the rows, appended to")] = None,
) -> None:
    """Restore photographs with the samplers of another library and with ours, and print the paired differences."""
    tasks = task or list(TASKS)
    if unknown := [t for t in tasks if t not in TASKS]:
        raise typer.BadParameter(f"task: expected some of {', '.join(TASKS)}, got '{unknown[0]}'")
    torch.set_num_threads(1)
    clean = pictures(data, channels=3, size=size, folder=f"{folder}/", images=None).clean
    if len(clean) < images + tune_on:
        raise typer.BadParameter(f"images: expected at most {len(clean) - tune_on}, got {images}")
    clean = clean[-tune_on:] if tune_on else clean[:images]
    flow = load(prior).sized(size, size)
    key = {"library": library, "evaluations": str(evaluations), "size": str(size), "seed": str(seed), "prior": prior}
    bench = Bench(flow, key, evaluations, seed, out)
    x = clean[:1].clone().requires_grad_()  # the first call of a network prepares its kernels
    flow.velocity(x, torch.tensor(0.5, dtype=torch.float64)).sum().backward()
    if tune_on:
        tune(bench, tasks, clean, library, method or ())
    else:
        compare(bench, tasks, clean, library, method or ())
        print("\r" + table(bench.rows, library))


if __name__ == "__main__":
    typer.run(main)
