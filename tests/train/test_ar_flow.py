"""ARFlow: the memory is the sum it says, parts carried on are the whole, nothing looks ahead, and each sample begins without any."""

import math

import pytest
import torch
from torch import nn
from toys import randomised

from flowhelm import GaussianFlow, NetFlow, Noise, run
from flowhelm.priors.recaller import Hybrid, Recaller
from flowhelm.train import Batch, seeded
from flowhelm.train.ar_flow import ar_flow, recalled, sequences


@pytest.fixture
def net() -> Recaller:
    return randomised(Recaller((1, 4, 4), 3, width=16, layers=2, heads=2).double(), 0.3)


def sequence(rows: int = 2, n: int = 5):
    x = torch.randn(rows, n, 1, 4, 4, dtype=torch.float64)
    return x, torch.rand(rows, n, dtype=torch.float64), torch.arange(rows) % 3


def test_the_layer_is_the_sum_over_all_earlier_pictures():
    """Written out, with the decay of every picture in between, and softmax attention inside."""
    layer = Hybrid(8, 2).double()
    x, told = torch.randn(1, 4, 3, 8).double(), torch.randn(1, 4, 1, 8).double()
    start = torch.randn(1, 2, 4, 4).double()
    out, _ = layer(x, told, start)
    q, k, v = (part.view(4, 3, 2, 4).transpose(1, 2) for part in layer.qkv(x)[0].chunk(3, -1))
    q, k = 2 * q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True)
    g = nn.functional.logsigmoid(layer.decay(x + told))[0].mean(1) / 4  # (4 pictures, 2 heads)
    for s in range(4):
        for head in range(2):
            seen = torch.softmax(q[s, head] @ k[s, head].T, -1) @ v[s, head]
            seen += g[:s, head].sum().exp() * q[s, head] @ start[0, head]
            for r in range(s):
                seen += g[r + 1 : s, head].sum().exp() * (q[s, head] @ k[r, head].T) @ v[r, head] / 3
            each = seen / (seen.square().mean(-1, keepdim=True) + torch.finfo(seen.dtype).eps).sqrt()
            told_of_it = each if head == 0 else torch.cat([told_of_it, each], -1)  # noqa: F821
        gated = layer.out(told_of_it * nn.functional.silu(layer.gate(x[0, s])))
        torch.testing.assert_close(out[0, s], gated)


def test_parts_carried_on_are_the_whole(net):
    x, t, label = sequence()
    whole, last = net.step(x, t, label, net.empty(2))
    memory, parts = net.empty(2), []
    for cut in (slice(0, 1), slice(1, 4), slice(4, 5)):
        v, memory = net.step(x[:, cut], t[:, cut], label, memory)
        parts.append(v)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-13)
    for a, b in zip(memory, last, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


def test_nothing_looks_ahead_and_everything_looks_back(net):
    x, t, label = sequence()
    v, _ = net.step(x, t, label, net.empty(2))
    other = x.clone()
    other[:, 2] += 1
    changed, _ = net.step(other, t, label, net.empty(2))
    torch.testing.assert_close(changed[:, :2], v[:, :2], rtol=0, atol=0)
    assert ((changed - v)[:, 2:].abs().amax((0, 2, 3, 4)) > 1e-3).all()
    alone = net(x[:, 0], t[:, 0], label)
    torch.testing.assert_close(alone, v[:, 0])


def test_a_layer_that_does_not_remember_reads_no_memory(net):
    x, t, label = sequence()
    for layer in net.attend:
        layer.remembers = False
    v, _ = net.step(x, t, label, net.empty(2))
    for s in range(5):
        torch.testing.assert_close(v[:, s], net(x[:, s], t[:, s], label))


def test_the_sampler_is_one_sequence_and_begins_without_memory(net):
    """Its Euler steps are explained by one pass over its own states; the next sample is not changed by the last one."""
    flow = NetFlow(net, (1, 4, 4), null=net.null).bind(torch.tensor([2, 0]))
    x, times = torch.randn(2, 1, 4, 4).double(), torch.tensor([0.1, 0.3, 0.6, 1.0]).double()
    steps = list(recalled(flow, x, times))
    states = torch.stack([x, *(s.x for s in steps)], 1)
    v, _ = net.step(states[:, :3], times[:3].expand(2, 3), torch.tensor([2, 0]), net.empty(2))
    torch.testing.assert_close(states.diff(dim=1), v * times.diff()[None, :, None, None, None])
    torch.testing.assert_close(run(recalled(flow, x, times)).x, states[:, -1], rtol=0, atol=0)
    dropped = run(recalled(flow, x, times, memory="dropped")).x
    assert (dropped - states[:, -1]).abs().max() > 1e-3
    with pytest.raises(ValueError, match="recalled: expected memory"):
        next(recalled(flow, x, times, memory="some"))


def test_the_stochastic_sampler_keeps_the_law():
    """With the exact velocity of N(1, 0.5^2), moments to five standard errors and the error of the steps."""
    exact = GaussianFlow(torch.tensor([1.0]).double(), torch.tensor([[0.25]]).double())

    class Exact(nn.Module):
        def empty(self, rows):
            return ()

        def step(self, x, t, memory):
            return exact.velocity(x.reshape(-1, 1), t[0, 0]).view_as(x), memory

    x = torch.randn(1, 20000, dtype=torch.float64)
    times = torch.linspace(0, 1, 101, dtype=torch.float64)
    final = run(recalled(NetFlow(Exact(), (20000,)), x, times, noise=Noise(0, 1))).x
    assert float(final.mean()) == pytest.approx(1, abs=5 * 0.5 / math.sqrt(20000) + 0.01)
    assert float(final.std()) == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(40000) + 0.01)


def test_sequences_are_different_pictures_of_one_class():
    labels = torch.tensor([0] * 7 + [4] * 6)
    data = sequences(torch.arange(13.0)[:, None], labels, length=5, batch=50)
    clean, (told,), *_ = data(3)
    assert clean.shape == (50, 5, 1)
    assert set(told.tolist()) == {0, 4}
    for row, label in zip(clean[..., 0].long(), told, strict=True):
        assert len(set(row.tolist())) == 5
        assert (labels[row] == label).all()
    assert torch.equal(clean, data(3).clean)
    with pytest.raises(ValueError, match="expected 7 pictures of every class, got 6 of class 4"):
        sequences(torch.zeros(13, 1), labels, length=7)


@pytest.mark.parametrize("first", ["noisy", "clean"])
def test_the_loss_has_its_order_and_its_target(first):
    """A network that knows the clean pictures has no loss: v = (clean - x) / (1 - t). Times go up, or down."""
    batch = Batch(torch.randn(6, 5, 1, 2, 2, dtype=torch.float64), (torch.zeros(6, dtype=torch.int64),))
    seen = []

    class Knows(nn.Module):
        def empty(self, rows):
            return ()

        def step(self, x, t, label, memory):
            seen.append(t)
            return (batch.clean - x) / (1 - t.double())[..., None, None, None], memory

    flow = NetFlow(Knows(), (1, 2, 2), null=(torch.ones(1, dtype=torch.int64),))
    loss = ar_flow(flow, batch, seeded(0, 0), first=first)
    assert loss.shape == (6,)
    assert loss.abs().max() < 1e-6
    assert ((seen[0].diff(dim=1) > 0) == (first == "noisy")).all()
    with pytest.raises(ValueError, match="ar_flow: expected first"):
        ar_flow(flow, batch, seeded(0, 0), first="dark")
