"""Controls compared: a short horizon against whole-trajectory optimisation, by objective, picture and cost.

    python -m flowhelm.bench.exact.control --data fashion_mnist.npz --csv control.csv
    python -m flowhelm.bench.exact.control --data fashion_mnist.npz --seeds 4 --only OC-Flow --only "MPC-Flow K=3" --csv control.csv
    python -m flowhelm.bench.exact.control --memory

One seed takes two minutes of one core. First the problem that has a known optimum (a Gaussian prior and a linear measurement, so
linear-quadratic control), then pictures. The objective J is int |u|^2 dt + q/2 |A x(1) - y|^2 of the controls that a method has
*executed*, on its own grid; in FlowGrad a kick counts as a control of one step's length, and D-Flow, which chooses the source, has none.
Evaluations and backward passes are counted, one per batched call; recomputed ones count. Seconds are CPU time. `peak` is measured on one
picture: the most bytes of tensors alive at once beyond weights and inputs, backward passes included. A last table looks at the horizon of
one step under operators that leave pixels unseen, with and without fresh noise.

The known problem has one start and one measurement, and then twenty that are drawn from its prior. With several seeds all but the first is
run anew for each, with other draws, pictures and noise. Tables then hold means over seeds; ratios, times and PSNR with a 95 % interval,
compared with OC-Flow seed by seed.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, NamedTuple

import torch
import typer
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ...app.files.dataset import pictures
from ...flow import Flow, GaussianFlow, NetFlow
from ...grad import value_and_grad
from ...grids import uniform
from ...guide import counted
from ...inner import adam, lbfgs
from ...measure import Function, Linear, Measurement, simulate
from ...metrics import psnr
from ...operators import random_mask, superres
from ...priors.bundled import load
from ...rng import Noise
from ...solve import integrate, rollout
from ...steer.d_flow import d_flow
from ...steer.flow_grad import flow_grad
from ...steer.mpc_flow import mpc_flow
from ...steer.mpc_flow_dt import mpc_flow_dt
from ...steer.oc_flow import oc_flow
from ...step import Step, run
from .. import kept
from ..intervals import interval

STD, STRENGTH, STARTS = 0.05, 25.0, 20

Method = Callable[..., Iterator[Step]]


class Entry(NamedTuple):
    """A method with its options, and the number of steps of its grid."""

    method: Method
    steps: int

    @property
    def whole(self) -> bool:
        """It yields the whole trajectory once per iteration, not one step of it."""
        return getattr(self.method, "func", self.method) in (oc_flow, flow_grad, d_flow)


@dataclass
class Row:
    """One method on one problem of one seed, means over its rows; NaN where there is no such thing.

    `ratio` is J by the optimum on the same grid where that is known, else by OC-Flow's J, mean by mean, and `middle` the median of
    its rows' own: where the optimum does next to nothing that ratio has no bound. `seconds` are of this process's CPU time,
    `time` is in units of OC-Flow's.
    """

    problem: str
    method: str
    seed: int
    steps: int
    objective: float
    ratio: float
    middle: float
    energy: float
    residual: float
    psnr: float
    evaluations: int
    backward: int
    seconds: float
    time: float
    peak: float


class Memory(TorchDispatchMode):
    """Bytes of the tensors that were made within and are alive: `now`, and the most there were, `peak`.

    Counted by storage as operations return them, so that what autograd has saved and what a checkpoint holds are both in it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if key not in given and key not in self._known:  # else a view, or written in place
                    self._known.add(key)
                    weakref.finalize(storage, self._freed, key, size)
                    self.now += size
                    self.peak = max(self.peak, self.now)
        return out

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def evaluate(
    problem: str,
    flow: Flow,
    y: Measurement,
    x: Tensor,
    of: dict[str, Entry],
    names: Collection[str] | None = None,
    *,
    seed: int = 0,
    clean: Tensor | None = None,
    optimum: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[Row]:
    """Rows of the entries, or of those named, at strength `STRENGTH`, each as it is done.

    Args:
        clean: the pictures, for PSNR, and for `peak`, which is the same for every seed and measured for the first.
        optimum: times -> J of the best controls, `(b,)`.
    """
    reference, spent_by_it = x.new_full((len(x),), math.nan), math.nan
    for name, entry in of.items():
        if names and name not in names:
            continue
        times = flow.times(entry.steps)
        tally, began = counted(flow), time.process_time()
        energy: Tensor | float = 0.0
        for step in entry.method(tally, y, x, times, noise=Noise(seed, len(x))):
            spent = step.info.get("energy", x.new_full((len(x),), math.nan))
            energy = spent if entry.whole else energy + (times[step.index] - times[step.index - 1]) * spent
        seconds = time.process_time() - began
        image = flow.decode(step.x)
        objective = (energy + STRENGTH * y.misfit(image)).double()
        if name == "OC-Flow":
            reference, spent_by_it = objective, seconds
        least = optimum(times).double() if optimum else reference
        peak = math.nan
        if clean is not None and not seed:  # in the two dimensions of the reference problem there is nothing to weigh
            with Memory() as memory:
                own = Measurement(y.y[:1], y.operator, y.std)
                run(entry.method(flow, own, x[:1], times, noise=Noise(0, 1)))
            peak = memory.peak
        residual = (2 * y.misfit(image).mean() / y.y[0].numel()).sqrt() / y.std
        yield Row(
            problem, name, seed, entry.steps, float(objective.mean()),
            float(objective.mean() / least.mean()), float((objective / least).median()),
            float(torch.as_tensor(energy).double().mean()), float(residual),
            float(psnr(image, clean).mean()) if clean is not None else math.nan,
            tally.count.calls, tally.count.backward, seconds, seconds / spent_by_it, peak,
        )  # fmt: skip


def best(flow: GaussianFlow, x: Tensor, times: Tensor, matrix: Tensor, y: Tensor, q: float) -> Tensor:
    """The least J on a grid, `(b,)`: Euler steps of an affine velocity make the end affine in all controls.

    With W = sum h Psi Psi^T, Psi_k the derivative of the end in the state after step k, and e = A x_N - y without control,
    J* = e^T (I / q + A W A^T / 2)^-1 e / 2.
    """
    eye = torch.eye(len(flow.mean), dtype=x.dtype)
    psi, gramian = eye, torch.zeros_like(eye)
    for s, t in reversed(list(pairwise(times))):
        gramian = gramian + (t - s) * psi @ psi.T
        slope = (flow.velocity(eye, s) - flow.velocity(0 * eye, s)).T
        psi = psi @ (eye + (t - s) * slope)
    e = run(integrate(flow, x, times)).x @ matrix.T - y
    inside = torch.eye(len(matrix), dtype=x.dtype) / q + matrix @ gramian @ matrix.T / 2
    return 0.5 * ((e @ torch.linalg.inv(inside)) * e).sum(1)


def linear_quadratic(seed: int = 0, starts: int = 1, names: Collection[str] | None = None) -> Iterator[Row]:
    """The reference problem: N(mean, S) in two dimensions, one measurement, q = 25, N = 100.

    With one start from the start and the measurement that tests know; with more, from those that are drawn from the prior.
    """
    double = partial(torch.tensor, dtype=torch.float64)
    flow = GaussianFlow(double([1.0, -0.5]), double([[0.8, 0.3], [0.3, 0.5]]))
    matrix, x, measured = double([[1.0, 0.5]]), double([[0.5, -1.2]]), double([[0.8]])
    if starts > 1:
        x, drawn = Noise(seed, starts)(x.expand(starts, -1)), Noise(seed, starts).named("measurement")
        measured = flow.sample(drawn) @ matrix.T + 0.2 * drawn(measured.expand(starts, -1))
    y = Measurement(measured, Linear(lambda z: z @ matrix.T, (2,), tolerance=1e-14), 0.2)
    few = partial(lbfgs, iterations=5)
    horizons = {k: partial(mpc_flow, horizon=k, inner=few) for k in (2, 3, 5)}
    entries = {
        "OC-Flow": Entry(oc_flow, 100),
        "OC-Flow, N=10": Entry(oc_flow, 10),
        "OC-Flow, L-BFGS": Entry(partial(oc_flow, iterations=1, inner=partial(lbfgs, iterations=10)), 100),
        "MPC-Flow K=1": Entry(mpc_flow, 100),
        "MPC-Flow K=2": Entry(horizons[2], 100),
        "MPC-Flow K=3": Entry(horizons[3], 100),
        "MPC-Flow K=3, 20 iterations of Adam": Entry(partial(mpc_flow, horizon=3, inner=adam), 100),
        "MPC-Flow K=5": Entry(horizons[5], 100),
        "MPC-Flow K=3, N=10": Entry(horizons[3], 10),
        "MPC-Flow dt": Entry(partial(mpc_flow_dt, strength=STRENGTH, inner=few), 100),
        "MPC-Flow dt, curvature": Entry(partial(mpc_flow_dt, strength=STRENGTH, inner=few, curvature=1.0), 100),
        "FlowGrad": Entry(flow_grad, 100),
        "D-Flow": Entry(partial(d_flow, iterations=1), 100),
    }
    optimum = partial(best, flow, x, matrix=matrix, y=y.y, q=STRENGTH)
    problem = "linear-quadratic" + (f", {starts} starts" if starts > 1 else "")
    yield from evaluate(problem, flow, y, x, entries, names, seed=seed, optimum=optimum)


def on_pictures(
    flow: Flow, clean: Tensor, steps: int, seed: int, names: Collection[str] | None = None
) -> Iterator[Row]:
    """Twofold averaged pictures with noise of std 0.05; whole trajectories of `steps` steps, horizons of a third of them."""
    y = simulate(superres(_three(clean), factor=2), clean, STD, Noise(seed, len(clean)).named("measurement"))
    few, coarse = partial(adam, iterations=8, rate=0.1), max(2, steps // 3)
    entries = {
        "OC-Flow": Entry(oc_flow, steps),
        "MPC-Flow K=1": Entry(mpc_flow, steps),
        "MPC-Flow K=2": Entry(partial(mpc_flow, horizon=2, inner=few), coarse),
        "MPC-Flow K=3": Entry(partial(mpc_flow, horizon=3, inner=few), coarse),
        "MPC-Flow K=5": Entry(partial(mpc_flow, horizon=5, inner=few), coarse),
        "MPC-Flow dt": Entry(partial(mpc_flow_dt, inner=few), coarse),
        "FlowGrad": Entry(flow_grad, steps),
        "D-Flow": Entry(partial(d_flow, iterations=2, inner=partial(lbfgs, iterations=8)), coarse),
    }
    x = flow.source(Noise(seed, len(clean)))
    yield from evaluate("superres x2", flow, y, x, entries, names, seed=seed, clean=clean)


def unseen(flow: Flow, clean: Tensor, steps: int, seed: int, names: Collection[str] | None = None) -> Iterator[Row]:
    """One planned step at strength 1 / std^2 where the operator leaves pixels unseen, which no prox touches."""
    tasks = {
        "70 % of the pixels missing": random_mask(_three(clean)),
        "every second pixel (decimation)": superres(_three(clean), filter="decimate"),
        "average of 2 x 2": superres(_three(clean)),
    }
    method = partial(mpc_flow, strength=1 / STD**2)
    entries = {f"MPC-Flow K=1, renoise {a:g}": Entry(partial(method, renoise=a), steps) for a in (0.0, 0.5, 1.0)}
    x = flow.source(Noise(seed, len(clean)))
    for task, operator in tasks.items():
        y = simulate(operator, clean, STD, Noise(seed, len(clean)).named("measurement"))
        yield from evaluate(task, flow, y, x, entries, names, seed=seed, clean=clean)


def _three(clean: Tensor) -> tuple[int, int, int]:
    channels, height, width = clean.shape[1:]
    return channels, height, width


class Small(nn.Module):
    """Three convolutions of 16 channels; its velocity ignores time."""

    def __init__(self) -> None:
        super().__init__()
        wide = [nn.Conv2d(1, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 16, 3, padding=1), nn.SiLU()]
        self.body = nn.Sequential(*wide, nn.Conv2d(16, 1, 3, padding=1)).requires_grad_(False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.body(x)


COUNTS = (4, 8, 16, 32, 64)


def growth(counts: Iterable[int] = COUNTS, side: int = 32) -> dict[str, list[float]]:
    """Peak memory of a small network's gradients, in units of one state, by the number of steps.

    A bare path with and without checkpoints (what D-Flow needs to choose a source), and the methods as they are.
    """
    flow, generator = NetFlow(Small(), (1, side, side)), torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, side, side, generator=generator)
    y = Measurement(torch.zeros_like(x), Function(lambda image: image), STD)

    def path(times: Tensor, checkpointed: bool) -> None:
        value_and_grad(lambda z: y(rollout(flow, z, times, checkpointed=checkpointed)), x)

    two = partial(lbfgs, iterations=2, history=1)
    subjects: dict[str, Callable[[Tensor], object]] = {
        "path, checkpointed": partial(path, checkpointed=True),
        "path, everything kept": partial(path, checkpointed=False),
        "D-Flow": lambda times: run(d_flow(flow, y, x, times, iterations=1, inner=two)),
        "OC-Flow": lambda times: run(oc_flow(flow, y, x, times, iterations=3)),
        "FlowGrad": lambda times: run(flow_grad(flow, y, x, times, iterations=3)),
    }
    curves: dict[str, list[float]] = {name: [] for name in subjects}
    for name, subject in subjects.items():
        for count in counts:
            with Memory() as memory:
                subject(uniform(count))
            curves[name].append(memory.peak / x.nbytes)
    return curves


def per_step(curve: list[float], counts: tuple[int, ...] = COUNTS) -> float:
    """States per step: the slope over the last doubling."""
    return (curve[-1] - curve[-2]) / (counts[-1] - counts[-2])


def markdown(rows: list[Row]) -> str:
    """One table per problem: means over seeds, and where there are several the interval of what is compared."""
    head = [
        "method",
        "N",
        "J",
        "J ratio",
        "median",
        "energy",
        "residual/std",
        "PSNR",
        "above OC-Flow",
        "evaluations",
        "backward",
        "s",
        "time ratio",
        "peak MiB",
    ]
    lines: list[str] = []
    for problem in dict.fromkeys(r.problem for r in rows):
        lines += [f"\n**{problem}**\n", "| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
        here = [r for r in rows if r.problem == problem]
        reference = {r.seed: r.psnr for r in here if r.method == "OC-Flow"}
        for name in dict.fromkeys(r.method for r in here):
            mine = [r for r in here if r.method == name]
            mean = {f.name: fmean(getattr(r, f.name) for r in mine) for f in fields(Row)[3:]}  # of its numbers
            above = [r.psnr - reference.get(r.seed, math.nan) for r in mine if name != "OC-Flow"]
            cells = [
                name, str(mine[0].steps), _shown(mean["objective"], 5),
                interval([r.ratio for r in mine]).shown(4) if len(mine) > 1 else _shown(mean["ratio"], 5),
                _shown(mean["middle"], 4), _shown(mean["energy"], 4), _shown(mean["residual"], 3),
                interval([r.psnr for r in mine]).shown(2), interval(above).shown(2),
                f"{mean['evaluations']:.0f}", f"{mean['backward']:.0f}",
                f"{mean['seconds']:.2f}", interval([r.time for r in mine]).shown(3) if len(mine) > 1 else _shown(mean["time"], 2),
                _shown(mine[0].peak / 2**20, 3),
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _shown(number: float, digits: int) -> str:
    return "-" if math.isnan(number) else f"{number:.{digits}g}"


def write(path: Path, rows: list[Row]) -> None:
    """CSV, one line a row; written beside and then put in its place."""
    names = [field.name for field in fields(Row)]
    kept.write(path, [{name: getattr(row, name) for name in names} for row in rows])


def main(
    prior: Annotated[str, typer.Option(help="bundled prior or weights file")] = "fashion",
    data: Annotated[
        Path | None, typer.Option(help=".npz, zip archive or folder of pictures; samples of the prior if not given")
    ] = None,
    folder: Annotated[str, typer.Option(help="array of the .npz or folder of the archive")] = "",
    images: Annotated[int, typer.Option(help="of each seed, evenly spaced over the data")] = 4,
    steps: Annotated[int, typer.Option(help="of the whole-trajectory methods' grid on pictures")] = 18,
    memory: Annotated[bool, typer.Option("--memory", help="only how memory grows with the number of steps")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="runs, each with other starts, measurements and pictures")] = 1,
    only: Annotated[list[str] | None, typer.Option(help="a method by its name in the tables; may be repeated")] = None,
    out: Annotated[Path | None, typer.Option("--csv", help="file for the rows; replaced")] = None,
) -> None:
    """Compare planning with whole-trajectory optimisation: objective, PSNR, evaluations, time, memory. Two minutes for each seed."""
    if memory:
        print("Peak memory in states\n\n| steps | " + " | ".join(map(str, COUNTS)) + " | states per step |")
        print("| --- " * (len(COUNTS) + 2) + "|")
        for name, curve in growth().items():
            print(f"| {name} | " + " | ".join(f"{c:.1f}" for c in curve) + f" | {per_step(curve):.2f} |")
        return
    flow, count = load(prior), images * seeds
    if data is None:
        clean = run(integrate(flow, flow.source(Noise(0, count).named("pictures")), flow.times(50))).x.clamp(-1, 1)
    else:
        clean = pictures(
            data, channels=flow.shape[0], size=flow.shape[-1], folder=folder, images=count, spread=True
        ).clean
    rows: list[Row] = []
    for seed in range(seeds):
        shown = clean[seed::seeds]
        known = (linear_quadratic(seed, starts, only) for starts in ((STARTS,) if seed else (1, STARTS)))
        on = on_pictures(flow, shown, steps, seed, only), unseen(flow, shown, 50, seed, only)
        for part in (*known, *on):
            for row in part:
                print(f"seed {seed}, {row.problem}: {row.method}, {row.seconds:.1f} s", flush=True)
                rows.append(row)
                if out:
                    write(out, rows)
    print(markdown(rows))


if __name__ == "__main__":
    typer.run(main)
