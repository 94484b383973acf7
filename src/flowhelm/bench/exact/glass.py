"""GLASS where the answers are known: draws from p(clean | x_t), and guidance inside its inner flow against guidance from outside.

    python -m flowhelm.bench.exact.glass draws
    python -m flowhelm.bench.exact.glass guided

The prior is a mixture of two normals in the plane, whose velocity is exact. Its tilt by exp(reward), the reward the log-likelihood
of one number, [1, 0.5] clean with noise of std 0.5, is a mixture as well, and so is p(clean | x_t). The figure is the sliced
2-Wasserstein distance of 1000 samples to as many exact ones, a mean over seeds with its 95 % interval; that of exact samples is the floor.

draws: GLASS into the end, an SDE and ancestral moves from the same four states at t = 0.2, by evaluations.

guided: from noise to the tilted law in five moves of GLASS, by evaluations. Inside: at every evaluation of the inner flow
(`guide.rewarded`). Outside: once a move, at the state that it begins with; the move goes on by what that is worth for its mean.
For ancestral moves and for the flow's own steps, one evaluation each, the two are one. By three gradients: of the exact value
log E[exp(reward) | x_t], which says what the place of the guidance costs; of the reward at the estimate, through the network;
and the paper's, at the estimate as it is, where 0.2 < t < 0.7. The strength of the last two is chosen of `STRENGTHS` for each way and
number of evaluations, on other seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, NamedTuple

import torch
import typer
from torch import Tensor

from ...flow import Flow, MixtureFlow
from ...guide import rewarded
from ...metrics import sliced_w2
from ...path import Ends
from ...rng import Noise
from ...shapes import State, Time
from ...solve import integrate
from ...step import run
from ...transition import Transition, ancestral, euler, glass, langevin
from ..intervals import interval
from .posterior import Problem, plane

app = typer.Typer(no_args_is_help=True, add_completion=False, help=(__doc__ or "").partition("\n")[0])
STRENGTHS = (0.1, 0.2, 0.4, 0.7, 1.0, 1.5)
START, MOVES = 1e-3, 5
"""Where moves begin: at 0 itself a state says nothing, and no gradient could guide its move."""
TRIED = 1000
"""Seeds from which on strengths are chosen."""
Seeds = Annotated[int, typer.Option(min=2, help="runs of each cell")]
Samples = Annotated[int, typer.Option(min=10, help="of each cell; distances depend on it")]
Counts = Annotated[str, typer.Option("--evaluations", help="with commas")]


def known(prior: MixtureFlow, x: Tensor, t: Time) -> MixtureFlow:
    """p(clean | x_t = x) of a state `(d,)`."""
    c, eye = prior.path(t.double()), torch.eye(len(x), dtype=x.dtype)
    return prior.posterior(c.alpha * eye, x, c.sigma**2 * eye)


@app.command()
@torch.no_grad()
def draws(seeds: Seeds = 8, samples: Samples = 1000, counts: Counts = "4,8,16") -> None:
    """Draws from p(clean | x_t): distance to exact ones, by evaluations."""
    prior, s = plane(0.5).prior, torch.tensor(0.2, dtype=torch.float64)
    states = s * prior.sample(Noise(7, 4)) + (1 - s) * Noise(8, 4)(prior.means.new_empty(4, 2))
    laws = [known(prior, x, s) for x in states]

    def moves(transition: Transition, calls: int, x: Tensor, noise: Noise) -> Tensor:
        grid = torch.linspace(float(s), 1, calls + 1, dtype=torch.float64)
        return run(integrate(prior, x, grid, transition=transition, noise=noise)).x

    def inner(midpoint: bool, calls: int, x: Tensor, noise: Noise) -> Tensor:
        return glass(prior, x, s, s.new_tensor(1.0), noise, inner=calls // (1 + midpoint), midpoint=midpoint)

    ways: dict[str, Callable[[int, Tensor, Noise], Tensor]] = {
        "GLASS, Euler": partial(inner, False),
        "GLASS, midpoint": partial(inner, True),
        "SDE": partial(moves, langevin),
        "ancestral": partial(moves, ancestral),
    }
    found: dict[str, list[list[float]]] = {}
    budgets = [int(n) for n in counts.split(",")]
    for seed in range(seeds):
        truth = [law.sample(Noise(seed, samples).named("truth")) for law in laws]
        noise = Noise(seed, samples)
        exact = sum(float(sliced_w2(a, law.sample(noise))) for a, law in zip(truth, laws, strict=True)) / len(laws)
        found.setdefault("exact", []).append([exact] * len(budgets))
        for name, way in ways.items():
            row = []
            for calls in budgets:
                made = [way(calls, x.expand(samples, -1), noise) for x in states]
                row.append(sum(float(sliced_w2(a, b)) for a, b in zip(truth, made, strict=True)) / len(made))
            found.setdefault(name, []).append(row)
    print("| draws by | " + " | ".join(f"{n} evaluations" for n in budgets) + " |\n| --- |" + " --- |" * len(budgets))
    for name, rows in found.items():
        print(f"| {name} | " + " | ".join(interval(column).shown(3) for column in zip(*rows, strict=True)) + " |")


class Way(NamedTuple):
    """Moves, evaluations of each, and whether guidance is once a move or at every evaluation."""

    transition: Transition
    moves: int
    outside: bool = False


def ways(calls: int) -> dict[str, Way]:
    move = partial(glass, inner=calls // MOVES, midpoint=False)
    return {
        "GLASS, inside": Way(move, MOVES),
        "GLASS, outside": Way(move, MOVES, True),
        "ancestral": Way(ancestral, calls),
        "the flow's own steps": Way(euler, calls),
    }


Kind = Callable[[Problem, float], Flow]
"""A gradient to guide by: (problem, strength) -> the prior's flow, guided."""


