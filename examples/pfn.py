"""Train a network that predicts as a Gaussian process does, in one pass, and compare it with the exact answer.

    python examples/pfn.py runs/pfn --prior fixed      # 4 minutes of one core
    python examples/pfn.py runs/pfn --prior random     # as long; length scale and noise are not known

`fixed` has length scale 0.2 and noise 0.1, and the exact posterior predictive is one formula. `random` draws both log-uniformly from
[0.1, 0.6] and [0.05, 0.2] for each data set; the exact answer is then an average over a fine grid of both by their evidence, and the usual
answer, a fit of both by maximum evidence, is the rival. A run that was cut goes on from its checkpoint. Prints the table of
docs/functions.md and writes OUT/PRIOR.png.
"""

import copy
import math
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import matplotlib
import numpy as np
import torch
import typer
from scipy.optimize import minimize
from torch import Tensor

from flowhelm import NetFlow
from flowhelm.train import fit
from flowhelm.train.bars import Bars
from flowhelm.train.gaussian_process import GaussianProcess
from flowhelm.train.pfn import PFN, pfn_loss, processes

matplotlib.use("Agg")
from matplotlib import pyplot as plt

POINTS, BATCH = 24, 64
KNOWN = (1, 3, 5, 10, 20)
TESTED, FITTED, TIMED = 4000, 1000, 200


class Prior(StrEnum):
    fixed = "fixed"
    random = "random"


RANGES = {Prior.fixed: ((0.2, 0.2), (0.1, 0.1)), Prior.random: ((0.1, 0.6), (0.05, 0.2))}


def grid(prior: Prior, size: int = 16) -> list[GaussianProcess]:
    """Hyper-parameters of equal prior mass: midpoints in the logarithm."""
    if prior is Prior.fixed:
        return [GaussianProcess(0.2, 0.1)]
    parts = (torch.arange(size) + 0.5) / size
    (a, b), (c, d) = RANGES[prior]
    return [GaussianProcess(float(a * (b / a) ** p), float(c * (d / c) ** q)) for p in parts for q in parts]


def exact(prior: Prior, x: Tensor, y: Tensor, at: Tensor, value: Tensor) -> Tensor:
    """log p(value | at, x, y) `(b, m)`, hyper-parameters averaged out."""
    each = [gp.evidence(x, y)[:, None] + gp.log_density(x, y, at, value) for gp in grid(prior)]
    total = [gp.evidence(x, y)[:, None] for gp in grid(prior)]
    return torch.stack(each).logsumexp(0) - torch.stack(total).logsumexp(0)


