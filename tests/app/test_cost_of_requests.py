"""What a run costs, counted before it starts, is what it costs."""

import time
from functools import partial

import pytest
import torch

from flowhelm.app.models.cost import Nothing, cost
from flowhelm.app.options.signature import bind
from flowhelm.cards import METHODS
from flowhelm.guide import counted
from flowhelm.inner import adam
from flowhelm.measure import Linear, Measurement
from flowhelm.path import linear
from flowhelm.restore import dps, fig, pnp_flow
from flowhelm.rng import Noise
from flowhelm.steer import best_of, d_flow, fk, mpc_flow


@pytest.mark.parametrize("steps", [2, 40])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_the_count_is_that_of_the_run(method, steps):
    """On another flow and operator, on the whole grid; methods that end when they have converged may differ by half."""
    flow = counted(Nothing(linear))
    y = Measurement(torch.full((1, 1, 2, 2), 0.3), Linear(lambda x: 0.9 * x, Nothing.shape), 0.05)
    noise = Noise(0, 1)
    for _ in method(flow, y, flow.source(noise), torch.linspace(0, 1, steps + 1).double(), noise=noise):
        pass
    found = cost(method, {}, steps, linear_=True)
    assert flow.count.rows / 2 <= found.evaluations <= 2 * flow.count.rows


def test_closed_forms():
    n = 40
    assert cost(pnp_flow, {"draws": 3}, n).evaluations == 3 * n
    assert cost(best_of, {"draws": 7}, n).evaluations == 7 * n
    assert cost(fk, {"particles": 5}, n).evaluations == 5 * n
    assert cost(dps, {}, n)[:2] == (n, n)
    found = cost(mpc_flow, {"horizon": 2, "inner": partial(adam, iterations=6)}, n)
    assert found[:2] == (n * (1 + 6), n * 6)


@pytest.mark.parametrize(
    ("method", "given"),
    [
        (mpc_flow, {"inner": "adam:iterations=100000000"}), (d_flow, {"iterations": "99999"}),
        (mpc_flow, {"horizon": "90000"}), (fig, {"inner": "100000000"}), (pnp_flow, {"draws": "99999"}), (fk, {"particles": "1000000000"}),
    ],
)  # fmt: skip
def test_what_costs_too_much_is_found_at_once(method, given):
    cost(mpc_flow, {"inner": adam}, 2, linear_=False)  # imports what optimises
    began = time.monotonic()
    assert cost(method, bind(method, given), 1000, most=1e5).whole >= 1e5
    assert time.monotonic() - began < 5