def by_value(problem: Problem, strength: float) -> Flow:
    """By the exact value, whose flow is that of the tilted law."""
    return problem.posterior


def by_estimate(problem: Problem, strength: float, *, through: bool) -> Flow:
    reward = partial(likelihood, problem)
    between = {"start": 0.0, "stop": 1.0} if through else {"start": 0.2, "stop": 0.7}
    return rewarded(problem.prior, reward, strength=strength, through=through, **between)


def likelihood(problem: Problem, clean: Tensor) -> Tensor:
    """The reward, up to a constant: `(b, 2) -> (b,)`."""
    return -(clean @ problem.matrix.T - problem.y).square().sum(1) / (2 * problem.std**2)


KINDS: dict[str, tuple[Kind, tuple[float, ...]]] = {
    "exact value": (by_value, (1.0,)),
    "estimate, through the network": (partial(by_estimate, through=True), STRENGTHS),
    "estimate, as the paper": (partial(by_estimate, through=False), STRENGTHS),
}


Shift = Callable[[State, Time, Ends], Tensor | float]
"""(x, t, plain ends) -> by how much guidance at x moves the clean estimate."""


def led(move: Transition, shift: Shift) -> Transition:
    """A move that is guided from outside: carried on by what guidance at its first state is worth for its mean.

    Given clean, the mean of the next state is abar clean + gamma x_s (`transition.glass`, with the noising process's rho), so that a
    shift of the clean estimate moves it by abar times as much.
    """

    def moved(flow: Flow, x: State, s: Time, t: Time, noise: Noise | None, ends: Ends | None = None) -> State:
        here, there = flow.path(s.double()), flow.path(t.double())
        plain = flow.ends(x, s) if ends is None else ends
        gamma = here.alpha * there.sigma**2 / (here.sigma**2 * there.alpha)
        return move(flow, x, s, t, noise, plain) + (there.alpha - gamma * here.alpha) * shift(x, s, plain)

    return moved


def sampled(problem: Problem, way: Way, kind: Kind, strength: float, noise: Noise) -> Tensor:
    """From noise to the tilted law: `(rows, 2)`."""
    flow = kind(problem, strength)
    grid = torch.linspace(START, 1, way.moves + 1, dtype=torch.float64)
    x = noise(problem.prior.means.new_empty(len(noise), 2))
    if way.outside:  # the ends are asked for twice at the first state of a move: one evaluation, were it kept
        move = led(way.transition, lambda x, s, plain: flow.ends(x, s).clean - plain.clean)
        return run(integrate(problem.prior, x, grid, transition=move, noise=noise)).x
    return run(integrate(flow, x, grid, transition=way.transition, noise=noise)).x


@app.command()
@torch.no_grad()
def guided(
    seeds: Seeds = 8,
    samples: Samples = 1000,
    counts: Counts = "10,20,40",
    gradient: Annotated[list[str] | None, typer.Option(help=f"of {'; '.join(KINDS)}; default: all")] = None,
) -> None:
    """Guidance inside the inner flow against guidance from outside: distance to the tilted law, by evaluations."""
    if unknown := set(gradient or ()) - set(KINDS):
        raise typer.BadParameter(f"expected gradients of {'; '.join(KINDS)}, got {'; '.join(sorted(unknown))}")
    problem, budgets = plane(0.5), [int(n) for n in counts.split(",")]

    def distance(way: Way, kind: Kind, strength: float, seed: int) -> float:
        made = sampled(problem, way, kind, strength, Noise(seed, samples))
        return float(sliced_w2(problem.posterior.sample(Noise(seed, samples).named("truth")), made))

    floors = [
        float(sliced_w2(*(problem.posterior.sample(Noise(seed, samples).named(part)) for part in ("truth", "other"))))
        for seed in range(seeds)
    ]
    print(
        f"Exact samples: {interval(floors).shown(3)}. In brackets the strength, where it was chosen, and, from outside, what it is "
        "above guidance inside, seed by seed.\n"
    )
    print("| guided by | way | " + " | ".join(f"{n} evaluations" for n in budgets) + " |")
    print("| --- | --- |" + " --- |" * len(budgets))
    for name in gradient or KINDS:
        kind, strengths = KINDS[name]
        inside: dict[int, list[float]] = {}
        for place in ways(MOVES):
            cells = []
            for calls in budgets:
                way = ways(calls)[place]
                tried = {
                    strength: sum(distance(way, kind, strength, TRIED + seed) for seed in range(2))
                    for strength in (strengths if len(strengths) > 1 else ())
                }
                strength = min(tried, key=tried.__getitem__) if tried else strengths[0]
                found = [distance(way, kind, strength, seed) for seed in range(seeds)]
                beyond = interval(b - a for a, b in zip(inside.setdefault(calls, found), found, strict=True))
                said = [f"{strength:g}"] * bool(tried) + [f"{beyond.shown(3)} above"] * way.outside
                cells.append(interval(found).shown(3) + (f" ({'; '.join(said)})" if said else ""))
            print(f"| {name} | {place} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    app()
