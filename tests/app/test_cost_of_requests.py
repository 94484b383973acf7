"""What a run costs, counted before it starts, is what it costs."""

import re
import time
from functools import partial

import pytest
import torch

from flowhelm import Linear, Measurement, Noise, known
from flowhelm.app.draw.request import DrawRequest
from flowhelm.app.draw.run import draw
from flowhelm.app.models import outlook
from flowhelm.app.options.signature import bind
from flowhelm.app.run import Stepped
from flowhelm.app.steer import allotment
from flowhelm.app.steer.request import SteerRequest
from flowhelm.app.steer.run import settle, steer
from flowhelm.cards import METHODS
from flowhelm.cost import Nothing, cost
from flowhelm.guide import counted
from flowhelm.inner import adam
from flowhelm.path import linear
from flowhelm.restore import dps, fig, hqs, pnp_flow
from flowhelm.steer import best_of, d_flow, fk, mpc_flow, svdd


@pytest.mark.parametrize("steps", [2, 40])
@pytest.mark.parametrize(
    "method", [each for each in METHODS if known.prior_of(each.__name__) is None], ids=lambda method: method.__name__
)
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
    assert (
        cost(hqs, {"sure": True, "ensemble": True}, 1, linear_=True).evaluations == 9
    )  # eight looks, and the probe of one
    assert cost(hqs, {"sure": True, "ensemble": True}, n, linear_=True).evaluations == n + 8  # at the end, once
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
    began = time.process_time()  # of this process, whatever else the machine does
    assert cost(method, bind(method, given), 1000, most=1e5).whole >= 1e5
    assert time.process_time() - began < 5


class Timed:
    """In the place of the clock: each evaluation of the network takes so many seconds, a reward so many more."""

    def __init__(self, *seconds: float):
        self.seconds = list(seconds)

    def __call__(self, call, *_):
        call()
        return self.seconds.pop(0)


def planned(monkeypatch, events, *seconds):
    """What is said before the first step."""
    monkeypatch.setattr(outlook, "seconds_of", Timed(*seconds))
    said = []
    for event in events:
        if isinstance(event, Stepped):
            break
        said.append(getattr(event, "text", ""))
    events.close()
    return [text for text in said if text.startswith("this takes")]


def check(told, said, evaluations):
    if said is None:
        assert told == []
    else:
        (line,) = told
        whole = rf"this takes about {said} and \d+\.\d GiB of memory \({evaluations} evaluations of the network\)"
        assert re.fullmatch(whole, line), line


STEERED = {"reward": ["brightness"], "steps": 10, "threads": 1}


@pytest.mark.parametrize(
    ("given", "seconds", "said", "evaluations"),
    [
        ({"method": "fk", "method_options": {"particles": 4}}, (2.0, 0.0), "80 seconds", 40),
        ({"method": "fk", "method_options": {"particles": 4}, "count": 3}, (2.0, 0.0), "4 minutes", 120),
        ({"method": "best_of", "method_options": {"draws": 3}}, (1.0, 10.0), "60 seconds", 30),
        ({"method": "flow_chef", "chains": 1}, (1.0, 0.0), "10 seconds", 10),
        ({"method": "fk", "method_options": {"particles": 4}}, (0.1, 0.0), None, 0),
    ],
)  # fmt: skip
def test_a_steered_run_says_before_how_long_it_takes(given, seconds, said, evaluations, prior, tmp_path, monkeypatch):
    request = SteerRequest.of({**STEERED, **given, "prior": prior, "out": tmp_path / "s"}, "steer")
    # `rows` go through the network together, and what is timed is all of them
    rows = given.get("method_options", {}).get("particles", 1)
    told = planned(monkeypatch, steer(settle(request)), seconds[0] * rows, seconds[1])
    check(told, said, evaluations)


@pytest.mark.parametrize(
    ("given", "said", "evaluations"),
    [
        ({"count": 4, "steps": 8}, "16 seconds", 32),
        ({"count": 4, "steps": 8, "solver": "heun"}, "32 seconds", 64),
        ({"count": 4, "steps": 4}, None, 0),
    ],
)
def test_a_drawing_says_before_how_long_it_takes(given, said, evaluations, prior, tmp_path, monkeypatch):
    request = DrawRequest.of({**given, "prior": prior, "out": tmp_path / "s.png", "threads": 1}, "sample")
    check(planned(monkeypatch, draw(request), 2.0), said, evaluations)


def test_a_short_run_is_timed_once():
    calls = []
    assert outlook.seconds_of(lambda: calls.append(1), torch.device("cpu"), 1) < 1
    assert len(calls) == 1
    outlook.seconds_of(lambda: calls.append(1), torch.device("cpu"), 1e12)
    assert len(calls) == 3


def test_progress_counts_the_steps_of_blocks_that_report_once():
    found = allotment.cost(svdd, {"draws": 2, "block": 5}, Nothing(linear), Nothing(linear).times(10))
    assert (found.turns, found.evaluations, found.rewards) == (10, 1 + 2 * 9, 2 * 2)
