"""Reward against budget: what more evaluations buy, method by method, on a bundled prior without conditions.

    python -m flowhelm.bench.quality.steering fashion --data fashion_mnist.npz --work bench --held-out-work bench1 --out steering.csv
    python -m flowhelm.bench.quality.steering --plot steering.csv --out steering.png
    python -m flowhelm.bench.quality.steering --table steering.csv

Rewards: log-probability of a class by the project's classifier (`flowhelm.bench.quality.classifier`; --held-out-work holds another one,
trained from another seed, which nothing is steered by), minus kB as JPEG, mean brightness. Beside the last two the held-out figure
is the log-probability of the classifier's own best guess: whether the result still looks like a picture of the set.

Every method spends the same evaluations of the network: a trajectory is 10 of them, and a budget of N pays for N / 10 trajectories,
particles or draws a step. "VP" is RBF's own configuration (arXiv:2503.19385): the variance-preserving path by its SDE, small first steps
and, for RBF, the best of 25 starts.

GLASS makes 5 moves of 2 inner Euler steps, so it scores half as often. Feynman-Kac particles are steered at
5 / (standard deviation of the reward over the prior), and their SDE has the diffusion 1 - t. The result is the sample of the highest
reward. Guided, differentiable rewards only: inside by `guide.rewarded` in every evaluation between 0.2 and 0.7, without a backward pass
through the network; outside by the same gradient once a move, at the state where it begins in that time; or by `fk`'s gradient proposal,
which has a backward pass for each evaluation and so a third of the particles.
Rows are appended as they come and skipped if they exist. Diversity: mean distance of the classifier's
features between the results of one row, each of its own seed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from torch import Tensor

from ... import steer
from ...app.files.atomic import put
from ...app.show.figures import figure, png
from ...budget import Budget
from ...flow import Flow
from ...grad import value_and_grad
from ...grids import arc, uniform
from ...guide import on_path, rewarded
from ...path import VP, Ends, tilted
from ...priors import bundled
from ...rewards import Compressibility, brightness
from ...rng import Noise
from ...step import Reward, run
from ...transition import ancestral, diffusion, glass, langevin
from .. import kept
from ..exact.glass import led
from ..intervals import interval
from .classifier import classifier, whole

LENGTH = 10
"""Evaluations of one trajectory."""
STARTS = 25
"""Sources of which RBF begins with the best, as in its paper; they are paid from the budget."""
BUDGETS = (50, 100, 200, 400, 800)
CLASSES = {"fashion": ("bag", "sneaker", "coat"), "aerial": ("forest",)}
TILT, INSIDE, BETWEEN = 5.0, 0.4, (0.2, 0.7)
"""Strength in standard deviations of the reward, and the share of it that guides, and when: GLASS's own."""
FIELDS = (
    *("prior", "reward", "target", "method", "budget", "seeds", "evaluations", "rewards", "value", "spread"),
    *("held_out", "held_out_spread", "diversity", "seconds"),
)


class Made(NamedTuple):
    """Results `(seeds, ...)` with what each cost, as means."""

    x: Tensor
    evaluations: float
    rewards: float


def _spent(budget: Budget) -> tuple[float, float]:
    told = budget.told()
    return float(told["evaluations"].double().mean()), float(told["rewards"].double().mean())


