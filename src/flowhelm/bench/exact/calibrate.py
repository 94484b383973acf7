"""Is a method as sure as it may be? It restores what is known: truths drawn from the prior itself, measured with noise.

The prior is right by construction, so that what is found is the method's own error, in the steps it was given; on photographs the prior's
comes on top. With the prior `exact`, a mixture of four normals over small pictures, the posterior is known, and exact samples
of it (the method `exact`) say what the tests say of a sampler that is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import __version__, operators
from ...app.errors import BadInput, nearest
from ...app.files import atomic as files
from ...app.files.pictures import check_writable, write_json
from ...app.models import opening as models
from ...app.options.request import Plain
from ...app.options.signature import bind, pick, plain
from ...app.restore.observation import Observed, guess, observe, steps_of
from ...app.restore.presets import settings as settings_of
from ...app.restore.result import chosen
from ...app.run import signals
from ...app.show.calibration import plot
from ...cards import METHODS
from ...flow import Flow, MixtureFlow
from ...interfaces.cli.progress import bar
from ...metrics.calibration import ENTRIES, TARP, Judged, coverage, ecdf_band, judge, rank_test
from ...priors import bundled
from ...rng import Noise
from ...solve import integrate
from ...step import run
from ...transition import heun

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
def calibrate(
    method: str,
    given: Mapping[str, Mapping[str, Plain]],
    *,
    operator: str = "random_mask",
    prior: str = EXACT,
    truths: int = 64,
    samples: int = 19,
    steps: int = 20,
    std: float = 0.1,
    size: int | None = None,
    seed: int = 0,
    out: Path = Path("calibration"),
    device: str = "cpu",
    threads: int | None = None,
    say: Callable[[str], None] = print,
) -> Judged:
    """Draws, measures, restores and judges; writes OUT.json and, with matplotlib, OUT.png.

    Args:
        method: one that restores, or `exact` with the prior `exact`; given: options of the method and of the operator, as typed.
        samples: of each truth; 19 have 90 % of the truths between the extreme ones.
        size: side of the pictures; default: 8 for `exact`, the prior's own, at most 32, for others.

    Raises:
        ValueError: anything wrong with what was asked for; nothing is written then.
    """
    if not (0 < std < math.inf) or truths < 20 or samples < 4:
        raise BadInput(
            f"expected --std above 0, --truths of at least 20 and --samples of at least 4, got {std}, {truths} and {samples}"
        )
    torch.set_num_threads(threads or torch.get_num_threads())
    place = files.to_device(device)
    paths = {end: out.with_name(f"{out.name}.{end}") for end in ("json", "png")}
    check_writable(out.parent)
    builder = pick("operator", operator, operators.ALL)
    operator_options = plain(builder, given.get("operator", {}))
    exact, flow = _exact(size or EXACT_SIDE) if prior == EXACT else None, None
    flow = exact.float_flow if exact else _opened(prior, size, str(place))
    if method == EXACT and exact is None:
        raise BadInput("the exact posterior is known with --prior exact only; name a method, or leave out --prior")
    way: Callable[..., Any] | None = None
    method_options: dict[str, Any] = {}
    if method != EXACT:
        way = pick("method", method, METHODS)
        usual = settings_of(method, operator, operator_options, std, Path(prior).stem)
        method_options = plain(way, {**usual.options, **given.get("method", {})})
    particles = int(method_options.get("particles", 1))
    rows = max(1, ROWS * SIDE**2 // (flow.shape[-2] * flow.shape[-1] * particles))
    drawing = 0 if exact else -(-truths // rows) * DRAW_STEPS
    total = drawing + (0 if way is None else -(-truths * samples // rows) * steps)
    with signals(), bar(total) as told:
        if exact:
            truth = exact.flow.sample(Noise(seed, truths).named("truth")).float()
        else:
            truth = torch.cat(list(_drawn(flow, truths, rows, seed, place, told)))
        known = _measured(truth.to(place), builder, bind(builder, operator_options), std, seed)
        found: dict[str, Tensor] = {}
        if way is not None:
            ways = partial(way, **bind(way, method_options))
            later = partial(_later, told, drawing)
            parts = _restored(flow, known, ways, steps, samples, particles, rows, seed, later)
            found[method] = torch.cat(list(parts)).unflatten(0, (truths, samples))
        if exact:
            draws = exact.draws(known, samples, seed)
            controls = CONTROLS if way is None else {"exact": CONTROLS["exact"]}
            found |= {name: change(draws) for name, change in controls.items()}
    judged = {name: _judged(known, draws, seed) for name, draws in found.items()}
    settings = {
        "method": method, "method_options": method_options, "operator": operator, "operator_options": operator_options,
        "prior": prior, "size": list(flow.shape), "std": std, "steps": steps, "truths": truths, "samples": samples, "seed": seed,
    }  # fmt: skip
    stories = {name: _story(known, draws, judged[name]) for name, draws in found.items()}
    title = f"{method} on {operator}, noise {std:g}, prior {prior}, {steps} steps: {judged[method].verdict}"
    drawn = plot(paths["png"], title, judged[method], stories[method], truths, samples)
    write_json(paths["json"], {"flowhelm": __version__, "settings": settings, "found": stories})
    _tell(method, judged, stories, truths, samples, say)
    say(f"wrote {paths['json']}" + (f", {paths['png']}" if drawn else "; pip install 'flowhelm[bench]' for the plot"))
    return judged[method]


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
    flow = bundled.load(prior, device)
    side = size or min(flow.shape[-1], SIDE)
    return flow.sized(side, side)


def _drawn(
    flow: Flow, truths: int, rows: int, seed: int, device: torch.device, told: Callable[[int, str], None]
) -> Iterator[Tensor]:
    """Pictures of the prior, a conditional one being told nothing."""
    for part, first in enumerate(range(0, truths, rows)):
        noise = Noise(seed, range(first, min(first + rows, truths))).named("truth")
        x = flow.source(noise).to(device)
        moves = integrate(flow, x, flow.times(DRAW_STEPS), transition=heun)
        yield flow.decode(run(moves, lambda step, n=part: told(n * DRAW_STEPS + step.index, "truths")).x)  # type: ignore[misc]


def _measured(truth: Tensor, builder: Callable[..., Any], options: Mapping[str, Any], std: float, seed: int) -> Known:
    noise = Noise(seed, len(truth))
    observed = observe(builder, options, truth, std, simulate=noise.named("measurement"))
    # near to what was measured, so that the samples' spread decides which is nearer; and never just there
    near = guess(observed) if observed.measurement.linear else truth.roll(1, 0)
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
    told: Callable[[int, str], None],
) -> Iterator[Tensor]:
    """`samples` of each truth in its order, some rows at a time; each has a stream of its own."""
    y = known.observed.measurement
    keys = [(i, k) for i in range(len(known.truth)) for k in range(samples)]
    times = flow.times(steps)
    for part, first in enumerate(range(0, len(keys), rows)):
        some = keys[first : first + rows]
        noise = Noise(seed, [("sample", *key) for key in some])
        mine = type(y)(y.y[[i for i, _ in some]], y.operator, y.std)
        moves = steps_of(
            flow, known.observed._replace(measurement=mine), method, times, noise.spawn(particles) if particles > 1 else noise
        )  # fmt: skip
        last = run(moves, lambda step, n=part: told(n * steps + step.index * steps // step.total, "samples"))  # type: ignore[misc]
        yield flow.decode(chosen(last.x, last.info, noise.named("chosen")))


def _later(told: Callable[[int, str], None], before: int, index: int, text: str) -> None:
    told(before + index, text)


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


def _tell(
    method: str,
    judged: Mapping[str, Judged],
    stories: Mapping[str, Mapping[str, Any]],
    truths: int,
    samples: int,
    say: Callable[[str], None],
) -> None:
    held = stories[method]["coverage"]
    wide = max(i for i, level in enumerate(held["nominal"]) if level <= 0.9)
    nominal = held["nominal"][wide]
    width = max(map(len, judged))
    say(f"{'':{width}}  p ranks  p TARP  p intervals  {nominal:.0%} hold  verdict")
    for name, each in judged.items():
        ranks = min(1.0, min(each.tests[q].p for q in each.ranks if q != TARP) * (len(each.ranks) - 1))
        intervals = each.tests[ENTRIES].p
        share = stories[name]["coverage"]["held"][wide]
        say(f"{name:{width}}  {ranks:7.2g}  {each.tests[TARP].p:6.2g}  {intervals:11.2g}  {share:8.1%}  {each.verdict}")
    found, share = judged[method], held["held"][wide]
    worst = min(found.tests, key=lambda name: found.tests[name].p)
    why = f"no test rejects it ({truths} truths)" if found.verdict == "calibrated" else f"{_p(found.p)} by {worst}"
    how = f" ({found.off} too {'low' if found.bias > 0 else 'high'})" if found.verdict == "biased" else ""
    say(f"{method}: {found.verdict}{how}; {nominal:.0%} intervals of pixels hold {share:.1%} of the truths; {why}")


def _p(p: float) -> str:
    return f"p = {p:.2g}" if p > 1e-99 else "p < 1e-99"


def known_method(name: str) -> str:
    """Raises BadInput that names the nearest."""
    names = [EXACT, *(f.__name__ for f in METHODS)]
    if name not in names:
        raise BadInput(f"there is no method {name!r}; {nearest(name, names)}")
    return name
