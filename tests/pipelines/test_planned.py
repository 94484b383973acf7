"""Every family can be planned, from a folder of which only the configs are read."""

import pytest
from families import EACH, flow

from flowhelm.app.models.plan import plan
from flowhelm.bench.pipelines import tiny
from flowhelm.memory import ROUND

ONCE = {"inner": "adam:iterations=1"}


def blocks(nets):
    """Bytes of weights in bfloat16, as the allocator hands them out."""
    return sum(
        -(-(2 if each.is_floating_point() else each.element_size()) * each.numel() // ROUND) * ROUND
        for net in nets
        for each in (*net.parameters(), *net.buffers())
    )


@EACH
def test_each_can_be_planned(name, folder):
    size = tiny.CASES[name][1]["size"]
    found = plan(folder(name), "mpc_flow", vram=24, size=size, quantize="none", options=ONCE, steps=4)
    assert found.fits
    assert found.size == size
    assert found.weights["network"] * 2**30 == blocks(flow(name).nets)
    assert found.weights["decoder"] * 2**30 == blocks([flow(name).pipe.vae])
    assert found.peak == pytest.approx(sum(found.held.values()))
    assert found.peak > sum(found.weights.values())
    assert {"network forward", "decoder forward", "decoder backward"} <= set(found.parts)
