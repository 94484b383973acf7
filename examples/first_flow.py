"""Flow matching from nothing: points on a sine curve, then points in the part of it that is asked for. Three minutes of one core.

    python examples/first_flow.py runs/first                # one training of each
    python examples/first_flow.py runs/first --seeds 3      # three, with intervals of 95 %; nine minutes

The data, the small network and the fixed pairs are those of a tutorial that is much copied (1000 points, one hidden layer of 64, and noise
drawn once: point i always goes with noise i), and so are the 5000 steps. The others change one thing each. Prints the tables of
docs/first-flow.md and writes OUT/plane.png and OUT/prompts.png. A run that was cut goes on from its checkpoints.
"""

import math
import time
from itertools import pairwise
from pathlib import Path
from typing import Annotated, NamedTuple

import matplotlib
import torch
import typer
from torch import Tensor, nn

from flowhelm import NetFlow, Noise, run
from flowhelm.bench.intervals import interval
from flowhelm.solve import integrate
from flowhelm.train import Batch, fit, flow_matching, seeded, shuffled
from flowhelm.transition import euler

matplotlib.use("Agg")
from matplotlib import pyplot as plt

POINTS, TESTED, PARTS = 1000, 4000, 10
LENGTH = 4 * math.pi
NOISE = 2.0  # standard deviation


def curve(count: int, seed: int) -> Tensor:
    """Points (x, sin x), x uniform on [0, 4 pi]."""
    x = LENGTH * torch.rand(count, generator=seeded(seed, 0, purpose="curve"))
    return torch.stack([x, x.sin()], 1)


def part(points: Tensor) -> Tensor:
    """Which tenth of the curve, by x: 0 to 9; others are beside it."""
    return (points[:, 0] / LENGTH * PARTS).floor().long()


class Net(nn.Module):
    """Velocity of points in the plane; a prompt is a number as it is, or one of ten vectors that are learnt."""

    def __init__(self, width: int, layers: int, prompt: str = ""):
        super().__init__()
        self.prompt = prompt
        self.embedding = nn.Embedding(PARTS, 16) if prompt == "embedded" else None
        sizes = [3 + {"": 0, "number": 1, "embedded": 16}[prompt], *[width] * layers]
        body: list[nn.Module] = []
        for a, b in pairwise(sizes):
            body += [nn.Linear(a, b), nn.ReLU() if layers == 1 else nn.SiLU()]
        self.body = nn.Sequential(*body, nn.Linear(width, 2))

    def forward(self, x: Tensor, t: Tensor, *prompt: Tensor) -> Tensor:
        told = [self.embedding(p) if self.embedding else p[:, None].to(x) for p in prompt]
        return self.body(torch.cat([x, t.to(x).expand(len(x))[:, None], *told], 1))


class Way(NamedTuple):
    name: str
    width: int
    layers: int
    fixed: bool  # noise drawn once, paired with the points for good
    batch: int = POINTS
    prompt: str = ""


PLANE = (
    Way("64, fixed pairs", 64, 1, True),
    Way("64, fresh noise", 64, 1, False),
    Way("3 x 128, fixed pairs", 128, 3, True, 256),
    Way("3 x 128, fresh noise", 128, 3, False, 256),
)
PROMPTS = (
    Way("64, fixed pairs, prompt a number", 64, 1, True, POINTS, "number"),
    Way("3 x 128, fresh noise, prompt a number", 128, 3, False, 256, "number"),
    Way("3 x 128, fresh noise, prompt embedded", 128, 3, False, 256, "embedded"),
)


