"""Functional priors: networks' moments, losses that are distances, and a sampler held to a posterior in closed form."""

import math
from functools import partial
from itertools import islice

import pytest
import torch
from torch.nn import functional as fn

from flowhelm import NetFlow
from flowhelm.train import Batch, fit, seeded
from flowhelm.train.functional_prior import (
    NetworkPrior,
    energy_distance,
    energy_loss,
    functions,
    posterior,
    wasserstein_loss,
)
from flowhelm.train.gaussian_process import GaussianProcess
from flowhelm.train.sghmc import sghmc


def grid(n: int = 12) -> torch.Tensor:
    return torch.linspace(-2, 2, n, dtype=torch.float64)[:, None]


def scaled(sizes, weights, biases) -> NetworkPrior:
    prior = NetworkPrior(sizes).double()
    with torch.no_grad():
        for parameter, values in ((prior.weights, weights), (prior.biases, biases)):
            parameter.copy_(torch.tensor(values, dtype=torch.float64).expm1().log())
    return prior


class TestPrior:
    def test_a_linear_network_has_its_covariance(self):
        """f(x) = w e x + b e': w^2 x x' + b^2, to 5 standard errors."""
        prior, x = scaled((1, 1), [0.7], [0.4]), grid(4)
        f = prior(torch.randn(40000, prior.size, dtype=torch.float64), x)
        expected = 0.49 * x @ x.T + 0.16
        error = ((expected.diag()[:, None] * expected.diag() + expected**2) / 40000).sqrt()
        assert ((f.T.cov() - expected).abs() < 5 * error).all()

    def test_a_network_is_its_layers(self):
        """Each number of e stands where it should: against torch's own layers."""
        prior = scaled((2, 3, 4, 1), [0.5, 1.0, 2.0], [0.1, 0.2, 0.3])
        e, x = torch.randn(5, prior.size, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
        assert prior.size == 9 + 16 + 5
        for row, f in zip(e, prior(e, x), strict=True):
            h, rest = x, row
            for layer, (a, b, w, s) in enumerate(((2, 3, 0.5, 0.1), (3, 4, 1.0, 0.2), (4, 1, 2.0, 0.3))):
                weight, rest = rest[: a * b].view(a, b) * w / math.sqrt(a), rest[a * b :]
                bias, rest = rest[:b] * s, rest[b:]
                h = fn.linear(torch.tanh(h) if layer else h, weight.T, bias)
            torch.testing.assert_close(f, h[:, 0])

    def test_what_is_no_network_is_refused(self):
        for sizes, scale in (((1,), 1.0), ((1, 5, 2), 1.0), ((0, 1), 1.0), ((1, 1), 0.0)):
            with pytest.raises(ValueError, match="NetworkPrior: expected sizes"):
                NetworkPrior(sizes, scale)


class TestDistances:
    def test_energy_distance_of_shifted_numbers(self):
        """Two normal laws of variance 1 with means d apart: 2 (E|Z sqrt 2 + d| - E|Z sqrt 2|)."""
        a, b = torch.randn(2, 4000, 1, dtype=torch.float64)
        d = 1.0
        folded = 2 / math.sqrt(math.pi) * math.exp(-(d**2) / 4) + d * math.erf(d / 2)
        assert float(energy_distance(a, b + d)) == pytest.approx(2 * (folded - 2 / math.sqrt(math.pi)), abs=0.06)
        assert abs(float(energy_distance(a, b))) < 0.01

    def test_the_energy_loss_is_the_distance_less_what_does_not_depend_on_the_network(self):
        prior, x = scaled((1, 4, 1), [1.0, 0.5], [0.3, 0.3]), grid()
        batch = Batch(torch.randn(30, 12, dtype=torch.float64))
        loss = energy_loss(NetFlow(prior, (12,)), batch, seeded(0, 0), x=x).mean()
        ours = prior(torch.randn(30, prior.size, generator=seeded(0, 0), dtype=torch.float64), x)
        own = torch.pdist(batch.clean).mean()
        torch.testing.assert_close(loss - own, energy_distance(ours, batch.clean))

    def test_the_critic_approaches_the_distance_of_two_points(self):
        """Two Dirac laws |u| apart have W1 = |u|, and its gradient points from one to the other."""

        class Constant(torch.nn.Module):
            size = 1

            def __init__(self):
                super().__init__()
                self.at = torch.nn.Parameter(torch.tensor([1.5, 0.0]))

            def forward(self, e, x):
                return self.at.expand(len(e), 2)

        net = Constant()
        batch = Batch(torch.zeros(16, 2))
        loss = wasserstein_loss(NetFlow(net, (2,)), batch, seeded(0, 0), x=grid(2).float(), steps=300)
        loss.mean().backward()
        assert float(loss.mean().detach()) == pytest.approx(1.5, abs=0.25)
        assert net.at.grad[0] > 0.7
        assert abs(float(net.at.grad[1])) < 0.4

    @pytest.mark.parametrize(
        "loss",
        [energy_loss, pytest.param(partial(wasserstein_loss, steps=40), marks=pytest.mark.slow)],
        ids=["energy", "critic"],
    )
    def test_a_linear_network_becomes_the_linear_process(self, loss):
        """The process is a linear network, too, so the scales are known: 0.5 and 1.2."""
        x = grid(6).float()
        true, prior = scaled((1, 1), [0.5], [1.2]).float(), NetworkPrior((1, 1))
        data = lambda i: Batch(true(torch.randn(256, 2, generator=seeded(1, i)), x).detach())  # noqa: E731
        for _ in fit(NetFlow(prior, (6,)), partial(loss, x=x), data, steps=60, rate=0.1, warmup=5):
            pass
        assert fn.softplus(prior.weights).item() == pytest.approx(0.5, rel=0.2)
        assert fn.softplus(prior.biases).item() == pytest.approx(1.2, rel=0.2)


def test_functions_are_those_of_the_process():
    x, process = grid(5), GaussianProcess(0.8, 0.01)
    f = functions(process, x, batch=20000)(3).clean
    expected = process.kernel(x[None], x[None])[0] + 1e-4 * torch.eye(5)
    torch.testing.assert_close(f.T.cov(), expected, rtol=0, atol=5 * math.sqrt(2 / 20000))
    torch.testing.assert_close(f[:3], functions(process, x, batch=20000)(3).clean[:3], rtol=0, atol=0)


def test_the_sampler_has_the_posterior_of_a_linear_network():
    """Normal, with a mean and a covariance that linear algebra gives; 64 chains, to five standard errors of 64 x 60 states."""
    prior = scaled((1, 1), [0.7], [0.4]).requires_grad_(False)
    x, y, noise = grid(6), torch.tensor([0.3, -0.2, 0.1, 0.5, 0.2, 0.9]).double(), 0.5
    design = torch.cat([0.7 * x, torch.full_like(x, 0.4)], 1)
    precision = design.T @ design / noise**2 + torch.eye(2)
    covariance = torch.linalg.inv(precision)
    mean = covariance @ design.T @ y / noise**2
    start = torch.randn(64, 2, generator=seeded(1, 0), dtype=torch.float64)
    chain = sghmc(posterior(prior, x, y, noise), start, seeded(0, 0), burn=300, every=20, rate=0.1, friction=0.1)
    states = torch.cat(list(islice(chain, 60)))
    error = (covariance.diag() / 64 / 10).sqrt()  # as if 10 states of each chain were independent
    assert ((states.mean(0) - mean).abs() < 5 * error).all()
    torch.testing.assert_close(states.T.cov(), covariance, rtol=0.12, atol=0.02)


def test_the_same_seed_gives_the_same_chain():
    square = lambda e: e.square().sum(1) / 2  # noqa: E731
    one, two = (list(islice(sghmc(square, torch.zeros(2, 3), seeded(5, 0), burn=5, every=2), 3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
