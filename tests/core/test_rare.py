"""Minority guidance by a classifier: the exact classifier gives the exact conditional flow; what it learns from."""

import pytest
import torch
from torch import nn
from toys import PATHS, double

from flowhelm import GaussianFlow, MixtureFlow, NetFlow, Noise
from flowhelm.guide import counted, rare
from flowhelm.path import at, linear, mix
from flowhelm.train import quantiles, rarity, rarity_loss, shuffled

WEIGHTS = double([0.6, 0.3, 0.1])
MEANS = double([[2.0, 0.0], [-1.0, 1.0], [0.0, -2.0]])
ROOTS = double([[[0.7, 0.2], [0.0, 0.5]], [[0.4, 0.0], [0.1, 0.6]], [[0.5, -0.3], [0.0, 0.5]]])
COVARIANCES = ROOTS @ ROOTS.mT


def three(path=linear):
    return MixtureFlow(WEIGHTS, MEANS, COVARIANCES, path)


def alone(k, path=linear):
    return GaussianFlow(MEANS[k], COVARIANCES[k], path)


def exact(path=linear):
    """Logits up to a constant of the row, which a classifier may have."""
    flow = three(path)
    return lambda x, t: flow.responsibilities(x, t).log() + x.sum(1, keepdim=True)


# the guide


@PATHS
@pytest.mark.parametrize("t", [0.05, 0.4, 0.93, [0.1, 0.5, 0.9]])
@pytest.mark.parametrize("label", [0, 2])
def test_with_an_exact_classifier_it_is_the_exact_conditional_flow(path, t, label):
    x, t = torch.randn(3, 2).double(), double(t)
    guided = rare(three(path), exact(path), scale=1.0, label=label)
    torch.testing.assert_close(guided.velocity(x, t), alone(label, path).velocity(x, t), atol=1e-9, rtol=1e-9)
    whole = three(path).velocity(x, t)
    further = rare(three(path), exact(path), scale=2.5, label=label).velocity(x, t)
    torch.testing.assert_close(further, whole + 2.5 * (alone(label, path).velocity(x, t) - whole), atol=1e-9, rtol=1e-9)


def test_what_it_costs_and_where_it_acts():
    flow, asked = counted(three()), []

    def spy(x, t):
        asked.append(t)
        return exact()(x, t)

    x = torch.randn(3, 2)
    guided = rare(flow, spy, start=0.2, stop=0.8)
    for s in (0.0, 0.2, 0.8, 1.0):
        assert torch.equal(guided.velocity(x, double(s)), three().velocity(x, double(s)))
    assert not asked
    guided.velocity(x, double(0.5))
    assert (flow.count.calls, flow.count.backward) == (5, 0)
    assert len(asked) == 1
    assert asked[0].shape == (3,)
    assert asked[0].dtype == x.dtype
    v = guided.velocity(x, torch.tensor([0.0, 0.5, 1.0]))  # per row, and finite where kappa is not
    assert v.isfinite().all()
    plain = three().velocity(x, torch.tensor([0.0, 0.5, 1.0]))
    assert ((v == plain).all(1) == torch.tensor([True, False, True])).all()
    assert torch.equal(rare(three(), spy, scale=0.0).velocity(x, double(0.5)), three().velocity(x, double(0.5)))
    assert rare(three(), exact()).velocity(x, double(0.0)).isfinite().all()


def test_a_row_does_not_see_its_neighbours_and_the_shift_is_a_constant():
    x, t = torch.randn(4, 2).double(), double(0.4)
    guided = rare(three(), exact())
    with torch.no_grad():
        together = guided.velocity(x, t)
    for i in range(4):
        torch.testing.assert_close(guided.velocity(x[i : i + 1], t), together[i : i + 1], atol=1e-12, rtol=0)
    z = x.requires_grad_()
    (mine,) = torch.autograd.grad(guided.velocity(z, t).sum(), z)
    (plain,) = torch.autograd.grad(three().velocity(z, t).sum(), z)
    torch.testing.assert_close(mine, plain)


# what the classifier learns from


@PATHS
def test_the_score_is_the_error_of_the_denoiser(path):
    """Of N(m, S): E |clean - D|^2 given clean = |(I - alpha G)(clean - m)|^2 + sigma^2 |G|^2, G = alpha S C^-1; mean over d."""
    flow, n = alone(0, path), 4000
    t = double(0.3)
    c = at(path, t, MEANS)
    gain = c.alpha * COVARIANCES[0] @ torch.linalg.inv(c.alpha**2 * COVARIANCES[0] + c.sigma**2 * torch.eye(2))
    for clean in (double([2.0, 0.5]), double([-1.0, 3.0])):
        bias = (torch.eye(2).double() - c.alpha * gain) @ (clean - MEANS[0])
        expected = (bias.square().sum() + c.sigma**2 * gain.square().sum()) / 2
        found = rarity(flow, clean.expand(n, 2), Noise(1, n), level=0.3, draws=2).mean()
        assert float(found / expected) == pytest.approx(1, abs=0.04)


def test_quantiles_are_of_equal_size_and_ordered():
    scores = torch.randn(1003)
    label = quantiles(scores, 10)
    assert set(torch.bincount(label).tolist()) == {100, 101}
    assert all(scores[label == k].max() <= scores[label == k + 1].min() for k in range(9))
    assert quantiles(torch.tensor([0.3, -1.0, 2.0]), 3).tolist() == [1, 0, 2]
    assert quantiles(torch.zeros(4), 2).bincount().tolist() == [2, 2]
    with pytest.raises(ValueError, match="1 to 4 classes"):
        quantiles(torch.zeros(4), 5)
    with pytest.raises(ValueError, match="level"):
        rarity(three(), torch.zeros(1, 2), Noise(0, 1), level=1.0)


def test_the_loss_is_the_cross_entropy_at_the_noisy_state():
    class Exact(nn.Module):
        def forward(self, x, t):
            seen.append((x, t))
            return exact()(x.double(), t.double()).float()

    seen, flow = [], three()
    n = 4000
    noise = Noise(3, n)
    clean, label = flow.sample(noise).float(), torch.zeros(n, dtype=torch.int64)
    batch = shuffled(clean, label, batch=n)(0)
    loss = rarity_loss(NetFlow(Exact(), (2,)), batch, torch.Generator().manual_seed(0))
    (x, t) = seen[0]
    torch.testing.assert_close(loss, -flow.responsibilities(x.double(), t.double())[:, 0].log().float())
    source = (x - t[:, None] * batch.clean) / (1 - t[:, None])
    late = t < 0.9
    assert abs(float(source[late].std()) - 1) < 0.05
    assert abs(float(source[late].mean())) < 0.05
    assert abs(float(t.mean()) - 0.5) < 0.01
    torch.testing.assert_close(x, mix(linear, source, batch.clean, t), atol=1e-3, rtol=0)
