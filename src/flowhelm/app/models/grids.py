"""The best grid of a prior for each number of steps: candidates made on some noises, chosen on others, measured on others again.

uniform     evenly spaced
shifted     the resolution shift whose error at the end is least
local       the chain of BOSS (arXiv:2312.16414): the least sum of squared local errors, by dynamic programme
endpoint    the same, each local error multiplied by how much the flow stretches it until the end
descent     on request: the best of these, its times moved one by one while the error at the end falls

Local and endpoint costs are those of Euler steps, whatever the solver. The error is the root mean square over pixels between the
solver's end and the fine solution (midpoint rule, half as many steps as the fine grid has) from the same noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ... import grids, sample
from ...flow import Flow
from ...guide import cfg
from ...priors import bundled
from ...priors.bundled import Prior
from ...priors.grids import Candidate, Grids, Kept, Searched, place, read
from ...rng import Noise
from ...solve import Solver, integrate
from ...step import run
from ...transition import midpoint
from ..errors import BadInput
from ..files import atomic as files
from ..run import Planned, Run, Said, Stepped, Written
from .device import to_device
from .request import GridsRequest, check_flow

SIDE, ROWS = 64, 16
"""Of pictures, for priors of any size; noises at a time."""
TRIES = 30
"""Of a descent: what progress reckons with."""
SHIFTS = (0.5, 0.7, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0)
ORDER = ("uniform", "shifted", "local", "endpoint", "descent")
COSTS = {"midpoint": 2, "heun": 2, "rk4": 4}
"""Evaluations a step, where not 1."""


class Part(NamedTuple):
    """Some noises: a flow that is told about them, sources, and ends of the fine solution; both `(rows, *shape)`."""

    flow: Flow
    x: Tensor
    end: Tensor


Parts = list[Part]


@dataclass
class Ledger:
    """Evaluations done, of so many, for the progress bar."""

    total: int
    spent: int = 0

    def step(self, evaluations: int, text: str) -> Stepped:
        self.spent += evaluations
        return Stepped(min(self.spent, self.total), self.total, text)


@torch.no_grad()
def search(request: GridsRequest) -> Run[Grids]:
    """Searches, prints the table and writes the file. Of the file that is there, what was found for other solvers
    stays, and for other numbers of steps if the settings were the same."""
    if request.show:
        shown = read(request.out or place(request.prior))
        for solver, found in shown.solvers.items():
            yield from map(Said, [*table(shown.prior, solver, found), _how(found)])
        return shown
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    counts = sorted({int(n) for n in request.steps.split(",")})
    out = request.out or Path(f"{Path(request.prior).stem}.grids.json")
    files.check_writable(out.parent)
    check_flow(request.prior)
    flow = _sized(bundled.load(request.prior, str(to_device(request.device))), request)
    if max(counts) > request.fine:
        raise BadInput(f"--steps: expected at most --fine {request.fine}, got {max(counts)}; make the fine grid finer")
    sha256 = files.sha256(bundled.weights(request.prior))
    before = _before(out, sha256)
    noises = request.build + request.choose + request.report
    each = 4 * (request.choose + request.report) + len(SHIFTS) * request.build
    each += request.descent * (TRIES * request.build + request.choose + request.report)
    move = sum(counts) * COSTS.get(request.solver, 1) * each
    ledger = Ledger(noises * (request.fine // 2 * 2) + request.build * request.fine + _pushed(request) + move)
    words = f"{flow.name}: grids of {', '.join(map(str, counts))} steps for {request.solver}"
    yield Planned(ledger.total, text=words)

    sets = {}
    for purpose, count in (("build", request.build), ("choose", request.choose), ("report", request.report)):
        sets[purpose] = yield from _solved(flow, count, purpose, request, ledger)
    costs = yield from _costs(sets["build"], request, ledger)
    steps = {}
    for count in counts:
        steps[count] = yield from _kept(count, costs, sets, request, ledger)

    chosen = {"fine", "nodes", "build", "choose", "report", "descent", "seed"}
    made = request.model_dump(include=chosen) | {
        "size": flow.shape[-1],
        "guidance": flow.scale if request.guided else 1.0,
    }
    old = before.get(request.solver)
    found = Searched(made=made, steps=steps if old is None or old.made != made else {**old.steps, **steps})
    result = Grids(prior=flow.name, sha256=sha256, solvers={**before, request.solver: found})
    files.write_json(out, result.model_dump(mode="json"))
    yield from map(Said, [*table(flow.name, request.solver, found), _how(found)])
    yield Written([out])
    return result


def _sized(flow: Prior, request: GridsRequest) -> Prior:
    if request.guided and not flow.about.get("classes"):
        raise BadInput(f"--guided: the prior {request.prior!r} knows no classes; leave it out")
    side = request.size or min(flow.shape[-1], SIDE)
    return flow.sized(side, side)


def _before(out: Path, sha256: str) -> Mapping[str, Searched]:
    """What the file holds for these weights already."""
    if not out.exists():
        return {}
    found = read(out)
    return found.solvers if found.sha256 == sha256 else {}


def _pushed(request: GridsRequest) -> int:
    """Evaluations that the growth of errors costs."""
    n = request.nodes
    return min(ROWS, request.build) * (n + n * (n - 1) * (n - 2) // 6)


def _solved(flow: Prior, count: int, purpose: str, request: GridsRequest, ledger: Ledger) -> Run[Parts]:
    """Sources and ends, some at a time. Noise number i of a purpose is the same whatever the numbers of noises."""
    times, parts = grids.uniform(request.fine // 2), []
    names = flow.about.get("classes", ())
    for first in range(0, count, ROWS):
        rows = range(first, min(first + ROWS, count))
        told: Flow = flow
        if request.guided:
            told = flow.told([names[i % len(names)] for i in rows], guidance=partial(cfg, scale=flow.scale))
        x = flow.source(Noise(request.seed, rows).named(purpose)).to(next(flow.net.parameters()).device)
        parts.append(Part(told, x, run(integrate(told, x, times, transition=midpoint)).x))
        yield ledger.step(request.fine // 2 * 2 * len(rows), f"fine solutions, {purpose}")
    return parts


def _costs(parts: Parts, request: GridsRequest, ledger: Ledger) -> Run[dict[str, Tensor]]:
    """Local costs, and endpoint costs: local ones times the growth of errors from where they are made, interpolated."""
    times, coarse = grids.uniform(request.fine), grids.uniform(request.nodes)
    local = torch.zeros(request.fine + 1, request.fine + 1, dtype=torch.float64)
    for flow, x, _ in parts:
        local += grids.local_costs(*grids.traced(flow, x, times), times) * len(x) / request.build
        yield ledger.step(request.fine * len(x), "local costs")
    flow, x, _ = parts[0]
    states, velocities = grids.traced(flow, x, coarse)
    pushed = grids.endpoint_costs(flow, states, velocities, coarse)
    yield ledger.step(_pushed(request), "growth of errors")
    growth = pushed.sum(0)[2:] / grids.local_costs(states, velocities, coarse).triu(2).sum(0)[2:]
    return {"local": local, "endpoint": local * interpolated(times, coarse[2:], growth)}


def interpolated(times: Tensor, nodes: Tensor, values: Tensor) -> Tensor:
    """Values at `nodes` `(m,)`, rising, as a line between them and flat before and behind: at `times` `(n,)`."""
    right = torch.searchsorted(nodes, times).clamp(1, len(nodes) - 1)
    share = ((times - nodes[right - 1]) / (nodes[right] - nodes[right - 1])).clamp(0, 1)
    return values[right - 1] + share * (values[right] - values[right - 1])


def _kept(
    count: int, costs: Mapping[str, Tensor], sets: Mapping[str, Parts], request: GridsRequest, ledger: Ledger
) -> Run[Kept]:
    """Candidates of one number of steps, the best by one set of noises, and the errors of all on another."""
    fine, solver = grids.uniform(request.fine), getattr(sample, request.solver)
    price = count * COSTS.get(request.solver, 1)
    shifted = {}
    for shift in SHIFTS:
        shifted[shift] = errors(sets["build"], grids.shifted(count, shift), solver).mean()
        yield ledger.step(price * request.build, f"{count} steps, shift {shift:g}")
    chains = {"uniform": grids.uniform(count), "shifted": grids.shifted(count, min(shifted, key=shifted.__getitem__))}
    chains |= {name: fine[grids.bellman(cost, count)] for name, cost in costs.items()}
    if request.descent:
        at_build = {name: float(errors(sets["build"], chain, solver).mean()) for name, chain in chains.items()}
        begin = _nearest(chains[min(at_build, key=at_build.__getitem__)], request.fine)
        reckoned = TRIES * price * request.build
        tries = grids.descended(lambda index: float(errors(sets["build"], fine[index], solver).mean()), begin)
        for index, error in tries:
            chains["descent"] = fine[index]
            cost = min(price * request.build, reckoned)
            reckoned -= cost
            yield ledger.step(cost, f"{count} steps, descent {error:.4f}")
        ledger.spent += reckoned
    chosen, measured = {}, {}
    for name, chain in chains.items():
        chosen[name] = float(errors(sets["choose"], chain, solver).mean())
        measured[name] = errors(sets["report"], chain, solver)
        yield ledger.step(price * (request.choose + request.report), f"{count} steps, {name}: error {chosen[name]:.4f}")
    best = min(chosen, key=chosen.__getitem__)
    return Kept(best=best, candidates={n: _candidate(chains[n], e, measured["shifted"]) for n, e in measured.items()})


def _nearest(times: Tensor, fine: int) -> Tensor:
    """Indices on the uniform fine grid, rising."""
    index = (times * fine).round().long()
    for k in range(
        1, len(index)
    ):  # two that fall together are moved apart, the later to the right, then all back from the end
        index[k] = max(int(index[k]), int(index[k - 1]) + 1)
    for k in range(len(index) - 1, -1, -1):
        index[k] = min(int(index[k]), fine - (len(index) - 1 - k))
    return index


def errors(parts: Parts, times: Tensor, solver: Solver) -> Tensor:
    """Of every noise: the root mean square over pixels between the solver's end and the fine one; `(noises,)` float64."""
    found = [run(solver(flow, x, times)).x - end for flow, x, end in parts]
    return torch.cat([miss.square().flatten(1).mean(1).sqrt().double().cpu() for miss in found])


