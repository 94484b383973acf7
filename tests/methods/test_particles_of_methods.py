"""AFDPS, TDS and FK carry weighted particles: they go on with their weights, and prompts do not see each other."""

import pytest
import torch
from laws import measured

from flowhelm import Measurement, Noise, run
from flowhelm.particles import residual, stratified, systematic
from flowhelm.restore import afdps, tds
from flowhelm.steer import fk


def carried(method, step):
    return {"carried": step.info} if method is fk else {"log_w": step.info["log_w"]}


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (afdps, {}),
        (tds, {}),
        (fk, {}),
        (fk, {"potential": "max"}),
        (fk, {"potential": "sum", "every": 3}),
        (fk, {"proposal": "gradient"}),
        (fk, {"proposal": "gradient", "tempering": "adaptive"}),
        (fk, {"proposal": "control"}),
        (fk, {"resampler": residual}),
    ],
)
def test_interrupted_runs_go_on_with_their_weights(mixture, method, options):
    b, k, times = 3, 16, mixture.times(8)
    x, y, noise = torch.randn(b * k, 2).double(), measured(b, 0.2), Noise(1, b * k)
    options = {"particles": k, "threshold": 0.9} | ({"strength": 0.5} if method is fk else {}) | options
    states = [(step, noise.state()) for step in method(mixture, y, x, times, noise=noise, **options)]
    assert sum(int((step.info["log_w"].std(1) < 1e-9).sum()) for step, _ in states) > 3  # some were resampled
    for i in (3, 4, 6):
        step, state = states[i - 1]
        again = Noise(9, b * k).restore(state)
        last = run(method(mixture, y, step.x, times[i:], noise=again, **carried(method, step), **options))
        torch.testing.assert_close(last.x, states[-1][0].x, atol=1e-10, rtol=0)
        torch.testing.assert_close(last.info["log_w"], states[-1][0].info["log_w"], atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("method", "options"),
    [(afdps, {}), (tds, {}), *((fk, {"resampler": each}) for each in (systematic, stratified, residual))],
)
def test_prompts_do_not_see_their_neighbours(mixture, method, options):
    b, k, operator = 3, 8, measured(1).operator
    x, targets = torch.randn(b * k, 2).double(), torch.tensor([[1.0], [3.0], [-2.0]]).double()
    options = {"particles": k, "threshold": 0.7, "times": mixture.times(8)} | options
    together = run(method(mixture, Measurement(targets, operator, 0.3), x, noise=Noise(1, b * k), **options))
    for i in range(b):
        mine, y = slice(i * k, (i + 1) * k), Measurement(targets[i : i + 1], operator, 0.3)
        alone = run(method(mixture, y, x[mine], noise=Noise(1, range(k * b)[mine]), **options))
        torch.testing.assert_close(alone.x, together.x[mine], atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(alone.info["log_w"], together.info["log_w"][i : i + 1], atol=1e-9, rtol=1e-9)
