"""The exact flows against published constants, against each other and against what they say of a posterior."""

import pytest
import torch
from toys import PATHS, double

from flowhelm import GaussianFlow, MixtureFlow, integrate, run
from flowhelm import path as paths
from flowhelm.path import linear
from flowhelm.transition import heun


def close(actual, expected, atol=1e-9):
    torch.testing.assert_close(actual, double(expected), atol=atol, rtol=0)


@pytest.fixture(params=[0.6, [0.6]], ids=["scalar time", "time per row"])
def t(request):
    return double(request.param)


@pytest.fixture
def x():
    return double([[0.4, -0.3]])


def test_reference_values_of_the_prior(mixture, x, t):
    close(mixture.responsibilities(x, t)[0], [0.7940380268, 0.2059619732])
    close(mixture.ends(x, t).clean[0], [0.9165629035, -0.2413299461])
    close(mixture.velocity(x, t)[0], [1.2914072586, 0.1466751348])
    close(mixture.score(x, t)[0], [0.9371108879, 0.9700127022])


def test_reference_values_of_the_second_order(mixture, x):
    t = double(0.6)
    close(mixture.jacobian(x, t)[0], [[2.5231332629, -0.4455657257], [-0.4455657257, 0.8587103483]])
    close(mixture.covariance(x, t)[0], [[0.6728355368, -0.1188175268], [-0.1188175268, 0.2289894262]])


def test_reference_values_of_the_posterior(mixture, observed, x, t):
    posterior = mixture.posterior(observed.matrix, observed.y, observed.covariance)
    close(posterior.weights, [0.6606979506, 0.3393020494])
    close(posterior.means, [[1.1165644172, -0.5153374233], [-0.2155172414, 1.6724137931]])
    close(posterior.covariances[0], [[0.0582822086, -0.0576687117], [-0.0576687117, 0.1496932515]])
    close(posterior.covariances[1], [[0.0943965517, -0.1405172414], [-0.1405172414, 0.3224137931]])
    mean, covariance = posterior.moments()
    close(mean, [0.6645863804, 0.2269710481])
    close(covariance, [[0.4683233864, -0.7390877617], [-0.7390877617, 1.2812620798]])
    close((posterior.velocity(x, t) - mixture.velocity(x, t))[0], [0.3373035977, -0.5215189830])


@PATHS
def test_times_per_row_are_the_rows_own(mixture, path):
    flow = MixtureFlow(mixture.weights, mixture.means, mixture.covariances, path)
    x, times = torch.randn(3, 2).double(), double([0.2, 0.5, 0.9])
    for method in (flow.velocity, flow.score, flow.log_density, flow.responsibilities):
        rows = torch.cat([method(x[i : i + 1], times[i]) for i in range(3)])
        torch.testing.assert_close(method(x, times), rows, atol=1e-12, rtol=0)


