"""Do the methods sample the posterior? Each on mixtures whose posterior is known, against exact samples of it.

    python -m flowhelm.bench.exact.posterior --csv posterior.csv

Problems: a mixture of two normals in the plane, seen through one number (y = [1, 0.5] clean + noise of std 0.2 and 1),
and the mixture of 25 in 8 dimensions of MCG-Diff (Cardoso et al. 2024, arXiv:2308.07983), means 8 (i, j) tiled, seen
through one number with noise of std 1. The prior's velocity is exact, so what is seen is the method's own error, and that of its steps.
Rows: exact samples (the floor of the distances), the exact posterior velocity in the same Euler steps, and every method
of `restore` and `steer` in the settings of `settings`, particles with their weights. Restoration methods that
look for one good picture are not samplers and need not be near. Rows are appended to the CSV file; run the command again to go on.
"""

from __future__ import annotations

import inspect
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from torch import Tensor

from ... import restore, steer
from ...cards import prior_kind
from ...control import flower
from ...flow import MixtureFlow
from ...guide import counted
from ...inner import adam
from ...measure import Linear, Measurement
from ...metrics import mean_error, sliced_w2, trace_ratio
from ...rng import Noise
from ...solve import integrate
from ...step import Diverged, run
from ...transition import euler
from .. import kept
from ..intervals import interval

Method = Callable[..., Iterator[Any]]
METHODS: dict[str, Method] = {m.__name__: m for m in (*restore.ALL, *steer.ALL) if prior_kind(m) == "flow"}


class Problem(NamedTuple):
    """A prior and one observation y = matrix clean + N(0, std^2): matrix `(m, d)`, y `(m,)`."""

    prior: MixtureFlow
    matrix: Tensor
    y: Tensor
    std: float

    @property
    def posterior(self) -> MixtureFlow:
        return self.prior.posterior(self.matrix, self.y, self.std**2 * torch.eye(len(self.y), dtype=self.y.dtype))

    def measurement(self, rows: int) -> Measurement:
        operator = Linear(lambda x: x @ self.matrix.T.to(x), self.prior.shape)
        return Measurement(self.y.expand(rows, -1), operator, self.std)


class Variant(NamedTuple):
    """What is added to a method's name, its options, steps of the grid, share of the samples it can afford, are weights read."""

    label: str = ""
    options: Mapping[str, Any] = {}
    steps: int = 100
    share: float = 1.0
    weighted: bool = True


def plane(std: float) -> Problem:
    double = partial(torch.tensor, dtype=torch.float64)
    prior = MixtureFlow(
        double([0.3, 0.7]),
        double([[2.0, 0.0], [-1.0, 1.0]]),
        double([[[0.5, 0.2], [0.2, 0.3]], [[0.2, -0.05], [-0.05, 0.4]]]),
    )
    return Problem(prior, double([[1.0, 0.5]]), double([0.8]), std)


def lattice(seed: int = 0, d: int = 8) -> Problem:
    """25 unit normals around 8 (i, j), i, j = -2 ... 2, repeated along d; one random direction of random length below 1."""
    side = 8 * torch.arange(-2, 3, dtype=torch.float64)
    means = torch.cartesian_prod(side, side).repeat(1, d // 2)
    prior = MixtureFlow(torch.ones(25, dtype=torch.float64), means, torch.eye(d, dtype=torch.float64).expand(25, d, d))
    noise = Noise(seed, 1)
    direction = torch.nn.functional.normalize(noise(means[:1]), dim=1)
    matrix = direction * noise.uniform()[:, None]
    y = prior.sample(noise.named("clean")) @ matrix.T + noise.named("measurement")(means[:1, :1])
    return Problem(prior, matrix, y[0], 1.0)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "plane, std 0.2": partial(plane, 0.2),
    "plane, std 1": partial(plane, 1.0),
    "lattice in 8-D": lattice,
}


