"""With nothing to say, a method is the unconditional sampler."""

from functools import partial

import pytest
import torch

from flowhelm import Measurement, Noise, inner, integrate, restore, run, steer
from flowhelm.transition import ancestral, euler


def close(found, expected):
    """Equal but for the rounding of float32, which goes with the scale of the state: on this grid it grows to tens of ulps."""
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


NULLS = {
    "mpc_flow": partial(steer.mpc_flow, strength=1e-15, inner=inner.lbfgs),
    "mpc_flow K=3": partial(steer.mpc_flow, strength=1e-15, horizon=3, inner=inner.lbfgs),
    "mpc_flow_dt": partial(steer.mpc_flow_dt, strength=1e-15, inner=inner.lbfgs),
    "dps": partial(restore.dps, step=0.0),
    "dps exact": partial(restore.dps, step=0.0, exact=True),
    "flow_chef": partial(steer.flow_chef, rate=0.0, transition=euler),
}


@pytest.mark.parametrize("name", NULLS)
def test_no_strength_is_the_euler_sampler(flow, y, name):
    x, times = flow.source(Noise(1, 3)), flow.times(6)
    free = list(integrate(flow, x, times))
    for step, expected in zip(NULLS[name](flow, y, x, times), free, strict=True):
        close(step.x, expected.x)
        close(step.clean, expected.clean)


def test_no_strength_is_the_euler_sampler_with_a_prox_too(flows, y):
    flow = flows["pixels"]
    x, times = flow.source(Noise(1, 3)), flow.times(6)
    null = run(steer.mpc_flow(flow, y, x, times, strength=1e-15)).x
    close(null, run(integrate(flow, x, times)).x)


def test_a_measurement_without_information_too(flow, y):
    x, times = flow.source(Noise(1, 3)), flow.times(6)
    vague = Measurement(y.y, y.operator, 1e6)
    free = run(integrate(flow, x, times)).x
    close(run(restore.dps(flow, vague, x, times, exact=True)).x, free)
    # strength is in units of 1 / std^2 and holds whatever std: the plan does not change with it
    ends = [
        run(steer.mpc_flow(flow, Measurement(y.y, y.operator, std), x, times, inner=inner.lbfgs)).x
        for std in (0.1, 1.0)
    ]
    torch.testing.assert_close(ends[0], ends[1], atol=1e-4, rtol=1e-4)


def test_dps_without_a_step_is_its_transition(flow, y):
    x, times = flow.source(Noise(1, 3)), flow.times(6)
    free = run(integrate(flow, x, times, transition=ancestral, noise=Noise(0, 3))).x
    null = run(restore.dps(flow, y, x, times, step=0.0, transition=ancestral, noise=Noise(0, 3))).x
    close(null, free)


def test_flow_dps_without_a_rate_redraws_the_source_only(flow, y):
    x, times, noise = flow.source(Noise(1, 3)), flow.times(6), Noise(0, 3)
    for step in restore.flow_dps(flow, y, x, times, rate=0.0, noise=Noise(0, 3)):
        s, t = times[step.index - 1], times[step.index]
        ends = flow.ends(x, s)
        x = t * ends.clean + (1 - t) * ((1 - t).sqrt() * ends.source + (t.sqrt() * noise(x) if t < 1 else 0))
        close(step.x, x)
