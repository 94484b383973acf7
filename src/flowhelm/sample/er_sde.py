"""ER-SDE: extended reverse-time SDE solvers. Cui et al. 2023, arXiv:2309.06169, Alg. 4 (the variance-preserving form).

With L = sigma / alpha, phi its noise function, r = phi(L+) / phi(L) and D the clean predictions:

    x <- (alpha+ / alpha) r x + alpha+ int P(z) phi(L+) phi'(z) / phi(z)^2 dz + alpha+ sqrt(L+^2 - L^2 r^2) noise
    P    the polynomial in z through the last `order` D; the integral is from L+ to L

Needs   any prior; a Noise
Cost    1 evaluation per step; memory: `order` states
Paper   phi(L) = L (e^(L^0.3) + 10), the paper's SDE 5; `ode`: phi = L, which is DDIM and its higher orders; `sde`: phi = L^2.
        Deviations: quadratics are exact, where the paper's third stage takes a backward difference for the derivative; integrals by
        Gauss and Legendre over log z, not 200 left points; from alpha = 0 itself, where L is infinite and the first step has its
        limit. Random unless phi is `ode`: the picture of a seed changes with the steps.

Example

    from flowhelm import Noise, load, run, sample
    flow, noise = load("fashion"), Noise(0, rows=1)
    final = run(sample.er_sde(flow, flow.source(noise), flow.times(20), noise=noise))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le

from ..entry import checked
from ..flow import Flow
from ..multistep.past import Past
from ..multistep.variables import CLEAN_SNR, Coeffs, Variable
from ..multistep.weights import legendre
from ..path import Path
from ..rng import Noise
from ..shapes import State, Times
from ..step import Step

PHI: dict[str, Callable[[float], float]] = {
    "extended": lambda z: z * (math.exp(z**0.3) + 10),
    "ode": lambda z: z,
    "sde": lambda z: z**2,
}


def _variable(phi: Callable[[float], float]) -> Variable:
    def moments(a: Coeffs, b: Coeffs, path: Path, h: float, count: int) -> list[float]:
        high, low, parts = a.sigma / a.alpha, b.sigma / b.alpha, [0.0] * count
        for theta, mass in legendre():
            z = low * (high / low) ** theta
            dense = mass * z / phi(z)
            for k in range(count):
                parts[k] += dense * ((z - high) / h) ** k
        scale = math.log(high / low) * phi(low) / h
        total = 1 - phi(low) / phi(high)  # by parts, so that no derivative of phi is needed
        return [(1 + k * scale * part) / total for k, part in enumerate(parts, 1)]

    return CLEAN_SNR._replace(place=lambda a: a.sigma / a.alpha if a.alpha else math.inf, moments=moments)


@checked
@torch.no_grad()
def er_sde(
    flow: Flow,
    x: State,
    times: Times,
    *,
    order: Annotated[int, Ge(1), Le(3)] = 3,
    phi: Literal["extended", "ode", "sde"] = "extended",
    noise: Noise | None = None,
) -> Iterator[Step]:
    """ER-SDE: extended reverse-time SDE solvers. Cui et al. 2023, arXiv:2309.06169.

    Args:
        x: state `(b, *shape)` at times[0]; times: increasing, float64 on the CPU.
        order: stages: clean predictions that a step is made of.
        phi: how much noise is fresh.

    Yields one step per time, with the clean estimate of its start; info is empty.
    """
    past, total = Past(flow.path, _variable(PHI[phi]), order), len(times) - 1
    for i, (s, t) in enumerate(pairwise(times), 1):
        ends = flow.ends(x, s)
        past.add(ends, s)
        here, there = past.place(s), past.place(t)
        known = 0 < there < here < math.inf  # else nothing of the noise is left, or it is not known
        keep = 1.0 if phi == "ode" else PHI[phi](there) / there / (PHI[phi](here) / here) if known else 0.0
        mean = past.step(x, t, past.slope(t, order=1 if there == 0 else order), keep)
        x = past.noised(mean, t, keep, noise, "er_sde")
        yield Step(i, total, t, x, ends.clean, {})
