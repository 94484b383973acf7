"""Is a method as sure as it may be? It restores what is known: truths drawn from the prior itself, measured with noise.

The prior is right by construction, so that what is found is the method's own error, in the steps it was given; on photographs the prior's
comes on top. With the prior `exact`, a mixture of four normals over small pictures, the posterior is known, and exact samples
of it (the method `exact`) say what the tests say of a sampler that is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import __version__, known, operators, start
from ...app.errors import BadInput, nearest
from ...app.files import atomic as files
from ...app.models import opening as models
from ...app.models.device import to_device
from ...app.options import own
from ...app.options.signature import bind, pick, plain
from ...app.restore.observation import Observed, observe, steps_of
from ...app.restore.presets import settings as settings_of
from ...app.restore.result import chosen
from ...app.run import Planned, Run, Said, Stepped, Written
from ...app.show.calibration import plot
from ...cards import METHODS
from ...codec import CodecPrior
from ...flow import Flow, MixtureFlow
from ...metrics.calibration import ENTRIES, TARP, Judged, coverage, ecdf_band, judge, rank_test
from ...rng import Noise
from ...solve import integrate
from ...step import Step
from ...transition import heun
from .request import CalibrateRequest

EXACT = "exact"
SIDE, EXACT_SIDE, DRAW_STEPS, ROWS = 32, 8, 50, 64
LEVELS = torch.arange(1, 20, dtype=torch.float64) / 20
FIT = "log-likelihood"
RESOLUTION = 2 / 255
"""Differences below an 8-bit level are nobody's concern; noise of this std, added to truths and samples alike, hides them."""
CONTROLS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "exact": lambda draws: draws,
    "exact, nearer by half to their mean": lambda draws: draws.mean(1, keepdim=True).lerp(draws, 0.5),
    "exact, farther by half from their mean": lambda draws: draws.mean(1, keepdim=True).lerp(draws, 1.5),
    "exact, brighter by half a deviation": lambda draws: draws + 0.5 * draws.std(1, keepdim=True).mean(0, keepdim=True),
}


class Known(NamedTuple):
    """Truths `(n, c, h, w)`, what was measured of them, and a look at both that no sample has had (`tarp`)."""

    truth: Tensor
    observed: Observed
    references: Tensor