def _candidate(times: Tensor, error: Tensor, shifted: Tensor) -> Candidate:
    """Means and half of their 95 % intervals."""
    share, width = (error - shifted) / shifted.mean(), 1.96 / len(error) ** 0.5
    return Candidate(
        times=tuple(times.tolist()), error=float(error.mean()), half=float(error.std()) * width, margin=float(share.mean()),
        margin_half=float(share.std()) * width,
    )  # fmt: skip


def table(prior: str, solver: str, found: Searched) -> list[str]:
    """Markdown: the errors of all candidates by number of steps, the best in bold, and its margin over the shifted grid."""
    there = next(iter(found.steps.values())).candidates
    names = [name for name in ORDER if name in there]
    lines = [
        f"| {prior}, {solver}, steps | {' | '.join(names)} | kept, against shifted |",
        "| --- |" + " --- |" * (len(names) + 1),
    ]
    for count, kept in sorted(found.steps.items()):
        cells = []
        for name in names:
            c = kept.candidates[name]
            cells.append(f"{'**' * (name == kept.best)}{c.error:.4f} ± {c.half:.4f}{'**' * (name == kept.best)}")
        best = kept.candidates[kept.best]
        margin = f"{100 * best.margin:+.1f} ± {100 * best.margin_half:.1f} %" if kept.best != "shifted" else "is it"
        lines.append(f"| {count} | {' | '.join(cells)} | {margin} |")
    return lines


def _how(found: Searched) -> str:
    m = found.made
    guidance = "no guidance" if m["guidance"] == 1 else f"guidance {m['guidance']:g}"
    return (
        f"errors on {m['report']} noises, made on {m['build']} and chosen on {m['choose']} others; {m['size']} pixels, {guidance}, "
        f"fine grid of {m['fine']} steps, seed {m['seed']}; ± is half of a 95 % interval"
    )
