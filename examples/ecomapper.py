"""Satellite pictures from land cover and climate, and the same place under another climate, given how it looked before.

    python examples/ecomapper.py train runs/eco --data rsscn7_128.zip --split split.json      # 4 minutes of one core
    python examples/ecomapper.py table runs/eco --data rsscn7_128.zip --split split.json

Scenes of RSSCN7 at 16 x 16, recoloured by temperature and rain (`recipes.ecomapper`), so that it is known how each place looks under each
climate. SD3's transformer at a small width learns them from three words (land cover, bins of temperature and rain; each forgotten in a
tenth of the rows). Then it is frozen, and a ControlNet learns to take the structure from the place under another climate. A training that
was cut goes on. The table: with the right past, with none, with that of another place, and the past handed back, on 280 scenes held apart;
and how far each of the four numbers that `aerial` is told follows what was asked for, as the true picture has it.
"""

import copy
from pathlib import Path
from typing import Annotated

import matplotlib
import torch
import typer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as fn

from flowhelm import NetFlow, Noise, run
from flowhelm.app.files.atomic import put_picture
from flowhelm.app.show.sheet import sheet
from flowhelm.bench import intervals
from flowhelm.metrics import ssim
from flowhelm.priors.controlled import Controlled
from flowhelm.priors.mmdit import MMDiT
from flowhelm.recipes.aerial import CLASSES, NUMBERS, measured, whole
from flowhelm.recipes.ecomapper import (
    PRECIPITATIONS,
    TEMPERATURES,
    WORDS,
    greenness,
    middle,
    rendered,
    told,
)
from flowhelm.solve import integrate
from flowhelm.train import Batch, Data, fit, flow_matching, seeded

matplotlib.use("Agg")
from matplotlib import pyplot as plt

app = typer.Typer(no_args_is_help=True, add_completion=False, help=(__doc__ or "").partition("\n")[0])
SHAPE, BATCH, STEPS, CONTROL = (3, 16, 16), 64, 1000, 1000
NULL = torch.zeros(3, dtype=torch.int64)
Out = Annotated[Path, typer.Argument(help="Folder of the run.")]
Zip = Annotated[Path, typer.Option(help="rsscn7_128.zip.")]
Split = Annotated[Path, typer.Option(help="split.json, which names the scenes held apart.")]


def scenes(data: Path, split: Path, part: str) -> tuple[Tensor, Tensor]:
    pictures, labels = whole(data, split)[part]
    return fn.avg_pool2d(pictures.float(), 4) / 127.5 - 1, labels


