"""Bottleneck sampling of pipelines: the small stage is what the pipeline of that size does, positions and shift included."""

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from families import flow

from flowhelm import Noise, grids, integrate, run
from flowhelm.bench.pipelines import bottleneck_flops as flux
from flowhelm.sample import bottleneck
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


@pytest.mark.parametrize("side", [256, 512, 1024])
def test_counted_steps_are_on_the_grid_of_flux(side):
    """Its shift by the number of tokens, as diffusers has it; and every step is counted once, at its size."""
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    mu = calculate_shift((side // 16) ** 2, base_shift=0.5, max_shift=1.15)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / 12, 12).tolist(), mu=mu)
    times = flux.Sizes(side, flux.Counter()).times(12)
    torch.testing.assert_close(times, 1 - scheduler.sigmas.double(), atol=1e-6, rtol=0)
    assert flux.counts(side, 12, down=1.0) == {side: 12}
    asked = flux.counts(side, 12)
    assert set(asked) == {side, side // 2}
    assert 11 <= asked.total() <= 13


def test_flops_of_a_small_flux_are_those_of_its_matrices(monkeypatch):
    """Of two blocks: the attention, a square in the tokens, and the matrices, which every token of the picture sees once."""
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        small = FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)
    monkeypatch.setattr(flux, "network", lambda: small)
    found = [flux.flops.__wrapped__(side) for side in (256, 512, 1024)]
    n = [(side // 16) ** 2 for side in (256, 512, 1024)]
    attention, width = 4 * 3072 * 2, 3072  # two blocks, q k and the weighted sum; multiplications and additions
    rest = [f - attention * (k + flux.TEXT) ** 2 for f, k in zip(found, n, strict=True)]
    assert (rest[2] - rest[1]) / (n[2] - n[1]) == (rest[1] - rest[0]) / (n[1] - n[0])
    own = 2 * width * (2 * 64 + 24 * width)  # in, out, and the matrices of both blocks, of one token of the picture
    assert (rest[1] - rest[0]) / (n[1] - n[0]) == own
