"""Minibatch couplings against brute force, scipy, POT's own plan and torchcfm; and what they do to a learned flow."""

import builtins
import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn
from toys import seeded

from flowhelm import NetFlow, Noise, integrate
from flowhelm.train import Batch, fit, flow_matching, optimal_transport, sinkhorn

pytest.importorskip("ot")


def pairs(count, *shape, seed=0):
    generator = seeded(seed)
    return torch.randn(count, *shape, generator=generator), 0.5 + 1.5 * torch.randn(count, *shape, generator=generator)


def price(source, clean, indices):
    return float((source[indices] - clean).flatten(1).double().square().sum())


@pytest.mark.parametrize(("shape", "shift"), [((1,), 0.0), ((3,), 300.0), ((2, 4, 4), 0.0)])
def test_the_permutation_is_that_of_scipy(shape, shift):
    """Far from the origin, too."""
    source, clean = pairs(64, *shape)
    clean = clean + shift
    indices = optimal_transport(source, clean, seeded())
    assert indices.dtype == torch.int64
    assert sorted(indices.tolist()) == list(range(64))
    cost = torch.cdist(clean.flatten(1).double(), source.flatten(1).double()).square()  # rows: clean states
    assert indices.tolist() == linear_sum_assignment(cost.numpy())[1].tolist()
    random = price(source, clean, torch.randperm(64, generator=seeded(1)))
    print(f"{shape}: {price(source, clean, indices) / random:.3f} of the cost of a random pairing")


def test_parity_with_torchcfm():
    module = pytest.importorskip("torchcfm.optimal_transport")
    source, clean = pairs(50, 3)
    plan = module.OTPlanSampler("exact").get_map(source, clean)
    ours = np.zeros((50, 50))
    ours[optimal_transport(source, clean, seeded()), np.arange(50)] = 1 / 50
    np.testing.assert_allclose(ours, plan, atol=1e-12)


def frequencies(coupling, source, clean, draws):
    generator = seeded(7)
    counts = torch.zeros(len(source), len(clean))
    for _ in range(draws):
        counts[coupling(source, clean, generator), torch.arange(len(clean))] += 1
    return counts / draws


def test_sinkhorn_draws_each_row_from_the_column_of_the_entropic_plan():
    module = pytest.importorskip("torchcfm.optimal_transport")
    source, clean = pairs(5, 2)
    plan = torch.from_numpy(module.OTPlanSampler("sinkhorn", reg=3.0).get_map(source.double(), clean.double()))
    drawn = frequencies(sinkhorn(3.0), source, clean, 500)
    # 0.1% of the greatest of 25 normal deviations: 4.1
    assert ((drawn - 5 * plan).abs() < 4.1 * (5 * plan * (1 - 5 * plan) / 500).sqrt()).all()
    assert float((drawn - 1 / 5).abs().max()) > 0.15  # and it is no uniform plan
    torch.testing.assert_close(drawn.mean(1), torch.full((5,), 0.2), atol=0.04, rtol=0)  # each source as often


def test_the_plan_of_sinkhorn_in_closed_form():
    # two and two: plan [[p, q], [q, p]] with p / q = exp(-gap / (2 regularization)), gap = the difference of the totals
    source, clean = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.2], [1.5]])
    totals = [price(source, clean, [0, 1]), price(source, clean, [1, 0])]
    for regularization in (0.7, 2.0):
        straight = 1 / (1 + math.exp((totals[0] - totals[1]) / (2 * regularization)))
        drawn = float(frequencies(sinkhorn(regularization), source, clean, 500)[0, 0])
        assert drawn == pytest.approx(straight, abs=3.3 * math.sqrt(straight * (1 - straight) / 500))


def test_sinkhorn_lies_between_transport_and_independence():
    source, clean = pairs(12, 8)
    corners = 5 * torch.eye(12)
    near = corners[torch.randperm(12, generator=seeded(2))] + 0.1 * torch.randn(12, 12, generator=seeded(3))
    assert torch.equal(sinkhorn(0.3)(corners, near, seeded()), optimal_transport(corners, near, seeded()))
    free = frequencies(sinkhorn(1e6), source, clean, 500)
    assert float((free - 1 / 12).abs().max()) < 4.5 * math.sqrt(1 / 12 / 500)
    costs = [
        sum(price(source, clean, sinkhorn(r)(source, clean, seeded(i))) for i in range(20)) for r in (4, 10, 30, 1e6)
    ]
    assert costs == sorted(costs)
    one, two = (sinkhorn(1.0)(source, clean, seeded(3)) for _ in range(2))
    assert torch.equal(one, two)


