"""Fit the weight prior of a small network to a Gaussian process, sample the posterior of some data, and compare it with the exact one.

    python examples/functional_prior.py runs/functional --length 0.6     # 5 minutes of one core; --no-critic: 3
    python examples/functional_prior.py runs/functional --length 1.5

Prints the tables of docs/functions.md and writes OUT/LENGTH.png. The fixed prior has standard deviation 1 everywhere. The fit by energy
is repeated; that by the critic, with 40 steps of it for each of 80 of the prior, is done once. Each fit has a posterior of its own, of 40
points of another function of the process, with a gap between them and noise 0.1; the picture shows the first. Figures are means over fits
with a 95 % interval. A fit that was cut goes on from its checkpoint.
"""

import copy
import time
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated

import matplotlib
import torch
import typer
from torch import Tensor

from flowhelm import NetFlow
from flowhelm.bench.intervals import interval
from flowhelm.train import fit, seeded
from flowhelm.train.functional_prior import (
    NetworkPrior,
    energy_distance,
    energy_loss,
    functions,
    posterior,
    wasserstein_loss,
)
from flowhelm.train.gaussian_process import GaussianProcess
from flowhelm.train.sghmc import sghmc

matplotlib.use("Agg")
from matplotlib import pyplot as plt

GRID = torch.linspace(-4, 4, 40)[:, None]
NOISE = 0.1
CHAINS, BURN, KEPT, EVERY = 24, 3000, 30, 100


