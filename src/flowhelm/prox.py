"""Clean states that fit a measurement: in closed form where there is one, else by an inner solver or by steps on the residual."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from .flow import Flow
from .grad import differentiable, dot, gauss_newton, per_row, where_rows
from .inner import Inner, adam
from .measure import Measurement
from .shapes import State
from .step import Reward


def solvable(flow: Flow, reward: Reward) -> bool:
    """True if the reward is a linear measurement of the state itself, so that `prox` solves for the clean state."""
    return flow.pixels and isinstance(reward, Measurement) and reward.linear


def prox(reward: Reward, clean: State, weight: Tensor) -> State:
    """argmin_z -weight reward(z) + |z - clean|^2 / 2 for a linear measurement."""
    assert isinstance(reward, Measurement)  # `solvable` was asked
    return reward.prox(clean, float(weight))


def leeway(strength: float, price: Tensor, h: Tensor) -> Tensor:
    """The weight with which a `prox` solves for one control: price |u|^2 - strength reward(clean + h u) is
    (|z - clean|^2 / 2 - weight reward(z)) strength / weight, z = clean + h u."""
    return strength / (2 * (price / h**2).clamp(min=1e-3))


def solved(reward: Reward, clean: State, weight: Tensor, unit: Tensor) -> State:
    """The control `(b, *shape)` of a linear measurement in closed form: clean + unit u = prox(clean)."""
    return (prox(reward, clean, weight) - clean) / unit


def refined(flow: Flow, y: Reward, guess: State, weight: Tensor, unit: Tensor, inner: Inner) -> State:
    """argmin_z -y(decode(z)) + |z - guess|^2 / (2 weight), a guess N(guess, weight I) made to fit: `(b, *shape)`.

    In closed form where there is one and `inner` takes it; `unit` is the unit of an iterative solver's control.
    """

    def cost(u: Tensor) -> Tensor:
        return unit**2 / weight * dot(u, u) / 2 - differentiable(y(flow.decode(guess + unit * u)), u)

    closed = partial(solved, y, guess, weight, unit) if solvable(flow, y) else None
    return guess + unit * inner(cost, torch.zeros_like(guess), closed)


def fitted(
    flow: Flow,
    y: Measurement,
    clean: State,
    tolerance: float,
    inner: int,
    rate: float,
    data: Literal["gradient", "prox"],
) -> tuple[Tensor, dict[str, Tensor]]:
    """Moves each row until |A decode(clean) - y|^2 is at most tolerance^2 std^2 per entry that is seen, in at most `inner` steps.

    Args:
        rate: the longest step along the gradient in units of the best one; of a prox, its weight in units of std^2.
        data: the kind of step.

    Returns:
        The moved states, and info["misfit"] before the steps and info["inner"], their number, each `(b,)`.
    """
    counts = y.seen(len(clean))
    goal = (tolerance * y.std) ** 2 / 2 * counts.flatten(1).sum(1)
    taken, begun, tiny = torch.zeros_like(goal), None, torch.finfo(clean.dtype).tiny
    for _ in range(inner):
        misfit, gradient, best = gauss_newton(lambda z: counts * y.residual(flow.decode(z)), clean)
        begun = misfit if begun is None else begun
        active = misfit > goal
        if not active.any():
            break
        if data == "prox":
            clean = where_rows(active, y.prox(clean, rate * y.std**2), clean)
        else:
            # along the gradient the misfit is a parabola: stop where it meets the goal, if it does
            reach = 1 - (1 - 2 * (misfit - goal) / (best * dot(gradient, gradient)).clamp(min=tiny)).clamp(min=0).sqrt()
            clean = clean - per_row(torch.where(active, best * reach.clamp(max=rate), 0), clean) * gradient
        taken = taken + active
    assert begun is not None
    return clean, {"misfit": begun, "inner": taken}


def tilted(network: Tensor, reward: Callable[[Tensor], Tensor], *, inner: int, rate: float, trust: float) -> Tensor:
    """argmin_phi trust KL(softmax phi | network) - reward(log softmax phi), as log-probabilities `(b, *shape, K)` like `network`.

    By `inner` steps of Adam on phi, from the network's own law; the reward is `(b,)`, the divergence the sum over places.
    """

    def cost(phi: Tensor) -> Tensor:
        log_p = phi.log_softmax(-1)
        return trust * (log_p.exp() * (log_p - network)).flatten(1).sum(1) - reward(log_p)

    return adam(cost, network, None, iterations=inner, rate=rate).log_softmax(-1)
