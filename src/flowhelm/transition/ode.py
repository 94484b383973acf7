"""Deterministic moves along the velocity. Each takes the noise and ignores it, so that any move can stand for any other."""

from __future__ import annotations

from ..flow import Flow
from ..path import Ends, velocity
from ..rng import Noise
from ..shapes import State, Time


def euler(flow: Flow, x: State, s: Time, t: Time, noise: Noise | None = None, ends: Ends | None = None) -> State:
    """First order; 1 evaluation, none if `ends` are given. Euler 1768."""
    v = flow.velocity(x, s) if ends is None else velocity(flow.path, ends, s)
    return x + (t - s) * v


def midpoint(flow: Flow, x: State, s: Time, t: Time, noise: Noise | None = None, ends: Ends | None = None) -> State:
    """Second order; 2 evaluations, 1 if `ends` are given. Runge 1895."""
    half = (s + t) / 2
    return x + (t - s) * flow.velocity(euler(flow, x, s, half, ends=ends), half)


def heun(flow: Flow, x: State, s: Time, t: Time, noise: Noise | None = None, ends: Ends | None = None) -> State:
    """Second order (trapezoid); 2 evaluations, 1 if `ends` are given.

    One fewer into t = 1, where no network is asked (Karras et al. 2022, arXiv:2206.00364, Alg. 1).
    """
    v = flow.velocity(x, s) if ends is None else velocity(flow.path, ends, s)
    ahead = x + (t - s) * v
    if t == 1:
        return ahead
    return x + (t - s) * (v + flow.velocity(ahead, t)) / 2


def rk4(flow: Flow, x: State, s: Time, t: Time, noise: Noise | None = None, ends: Ends | None = None) -> State:
    """Fourth order (Runge and Kutta's); 4 evaluations, 3 if `ends` are given. The last one is at t itself. Kutta 1901."""
    h, half = t - s, (s + t) / 2
    a = flow.velocity(x, s) if ends is None else velocity(flow.path, ends, s)
    b = flow.velocity(x + h / 2 * a, half)
    c = flow.velocity(x + h / 2 * b, half)
    d = flow.velocity(x + h * c, t)
    return x + h / 6 * (a + 2 * b + 2 * c + d)