def settings(problem: Problem) -> dict[str, tuple[Variant, ...]]:
    """Variants by the name of the method; one that is not named runs with its defaults. Strengths are lambda / std^2."""
    unit, few = 1 / problem.std**2, partial(adam, iterations=10, rate=0.3)
    swarm = {"particles": 64}
    return {
        "dps": (Variant("exact", {"exact": True}), Variant("norm, step 0.05", {"step": 0.05})),
        "stsl": (Variant("exact", {"exact": True, "probe": "exact"}),),
        "ot_ode": (
            Variant("gamma one", {"gamma": "one", "start": 0.0, "transition": euler}),
            Variant("as in the paper", {"transition": euler}),
            Variant("default"),
        ),
        "tmpd": (
            Variant("full"),
            Variant("diagonal", {"covariance": "diagonal"}),
        ),
        "afdps": (
            Variant("64 particles", swarm),
            Variant("64 particles, continuous weights", swarm | {"girsanov": False}),
            Variant("64 particles, weights ignored", swarm | {"threshold": 0.0}, weighted=False),
        ),
        "tds": (
            Variant("64 particles", swarm),
            Variant("64 particles, not tempered", swarm | {"tempering": 0.0}),
        ),
        "fk": (
            Variant("64 particles", swarm),
            Variant("64 particles, twisted", swarm | {"proposal": "gradient"}),
        ),
        "pnp_flow": (Variant("decay 0.01", {"decay": 0.01}),),
        "flower": (Variant("gamma 1", {"gamma": 1.0}), Variant("gamma 0", {"gamma": 0.0})),
        "flow_chef": (Variant("rate 0.05, euler", {"rate": 0.05, "inner": 1, "transition": euler}),),
        "mpc_flow": (
            Variant("K = 1, lambda 0.3", {"strength": 0.3 * unit}),
            Variant("K = 1, lambda 1", {"strength": unit}),
            Variant("K = 1, flower, renoised", {"strength": unit, "energy": flower, "renoise": 1.0}),
        ),
        "mpc_flow_dt": (
            Variant("lambda 0.3", {"strength": 0.3 * unit, "inner": few}, share=0.25),
            Variant("lambda 1", {"strength": unit, "inner": few}, share=0.25),
        ),
        "oc_flow": (Variant("lambda 1", {"strength": unit}, 20, 0.25),),
        "flow_priors": (Variant("strength 1 / std^2", {"strength": unit}),),
        "daps": (Variant(steps=50, share=0.25),),
        "sitcom": (Variant(steps=20, share=0.25),),
        "d_flow": (Variant(steps=10, share=0.1),),
        "flow_grad": (Variant(steps=20, share=0.25),),
        "flow_opt": (Variant(steps=20, share=0.25),),
    }


class Sampled(NamedTuple):
    """States `(n, d)`, weights `(n,)` or None, evaluations and backwards per sample."""

    x: Tensor
    weights: Tensor | None
    evaluations: float
    backward: float


