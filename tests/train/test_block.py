"""Blockwise flow matching: parts that know their own times, features carried on by the formula, a sampler that pays what it says."""

import pytest
import torch
from torch import nn
from toys import randomised

from flowhelm import NetFlow, integrate, run
from flowhelm.priors.blocks import Blocks
from flowhelm.train import Batch, seeded
from flowhelm.train.block import block, residual, switched
from flowhelm.transition import euler


@pytest.fixture
def net() -> Blocks:
    return randomised(Blocks((1, 4, 4), 3, segments=3, width=16, depths=(2, 1, 1), heads=2, semantics=5).double(), 0.3)


def flow_of(net: nn.Module, labels=(2, 0)) -> NetFlow:
    null = (torch.full((1,), 3),)
    return NetFlow(net, (1, 4, 4), null=null).bind(torch.tensor(labels))


def states(rows: int = 2) -> torch.Tensor:
    return torch.randn(rows, 1, 4, 4, dtype=torch.float64)


def counted(net: Blocks) -> dict[str, int]:
    counts = dict.fromkeys(("shared", "residual", "parts"), 0)
    for name in counts:
        for module in (net.parts if name == "parts" else [getattr(net, name)]):  # fmt: skip
            module.register_forward_hook(lambda *_, name=name: counts.__setitem__(name, counts[name] + 1))
    return counts


def test_each_part_knows_its_own_times_only(net):
    x, label = states(6), torch.arange(6) % 3
    t = torch.tensor([0.0, 0.2, 1 / 3, 0.6, 2 / 3, 1.0])
    assert net.segment(t).tolist() == [0, 0, 1, 1, 2, 2]
    together = net(x, t, label)
    for row in range(6):  # whichever rows stand beside it
        one = slice(row, row + 1)
        torch.testing.assert_close(net(x[one], t[one], label[one]), together[one])
    net(x[:2], t[:2], label[:2]).square().sum().backward()
    own = [sum(float(p.grad.abs().sum()) for p in part.parameters() if p.grad is not None) for part in net.parts]
    assert own[0] > 0
    assert own[1:] == [0, 0]


def test_features_are_carried_on_by_the_formula(net):
    x, label = states(), torch.tensor([1, 2])
    h = net.features(states(), torch.tensor([1 / 3, 2 / 3]).double(), label)
    begin = torch.tensor([1 / 3, 2 / 3], dtype=torch.float64)
    torch.testing.assert_close(net.carried(h, x, begin, label), h)
    inside = begin + torch.tensor([0.1, 0.2])
    step = net.carried(h, x, inside, label) - h
    whole = net.residual(x, net._told(x, inside, label))
    torch.testing.assert_close(step, torch.tensor([0.3, 0.6]).double()[:, None, None] * whole)


def test_with_features_made_anew_it_is_any_solver(net):
    x, flow = states(), flow_of(net)
    times = torch.linspace(0, 1, 13, dtype=torch.float64)
    plain = run(integrate(flow, x, times, transition=euler)).x
    torch.testing.assert_close(run(switched(flow, x, per_segment=4, exact=True)).x, plain)
    carried = run(switched(flow, x, per_segment=4)).x
    assert (carried - plain).abs().max() > 1e-3


def test_one_step_a_segment_carries_nothing(net):
    x, flow = states(), flow_of(net)
    torch.testing.assert_close(
        run(switched(flow, x, per_segment=1)).x, run(switched(flow, x, per_segment=1, exact=True)).x, rtol=0, atol=0
    )


@pytest.mark.parametrize(("exact", "expected"), [(False, (3, 9, 12)), (True, (12, 0, 12))])
def test_what_it_costs(net, exact, expected):
    counts = counted(net)
    run(switched(flow_of(net), states(), per_segment=4, exact=exact))
    assert (counts["shared"], counts["residual"], counts["parts"]) == expected