@PATHS
@pytest.mark.parametrize("t", [0.15, 0.6, 0.95])
def test_score_jacobian_and_covariance_are_derivatives(mixture, path, t):
    flow, t = MixtureFlow(mixture.weights, mixture.means, mixture.covariances, path), double(t)
    x = torch.randn(4, 2).double().requires_grad_()
    (score,) = torch.autograd.grad(flow.log_density(x, t).sum(), x)
    x = x.detach()
    torch.testing.assert_close(flow.score(x, t), score, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(paths.score(path, flow.ends(x, t), t), score, atol=1e-8, rtol=1e-8)
    jacobian = torch.autograd.functional.jacobian(lambda z: flow.ends(z, t).clean.sum(0), x).transpose(0, 1)
    torch.testing.assert_close(flow.jacobian(x, t), jacobian, atol=1e-8, rtol=1e-8)
    c = path(t)  # second-order Tweedie
    torch.testing.assert_close(flow.covariance(x, t), c.sigma**2 / c.alpha * jacobian, atol=1e-9, rtol=1e-8)


@PATHS
@pytest.mark.parametrize("t", [0.3, 0.8])
def test_conditioning_adds_the_likelihood_score_to_the_velocity(mixture, observed, path, t):
    flow, t, given = MixtureFlow(mixture.weights, mixture.means, mixture.covariances, path), double(t), observed[:3]
    x = torch.randn(4, 2).double().requires_grad_()
    (gradient,) = torch.autograd.grad(flow.log_likelihood(x, t, *given).sum(), x)
    x, c = x.detach(), path(t)
    kappa = c.d_alpha / c.alpha * c.sigma**2 - c.d_sigma * c.sigma
    if path is linear:
        torch.testing.assert_close(kappa, (1 - t) / t)
    extra = flow.posterior(*given).velocity(x, t) - flow.velocity(x, t)
    torch.testing.assert_close(extra, kappa * gradient, atol=1e-9, rtol=1e-9)


def test_log_likelihood_is_bayes_rule(mixture, observed):
    x, t, given = torch.randn(4, 2).double(), double(0.6), observed[:3]
    posterior, clean = mixture.posterior(*given), double([[0.3, 0.1]])
    # log p(y|x_t) = log p(y|clean) + log p(clean) - log p(clean|y) + log p(x_t|y) - log p(x_t), for any clean
    evidence = torch.distributions.MultivariateNormal(observed.matrix @ clean[0], observed.covariance).log_prob(
        observed.y
    )
    evidence = evidence + mixture.log_density(clean, double(1.0)) - posterior.log_density(clean, double(1.0))
    expected = evidence + posterior.log_density(x, t) - mixture.log_density(x, t)
    torch.testing.assert_close(mixture.log_likelihood(x, t, *given), expected, atol=1e-10, rtol=0)


@PATHS
def test_one_component_is_a_gaussian(gaussian, observed, path):
    flow = GaussianFlow(gaussian.mean, gaussian.covariance, path)
    single = MixtureFlow(double([2.0]), flow.mean[None], flow.covariance[None], path)
    x = torch.randn(5, 2).double()
    for a, b in ((flow, single), (flow.posterior(*observed[:3]), single.posterior(*observed[:3]))):
        torch.testing.assert_close(a.mean, b.means[0], atol=1e-12, rtol=0)
        torch.testing.assert_close(a.covariance, b.covariances[0], atol=1e-12, rtol=0)
        for time in (double(0.3), double([0.1, 0.2, 0.5, 0.8, 0.97])):
            torch.testing.assert_close(a.velocity(x, time), b.velocity(x, time), atol=1e-9, rtol=1e-10)
            torch.testing.assert_close(a.log_density(x, time), b.log_density(x, time), atol=1e-9, rtol=1e-10)


@PATHS
def test_densities_integrate_to_1(gaussian, mixture, path):
    line = torch.linspace(-9, 9, 361, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    for flow in (
        GaussianFlow(gaussian.mean, gaussian.covariance, path),
        MixtureFlow(mixture.weights, mixture.means, mixture.covariances, path),
    ):
        mass = flow.log_density(grid, double(0.7)).exp().sum() * (line[1] - line[0]) ** 2
        torch.testing.assert_close(mass, double(1.0), atol=1e-9, rtol=0)


def test_the_law_at_its_ends(mixture):
    x = torch.randn(3, 2).double()
    normal = torch.distributions.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    torch.testing.assert_close(mixture.log_density(x, double(0.0)), normal.log_prob(x), atol=1e-12, rtol=0)
    torch.testing.assert_close(mixture.velocity(x, double(0.0)), mixture.moments()[0] - x, atol=1e-12, rtol=0)
    torch.testing.assert_close(mixture.velocity(x, double(1.0)), x, atol=1e-12, rtol=0)


@PATHS
def test_transport_is_the_flow_of_the_velocity(gaussian, path):
    flow = GaussianFlow(gaussian.mean, gaussian.covariance, path)
    x, s, t = torch.randn(3, 2).double(), double(0.05), double(0.9)
    moved = run(integrate(flow, x, torch.linspace(s, t, 801, dtype=torch.float64), transition=heun)).x
    torch.testing.assert_close(moved, flow.map(x, s, t), atol=2e-5, rtol=0)
    torch.testing.assert_close(flow.map(flow.map(x, s, t), t, s), x, atol=1e-12, rtol=0)
    rows = flow.map(x, s.expand(3), double([0.3, 0.5, 0.9]))
    torch.testing.assert_close(rows[2:], flow.map(x[2:], s, t), atol=1e-12, rtol=0)
    # change of variables: the density is carried along
    _, log_det = torch.linalg.slogdet(torch.autograd.functional.jacobian(lambda z: flow.map(z[None], s, t)[0], x[0]))
    there = flow.log_density(flow.map(x, s, t), t)
    torch.testing.assert_close(there + log_det, flow.log_density(x, s), atol=1e-10, rtol=0)