def fitted(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Length scale and noise of the greatest evidence inside the prior's ranges, one data set, by L-BFGS with exact gradients."""
    square = (x - x.T) ** 2

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        length, noise = np.exp(theta)
        kernel = np.exp(-square / (2 * length**2))
        inverse = np.linalg.inv(kernel + noise**2 * np.eye(len(y)))
        white = inverse @ y
        slope = np.outer(white, white) - inverse
        value = y @ white - np.linalg.slogdet(inverse)[1]
        return value / 2, -np.array([(slope * kernel * square / length**2).sum(), 2 * noise**2 * slope.trace()]) / 2

    bounds = [tuple(np.log(pair)) for pair in RANGES[Prior.random]]
    best = minimize(loss, [sum(b) / 2 for b in bounds], jac=True, bounds=bounds, method="L-BFGS-B")
    return tuple(np.exp(best.x))


def trained(out: Path, prior: Prior, steps: int, minutes: float) -> PFN:
    length, noise = RANGES[prior]
    torch.manual_seed(0)
    net = PFN(Bars(processes(length, noise, points=POINTS, batch=4000, seed=1)(0).clean.flatten()))
    average, began = copy.deepcopy(net), time.process_time()
    data = processes(length, noise, points=POINTS, batch=BATCH)
    updates = fit(
        NetFlow(net, (POINTS,)), pfn_loss, data, steps=steps, average=average, rate=2e-3, warmup=steps // 10,
        weight_decay=0.0, ema=0.99, checkpoint=out / f"{prior.value}.safetensors", minutes=1,
    )  # fmt: skip
    for update in updates:
        used = time.process_time() - began
        if update.index % max(1, steps // 20) == 0:
            typer.echo(
                f"step {update.index} of {steps}, loss {float(update.loss):.3f}, {used:.0f} s of one core", err=True
            )
        if used > 60 * minutes:
            typer.echo(f"stopped after step {update.index} of {steps}; the same command goes on")
            updates.close()  # which writes the checkpoint
            break
    return average.eval()


@torch.no_grad()
def judged(net: PFN, prior: Prior, tested: int) -> None:
    length, noise = RANGES[prior]
    rival = " fit, gap |" * (prior is Prior.random)
    typer.echo(f"| known points | exact, nats | network, gap |{rival}\n{'| --- ' * (4 if rival else 3)}|")
    for known in KNOWN:
        batch = processes(length, noise, points=known + 1, batch=tested, seed=2)(known)
        x, y = batch.condition[0].double(), batch.clean.double()
        right = exact(prior, x[:, :known], y[:, :known], x[:, known:], y[:, known:])[:, 0]
        ours = net.bars.log_density(net(x.float(), y[:, :known].float()), y[:, known:].float())[:, 0]
        gaps = [(right - ours).double()]
        if prior is Prior.random:
            found = [fitted(a[:known].numpy(), b[:known].numpy()) for a, b in zip(x[: FITTED * 5], y, strict=False)]
            gp = GaussianProcess(*torch.tensor(found, dtype=torch.float64).T)
            few = slice(len(found))
            gaps += [right[few] - gp.log_density(x[few, :known], y[few, :known], x[few, known:], y[few, known:])[:, 0]]
        cells = [f"{float(g.mean()):.3f} ± {1.96 * float(g.std()) / len(g) ** 0.5:.3f}" for g in gaps]
        typer.echo(f"| {known} | {-float(right.mean()):.3f} | {' | '.join(cells)} |")
    timed(net)


def timed(net: PFN, asked: int = 100) -> None:
    """One data set of 20 points at a time, 100 points asked; and all of them at once for the network."""
    batch = processes(*RANGES[Prior.random], points=20 + asked, batch=TIMED, seed=3)(0)
    (x,), y = batch.condition, batch.clean[:, :20]
    began = time.process_time()
    for row in range(TIMED):
        net(x[row : row + 1], y[row : row + 1])
    alone = time.process_time() - began
    began = time.process_time()
    net(x, y)
    together = time.process_time() - began
    began = time.process_time()
    for a, b in zip(x.double(), y.double(), strict=True):
        gp = GaussianProcess(*fitted(a[:20].numpy(), b.numpy()))
        gp.predict(a[None, :20], b[None], a[None, 20:])
    usual = time.process_time() - began
    typer.echo(
        f"\na data set: network {1e3 * alone / TIMED:.2f} ms, in a batch {1e3 * together / TIMED:.2f} ms; "
        f"fitted process {1e3 * usual / TIMED:.2f} ms"
    )


@torch.no_grad()
def drawn(net: PFN, prior: Prior, path: Path) -> None:
    """Three data sets: the central 90 % of the network and of the exact answer."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), sharey=True)
    at = torch.linspace(0, 1, 200)[None, :, None]
    batch = processes(*RANGES[prior], points=20, batch=3, seed=5)(0)
    for axis, known, x, y in zip(axes, (3, 6, 12), batch.condition[0], batch.clean, strict=True):
        x, y = x[None, :known], y[None, :known]
        logits = net(torch.cat([x, at], 1), y)
        low, middle, high = (net.bars.quantile(logits, q)[0] for q in (0.05, 0.5, 0.95))
        levels = torch.linspace(-3.5, 3.5, 1401).double()
        wide = [z.double() for z in (x, y, at)]
        law = torch.stack([exact(prior, *wide, v.expand(1, 200))[0] for v in levels]).exp().cumsum(0) * 0.005
        bounds = [levels[(law < q).sum(0).clamp(max=1400)] for q in (0.05, 0.5, 0.95)]
        line = at[0, :, 0]
        axis.fill_between(line, low, high, color="tab:blue", alpha=0.25, label="network, 90 %")
        axis.plot(line, middle, color="tab:blue", label="network, median")
        for bound, style in zip(bounds, ("--", "-", "--"), strict=True):
            axis.plot(
                line, bound, color="black", linestyle=style, linewidth=0.9, label="exact" if style == "-" else None
            )
        axis.plot(x[0, :, 0], y[0], "o", color="tab:red", markersize=4, label="known")
        axis.set_title(f"{known} known points")
        axis.set_ylim(-3.5, 3.5)
    axes[0].legend(fontsize=7, loc="lower left")
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main(
    out: Annotated[Path, typer.Argument(help="Folder of the run.")],
    prior: Annotated[Prior, typer.Option(help="Hyper-parameters of the process.")] = Prior.fixed,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the optimiser.")] = 5500,
    minutes: Annotated[
        float, typer.Option(help="Stop the training after so many, of one core; then judge.")
    ] = math.inf,
    tested: Annotated[int, typer.Option(min=2, help="Data sets of each row of the table.")] = TESTED,
) -> None:
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    net = trained(out, prior, steps, minutes)
    judged(net, prior, tested)
    drawn(net, prior, out / f"{prior.value}.png")
    typer.echo(f"wrote {out / prior.value}.png")


if __name__ == "__main__":
    typer.run(main)
