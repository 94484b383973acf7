"""Restoring with a prior over tokens: on laws whose posterior is known, and on clothes beside priors that are flows.

    python -m flowhelm.bench.quality.tokens toy
    python -m flowhelm.bench.quality.tokens pictures --data fashion_mnist.npz --work bench --csv tokens.csv --sheet tokens.png
    python -m flowhelm.bench.quality.tokens table tokens.csv

`toy`: laws of 3 places with 4 codes, one-hot, and a random linear decoder; the total variation to the exact posterior, of 500 draws.
`pictures`: the five tasks of `flowhelm bench` on test pictures of Fashion-MNIST, with the cost of a picture in floating-point operations,
counted while each method runs; feature distance is in the layer before the logits of `bench.quality.classifier`'s network. Settings of
the methods for tokens were chosen on pictures of the training part (`--tuning`), one for all tasks; the tokenizer's own error on other
training pictures counts as noise for them (`latent.honest`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ... import latent, restore
from ...app.files.atomic import put_picture
from ...app.show.sheet import sheet
from ...flow import Flow
from ...masked import LinearTokens, Masked, Table
from ...measure import Linear, Measurement
from ...metrics import feature_distance, psnr
from ...priors import bundled
from ...recipes.fashion import whole
from ...rewards.classifier import Classifier
from ...rng import Noise
from ...start import begin
from ...step import Step, run
from .. import kept
from ..compare.protocols import Task, measured, pnp_flow
from ..intervals import interval
from .classifier import classifier

Method = Callable[..., Iterator[Step]]
CODES, PLACES = 4, 3
app = typer.Typer(add_completion=False)

TOY: dict[str, tuple[Method, int]] = {
    "APS, the best code": (partial(restore.aps, inner=50), 6),
    "APS, a draw": (partial(restore.aps, inner=50, choice="draw"), 6),
    "APS, a draw, not quantised": (partial(restore.aps, inner=50, choice="draw", quantise=False), 6),
    "APS, a draw, nothing masked again": (partial(restore.aps, inner=50, choice="draw", remask="never"), 6),
    "G2D2": (partial(restore.g2d2, inner=50, rate=0.3), 6),
    "TAG": (restore.tag, 3),
    "TAG, strength 0.3": (partial(restore.tag, strength=0.3), 3),
    "SGDD": (partial(restore.sgdd, proposals=25, fill=3), 12),
}
"""Methods and steps."""


def problem(seed: int, std: float) -> tuple[Masked, Table, Measurement]:
    """A law of tokens, its table, and a measurement of two numbers of a draw from it."""
    draw = torch.Generator().manual_seed(seed)
    table = Table(torch.rand(*[CODES] * PLACES, generator=draw, dtype=torch.float64) ** 3)
    matrix = torch.randn(3, PLACES * CODES, generator=draw, dtype=torch.float64)
    prior = Masked(table, (PLACES,), LinearTokens(matrix, torch.eye(CODES, dtype=torch.float64)))
    some = torch.randn(2, 3, generator=draw, dtype=torch.float64)
    operator = Linear(lambda x: (x.flatten(1) @ some.T)[:, None, None], (1, 1, 3))
    law: Tensor = table.law  # type: ignore[assignment]
    states: Tensor = table.states  # type: ignore[assignment]
    truth = states[torch.multinomial(law, 1, generator=draw)]
    y = operator.A(prior.decode(truth))
    return prior, table, Measurement(y + std * torch.randn(y.shape, generator=draw, dtype=y.dtype), operator, std)


def total_variation(tokens: Tensor, law: Tensor) -> float:
    """Of draws `(n, PLACES)` to a law of all states."""
    place = (tokens * CODES ** torch.arange(PLACES - 1, -1, -1)).sum(1)
    return float((torch.bincount(place, minlength=len(law)) / len(tokens) - law).abs().sum() / 2)


@app.command()
def toy(
    laws: Annotated[int, typer.Option(help="Laws and measurements, one of each seed.")] = 4,
    rows: Annotated[int, typer.Option(help="Draws of each.")] = 500,
    std: Annotated[float, typer.Option(help="Noise of the measurement.")] = 0.7,
) -> None:
    """The total variation to the exact posterior, mean and 95 % interval over the laws."""
    found: dict[str, list[float]] = {}
    for seed in range(laws):
        prior, table, y = problem(seed, std)
        exact = table.posterior(prior, y)
        law: Tensor = table.law  # type: ignore[assignment]
        states: Tensor = table.states  # type: ignore[assignment]
        draw = torch.Generator().manual_seed(seed)
        found.setdefault("exact draws", []).append(
            total_variation(states[torch.multinomial(exact, rows, True, generator=draw)], exact)
        )
        found.setdefault("the prior", []).append(float((law - exact).abs().sum() / 2))
        for name, (method, steps) in TOY.items():
            noise = Noise(seed, rows)
            x = run(method(prior, y, prior.source(noise), prior.times(steps), noise=noise)).x
            found.setdefault(name, []).append(total_variation(x, exact))
        print(f"law {seed + 1} of {laws}", file=sys.stderr, flush=True)
    print("| method | total variation to the posterior |\n| --- | --- |")
    for name, values in found.items():
        print(f"| {name} | {interval(values).shown(3)} |")


WAYS: dict[str, tuple[str, Method, int]] = {
    "APS": ("tokens", partial(restore.aps, inner=20), 8),
    "APS, nothing masked again": ("tokens", partial(restore.aps, inner=20, remask="never"), 8),
    "APS, ranked by the network": ("tokens", partial(restore.aps, inner=20, remask="network"), 8),
    "APS, not quantised": ("tokens", partial(restore.aps, inner=20, quantise=False), 8),
    "G2D2": ("tokens", partial(restore.g2d2, inner=20, rate=1.0), 8),
    "TAG": ("tokens", partial(restore.tag, strength=0.02), 16),
    "SGDD": ("tokens", partial(restore.sgdd, proposals=60, fill=3), 8),
    "HQS": ("flow", restore.hqs, 8),
    "DAPS": ("flow", restore.daps, 24),
}
"""Prior, method and steps."""


def restored(flow: Flow, method: Method, steps: int, y: Measurement, noise: Noise) -> Tensor:
    """The pictures `(b, c, h, w)` of a method."""
    if isinstance(flow, Masked):
        x, times = flow.source(noise), flow.times(steps)
    else:
        x, times = begin(method, flow, y, steps, noise)
    with torch.no_grad():
        return flow.decode(run(method(flow, y, x, times, noise=noise)).x)


def operations(flow: Flow, method: Method, steps: int, task: Task, picture: Tensor) -> float:
    """Floating-point operations of a picture, in units of 1e9: of networks, decoders and what else is a product of matrices."""
    y = measured(task, picture[:1], ["0"], 0).y
    few = 2
    with FlopCounterMode(display=False) as counter:
        restored(flow, method, few, y, Noise(0, 1))
    return counter.get_total_flops() / few * steps / 1e9


@app.command()
def pictures(
    data: Annotated[Path, typer.Option(help="fashion_mnist.npz")],
    work: Annotated[Path, typer.Option(help="Folder of the classifier, which is trained if it is not there.")],
    out: Annotated[
        Path, typer.Option("--csv", help="The rows, one for each picture; what is there is not made again.")
    ],
    count: Annotated[int, typer.Option("--images", help="Test pictures, evenly spaced.")] = 16,
    tokens: Annotated[str, typer.Option(help="The prior over tokens: a name or a file.")] = "fashion-tokens",
    picture: Annotated[Path | None, typer.Option("--sheet", help="A picture of the first few results.")] = None,
    only: Annotated[str, typer.Option(help="Only methods whose name contains this.")] = "",
    tuning: Annotated[bool, typer.Option(help="Take pictures of the training part, to choose settings on.")] = False,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
) -> None:
    """PSNR, feature distance, misfit and cost on the five tasks."""
    sets = whole(data)
    all_of = sets["train" if tuning else "test"][0]
    index = torch.linspace(0, len(all_of) - 1, count).round().long()
    clean = all_of[index].float() / 127.5 - 1
    names = [str(int(i)) for i in index]
    net = classifier("fashion", sets, work)
    priors: Mapping[str, Flow] = {"tokens": bundled.load(tokens), "flow": bundled.load("fashion")}
    done = kept.stored(out)
    codec = priors["tokens"]
    examples = sets["train"][0][7:2007:20].float() / 127.5 - 1
    shown: dict[str, list[Tensor]] = {}
    if ("codec", "decoded tokens of the clean picture") not in {(r["task"], r["method"]) for r in done}:
        decoded = codec.decode(codec.encode(clean))
        kept.append(out, *_rows("codec", "decoded tokens of the clean picture", decoded, clean, net, names))
    for task in pnp_flow((1, 32, 32)):
        measured_ = measured(task, clean, names, seed)
        shown[task.name] = [clean[:8]]
        for name, (kind, method, steps) in WAYS.items():
            known = (task.name, name) in {(r["task"], r["method"]) for r in done}
            if only not in name or (known and picture is None):
                continue
            # what the tokenizer cannot draw is noise, too
            y = latent.honest(codec, measured_.y, examples) if kind == "tokens" else measured_.y
            image = restored(priors[kind], method, steps, y, Noise(seed, names))
            shown[task.name].append(image[:8])
            if not known:
                cost = operations(priors[kind], method, steps, task, clean)
                made = _rows(task.name, name, image, clean, net, names)
                misfit = measured_.residual(image)
                for row, each in zip(made, misfit.tolist(), strict=True):
                    row |= {"misfit": f"{each:.4f}", "gflop": f"{cost:.4g}", "steps": str(steps)}
                kept.append(out, *made)
                print(f"{task.name:9} {name:27} {interval(float(r['psnr']) for r in made).shown(3)} dB", flush=True)
    if picture is not None:
        labels = ["clean", *(name for name in WAYS if only in name)]
        rows = [(f"{task} {label}", row) for task, of in shown.items() for label, row in zip(labels, of, strict=True)]
        put_picture(picture, sheet(rows))


@app.command()
def table(path: Annotated[Path, typer.Argument(help="What `pictures` has written.")]) -> None:
    """The rows of `pictures` as a table for each task, means and 95 % intervals over pictures."""
    rows = kept.read(path)
    for task in dict.fromkeys(row["task"] for row in rows):
        some = [row for row in rows if row["task"] == task]
        print(f"\n**{task}**, {len({row['picture'] for row in some})} pictures\n")
        print(
            "| method | steps | PSNR | feature distance | misfit / noise | GFLOP a picture |\n| --- | --- | --- | --- | --- | --- |"
        )
        for name in dict.fromkeys(row["method"] for row in some):
            of = [row for row in some if row["method"] == name]
            values = {key: [float(row[key]) for row in of if row[key]] for key in ("psnr", "features", "misfit")}
            shown = [interval(v).shown(3) for v in values.values()]
            print(f"| {name} | {of[0]['steps'] or '-'} | {' | '.join(shown)} | {of[0]['gflop'] or '-'} |")


def _rows(
    task: str, name: str, image: Tensor, clean: Tensor, net: Classifier, names: list[str]
) -> list[dict[str, str]]:
    with torch.no_grad():
        distance = feature_distance([net.body(image)], [net.body(clean)])
    of = zip(names, psnr(image.clamp(-1, 1), clean).tolist(), distance.tolist(), strict=True)
    empty = {"misfit": "", "gflop": "", "steps": ""}
    return [
        {"task": task, "method": name, "picture": picture, "psnr": f"{p:.4f}", "features": f"{d:.5f}", **empty}
        for picture, p, d in of
    ]


if __name__ == "__main__":
    app()
