"""The distilled HunyuanImage: a model of two times."""

import pytest
import torch
from families import bound, flow, state

from flowhelm import FlowMap
from flowhelm.priors.pipelines.hunyuan_image import HunyuanImage, HunyuanImageMap


def test_only_the_distilled_one_is_a_map():
    assert isinstance(flow("hunyuan-image-distilled"), HunyuanImageMap)
    assert isinstance(flow("hunyuan-image-distilled"), FlowMap)
    assert type(flow("hunyuan-image")) is HunyuanImage
    assert not isinstance(flow("hunyuan-image"), FlowMap)


def test_a_map_moves_by_the_mean_velocity_and_a_velocity_is_that_of_two_equal_times():
    told, x = bound("hunyuan-image-distilled"), state("hunyuan-image-distilled")
    s, t = (torch.tensor(each, dtype=torch.float64) for each in (0.3, 0.8))
    seen = []
    hook = told.net.register_forward_pre_hook(lambda net, args, given: seen.append(given), with_kwargs=True)
    try:
        moved, v = told.map(x, s, t), told.velocity(x, s)
    finally:
        hook.remove()
    labels = [(float(given["timestep"]), float(given["timestep_r"])) for given in seen]
    assert labels == [pytest.approx((700, 200), abs=1e-3), pytest.approx((700, 700), abs=1e-3)]
    assert all(float(given["guidance"]) == 3250 for given in seen)
    mean = told.net(**seen[0])[0]
    torch.testing.assert_close(moved, x + 0.5 * -mean, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(v, -told.net(**seen[1])[0])
    torch.testing.assert_close(told.map(x, s, s), x)