def test_slopes_of_another_network_are_forgotten():
    """Part m answers m^2 + t: within a segment the second order is exact, and each border begins with an Euler step."""

    class Known(nn.Module):
        segments = 2

        def features(self, x, t, label):
            return x

        carried = staticmethod(lambda h, x, t, label: h)

        def velocity(self, x, t, label, h):
            return ((t >= 0.5).double() * 9 + t).view(-1, 1, 1, 1).expand_as(x)

    x, h = torch.zeros(2, 1, 4, 4).double(), 1 / 8
    at = [i * h for i in range(8)]
    euler_of = {0, 4}
    expected = sum(h * ((9 * (t >= 0.5) + t) + (0 if i in euler_of else 0.5 * h)) for i, t in enumerate(at))
    final = run(switched(flow_of(Known()), x, per_segment=4, order=2)).x
    torch.testing.assert_close(final, torch.full_like(x, expected))


class Straight(nn.Module):
    """Features that are the state itself, which goes straight from the source to the clean state."""

    segments = 4

    def __init__(self, clean, source):
        super().__init__()
        self.rate = (clean - source) / self.segments

    def segment(self, t):
        return (t * self.segments).long()

    def features(self, x, t, label):
        return x

    def carried(self, h, x, t, label):
        share = t * self.segments - self.segment(t)
        return h + share[:, None, None, None] * self.rate


def test_the_residual_sees_the_same_source_at_both_times():
    """With it, the line from one state to the other is known, and nothing is left to learn; the features alone would not do."""
    clean = states(8)
    source = torch.randn(clean.shape, generator=seeded(0, 0), dtype=torch.float64)
    batch = Batch(clean, (torch.zeros(8, dtype=torch.int64),))
    net = Straight(clean, source)
    assert residual(flow_of(net, [0] * 8), batch, seeded(0, 0)).abs().max() < 1e-20
    net.rate = 0 * net.rate
    assert residual(flow_of(net, [0] * 8), batch, seeded(0, 0)).mean() > 1e-2


def test_the_loss_is_the_error_less_the_likeness(net):
    batch, told = Batch(states(9), (torch.arange(9) % 3,)), torch.randn(9, 4, 5, dtype=torch.float64)
    flow, seen = NetFlow(net, (1, 4, 4), null=net.null), {}
    net.project.register_forward_hook(lambda module, args, out: seen.__setitem__("out", out))
    net.shared.register_forward_hook(lambda module, args, out: seen.__setitem__("x", args[0]))
    plain = block(flow, batch, seeded(0, 0))
    loss = block(flow, batch, seeded(0, 0), semantics=lambda clean: told, weight=0.3)
    likeness = (seen["out"] * told).sum(-1) / seen["out"].norm(dim=-1) / told.norm(dim=-1)
    torch.testing.assert_close(plain - loss, 0.3 * likeness.mean(1))
    assert plain.shape == (9,)


def test_every_segment_has_its_share_of_rows():
    seen = []

    class Spy(nn.Module):
        def features(self, x, t, label):
            seen.append(t)
            return x

        def velocity(self, x, t, label, h):
            return 0 * x

    batch = Batch(states(30), (torch.zeros(30, dtype=torch.int64),))
    loss = block(flow_of(Spy(), [0] * 30), batch, seeded(0, 0))
    assert (seen[0] * 3).long().bincount().tolist() == [10, 10, 10]
    source = torch.randn(30, 1, 4, 4, generator=seeded(0, 0), dtype=torch.float64)
    torch.testing.assert_close(loss, (batch.clean - source).square().mean((1, 2, 3)))


def test_a_network_without_features_is_a_plain_one():
    net = Blocks((1, 4, 4), 3, segments=1, width=16, depths=(0, 2, 0), heads=2)
    x = torch.randn(2, 1, 4, 4)
    assert net(x, torch.tensor(0.4), torch.tensor([0, 1])).shape == x.shape
    assert run(switched(flow_of(net), x, per_segment=2)).x.shape == x.shape