@torch.no_grad()
def sampled(problem: Problem, method: Method, variant: Variant, samples: int, seed: int) -> Sampled:
    """About `samples` of a method: full groups of particles, each group with the weights of its own."""
    options = dict(variant.options)
    k = int(options.get("particles", 1))
    rows = max(1, int(samples * variant.share) // k)
    flow, noise = counted(problem.prior), Noise(seed, rows * k)
    if "noise" in inspect.signature(method).parameters:
        options["noise"] = noise
    x = problem.prior.source(noise.named("source")).double()
    last = run(method(flow, problem.measurement(rows), x, flow.times(variant.steps), **options))
    log_w = last.info.get("log_w")
    weights = None if log_w is None or not variant.weighted else log_w.softmax(1).flatten()
    # a backward is of the whole batch, as a call is
    return Sampled(last.x, weights, flow.count.rows / len(x), float(flow.count.backward))


def evaluate(
    name: str, problem: Problem, samples: int, seed: int, done: set[str], only: str = ""
) -> Iterator[dict[str, Any]]:
    """One row for each way of sampling that is not done yet; of exact samples and those whose name has `only` in it."""
    posterior, n = problem.posterior, samples
    mean, covariance = posterior.moments()
    reference = posterior.sample(Noise(seed, n).named("reference"))

    def exact() -> Sampled:
        return Sampled(posterior.sample(Noise(seed, n).named("floor")), None, 0, 0)

    def velocity() -> Sampled:
        x = posterior.source(Noise(seed, n).named("source")).double()
        return Sampled(run(integrate(posterior, x, posterior.times(100))).x, None, 100, 0)

    ways: dict[str, Callable[[], Sampled]] = {"exact samples": exact, "exact posterior velocity": velocity}
    for title, method in METHODS.items():
        for variant in settings(problem).get(title, (Variant(),)):
            label = f"{title}, {variant.label}" if variant.label else title
            ways[label] = partial(sampled, problem, method, variant, samples, seed)
    for label, way in ways.items():
        if label in done or (only not in label and label != "exact samples"):
            continue
        began = time.perf_counter()
        row: dict[str, Any] = {"problem": name, "method": label, "samples": samples, "seed": seed}
        try:
            got = way()
        except (ValueError, Diverged) as error:  # a method that is not for this problem, or not stable on it
            note = str(error).split(";")[0]
            yield row | dict.fromkeys(FIGURES, "") | {"note": note}
            continue
        yield row | {
            "w2": f"{float(sliced_w2(got.x, reference, got.weights)):.4f}",
            "mean": f"{float(mean_error(got.x, mean, got.weights)):.4f}",
            "trace": f"{float(trace_ratio(got.x, covariance, got.weights)):.4f}",
            "used": len(got.x),
            "evaluations": f"{got.evaluations:.0f}",
            "backward": f"{got.backward:.0f}",
            "seconds": f"{time.perf_counter() - began:.1f}",
            "note": "",
        }


FIGURES = ("w2", "mean", "trace", "used", "evaluations", "backward", "seconds")


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, one table per problem: means over the seeds, with their intervals."""
    lines = []
    for problem in dict.fromkeys(r["problem"] for r in rows):
        mine = [r for r in rows if r["problem"] == problem]
        lines += [f"\n**{problem}**, {mine[0]['samples']} samples\n"]
        lines += [
            "| method | sliced W2 | error of the mean | trace of covariance / exact | samples | evaluations | backward |"
        ]
        lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
        for method in dict.fromkeys(r["method"] for r in mine):
            same = [r for r in mine if r["method"] == method]
            r = same[0]
            if r["note"]:
                lines.append(f"| {method} | {r['note']} | | | | | |")
            else:
                each = (interval(float(s[key]) for s in same if s[key]) for key in ("w2", "mean", "trace"))
                figures = " | ".join(mean.shown(3) for mean in each)
                lines.append(f"| {r['method']} | {figures} | {r['used']} | {r['evaluations']} | {r['backward']} |")
    return "\n".join(lines)


def main(
    samples: Annotated[int, typer.Option(help="of each method; fewer for those that cost much")] = 8000,
    problem: Annotated[list[str] | None, typer.Option(help="names of problems; all if not given")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="runs of each, with this seed and those after it")] = 1,
    only: Annotated[str, typer.Option(help="methods whose name has this in it; all if not given")] = "",
    out: Annotated[
        Path | None, typer.Option("--csv", help="file of one row per problem and method, appended to")
    ] = None,
) -> None:
    """Sample known posteriors with every method; print distances from exact samples."""
    stored = kept.stored(out)
    drawn = [str(seed + run) for run in range(seeds)]
    rows: list[dict[str, Any]] = [r for r in stored if r["samples"] == str(samples) and r["seed"] in drawn]
    for name, run_ in itertools.product(problem or PROBLEMS, drawn):
        if name not in PROBLEMS:
            raise typer.BadParameter(f"expected problems among {', '.join(PROBLEMS)}, got {name}")
        done = {r["method"] for r in rows if r["problem"] == name and str(r["seed"]) == run_}
        for row in evaluate(name, PROBLEMS[name](), samples, int(run_), done, only):
            rows.append(row)
            print(f"{time.strftime('%H:%M:%S')} {name}: {row['method']} {row['w2'] or row['note']}", flush=True)
            kept.append(out, row)
    order = {name: i for i, name in enumerate(PROBLEMS)}
    print(table(sorted(rows, key=lambda r: order[r["problem"]])))


if __name__ == "__main__":
    typer.run(main)
