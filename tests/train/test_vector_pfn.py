"""Prior-data fitted networks for vectors: whose law is asked, that it is a flow, and that it comes near Bayes' rule."""

import pytest
import torch
from torch import nn
from toys import randomised

from flowhelm import NetFlow, Noise, integrate, run
from flowhelm.train import Batch, fit, seeded
from flowhelm.train.vector_pfn import VectorPFN, vector_pfn_loss

MIXED = torch.tensor([[1.0, 0.0], [0.8, 0.6]])  # of the noise: the two numbers of a y are correlated, 0.8


def shifted(index: int) -> Batch:
    """y = mean of the data set + correlated noise of standard deviation 0.5; x says nothing. The mean is standard normal."""
    draw = seeded(0, index)
    mean = torch.randn(64, 1, 2, generator=draw)
    y = mean + 0.5 * torch.randn(64, 6, 2, generator=draw) @ MIXED.T
    return Batch(y, (torch.zeros(64, 6, 1),))


def test_every_asked_point_has_its_row():
    """Rows are data set by data set; a row depends on its own data set's known points alone."""
    net = randomised(VectorPFN(2, features=3, width=16, layers=2, heads=2).double(), 0.3)
    x, y = torch.randn(3, 7, 3).double(), torch.randn(3, 4, 2).double()
    z, t = torch.randn(9, 2).double(), torch.rand(9).double()
    v = net(x, y).velocity(z, t)
    assert v.shape == (9, 2)
    torch.testing.assert_close(net(x[1:2], y[1:2]).velocity(z[3:6], t[3:6]), v[3:6])
    other = y.clone()
    other[1, 2] += 1
    changed = (net(x, other).velocity(z, t) - v).abs().amax(1) > 1e-6
    assert changed.tolist() == [False] * 3 + [True] * 3 + [False] * 3


def test_the_loss_is_that_of_a_flow_to_the_asked_points():
    """A head that knows the asked points has none."""
    batch = Batch(torch.randn(4, 5, 2, dtype=torch.float64), (torch.zeros(4, 5, 1, dtype=torch.float64),))

    class To(nn.Module):
        def forward(self, z, t, token):
            return (token - z) / (1 - t)[:, None]

    class Knows(nn.Module):
        def forward(self, x, y):
            assert torch.equal(y, batch.clean[:, : y.shape[1]])
            return NetFlow(To(), (2,)).bind(batch.clean[:, y.shape[1] :].flatten(0, 1))

    for index in range(5):
        loss = vector_pfn_loss(NetFlow(Knows(), (5, 2)), batch, seeded(0, index))
        assert loss.shape == (4,)
        assert loss.abs().max() < 1e-8


@pytest.mark.slow
def test_it_learns_the_posterior_of_a_correlated_pair():
    """Exact: after n known y of noise covariance S, N(G mean, S + (1 + n S^-1)^-1), G = (1 + n S^-1)^-1 n S^-1."""
    torch.manual_seed(0)
    net = VectorPFN(2, width=32, layers=2)
    for _ in fit(NetFlow(net, (6, 2)), vector_pfn_loss, shifted, steps=1500, rate=3e-3, warmup=50):
        pass
    y = torch.tensor([[1.0, 0.2], [1.6, 0.9], [0.9, 0.4], [1.3, 0.1], [1.2, 0.4]])
    noise = 0.25 * MIXED @ MIXED.T
    left = torch.linalg.inv(torch.eye(2) + 5 * torch.linalg.inv(noise))
    mean, covariance = left @ torch.linalg.inv(noise) @ y.sum(0), noise + left
    with torch.no_grad():
        law = net(torch.zeros(1, 6, 1), y[None])
        law = law.bind(law.condition[0].expand(4000, -1))
        drawn = run(integrate(law, law.source(Noise(0, 4000)), law.times(30))).x
    assert (drawn.mean(0) - mean).abs().max() < 0.12
    assert (drawn.T.cov() - covariance).abs().max() < 0.08
    assert drawn.T.corrcoef()[0, 1] > 0.6
