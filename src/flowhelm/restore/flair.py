"""FLAIR: variational flow matching with hard data consistency. Erbach et al. 2025, arXiv:2506.02680, Alg. 1.

A single picture, the mean mu of a narrow law, is moved towards what the network sees in a noisy copy of it, and after each
move back to the measurement, as near as the measurement's noise asks for:

    clean <- E[clean | x_s]
    mu    <- mu + min(lambda_s / sigma_s, 1) (clean - mu),   lambda_s = weight weights(s)
    while |A decode(mu) - y|^2 > m std^2, at most `inner` times:
        mu <- mu - step g,   g = J^T (A decode(mu) - y),   J the derivative of A decode
    x     <- t mu + sigma_t (a source + sqrt(1 - a^2) noise),   a = carry t,   source = E[source | x_s]

so that the nearer the end, the more the noise of the copy is the network's own. m counts the entries of y that see
something. weights(s) is the reciprocal of the network's flow-matching error: see `velocity_error`.

Needs   a differentiable operator; a prior on the linear path (others: guide.on_path)
Cost    1 evaluation per step, forward only; at most `inner` times 3 passes through the decoder and the operator
Paper   50 noise levels from 1 to 0.18, weight 0.5, inner 15, carry 1, std 0.01, a latent model with guidance 2; mu begins at
        the encoded pseudo-inverse of y, here at the most probable picture of N(0, I) given y, whose noise is bounded (for a
        non-linear operator at the first estimate). Deviations: the paper's data steps are lambda times 0.1 to 12, by task;
        here a row's goes to where the residual is m std^2, and at most `rate` times as far as the minimum along g.
        lambda / sigma is cut at 1, beyond which mu would overtake the estimate. Without `weights`, those of the prior
        N(0, I) are taken. carry 1/2: searches on photographs found 0.2 to 0.43 (`flowhelm presets list`).
        mu is no sample of the posterior: right in its residual, wrong in its law.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ..control import check, solvable
from ..flow import Flow
from ..grad import dot, per_row, twice
from ..measure import Measurement, seen
from ..path import at, mix
from ..rng import Noise
from ..step import Step
from ..velocity_error import Weights


@torch.no_grad()
def flair(
    flow: Flow,
    y: Measurement,
    x: Tensor,
    times: Tensor,
    *,
    weight: float = 0.5,
    weights: Weights | None = None,
    inner: int = 15,
    rate: float = 0.9,
    data: Literal["gradient", "prox"] = "gradient",
    tolerance: float = 1.0,
    carry: float = 0.5,
    stop: float = 1.0,
    plan: Tensor | None = None,
    noise: Noise,
) -> Iterator[Step]:
    """Args:
    x: state `(b, *shape)` at times[0]; times: the grid, ending at 1.
    weight: of the prior, > 0.
    weights: how it depends on the time; `velocity_error.table(t, weight)` makes it from what `flowhelm presets velocity` writes.
    inner: at most so many data steps after each step.
    rate: bound of a gradient step, in units of the best one, in (0, 2); of a prox, its length, above 0.
    data: `gradient`, or `prox`, mu <- argmin rate/2 |A mu' - y|^2 + 1/2 |mu' - mu|^2, for linear measurements of pixels.
    tolerance: data steps end at this root mean square residual, in units of std.
    carry: in [0, 1]; a = carry t is the share of the network's own noise. 1 is sharper, 0 (all of it drawn anew) smoother.
    stop: time from which on the prior does not move mu; the paper's is 0.82.
    plan: mu of an interrupted run (info["plan"] of its last step), to resume it exactly.

    Yields steps whose clean is mu; info["misfit"] `(b,)`, 1/2 |A mu - y|^2 of the entries that see something, before the
    data steps, info["inner"], their number, and info["plan"], mu `(b, 1, *shape)`.

    Raises:
        ValueError: another path, a grid that does not end at 1, numbers out of range, `prox` where there is none.
    """
    check(flow, times, "flair")
    if not (
        weight > 0 and tolerance > 0 and rate > 0 and (rate < 2 or data == "prox") and inner > 0 and 0 <= carry <= 1
    ):
        raise ValueError(
            "flair: expected a weight, a tolerance and a rate above 0 (below 2 for gradient steps), inner >= 1 and carry in "
            f"[0, 1], got {weight}, {tolerance}, {rate}, {inner} and {carry}"
        )
    if data == "prox" and not solvable(flow, y):
        raise ValueError("flair: expected a linear measurement of a pixel prior for data='prox'; use data='gradient'")
    total, mu, counts = len(times) - 1, None if plan is None else plan[:, 0], seen(y, flow.decode(x))
    for i, (s, t) in enumerate(pairwise(times), 1):
        ends = flow.ends(x, s)
        mu = _begin(flow, y, ends.clean) if mu is None else mu
        if s < stop:
            share = weight * (weights or _normal)(s) / at(flow.path, s, x).sigma
            mu = mu + share.clamp(max=1) * (ends.clean - mu)
        mu, info = _consistent(flow, y, mu, counts, tolerance, inner, rate, data)
        if t < 1:
            a = carry * t
            x = mix(flow.path, a * ends.source + (1 - a**2).sqrt() * noise(x), mu, t)
        yield Step(i, total, t, x if t < 1 else mu, mu, info | {"plan": mu[:, None]})


def _normal(t: Tensor) -> Tensor:
    """Those of the exact flow of N(0, I), whose error is 1 / (t^2 + (1-t)^2)."""
    return 1.5 * (t**2 + (1 - t) ** 2)


def _begin(flow: Flow, y: Measurement, clean: Tensor) -> Tensor:
    return flow.encode(y.prox(torch.zeros_like(flow.decode(clean)), 1.0)) if y.linear else clean


def _consistent(
    flow: Flow, y: Measurement, mu: Tensor, counts: Tensor, tolerance: float, inner: int, rate: float, data: str
) -> tuple[Tensor, dict[str, Tensor]]:
    """Data steps of the rows whose residual is too large, each tested before it is made."""
    goal = (tolerance * y.std) ** 2 / 2 * counts.flatten(1).sum(1)
    taken, begun, tiny = torch.zeros_like(goal), None, torch.finfo(mu.dtype).tiny
    for _ in range(inner):
        misfit, gradient, best = _slope(flow, y, mu, counts)
        begun = misfit if begun is None else begun
        active = misfit > goal
        if not active.any():
            break
        if data == "prox":
            mu = torch.where(per_row(active, mu).bool(), y.prox(mu, rate * y.std**2), mu)
        else:
            # along the gradient the misfit is a parabola: stop where it meets the goal, if it does
            reach = 1 - (1 - 2 * (misfit - goal) / (best * dot(gradient, gradient)).clamp(min=tiny)).clamp(min=0).sqrt()
            mu = mu - per_row(torch.where(active, best * reach.clamp(max=rate), 0), mu) * gradient
        taken = taken + active
    assert begun is not None
    return mu, {"misfit": begun, "inner": taken}


@twice()
def _slope(flow: Flow, y: Measurement, mu: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """1/2 |r|^2, its gradient g = J^T r, and the length |g|^2 / |J g|^2 of the step along it that is best to first order."""
    with torch.enable_grad():
        z = mu.detach().requires_grad_()
        r = counts * y.residual(flow.decode(z))
        w = r.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(r, z, w, create_graph=True)
        (moved,) = torch.autograd.grad(gradient, w, gradient.detach())  # J^T w is linear in w: its derivative is J
    gradient, w = gradient.detach(), w.detach()
    best = dot(gradient, gradient) / dot(moved, moved).clamp(min=torch.finfo(mu.dtype).tiny)
    return dot(w, w) / 2, gradient, best
