"""Trajectories that a training learns from: where they begin, their states, and which of their steps are used.

The states of all steps are kept, `steps + 1` times the memory of one. The activations are not: a step that is used is asked again
under gradient, and its loss goes backward at once, so that memory holds the activations of one evaluation, whatever the steps.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ..flow import Flow
from ..rng import Noise
from ..shapes import State, Time, Times
from ..transition import Transition, euler
from .together import agreed


def begin(flow: Flow, noise: Noise, optimizer: torch.optim.Optimizer) -> Tensor:
    """A state at t = 0 per stream, `(rows, *shape)`, where the weights are that `optimizer` trains."""
    return flow.source(noise).to(optimizer.param_groups[0]["params"][0].device)


@torch.no_grad()
def walk(
    flow: Flow, x: State, times: Times, transition: Transition = euler, noise: Noise | None = None
) -> list[Tensor]:
    """The states at all times of the grid, x first, each `(b, *shape)`; one transition per step, without gradient."""
    states = [x]
    for s, t in pairwise(times):
        states.append(transition(flow, states[-1], s, t, noise, None))
    return states


def chosen(steps: int, share: float, noise: Noise) -> list[int]:
    """Steps to learn from: one of each of about `share * steps` equal bins, at least one, increasing.

    Low-variance sub-sampling: every step is as likely, and no part of the time is left out. The draw is `one`, so that a time stays one
    number.
    """
    bins = max(1, round(share * steps))
    edges = [round(i * steps / bins) for i in range(bins + 1)]
    return [low + int(one(noise) * (high - low)) for low, high in pairwise(edges)]


def one(noise: Noise) -> float:
    """One number in [0, 1) that all rows share, those of other processes too: the first row's draw."""
    return agreed(float(noise.uniform()[0]))


@torch.no_grad()
def stopped(flow: Flow, x: State, t: Time) -> Tensor:
    """The velocity as a constant."""
    return flow.velocity(x, t)
