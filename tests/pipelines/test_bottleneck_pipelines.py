"""Bottleneck sampling of pipelines: the small stage is what the pipeline of that size does, positions and shift included."""

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from families import flow

from flowhelm import grids
from flowhelm.rng import Noise
from flowhelm.sample import bottleneck
from flowhelm.solve import integrate
from flowhelm.step import run
from flowhelm.transition.resize import pooled

SIDE, STEPS = 64, 8


@pytest.mark.parametrize("name", ["flux", "sd3"])
def test_each_stage_is_the_pipeline_of_its_size(name):
    large = flow(name).sized(SIDE, SIDE).bind(["cat"], scale=1.0)
    small = large.sized(SIDE // 2, SIDE // 2)
    times, x = large.times(STEPS), large.source(Noise(0, 1))
    steps = list(bottleneck(large, x, times, down=0.0, up=0.5, smaller="pool", larger="repeat", noise=Noise(0, 1)))
    low = [s for s in steps if s.x.shape == (1, *small.shape)]
    high = [s for s in steps if s.x.shape == (1, *large.shape)]
    assert len(low) + len(high) == len(steps) == steps[0].total
    zero, half = times[0], torch.tensor(0.5, dtype=torch.float64)
    alone = integrate(small, pooled(large, x, zero, 2), grids.between(small.times(STEPS), zero, half))
    for a, b in zip(low, alone, strict=True):
        assert torch.equal(a.x, b.x)
        assert a.clean.shape == x.shape
    again = integrate(large, high[0].x, torch.stack([times.new_tensor(float(s.t)) for s in high]))
    assert torch.equal(run(again).x, high[-1].x)
    assert large.decode(steps[-1].x).shape == (1, 3, SIDE, SIDE)
    if name == "flux":  # whose shift grows with the number of tokens: few of them go faster to the clean end
        assert (small.times(STEPS)[1:-1] > times[1:-1]).all()


def test_one_stage_is_the_pipeline():
    large = flow("flux").bind(["cat"])
    x = large.source(Noise(0, 1))
    one = run(bottleneck(large, x, large.times(3), down=1.0))
    assert torch.equal(one.x, run(integrate(large, x, large.times(3))).x)
