"""GLASS: the move from x_s to x_t drawn by an inner flow. Holderrieth et al. 2025, arXiv:2509.25170, section 4."""

from __future__ import annotations

import torch
from torch import Tensor

from ..entry import Count, guarded
from ..flow import Flow
from ..path import Ends, time_at_snr
from ..rng import Noise
from ..shapes import State, Time
from .correlation import Correlation, correlated


@guarded
def glass(
    flow: Flow,
    x: State,
    s: Time,
    t: Time,
    noise: Noise | None,
    ends: Ends | None = None,
    *,
    inner: Count = 2,
    midpoint: bool = True,
    correlation: Correlation = "ddpm",
) -> State:
    """GLASS (Holderrieth et al. 2025, arXiv:2509.25170): a random move whose law, unlike that of one step of an SDE, is not normal.

    Given clean, the states at s and t are normal, and the correlation rho of their noises is free: every rho keeps every
    marginal. x_t = gamma x_s + y, and y is carried by the ODE of its own path from a clean + b noise:

        gamma = rho sigma_t / sigma_s;    a from 0 to alpha_t - gamma alpha_s,  b from 1 to sigma_t sqrt(1 - rho^2), linearly
        A     = alpha_s / sigma_s,  B = a / b,  q = sqrt(A^2 + B^2),  r the time where alpha / sigma = q
        clean <- E[clean | x_r = sigma_r (A x_s / sigma_s + B y / b) / q]        the network, at one time and one state
        y     <- (a' - a b' / b) clean + (b' / b) y                              `inner` times
        x_t   <- gamma x_s + y

    x_s and y are two noisy looks at clean, whose mean weighted by their signal-to-noise ratios says all that both say.
    For s < 1; into t = 1 it draws from p(clean | x_s). 2 `inner` evaluations, `inner` without `midpoint`; one less if `ends`
    are given. inner = 1 without midpoint is `ancestral` with "ddpm", and `renoise` with amount 1 - rho^2 else.
    It is for few and long random moves and for draws from p(clean | x_s). Over a whole generation it is no nearer to an
    exact prior than an SDE of as many evaluations; the paper's gains there are of networks, which noisy inputs mislead.
    The ends at t, of which a reward is taken, are the first evaluation of the next move: hand them on.

    Args:
        inner: steps of the inner ODE; the paper's are 10 of Euler, here 2 of the midpoint method.
        midpoint: second order: at equal cost never farther from the law that is drawn from than Euler steps, and as near with a
            half to two thirds of the evaluations. False for the paper's Euler steps.
        correlation: rho of the noises at s and t. "ddpm" is that of the noising process, and its moves compose: one of
            them has the law of many. A number is a refresh per move, however short (0.4 for about five moves in all);
            ("kappa", k) is that of ddpm to the power k: many short moves are the SDE of `langevin` with eta = k. Or a
            function of s and t. 1 is not the ODE: it draws clean, and goes straight there.

    Raises:
        ValueError: no noise; a correlation outside [-1, 1].
    """
    return glass_estimate(flow, x, s, t, noise, ends, inner=inner, midpoint=midpoint, correlation=correlation)[0]


@guarded
def glass_estimate(
    flow: Flow,
    x: State,
    s: Time,
    t: Time,
    noise: Noise | None,
    ends: Ends | None = None,
    *,
    inner: Count = 2,
    midpoint: bool = True,
    correlation: Correlation = "ddpm",
) -> tuple[Tensor, Tensor]:
    """`glass`, and with the state the clean estimate that its last inner step went by: a look ahead that costs nothing.

    That is E[clean | x_s, y] for the y before that step, near E[clean | x_t] if the inner steps are many.
    """
    if noise is None:
        raise ValueError("glass: expected a Noise (one stream per row), got None; pass noise=Noise(seed, rows=len(x))")
    here, there = flow.path(s.double()), flow.path(t.double())
    rho = correlated(correlation, here, there, s, t)
    gamma, stride = rho * there.sigma / here.sigma, 2 if midpoint else 1
    u = torch.linspace(0, 1, stride * inner + 1, dtype=torch.float64)
    a = u * (there.alpha - gamma * here.alpha)
    b = 1 - u + u * there.sigma * (1 - rho**2).sqrt()
    old, new = here.alpha / here.sigma, a[:-1] / b[:-1]
    q = torch.hypot(old, new)
    r = time_at_snr(flow.path, q)

    def denoised(j: int, y: Tensor) -> State:
        if j == 0:  # y is noise alone
            return (flow.ends(x, s) if ends is None else ends).clean
        unit = flow.path(r[j]).sigma / q[j]
        return flow.ends((unit * old / here.sigma) * x + (unit * new[j] / b[j]) * y, r[j]).clean

    def moved(y: Tensor, clean: State, i: int, j: int) -> State:
        keep = b[j] / b[i]
        return (a[j] - a[i] * keep) * clean + keep * y

    y = noise(x)
    for i in range(0, stride * inner, stride):
        clean = denoised(i, y)
        if midpoint:
            clean = denoised(i + 1, moved(y, clean, i, i + 1))
        y = moved(y, clean, i, i + stride)
    return gamma * x + y, clean