def fitted(loss: partial[Tensor], process: GaussianProcess, steps: int, seed: int, checkpoint: Path) -> NetworkPrior:
    torch.manual_seed(seed)
    prior = NetworkPrior()
    flow, data = NetFlow(prior, (len(GRID),)), functions(process, GRID, seed=seed)
    average = copy.deepcopy(prior)
    for update in fit(
        flow, loss, data, steps=steps, average=average, rate=0.05, warmup=10, ema=0.98, seed=seed, checkpoint=checkpoint
    ):
        if update.index % max(1, steps // 5) == 0:
            typer.echo(f"step {update.index} of {steps}, loss {float(update.loss):.3f}", err=True)
    return average.requires_grad_(False)


@torch.no_grad()
def apart(prior: NetworkPrior, process: GaussianProcess, seed: int) -> float:
    """The energy distance on 2000 fresh draws of each."""
    e = torch.randn(2000, prior.size, generator=seeded(seed, 0, purpose="judged"))
    return float(energy_distance(prior(e, GRID), functions(process, GRID, batch=2000, seed=seed + 100)(0).clean))


def sampled(prior: NetworkPrior, x: Tensor, y: Tensor, at: Tensor, seed: int, burn: int) -> Tensor:
    """Functions of the posterior at the points: `(CHAINS * KEPT, n)`."""
    generator = seeded(seed, 0, purpose="chains")
    start = torch.randn(CHAINS, prior.size, generator=generator)
    chain = sghmc(posterior(prior, x, y, NOISE), start, generator, burn=burn, every=max(1, burn * EVERY // BURN))
    return torch.cat([prior(e, at).detach() for e in islice(chain, KEPT)])


def observed(length: float, at: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where and what was observed of a function of the process, `(40, 1)` and `(40,)`; mean and variance of the exact posterior `(n,)`."""
    generator = seeded(7 + seed, 0)
    x = torch.cat([torch.rand(20, 1, generator=generator) * 2 - 3, torch.rand(20, 1, generator=generator) * 2 + 1])
    judge = GaussianProcess(length, NOISE)
    y = judge.sample(x[None], generator)[0]
    mean, variance = (v[0].float() for v in judge.predict(x[None].double(), y[None].double(), at[None].double()))
    return x, y, mean, variance - NOISE**2  # of the function


def main(
    out: Annotated[Path, typer.Argument(help="Folder of the results.")],
    length: Annotated[float, typer.Option(help="Length scale of the process.")] = 0.6,
    critic: Annotated[bool, typer.Option(help="Also fit by the Wasserstein critic.")] = True,
    seeds: Annotated[int, typer.Option(min=1, help="Fits of each.")] = 3,
    moves: Annotated[int, typer.Option(min=1, help="Of the chains, before the first state is kept.")] = BURN,
) -> None:
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    process = GaussianProcess(length, 0.01)
    fits = {"fixed": (None, 0, seeds), "energy": (partial(energy_loss, x=GRID), 300, seeds)}
    if critic:
        fits["critic"] = (partial(wasserstein_loss, x=GRID, steps=40), 80, 1)
    priors: dict[str, list[NetworkPrior]] = {}
    typer.echo("| prior | energy distance | seconds of one core |\n| --- | --- | --- |")
    for name, (loss, steps, times) in fits.items():
        distances, began = [], time.process_time()
        for seed in range(times):
            file = out / f"{length:g}-{name}-{seed}.safetensors"
            prior = fitted(loss, process, steps, seed, file) if loss else NetworkPrior().requires_grad_(False)
            distances.append(apart(prior, process, seed))
            priors.setdefault(name, []).append(prior)
        used = (time.process_time() - began) / times
        typer.echo(f"| {name} | {interval(distances).shown(3)} | {used:.0f} |")

    at = torch.linspace(-4, 4, 81)[:, None]
    gap = at[:, 0].abs() < 0.9
    known = [observed(length, at, seed) for seed in range(seeds)]
    figure, axes = plt.subplots(1, len(priors), figsize=(3.8 * len(priors), 3.2), sharey=True)
    typer.echo("\n| prior | deviation of means | std in the gap | KL of marginals | seconds of one core |")
    typer.echo("| --- | --- | --- | --- | --- |")
    exact = interval(float(variance[gap].mean().sqrt()) for *_, variance in known)
    typer.echo(f"| process, exact | 0 | {exact.shown(2)} | 0 | |")
    for axis, (name, each) in zip(axes, priors.items(), strict=True):
        began, rows = time.process_time(), []
        for seed, (prior, (x, y, mean, variance)) in enumerate(zip(each, known, strict=False)):
            f = sampled(prior, x, y, at, seed=seed, burn=moves)
            m, v = f.mean(0), f.var(0)
            one, other = variance + 1e-3, v + 1e-3
            divergence = 0.5 * (one / other + (m - mean) ** 2 / other - 1 - (one / other).log())
            rows.append([(m - mean).abs().mean(), v[gap].mean().sqrt(), divergence.mean()])
            if not seed:
                shown = f
        off, wide, kl = (interval(map(float, column)) for column in zip(*rows, strict=True))
        used = (time.process_time() - began) / len(each)
        typer.echo(f"| {name} | {off.shown(3)} | {wide.shown(2)} | {kl.shown(2)} | {used:.0f} |")
        f, (x, y, mean, variance) = shown, known[0]
        line = at[:, 0]
        axis.fill_between(line, *f.quantile(torch.tensor([0.025, 0.975]), 0), color="tab:blue", alpha=0.25)
        axis.plot(line, f.mean(0), color="tab:blue", label="network, 95 %")
        for sign, style in ((-1.96, "--"), (0, "-"), (1.96, "--")):
            label = None if sign else "process, exact"
            axis.plot(
                line, mean + sign * variance.clamp(min=0).sqrt(), "k", linestyle=style, linewidth=0.9, label=label
            )
        axis.plot(x[:, 0], y, "o", color="tab:red", markersize=3)
        axis.set_title(f"{name} prior")
        axis.set_ylim(-4, 4)
    axes[0].legend(fontsize=7, loc="lower left")
    figure.tight_layout()
    figure.savefig(out / f"{length:g}.png", dpi=100)
    typer.echo(f"\nwrote {out / f'{length:g}.png'}")


if __name__ == "__main__":
    typer.run(main)
