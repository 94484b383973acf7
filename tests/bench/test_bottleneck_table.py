"""The table of bottleneck sampling: counted FLOPs, rivals that cost no fewer, distances that are 0 where they should be."""

import pytest
import torch
from toys import randomised

from flowhelm.bench.quality.bottleneck import distance, flops, measure, patches, table, way
from flowhelm.flow import NetFlow
from flowhelm.priors.unet import UNet

WAY = "down=0.1,up=0.9,smaller=pool,larger=repeat"


@pytest.fixture(scope="module")
def flow():
    torch.manual_seed(0)
    net = randomised(UNet((8, 16), 1))
    return NetFlow(net.requires_grad_(False), (3, 32, 32))


def test_flops_and_evaluations(flow):
    whole, large, small = flops(flow, way(flow, 10, "plain 10"))
    assert (large, small) == (10, 0)
    total, large, small = flops(flow, way(flow, 10, WAY))
    assert large + small > 5
    assert total / whole == pytest.approx(
        (large + small / 4) / 10, rel=0.05
    )  # the time is embedded alike at both sizes
    with_estimates = flops(flow, way(flow, 10, "down=0.1,up=0.9,back=0.0,smaller=renoise,larger=renoise"))[1:]
    grid = [
        float(s.info["rows"])
        for s in way(flow, 10, "down=0.1,up=0.9,back=0.0,smaller=renoise,larger=renoise").steps(*start(flow))
    ]
    assert with_estimates == (grid.count(1.0) + 1, grid.count(0.25) + 1)


def start(flow):
    from flowhelm.rng import Noise

    noise = Noise(0, 1)
    return flow.source(noise), noise


def test_rows(flow):
    said = []
    rows, shown = measure(flow, [WAY], 10, 2, 2, lambda name, left: said.append((name, left)))
    plain, one, rival = rows
    assert [r["way"] for r in rows[:2]] == ["plain 10", WAY]
    assert float(plain["flops"]) == float(plain["seconds"]) == 1
    assert plain["distance"].startswith("0.000")
    assert float(rival["flops"]) <= float(one["flops"]) < float(rival["flops"]) * 10 / 8
    assert len(said) == 4
    assert said[-1][1] == pytest.approx(0, abs=1e-9)
    assert shown[WAY].shape == (2, 3, 32, 32)
    assert table(rows).count("\n") == 4


def test_distances():
    x = torch.rand(3, 3, 32, 32)
    assert patches(x).shape == (3 * 7 * 7, 3 * 64)
    assert distance(x, x) == pytest.approx((0, 0), abs=1e-6)
    assert distance(x, x + torch.rand(3, 3, 1, 1)) == pytest.approx((0, 0), abs=1e-6)
    detail, layout = distance(x, torch.nn.functional.avg_pool2d(x, 4).repeat_interleave(4, 2).repeat_interleave(4, 3))
    assert detail > 1
    assert layout == pytest.approx(0, abs=1e-6)