def trained(way: Way, steps: int, seed: int, out: Path) -> NetFlow:
    torch.manual_seed(seed)
    flow = NetFlow(Net(way.width, way.layers, way.prompt), (2,))
    points = curve(POINTS, seed)
    pool = NOISE * torch.randn(POINTS, 2, generator=seeded(seed, 0, purpose="pool"))
    rows = shuffled(torch.arange(POINTS), batch=way.batch, seed=seed)

    def data(index: int) -> Batch:
        pick = rows(index).clean
        told = (part(points[pick]).clamp(0, PARTS - 1),) if way.prompt else ()
        fresh = NOISE * torch.randn(len(pick), 2, generator=seeded(seed, index, purpose="fresh"))
        return Batch(points[pick], told, pool[pick] if way.fixed else fresh)

    loss = lambda f, b, g: flow_matching(f, b, g, drop=0.0)  # noqa: E731
    constant = dict(warmup=1, final=1.0) if way.layers == 1 else dict(warmup=100)
    file = out / f"{way.name.replace(' ', '_').replace(',', '')}-{seed}.safetensors"
    for _ in fit(
        flow,
        loss,
        data,
        steps=steps,
        rate=1e-3,
        weight_decay=0.0,
        clip=math.inf,
        seed=seed,
        checkpoint=file,
        minutes=0.2,
        **constant,
    ):
        pass
    return flow


@torch.no_grad()
def samples(flow: NetFlow, seed: int, steps: int = 50) -> tuple[Tensor, Tensor]:
    """Points from fresh noise, Euler steps, and the part of the curve asked of each."""
    asked = torch.arange(TESTED) % PARTS
    told = flow.bind(asked) if flow.net.prompt else flow
    noise = Noise(seed, 1)(torch.empty(1, TESTED, 2))[0]
    return run(integrate(told, NOISE * noise, told.times(steps), transition=euler)).x, asked


def near(points: Tensor) -> float:
    """Share of points less than 0.2 above or below the curve."""
    return float(((points[:, 1] - points[:, 0].sin()).abs() < 0.2).float().mean())


def sliced(one: Tensor, other: Tensor) -> float:
    """Mean Wasserstein-1 distance over 64 directions."""
    angles = torch.linspace(0, math.pi, 65)[:-1]
    directions = torch.stack([angles.cos(), angles.sin()])
    return float(((one @ directions).sort(0).values - (other @ directions).sort(0).values).abs().mean())


def shown(axis: plt.Axes, name: str, points: Tensor, colours: Tensor | None = None) -> None:
    x = torch.linspace(0, LENGTH, 400)
    axis.plot(x, x.sin(), "k", linewidth=0.6)
    colour = {"color": "tab:blue"} if colours is None else {"c": colours, "cmap": "tab10"}
    axis.scatter(*points.T, s=2, linewidths=0, **colour)
    axis.set_title(name, fontsize=9)
    axis.set_xlim(-2.5, LENGTH + 2.5)
    axis.set_ylim(-2.2, 2.2)


def main(
    out: Annotated[Path, typer.Argument(help="Folder of the pictures and checkpoints.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps of the optimiser, of each training.")] = 5000,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each.")] = 1,
    prompts: Annotated[bool, typer.Option(help="Also train with prompts.")] = True,
) -> None:
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    for ways, file in ((PLANE, "plane.png"), (PROMPTS, "prompts.png"))[: 1 + prompts]:
        prompted = bool(ways[0].prompt)
        typer.echo(
            f"| network and noise | {'in the part asked for | ' * prompted}near the curve | distance | seconds |"
        )
        typer.echo("| --- " * (4 + prompted) + "|")
        figure, axes = plt.subplots(1, len(ways), figsize=(3.4 * len(ways), 2.6), sharey=True)
        for axis, way in zip(axes, ways, strict=True):
            found, began = [], time.process_time()
            for seed in range(seeds):
                points, asked = samples(trained(way, steps, seed, out), seed)
                hit = float((part(points) == asked).float().mean())
                found.append((hit, near(points), sliced(points, curve(TESTED, 1000 + seed))))
                if seed == 0:
                    shown(axis, way.name, points, asked if prompted else None)
            columns = [interval(column).shown(2) for column in zip(*found, strict=True)][not prompted :]
            typer.echo(f"| {way.name} | {' | '.join(columns)} | {(time.process_time() - began) / seeds:.0f} |")
        figure.tight_layout()
        figure.savefig(out / file, dpi=100)
    typer.echo(
        f"\ntwo sets of fresh points are {sliced(curve(TESTED, 1), curve(TESTED, 2)):.2f} apart; the pictures are in {out}"
    )


if __name__ == "__main__":
    typer.run(main)