class Spy(nn.Module):
    """A velocity of 0, which notes what it was told."""

    def __init__(self):
        super().__init__()
        self.told = None

    def forward(self, x, t, label):
        self.told = label
        return torch.zeros_like(x)


def test_conditions_stay_with_the_clean_rows():
    source, clean = pairs(32, 2)
    label = torch.arange(32)
    spy = Spy()
    loss = flow_matching(
        NetFlow(spy, (2,), null=(torch.full((1,), -1),)),
        Batch(clean, (label,)),
        seeded(),
        source=lambda clean, generator: source,
        coupling=optimal_transport,
        drop=0.0,
    )
    paired = source[optimal_transport(source, clean, seeded())]
    torch.testing.assert_close(loss, (clean - paired).square().mean(1))
    assert torch.equal(spy.told, label)


def test_on_the_line_transport_makes_the_paths_straight():
    # clean ~ N(1, 4). Independent pairs leave pi/2 * 2 of the loss whatever the network; transport's own velocity, the
    # straight map source -> 1 + 2 source, leaves what the finite batch does, and nothing of it in the limit
    class Straight(nn.Module):
        def forward(self, x, t):
            t = t[:, None]
            return 1 + (x - t) / (1 + t)

    left = {}
    for count in (16, 128, 1024):
        clean = 1 + 2 * torch.randn(count, 1, generator=seeded(count))
        loss = flow_matching(NetFlow(Straight(), (1,)), Batch(clean), seeded(), coupling=optimal_transport)
        left[count] = float(loss.mean())
    print(
        "loss left by straight paths in batches of", {k: round(v, 4) for k, v in left.items()}, "of", round(math.pi, 3)
    )
    assert left[1024] < 0.01 * math.pi
    assert left[1024] < left[128] < left[16] < math.pi


class Tiny(nn.Module):
    def __init__(self, width=64):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2)
        )

    def forward(self, x, t):
        return self.layers(torch.cat([x, t[:, None]], dim=1))


def eight(count, generator):
    """Eight narrow Gaussians on a ring of radius 3."""
    angle = torch.randint(8, (count,), generator=generator) * (math.pi / 4)
    ring = 3 * torch.stack([angle.cos(), angle.sin()], dim=1)
    return ring + 0.3 * torch.randn(count, 2, generator=generator)


def curvature(flow):
    """Mean over paths of the integral of |v - (x(1) - x(0))|^2, and the mean |x(1) - x(0)|^2; 50 Euler steps."""
    start = flow.source(Noise(5, 500))
    states = [start, *(step.x for step in integrate(flow, start, flow.times(50)))]
    velocity = torch.stack(states).diff(dim=0) * 50
    chord = states[-1] - start
    return float((velocity - chord).square().sum(2).mean()), float(chord.square().sum(1).mean())


def learned(coupling, steps):
    torch.manual_seed(0)
    flow = NetFlow(Tiny(), (2,))
    data = lambda index: Batch(eight(64, seeded(1000 + index)))  # noqa: E731
    for _ in fit(flow, partial(flow_matching, coupling=coupling), data, steps=steps, rate=3e-3, warmup=50):
        pass
    return flow


def straightness(couplings, steps):
    bent = {}
    for name, coupling in couplings.items():
        flow = learned(coupling, steps)
        *_, end = integrate(flow, flow.source(Noise(6, 500)), flow.times(50))
        radius = float(end.x.norm(dim=1).mean())
        bent[name], length = curvature(flow)
        print(f"{name:12} curvature {bent[name]:.3f}, |end - start|^2 {length:.2f}, radius {radius:.2f}")
        assert radius == pytest.approx(3.02, abs=0.25)  # each has learned the ring
    print(f"transport: {bent['independent'] / bent['transport']:.1f} times straighter than independent pairs")
    return bent


def test_transport_straightens_a_learned_flow():
    bent = straightness({"independent": None, "transport": optimal_transport}, 400)
    assert bent["independent"] > 4 * bent["transport"]


def test_errors(monkeypatch):
    source, clean = pairs(4, 2)
    with pytest.raises(ValueError, match="regularization > 0"):
        sinkhorn(0)
    with pytest.raises(ValueError, match="as many sources as clean states, got 3 and 4"):
        optimal_transport(source[:3], clean, seeded())

    actual = builtins.__import__

    def without_pot(name, *rest, **named):
        if name == "ot":
            raise ImportError(name)
        return actual(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without_pot)
    for coupling in (optimal_transport, sinkhorn(1.0)):
        with pytest.raises(ImportError, match=r"pip install flowhelm\[train\]"):
            coupling(source, clean, seeded())