def _particles(
    flow: Flow, reward: Reward, budget: int, seeds: int, strength: float, move: Any, inner: int, how: str = ""
) -> Made:
    """Feynman-Kac steering; `inner` evaluations a move; guided inside the flow, from outside, or by its twisted proposal."""
    k, ledger = budget // LENGTH, Budget()
    if how == "proposal":
        k = max(1, k // 3)
    if how == "outside":
        move = led(move, partial(_outside, flow, reward, INSIDE * strength))
    noise = Noise(0, rows=range(seeds)).spawn(k)
    seen = (
        rewarded(flow, reward, strength=INSIDE * strength, through=False, start=BETWEEN[0], stop=BETWEEN[1])
        if how == "inside"
        else flow
    )
    last = run(
        steer.fk(
            seen, reward, flow.source(noise), uniform(LENGTH // inner), particles=k, strength=strength, transition=move,
            proposal="gradient" if how == "proposal" else "prior", budget=ledger, noise=noise,
        )
    )  # fmt: skip
    return Made(last.x[last.info["best"]], *_spent(ledger))


def _outside(flow: Flow, reward: Reward, strength: float, x: Tensor, t: Tensor, plain: Ends) -> Tensor | float:
    """By how much `guide.rewarded` without the network moves the clean estimate, of ends that are there already."""
    if not BETWEEN[0] - 1e-9 < t < BETWEEN[1]:
        return 0.0
    pull = value_and_grad(lambda clean: reward(flow.decode(clean)), plain.clean)[1]
    return tilted(flow.path, plain, strength * pull, t).clean - plain.clean


def _chains(flow: Flow, reward: Reward, budget: int, seeds: int, method: Callable[..., Any], times: Tensor) -> Made:
    ledger, noise = Budget(evaluations=budget), Noise(0, rows=range(seeds))
    last = run(method(flow, reward, flow.source(noise), times, budget=ledger, noise=noise))
    return Made(last.x, *_spent(ledger))


def methods(budget: int) -> dict[str, Callable[[Flow, Reward, int, float], Made]]:
    """Name -> (flow, reward, seeds, strength) -> what came out."""

    def fk(move: Any, inner: int, how: str = "") -> Callable[[Flow, Reward, int, float], Made]:
        return lambda flow, reward, seeds, strength: _particles(flow, reward, budget, seeds, strength, move, inner, how)

    def chain(method: Callable[..., Any]) -> Callable[[Flow, Reward, int, float], Made]:
        return lambda flow, reward, seeds, strength: _chains(flow, reward, budget, seeds, method, uniform(LENGTH))

    def vp(method: Callable[..., Any]) -> Callable[[Flow, Reward, int, float], Made]:
        """Along RBF's path, by its SDE, on its grid."""
        moved = partial(method, transition=partial(langevin, diffusion=diffusion.falling(4.5, 4)))
        return lambda flow, reward, seeds, strength: _chains(
            on_path(flow, VP()), reward, budget, seeds, moved, arc(LENGTH)
        )

    share, rest = max(1, budget // LENGTH), max(1, (budget - STARTS) // LENGTH)
    return {
        "best of N": chain(partial(steer.best_of, draws=share)),
        "SVDD": chain(partial(steer.svdd, draws=share)),
        "CoDe, blocks of 2": chain(partial(steer.svdd, draws=share, block=2)),
        "CoDe, blocks of 5": chain(partial(steer.svdd, draws=share, block=5)),
        "RBF": chain(partial(steer.rbf, draws=share)),
        "RBF, rest spent": chain(partial(steer.rbf, draws=share, spend_rest=True)),
        "SVDD, VP": vp(partial(steer.svdd, draws=share)),
        "RBF, VP": vp(partial(steer.rbf, draws=rest, starts=STARTS)),
        "RBF, VP, rest spent": vp(partial(steer.rbf, draws=rest, starts=STARTS, spend_rest=True)),
        "FK, SDE": fk(partial(langevin, diffusion=diffusion.falling()), 1),
        "FK, ancestral": fk(ancestral, 1),
        "FK, GLASS": fk(partial(glass, inner=2, midpoint=False), 2),
        "FK, GLASS, guided inside": fk(partial(glass, inner=2, midpoint=False), 2, "inside"),
        "FK, ancestral, guided inside": fk(ancestral, 1, "inside"),
        "FK, ancestral, guided by proposal": fk(ancestral, 1, "proposal"),
        "FK, GLASS, guided outside": fk(partial(glass, inner=2, midpoint=False), 2, "outside"),
    }


def varied(features: Tensor) -> float:
    """Mean distance between different rows."""
    n = len(features)
    return float(torch.cdist(features.double(), features.double()).sum() / (n * (n - 1)))


def rewards(name: str, net: Any, other: Any, classes: list[str]) -> Iterator[tuple[str, str, Reward, Reward]]:
    """(reward, target, what is steered by, what is held out)."""

    def chosen(model: Any, label: int) -> Reward:
        return lambda image: model(image.float().clamp(-1, 1)).log_softmax(1)[:, label]

    def sure(image: Tensor) -> Tensor:
        return other(image.float().clamp(-1, 1)).log_softmax(1).max(1).values

    for target in CLASSES[name]:
        yield "class", target, chosen(net, classes.index(target)), chosen(other, classes.index(target))
    yield "compressibility", "", Compressibility(), sure
    yield "brightness", "", lambda image: brightness(image.clamp(-1, 1)), sure


@torch.no_grad()
def measure(
    name: str,
    flow: Flow,
    net: Any,
    other: Any,
    classes: list[str],
    seeds: int,
    done: set[tuple[str, ...]],
    only: str = "",
    budgets: Sequence[int] = BUDGETS,
) -> Iterator[Mapping[str, str]]:
    """A row for each reward, target, method and budget that is not done."""
    noise = Noise(10**6, rows=range(100))
    plain = run(
        steer.best_of(
            flow, lambda image: image.mean((1, 2, 3)), flow.source(noise), uniform(LENGTH), draws=1, noise=noise
        )
    ).x
    for reward, target, value, held_out in rewards(name, net, other, classes):
        strength = TILT / float(value(flow.decode(plain)).std())
        for budget in budgets:
            for method, make in methods(budget).items():
                if "guided" in method and reward == "compressibility":
                    continue
                if (name, reward, target, method, str(budget), str(seeds)) in done or (only and only not in method):
                    continue
                start = time.perf_counter()
                made = make(flow, value, seeds, strength)
                seconds = time.perf_counter() - start
                image = flow.decode(made.x)
                got, beside = value(image), held_out(image)
                yield dict(
                    zip(
                        FIELDS,
                        (
                            *(name, reward, target, method, str(budget), str(seeds)),
                            *(f"{made.evaluations:.1f}", f"{made.rewards:.1f}"),
                            *(f"{float(got.double().mean()):.4f}", f"{interval(got.tolist()).half:.4f}"),
                            *(f"{float(beside.double().mean()):.4f}", f"{interval(beside.tolist()).half:.4f}"),
                            *(f"{varied(net.features(image.float().clamp(-1, 1))):.4f}", f"{seconds:.1f}"),
                        ),
                        strict=True,
                    )
                )


def table(rows: list[dict[str, str]]) -> str:
    """Markdown: reward at each budget, held-out beside it, a line for each method; means over targets."""
    lines: list[str] = []
    for prior, reward in dict.fromkeys((r["prior"], r["reward"]) for r in rows):
        mine = [r for r in rows if (r["prior"], r["reward"]) == (prior, reward)]
        budgets = sorted({int(r["budget"]) for r in mine})
        lines += [f"**{prior}, {reward}**", "", "| method | " + " | ".join(map(str, budgets)) + " | diversity |"]
        lines.append("| --- |" + " --- |" * (len(budgets) + 1))
        for method in dict.fromkeys(r["method"] for r in mine):
            cells = []
            for budget in budgets:
                some = [r for r in mine if r["method"] == method and int(r["budget"]) == budget]
                if not some:
                    cells.append("-")
                    continue
                mean, beside = (sum(float(r[c]) for r in some) / len(some) for c in ("value", "held_out"))
                width = sum(float(r["spread"]) ** 2 for r in some) ** 0.5 / len(some)
                cells.append(f"{mean:.3f} ± {width:.3f} ({beside:.2f})")
            last = [float(r["diversity"]) for r in mine if r["method"] == method and int(r["budget"]) == budgets[-1]]
            diversity = f"{sum(last) / len(last):.2f}" if last else "-"
            lines.append(f"| {method} | {' | '.join(cells)} | {diversity} |")
        lines.append("")
    return "\n".join(lines)


def plot(rows: list[dict[str, str]], out: Path) -> None:
    """Reward against evaluations, and against calls of the reward, a column for each prior and reward."""
    kinds = list(dict.fromkeys((r["prior"], r["reward"]) for r in rows))
    names = list(dict.fromkeys(r["method"] for r in rows))
    styles = {method: {"color": f"C{i % 10}", "linestyle": ("-", "--")[i // 10 % 2]} for i, method in enumerate(names)}
    made = figure(3.4 * len(kinds), 6)
    axes = made.subplots(2, len(kinds), squeeze=False)
    for column, (prior, reward) in enumerate(kinds):
        mine = [r for r in rows if (r["prior"], r["reward"]) == (prior, reward)]
        for line, against in enumerate(("evaluations", "rewards")):
            axis = axes[line, column]
            for method in dict.fromkeys(r["method"] for r in mine):
                points = []
                for budget in sorted({int(r["budget"]) for r in mine if r["method"] == method}):
                    some = [r for r in mine if r["method"] == method and int(r["budget"]) == budget]
                    points.append([sum(float(r[c]) for r in some) / len(some) for c in (against, "value")])
                axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=method, **styles[method])
            axis.set_xscale("log")
            axis.set_xticks([10, 30, 100, 300, 1000], ["10", "30", "100", "300", "1000"])
            axis.minorticks_off()
            axis.set_xlim((20, 1000) if against == "evaluations" else (4, 1000))
            axis.set_xlabel("evaluations" if against == "evaluations" else "calls of the reward")
            if not line:
                axis.set_title(f"{prior}, {reward}", fontsize=10)
        axes[0, column].set_ylabel("reward" if not column else "")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    made.legend(handles, labels, fontsize=7, loc="outside lower center", ncols=6)
    put(out, lambda temporary: temporary.write_bytes(png(made)))


def main(
    prior: Annotated[str | None, typer.Argument(help=f"{', '.join(CLASSES)}")] = None,
    data: Annotated[Path | None, typer.Option(help="the set's file; see flowhelm.recipes")] = None,
    split: Annotated[Path | None, typer.Option(help="aerial: JSON that names the test pictures")] = None,
    work: Annotated[Path | None, typer.Option(help="folder of the classifier that steers")] = None,
    held_out_work: Annotated[
        Path | None, typer.Option(help="folder of the one that does not (trained with --seed 1)")
    ] = None,
    seeds: Annotated[int, typer.Option(min=2, help="runs of each")] = 5,
    budget: Annotated[
        list[int] | None, typer.Option(min=LENGTH, help="evaluations; may be given several times")
    ] = None,
    only: Annotated[str, typer.Option(help="methods whose name has this in it; all if not given")] = "",
    out: Annotated[Path, typer.Option(help="rows (CSV), or the plot (PNG)")] = Path("steering.csv"),
    shown: Annotated[Path | None, typer.Option("--plot", help="draw these rows instead")] = None,
    listed: Annotated[Path | None, typer.Option("--table", help="print these rows instead")] = None,
) -> None:
    """Reward against budget."""
    if shown is not None:
        plot(kept.read(shown), out)
        return
    if listed is not None:
        print(table(kept.read(listed)))
        return
    if prior not in CLASSES or data is None or work is None or held_out_work is None:
        raise typer.BadParameter(
            f"give a prior ({', '.join(CLASSES)}), --data, --work and --held-out-work, or --plot or --table"
        )
    parts = whole(prior, data, split)
    net, other = (classifier(prior, parts, folder, seed) for seed, folder in enumerate((work, held_out_work)))
    flow = bundled.load(prior)
    done = {tuple(r[c] for c in FIELDS[:6]) for r in kept.stored(out)}
    for row in measure(prior, flow, net, other, list(flow.about["classes"]), seeds, done, only, budget or BUDGETS):
        kept.append(out, row, columns=FIELDS)
        print(" ".join(f"{v:>12}" for v in row.values()))


if __name__ == "__main__":
    typer.run(main)
