"""Distortion and perception of trained restoration (PMRF) beside its mean, posterior samples and `hqs`, on one plane.

    python -m flowhelm.bench.quality.posterior_means run --data test_photos.zip --csv means.csv
    python -m flowhelm.bench.quality.posterior_means table means.csv
    python -m flowhelm.bench.quality.posterior_means plot means.csv --out posterior_means.png

Two tasks on centre crops: `noise`, Gaussian noise of a known level, where every rival is told the level and the trained restorer is not;
and `mixture`, damages drawn as in the recipe `blind`, of which nobody is told anything (`hqs` estimates the noise).

Distortion is PSNR over the crops. Perception is the square root of the Frechet distance of features to those of the clean crops: what
the network of the prior `photos` sees at 1/4 of the resolution, one place a row. It is the network of the rivals, which favours them if
it favours anyone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from ... import operators, restore, start
from ...app.files.dataset import pictures
from ...app.restore.noise import level
from ...app.show.figures import figure, picture
from ...measure import Measurement, simulate
from ...metrics import frechet_features, psnr
from ...priors.bundled import Prior, load
from ...recipes.blind import damaged
from ...rng import Noise
from ...solve import integrate
from ...step import run as end_of
from ...train import seeded
from ...transition import ancestral, euler
from .. import kept
from ..intervals import interval

app = typer.Typer(add_completion=False, no_args_is_help=True)
STEPS = (1, 2, 5, 25)
SAMPLE = 25
"""Steps of a posterior sample."""
FEATURES_AT = 0.95
"""The time that the network is told where its features are taken."""
COLUMNS = ("task", "method", "psnr", "half", "distance", "evaluations", "seconds", "pictures", "size", "prior")


@app.callback()
def _commands() -> None:
    """Distortion and perception of PMRF."""


@torch.no_grad()
def features(flow: Prior, pictures: Tensor) -> Tensor:
    """What the network sees at 1/4 of the resolution: `(n h w / 16, channels)`."""
    seen: list[Tensor] = []
    net: Any = flow.net
    hook = net.encoder[1][-1].register_forward_hook(lambda _m, _i, out: seen.append(out.detach()))
    try:
        for rows in pictures.split(16):
            flow.velocity(FEATURES_AT * rows, torch.tensor(FEATURES_AT, dtype=torch.float64))
    finally:
        hook.remove()
    return torch.cat(seen).permute(0, 2, 3, 1).flatten(0, 2)


@torch.no_grad()
def restored(
    task: str, y: Tensor, std: float, photos: Prior, blind: Any, seed: int
) -> Iterator[tuple[str, float, Tensor]]:
    """(method, evaluations for each picture, pictures)."""
    noise = Noise(seed, len(y)).named("source")
    known = Measurement(y, operators.denoise((3, photos.shape[-2], photos.shape[-1])), std)
    yield "degraded", 0, y
    yield "mean (regressor)", 1, blind.mean(y)
    for steps in STEPS:
        x = noise.named(str(steps))(y)
        yield (
            f"PMRF, {steps} step{'s' * (steps > 1)}",
            1 + steps,
            end_of(restore.pmrf(blind, known, x, blind.times(steps))).x,
        )
    levels = [std] * len(y) if task == "noise" else [max(level(each[None], photos), 0.01) for each in y]
    each = [Measurement(row[None], known.operator, s) for row, s in zip(y, levels, strict=True)]
    yield "hqs", 1, torch.cat([end_of(restore.hqs(photos, m, *start.begin(restore.hqs, photos, m, 1))).x for m in each])
    for name, transition in (("posterior sample", ancestral), ("flow from the picture", euler)):
        made = []
        for i, (row, s) in enumerate(zip(y, levels, strict=True)):
            t = 1 / (1 + s)
            times = torch.linspace(t, 1, SAMPLE + 1, dtype=torch.float64)
            own = Noise(seed, [i]).named(name)
            made.append(end_of(integrate(photos, t * row[None], times, transition=transition, noise=own)).x)
        yield name, SAMPLE, torch.cat(made)


@app.command()
def run(
    data: Annotated[Path, typer.Option(help="zip archive with CBSD68/")],
    out: Annotated[Path, typer.Option("--csv", help="file of one row for each task and method")] = Path("means.csv"),
    folder: Annotated[str, typer.Option(help="folder of the archive")] = "CBSD68",
    images: Annotated[int, typer.Option(help="pictures, the first ones by name")] = 68,
    size: Annotated[int, typer.Option(help="side of the centre crops")] = 64,
    std: Annotated[float, typer.Option(help="noise of the task `noise`, pixels in [-1, 1]")] = 0.2,
    prior: Annotated[str, typer.Option(help="the trained restorer")] = "blind",
    seed: Annotated[int, typer.Option(help="of noise, damages and samples")] = 0,
    task: Annotated[list[str] | None, typer.Option(help="noise or mixture; both if not given")] = None,
) -> None:
    """Restore the crops by every method and append the figures."""
    clean = pictures(data, channels=3, size=size, folder=f"{folder}/", images=images).clean
    photos, blind = load("photos").sized(size, size), load(prior).sized(size, size)
    real, rows = features(photos, clean), list[dict[str, Any]]()
    noise = Noise(seed, len(clean))
    tasks: Mapping[str, Callable[[], Tensor]] = {
        "noise": lambda: simulate(operators.denoise((3, size, size)), clean, std, noise.named("measurement")).y,
        "mixture": lambda: damaged(clean, seeded(seed, 0, purpose="damage")),
    }
    for one in task or tasks:
        if one not in tasks:
            raise typer.BadParameter(f"expected noise or mixture, got {one!r}", param_hint="--task")
        began = time.monotonic()
        for method, evaluations, x in restored(one, tasks[one](), std, photos, blind, seed):
            scores = psnr(x, clean)
            distance = math.sqrt(float(frechet_features(features(photos, x.clamp(-1, 1)), real)))
            row = {
                "task": one, "method": method, "psnr": f"{float(scores.mean()):.3f}",
                "half": f"{interval(scores.tolist()).half:.3f}", "distance": f"{distance:.4f}",
                "evaluations": evaluations, "seconds": f"{time.monotonic() - began:.1f}", "pictures": len(clean), "size": size,
                "prior": prior,
            }  # fmt: skip
            rows.append(row)
            print(f"{one:8} {method:24} {row['psnr']} dB  distance {row['distance']}  {row['seconds']} s", flush=True)
            began = time.monotonic()
    kept.append(out, *rows, columns=COLUMNS)


@app.command()
def table(rows: Annotated[Path, typer.Argument(help="what `run` wrote")]) -> None:
    """Print the figures as Markdown."""
    print("| task | method | evaluations | PSNR in dB | distance |\n| --- | --- | --- | --- | --- |")
    for r in kept.read(rows):
        print(
            f"| {r['task']} | {r['method']} | {r['evaluations']} | {float(r['psnr']):.2f} ± {float(r['half']):.2f} | {r['distance']} |"
        )


@app.command()
def plot(
    rows: Annotated[Path, typer.Argument(help="what `run` wrote")],
    out: Annotated[Path, typer.Option(help="the picture")] = Path("posterior_means.png"),
) -> None:
    """Draw the plane: PSNR to the right, distance of the features upward, lower and further right is better."""
    found = kept.read(rows)
    made = figure(9.6, 4.4)
    for axes, task in zip(made.subplots(1, 2), dict.fromkeys(r["task"] for r in found), strict=True):
        mine = [r for r in found if r["task"] == task and r["method"] != "degraded"]
        path = [r for r in mine if r["method"].startswith(("mean", "PMRF"))]
        axes.plot([float(r["psnr"]) for r in path], [float(r["distance"]) for r in path], color="#1f77b4", linewidth=1)
        across = [float(r["psnr"]) for r in mine]
        middle = (min(across) + max(across)) / 2
        for i, r in enumerate(mine):
            x, y = float(r["psnr"]), float(r["distance"])
            axes.plot(x, y, "o" if r in path else "s", color="#1f77b4" if r in path else "#d95f02")
            side, way = ("right", -6) if x > middle else ("left", 6)
            place = (way, -11 if i % 2 else 5)  # above and below in turn, so that neighbours can be read
            axes.annotate(r["method"], (x, y), textcoords="offset points", xytext=place, ha=side, fontsize=7.5)
        axes.set(title=task, xlabel="PSNR in dB", ylabel="distance of features")
        axes.grid(color="#eeeeee")
        axes.margins(0.22, 0.12)
    picture(made).save(out)


if __name__ == "__main__":
    app()