def climates(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Temperatures and precipitations `(n,)`, every bin as often."""
    return tuple(
        middle(edges, torch.randint(len(edges) + 1, (n,), generator=generator))
        for edges in (TEMPERATURES, PRECIPITATIONS)
    )  # type: ignore[return-value]


def batches(pictures: Tensor, labels: Tensor, *, past: bool) -> Data:
    def made(index: int) -> Batch:
        draws = seeded(0, index, purpose="climates")
        rows = torch.randint(len(pictures), (BATCH,), generator=draws)
        scene, cover, now = pictures[rows], labels[rows], climates(BATCH, draws)
        clean, words = rendered(scene, cover, *now), told(cover, *now)
        words = torch.where(torch.rand(words.shape, generator=draws) < 0.1, 0, words)
        if not past:
            return Batch(clean, (words,))
        before = climates(BATCH, draws)
        return Batch(clean, (words, rendered(scene, cover, *before), told(cover, *before)))

    return made


def network() -> MMDiT:
    torch.manual_seed(0)
    return MMDiT(SHAPE, words=len(WORDS), places=3, patch=4, width=64, layers=4, heads=4)


def flow_of(net: nn.Module) -> NetFlow:
    past = () if isinstance(net, MMDiT) else (torch.zeros(SHAPE), NULL)
    return NetFlow(net, SHAPE, null=(NULL, *past))


def trained(net: nn.Module, data: Data, steps: int, out: Path, name: str) -> nn.Module:
    average = copy.deepcopy(net)
    for update in fit(
        flow_of(net), lambda *args: flow_matching(*args, drop=0.0), data, steps=steps, average=average, rate=2e-3, warmup=50,
        ema=0.99, weight_decay=0.0, checkpoint=out / f"{name}.run.safetensors", minutes=1,
    ):  # fmt: skip
        if update.index % max(1, steps // 5) == 0:
            typer.echo(f"{name}: step {update.index} of {steps}, loss {float(update.loss):.4f}", err=True)
    save_file(average.state_dict(), out / f"{name}.safetensors")
    return average.eval().requires_grad_(False)


@app.command()
def train(
    out: Out,
    data: Zip,
    split: Split,
    steps: Annotated[int, typer.Option(min=1, help="Steps of stage 1.")] = STEPS,
    control: Annotated[int, typer.Option(min=1, help="Steps of the control branch.")] = CONTROL,
) -> None:
    """Train the network on words, then the control branch beside it."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    pictures, labels = scenes(data, split, "train")
    net = trained(network(), batches(pictures, labels, past=False), steps, out, "words")
    trained(Controlled(net), batches(pictures, labels, past=True), control, out, "control")


@torch.no_grad()
def drawn(net: nn.Module, *condition: Tensor, seed: int = 0, steps: int = 20) -> Tensor:
    flow = flow_of(net).bind(*condition)
    return run(integrate(flow, flow.source(Noise(seed, range(len(condition[0])))), flow.times(steps))).x.clamp(-1, 1)


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def spearman(a: Tensor, b: Tensor) -> float:
    def ranks(x: Tensor) -> Tensor:  # equal values share their mean rank
        return ((x < x[:, None]).double() + (x <= x[:, None]).double()).mean(1)

    return correlation(ranks(a), ranks(b))


def ranked(a: Tensor, b: Tensor) -> str:
    """Spearman's correlation with its interval of 95 %, by bootstrap over scenes: Fisher's is of normal pairs, and rain is binned."""
    low, high = intervals.bootstrap(lambda rows: spearman(a[rows], b[rows]), len(a))
    return f"{spearman(a, b):.3f} ({low:.3f} to {high:.3f})"


def between(r: float, count: int) -> str:
    """With its interval of 95 %."""
    low, high = intervals.correlation(r, count)
    return f"{r:.3f} ({low:.3f} to {high:.3f})"


def numbers(pictures: Tensor) -> Tensor:
    """Those of `aerial`, of pictures `(n, 3, h, w)` in [-1, 1]: `(n, 4)`."""
    return measured(((pictures + 1) * 127.5).round().byte())


def interval(x: Tensor) -> str:
    return intervals.interval(x.tolist()).shown(3)


@app.command()
def table(out: Out, data: Zip, split: Split) -> None:
    """Judge both stages on the scenes held apart, and draw what the climate does."""
    torch.set_num_threads(1)
    if not (out / "control.safetensors").exists():
        raise typer.BadParameter(f"'{out}' has no control.safetensors; run train first")
    controlled = Controlled(network())
    controlled.load_state_dict(load_file(out / "control.safetensors"))
    controlled.eval().requires_grad_(False)
    pictures, labels = scenes(data, split, "test")
    draws = seeded(0, 0, purpose="judged")
    now, before = climates(len(labels), draws), climates(len(labels), draws)
    words, goal = told(labels, *now), rendered(pictures, labels, *now)
    past, past_words = rendered(pictures, labels, *before), told(labels, *before)
    other = torch.arange(len(labels)).roll(1)
    found = {
        "no control": drawn(controlled.net, words),
        "control": drawn(controlled, words, past, past_words),
        "control, past of another place": drawn(controlled, words, past[other], past_words[other]),
        "the past handed back": past,
    }
    typer.echo("| against the true picture | MSE | SSIM | greenness, correlation | SSIM to the past |")
    typer.echo("| --- | --- | --- | --- | --- |")
    for name, x in found.items():
        cells = (interval((x - goal).square().mean((1, 2, 3))), interval(ssim(x, goal)))
        green = correlation(greenness(x), greenness(goal))
        typer.echo(f"| {name} | {cells[0]} | {cells[1]} | {between(green, len(goal))} | {ssim(x, past).mean():.3f} |")

    typer.echo("\n| number | no control: correlation with the true picture's | control |\n| --- | --- | --- |")
    for i, name in enumerate(NUMBERS):
        each = (correlation(numbers(found[way])[:, i], numbers(goal)[:, i]) for way in ("no control", "control"))
        typer.echo(f"| {name} | {' | '.join(between(r, len(goal)) for r in each)} |")

    warm = torch.full((len(labels),), 15.0)
    asked = told(labels, warm, now[1])
    grows = labels < 2  # grass and fields: all of it grows
    x, truth = drawn(controlled.net, asked, seed=1), rendered(pictures, labels, warm, now[1])
    cold, hot = (
        interval(drawn(controlled.net, told(labels, torch.full_like(warm, t), now[1]), seed=1).mean((1, 2, 3)))
        for t in (-15.0, 25.0)
    )
    typer.echo(
        f"\nWords alone, {len(labels)} scenes at 15 degrees: Spearman correlation of greenness with precipitation "
        f"{ranked(greenness(x), now[1])}, true pictures {ranked(greenness(truth), now[1])}; of grass and fields "
        f"{ranked(greenness(x)[grows], now[1][grows])}, true {ranked(greenness(truth)[grows], now[1][grows])}; mean error of "
        f"greenness {interval((greenness(x) - greenness(truth)).abs())}; mean brightness at -15 degrees {cold}, at 25 {hot}."
    )
    figures(out, controlled, pictures, labels)


def figures(out: Path, controlled: Controlled, pictures: Tensor, labels: Tensor) -> None:
    """A sheet of places from dry to wet and cold, and the curve of greenness against precipitation."""
    rows, start = [], told(labels, torch.full((len(labels),), 15.0), torch.full((len(labels),), 0.0))
    for cover in (0, 4, 5):
        place = int((labels == cover).nonzero()[3])
        label = labels[place : place + 1].expand(7)
        sky = torch.tensor([15.0] * 5 + [-5.0, -15.0]), torch.tensor([0.0, 3.0, 7.5, 25.0, 80.0, 7.5, 7.5])
        past = rendered(pictures[place : place + 1], label[:1], torch.tensor([15.0]), torch.tensor([0.0]))
        x = drawn(controlled, told(label, *sky), past.expand(7, -1, -1, -1), start[place : place + 1].expand(7, -1))
        goal = rendered(pictures[place : place + 1].expand(7, -1, -1, -1), label, *sky)
        rows += [(f"{CLASSES[cover]}: past, true", torch.cat([past, goal])), ("past, drawn", torch.cat([past, x]))]
    put_picture(out / "climates.png", sheet(rows))
    figure, axis = plt.subplots(figsize=(4.5, 3.2))
    bins = torch.arange(len(PRECIPITATIONS) + 1)
    rain = middle(PRECIPITATIONS, bins)
    for cover, colour in ((0, "tab:green"), (5, "tab:orange"), (6, "tab:gray")):
        some = (labels == cover).nonzero()[:16, 0]
        near, cover_ = rain.repeat_interleave(len(some)), labels[some].repeat(len(rain))
        asked = told(cover_, torch.full_like(near, 15.0), near)
        truth = rendered(pictures[some].repeat(len(rain), 1, 1, 1), cover_, torch.full_like(near, 15.0), near)
        for x, style in ((drawn(controlled.net, asked, seed=2), "o-"), (truth, "--")):
            label = CLASSES[cover] if style == "o-" else None
            axis.plot(bins, greenness(x).view(len(rain), -1).mean(1), style, color=colour, label=label, markersize=4)
    axis.set_xticks(bins, [f"{v:.3g}" for v in rain.tolist()], rotation=45)
    axis.set_xlabel("precipitation asked for, mm a day")
    axis.set_ylabel("greenness drawn")
    axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(out / "sensitivity.png", dpi=100)
    typer.echo(f"wrote {out / 'climates.png'} and {out / 'sensitivity.png'}", err=True)


if __name__ == "__main__":
    app()