@torch.no_grad()
def calibrate(request: CalibrateRequest) -> Run[Judged]:
    """Draws, measures, restores and judges; writes OUT.json and OUT.png. Returns what was found of the method."""
    method = own.word(request.method) or request.method
    who = own.short(method)
    operator, std, seed = request.operator, request.std, request.seed
    truths, samples, steps = request.truths, request.samples, request.steps
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    place = to_device(request.device)
    paths = {end: request.out.with_name(f"{request.out.name}.{end}") for end in ("json", "png")}
    files.check_writable(request.out.parent)
    builder = pick("operator", operator, operators.ALL)
    operator_options = plain(builder, request.operator_options)
    exact = _exact(request.size or EXACT_SIDE) if request.prior == EXACT else None
    flow = exact.float_flow if exact else _opened(request.prior, request.size, str(place))
    if known_method(method) == EXACT and exact is None:
        raise BadInput("the exact posterior is known with --prior exact only; name a method, or leave out --prior")
    way: Callable[..., Any] | None = None
    method_options: dict[str, Any] = {}
    if method != EXACT:
        way = pick("method", method, METHODS)
        start.check_kind(way, flow.prior_kind, request.prior)
        usual = settings_of(method, operator, operator_options, std, Path(request.prior).stem)
        drawn = {"answer": "sample"} if method == "vble" else {}
        method_options = plain(way, {**usual.options, **drawn, **request.method_options})
    particles = int(method_options.get("particles", 1))
    rows = max(1, ROWS * SIDE**2 // (flow.shape[-2] * flow.shape[-1] * particles))
    drawing = 0 if exact or isinstance(flow, CodecPrior) else -(-truths // rows) * DRAW_STEPS
    total = drawing + (0 if way is None else -(-truths * samples // rows) * steps)
    if total:
        yield Planned(total)
    if exact:
        truth = exact.flow.sample(Noise(seed, truths).named("truth")).float()
    else:
        truth = yield from _drawn(flow, truths, rows, seed, place, total)
    known = _measured(truth.to(place), builder, bind(builder, operator_options), std, seed)
    found: dict[str, Tensor] = {}
    if way is not None:
        ways = partial(way, **bind(way, method_options))
        made = yield from _restored(flow, known, ways, steps, samples, particles, rows, seed, drawing)
        found[who] = made.unflatten(0, (truths, samples))
    if exact:
        draws = exact.draws(known, samples, seed)
        controls = CONTROLS if way is None else {"exact": CONTROLS["exact"]}
        found |= {name: change(draws) for name, change in controls.items()}
    judged = {name: _judged(known, draws, seed) for name, draws in found.items()}
    code = own.fingerprints((("operator", operator), ("method", method), ("prior", request.prior)))
    settings = {
        "method": method, "method_options": method_options, "operator": operator, "operator_options": operator_options,
        "prior": request.prior, "size": list(flow.shape), "std": std, "steps": steps, "truths": truths, "samples": samples, "seed": seed,
    }  # fmt: skip
    stories = {name: _story(known, draws, judged[name]) for name, draws in found.items()}
    title = f"{who} on {own.short(operator)}, noise {std:g}, prior {own.short(request.prior)}, {steps} steps: {judged[who].verdict}"
    plot(paths["png"], title, judged[who], stories[who], truths, samples)
    files.write_json(paths["json"], {"flowhelm": __version__, "settings": settings | code, "found": stories})
    for line in _told(who, judged, stories, truths):
        yield Said(line)
    yield Written(list(paths.values()))
    return judged[who]


class _Exact(NamedTuple):
    """The mixture in float64, and as methods see it."""

    flow: MixtureFlow
    float_flow: MixtureFlow

    def draws(self, known: Known, samples: int, seed: int) -> Tensor:
        """Exact samples `(n, samples, c, h, w)` of the posterior. Raises BadInput for an operator that is not linear."""
        measurement, d = known.observed.measurement, self.flow.means.shape[1]
        if not measurement.linear:
            raise BadInput("--prior exact: the posterior is known for linear operators only; choose another --operator")
        basis = torch.eye(d, device=known.truth.device).view(d, *self.flow.shape)
        matrix = measurement.operator.A(basis).flatten(1).double().cpu().T
        noise = measurement.std**2 * torch.eye(len(matrix), dtype=torch.float64)
        rows = measurement.y.flatten(1).double().cpu()
        return torch.stack(
            [
                self.flow.posterior(matrix, y, noise)
                .sample(Noise(seed, [("exact", i, k) for k in range(samples)]))
                .float()
                for i, y in enumerate(rows)
            ]
        ).to(known.truth)


def _exact(side: int) -> _Exact:
    """Four normals over grey pictures: smooth differences (3 pixels) around a ramp, a spot, and the negatives of both."""
    if not 4 <= side <= 16:
        raise BadInput(f"--size: the prior exact has a matrix of all pixels; expected a side from 4 to 16, got {side}")
    axis = torch.linspace(-1, 1, side, dtype=torch.float64)
    at = torch.cartesian_prod(axis, axis)
    ramp, spot = 0.5 * at[:, 0], (-4 * at.square().sum(1)).exp() - 0.5
    apart = torch.cdist(at, at) * (side - 1) / 2
    covariance = 0.09 * (-(apart**2) / (2 * 1.5**2)).exp() + 0.002 * torch.eye(side**2, dtype=torch.float64)
    weights = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    shape = (1, side, side)
    means = torch.stack([ramp, spot, -ramp, -spot])
    flow = MixtureFlow(weights, means, covariance.expand(4, -1, -1), shape=shape)
    return _Exact(flow, MixtureFlow(weights.float(), means.float(), covariance.float().expand(4, -1, -1), shape=shape))


def _opened(prior: str, size: int | None, device: str) -> Flow:
    if models.is_pipeline(prior):
        raise BadInput(f"calibrate takes exact, a bundled prior or a .safetensors file, got the pipeline {prior!r}")
    if known.kind(prior) != "codec":
        models.check_draws(prior)
    flow = models.plain(prior, device)
    if not hasattr(flow, "sized"):  # code of your own, of one size
        if size is not None and (size, size) != tuple(flow.shape[1:]):
            raise BadInput(f"--size {size}: the prior {own.short(prior)} has no sized(height, width); leave --size out")
        return flow
    side = size or min(flow.shape[-1], SIDE)
    return flow.sized(side, side)


def _drawn(flow: Flow, truths: int, rows: int, seed: int, device: torch.device, total: int) -> Run[Tensor]:
    """Pictures of the prior, some rows at a time."""
    if isinstance(flow, CodecPrior):
        return flow.draw(Noise(seed, truths).named("truth"))
    made = []
    for part, first in enumerate(range(0, truths, rows)):
        noise = Noise(seed, range(first, min(first + rows, truths))).named("truth")
        last: Step | None = None
        for last in integrate(flow, flow.source(noise).to(device), flow.times(DRAW_STEPS), transition=heun):
            yield Stepped(part * DRAW_STEPS + last.index, total, "truths")
        assert last is not None
        made.append(flow.decode(last.x))
    return torch.cat(made)


def _measured(truth: Tensor, builder: Callable[..., Any], options: Mapping[str, Any], std: float, seed: int) -> Known:
    noise = Noise(seed, len(truth))
    observed = observe(builder, options, truth, std, simulate=noise.named("measurement"))
    # near to what was measured, so that the samples' spread decides which is nearer; and never just there
    y = observed.measurement
    near = y.prox(torch.zeros_like(truth), 1.0) if y.linear else truth.roll(1, 0)
    return Known(truth, observed, near + 0.25 * truth.std() * noise.named("reference")(truth))


def _restored(
    flow: Flow,
    known: Known,
    method: Callable[..., Any],
    steps: int,
    samples: int,
    particles: int,
    rows: int,
    seed: int,
    before: int = 0,
) -> Run[Tensor]:
    """`samples` of each truth in its order, some rows at a time; each has a stream of its own. `before`: steps that were made."""
    y = known.observed.measurement
    keys = [(i, k) for i in range(len(known.truth)) for k in range(samples)]
    times, total = start.grid(method, flow, steps, y), before - (-len(keys) // rows) * steps
    made = []
    for part, first in enumerate(range(0, len(keys), rows)):
        some = keys[first : first + rows]
        noise = Noise(seed, [("sample", *key) for key in some])
        mine = type(y)(y.y[[i for i, _ in some]], y.operator, y.std)
        drawn = noise.spawn(particles) if particles > 1 else noise
        moves = steps_of(flow, known.observed._replace(measurement=mine), method, times, drawn)
        last: Step | None = None
        for last in moves:
            yield Stepped(before + part * steps + last.index * steps // last.total, total, "samples")
        assert last is not None
        made.append(flow.decode(chosen(last.x, last.info, noise.named("chosen"))))
    return torch.cat(made)


def _judged(known: Known, draws: Tensor, seed: int) -> Judged:
    truth, y = known.truth, known.observed.measurement
    n, k = draws.shape[:2]
    fit = (type(y)(y.y, y.operator, y.std)(draws.flatten(0, 1)).view(n, k), y(truth))
    noise = Noise(seed, n).named("resolution")
    draws, truth = draws + RESOLUTION * noise(draws), truth + RESOLUTION * noise(truth)
    _, height, width = truth.shape[1:]
    quantities = {
        f"pixel {row}, {column}": (draws[:, :, 0, row, column], truth[:, 0, row, column])
        for row in (height // 4, 3 * height // 4)
        for column in (width // 4, 3 * width // 4)
    }
    quantities["mean"] = (draws.flatten(2).mean(2), truth.flatten(1).mean(1))
    return judge(draws, truth, {**quantities, FIT: fit}, known.references, fit=FIT)


def _story(known: Known, draws: Tensor, judged: Judged) -> dict[str, Any]:
    """What the JSON holds, and all that the plot shows."""
    n, k = draws.shape[:2]
    widest = (k - 1) / (k + 1) + 1e-9  # from the least sample to the largest
    levels = LEVELS[widest >= LEVELS]
    deviation = (levels * (1 - levels) / n).sqrt()
    return {
        "verdict": judged.verdict,
        "p": judged.p,
        "spread": judged.spread,
        "bias": judged.bias,
        "tests": {name: test._asdict() for name, test in judged.tests.items()},
        "chi-squared": {name: rank_test(rank, k)._asdict() for name, rank in judged.ranks.items()},
        "coverage": {
            "nominal": levels.tolist(),
            "held": coverage(draws, known.truth, levels).tolist(),
            "binomial 95 %": (1.96 * deviation).tolist(),
        },
        "ranks": {name: torch.bincount(rank.cpu(), minlength=k + 1).tolist() for name, rank in judged.ranks.items()},
        "ecdf band 95 %": ecdf_band(n, k).tolist(),
    }


def _told(
    method: str, judged: Mapping[str, Judged], stories: Mapping[str, Mapping[str, Any]], truths: int
) -> Iterator[str]:
    held = stories[method]["coverage"]
    wide = max(i for i, level in enumerate(held["nominal"]) if level <= 0.9)
    nominal = held["nominal"][wide]
    width = max(map(len, judged))
    yield f"{'':{width}}  p ranks  p TARP  p intervals  {nominal:.0%} hold  verdict"
    for name, each in judged.items():
        ranks = min(1.0, min(each.tests[q].p for q in each.ranks if q != TARP) * (len(each.ranks) - 1))
        intervals = each.tests[ENTRIES].p
        share = stories[name]["coverage"]["held"][wide]
        yield f"{name:{width}}  {ranks:7.2g}  {each.tests[TARP].p:6.2g}  {intervals:11.2g}  {share:8.1%}  {each.verdict}"
    found, share = judged[method], held["held"][wide]
    worst = min(found.tests, key=lambda name: found.tests[name].p)
    why = f"no test rejects it ({truths} truths)" if found.verdict == "calibrated" else f"{_p(found.p)} by {worst}"
    how = f" ({found.off} too {'low' if found.bias > 0 else 'high'})" if found.verdict == "biased" else ""
    yield f"{method}: {found.verdict}{how}; {nominal:.0%} intervals of pixels hold {share:.1%} of the truths; {why}"


def _p(p: float) -> str:
    return f"p = {p:.2g}" if p > 1e-99 else "p < 1e-99"


def known_method(name: str) -> str:
    """Raises BadInput that names the nearest."""
    names = [EXACT, *(f.__name__ for f in METHODS)]
    if name not in names and not own.word(name):
        raise BadInput(f"there is no method {name!r}; {nearest(name, names)}")
    return name
