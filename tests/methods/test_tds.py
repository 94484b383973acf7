"""TDS: the weighted particles are the posterior's, of the sampler as it is (any steps) and of the prior (many steps)."""

import pytest
import torch
from laws import TIMES, A, Draws, chain, errors, first, measured, moments_of

from flowhelm import GaussianFlow, Noise, integrate, run
from flowhelm.restore.tds import tds
from flowhelm.transition import ancestral, ancestral_moments, diffusion, langevin_moments, renoise_moments

Y = 2.0
T, S = TIMES[:2]


def sampled(flow, b, k, steps, std, **options):
    x, noise = flow.source(Draws(0, b * k)).double(), Draws(1, b * k)
    return run(tds(flow, measured(b, std), x, flow.times(steps), particles=k, noise=noise, **options))


def langevin(flow, x, s, t, ends):
    return langevin_moments(flow, x, s, t, ends, diffusion=diffusion.falling())


CASES = {
    "default": {"threshold": 0.0},
    "resampled often": {"threshold": 0.95},
    "half tempered": {"tempering": 0.5, "threshold": 0.0},
    "from the start": {"start": 0.0},
    "late": {"start": 0.5, "threshold": 0.0},
    "weak twist": {"twist": 0.4},
    "no twist": {"twist": 0.0},
    "langevin": {"moments": langevin},
    "renoise": {"moments": renoise_moments},
}


@pytest.mark.parametrize("case", CASES)
def test_eight_moves_have_the_posterior_of_eight_moves(gaussian, case):
    """Whatever twists, the weights leave no error but that of the number of particles; and their mean is the evidence."""
    b, k, std, options = 24, 512, 0.5, CASES[case]
    law = chain(gaussian, gaussian.times(8), options.get("moments", ancestral_moments))
    noise = std**2 * torch.eye(1).double()
    target = law.posterior(A, torch.tensor([Y]).double(), noise)
    last = sampled(gaussian, b, k, 8, std, **options)
    log_w = last.info["log_w"]
    z = errors(last.x, log_w, target.mean, target.covariance)
    evidence = torch.distributions.MultivariateNormal(A @ law.mean, A @ law.covariance @ A.T + noise)
    log_p = evidence.log_prob(torch.tensor([Y]).double()) + 0.5 * torch.log(2 * torch.pi * noise[0, 0])
    ratios = (log_w.logsumexp(1) - torch.tensor(float(k)).log() - log_p).exp()
    z_evidence = (ratios.mean() - 1) / (ratios.std() / b**0.5)
    print(f"{case}: z {z.tolist()}, evidence {float(ratios.mean()):.3f}, z {float(z_evidence):.2f}")
    print(f"    effective {float(last.info['ess'].mean()) / k:.2f}")
    assert z.abs().max() < 3.5
    assert abs(z_evidence) < 3.5
    if options.get("threshold") == 0:
        assert errors(last.x, torch.zeros_like(log_w), target.mean, target.covariance).abs().max() > 8


@pytest.mark.parametrize("name", ["gaussian", "mixture"])
def test_the_weighted_particles_are_the_posterior_s_and_the_unweighted_are_not(request, name):
    flow, std = request.getfixturevalue(name), 0.5
    posterior = flow.posterior(A, torch.tensor([Y]).double(), std**2 * torch.eye(1).double())
    last = sampled(flow, 32, 128, 400, std, threshold=0.0)  # the moves of 150 still show in the variances
    weighted = errors(last.x, last.info["log_w"], *moments_of(posterior))
    unweighted = errors(last.x, torch.zeros_like(last.info["log_w"]), *moments_of(posterior))
    print(f"{name}: z {weighted.tolist()}; without weights {unweighted.tolist()}")
    assert weighted.abs().max() < 3
    assert unweighted.abs().max() > 6


def test_with_the_exact_twist_the_weights_are_nearly_constant():
    """Prior N(mean, 1) and |A| = 1: p(y | x_s) is known, so only the moves' own error in time is weighed."""
    flow = GaussianFlow(torch.tensor([1.0, -0.5]).double(), torch.eye(2).double())
    y, sizes = measured(8, 0.2, torch.tensor([[0.6, 0.8]]).double()), {}
    for steps, tempering in ((50, 1.0), (200, 1.0), (200, 0.8), (200, 0.0)):
        x, noise = flow.source(Draws(0, 8 * 64)).double(), Draws(1, 8 * 64)
        of = {"particles": 64, "threshold": 0.0, "tempering": tempering, "start": 0.0, "noise": noise}
        last = run(tds(flow, y, x, flow.times(steps), **of))
        # of the whole run but its start: the first move of all is untwisted
        sizes[steps, tempering] = float(last.info["ess"].mean()) / 64
    print(sizes)
    assert sizes[200, 1.0] > sizes[50, 1.0]
    assert sizes[200, 1.0] > 0.9
    assert sizes[200, 0.8] < sizes[200, 1.0]
    assert sizes[200, 0.0] < 0.5


@pytest.mark.parametrize("tempering", [0.0, 0.6, 1.0])
def test_one_step_by_hand(mixture, tempering):
    x, y, k = torch.randn(6, 2).double(), measured(3), 2

    def psi(x, t):
        return -(mixture.ends(x, t).clean @ A.T - Y).square().sum(1) / (2 * variance(t))

    def variance(t):
        return 0.25 + tempering * (1 - t) ** 2 / (t**2 + (1 - t) ** 2)

    clean, z = mixture.ends(x, T).clean, Noise(5, 6)(x)
    pull = ((Y - clean @ A.T) / variance(T)) @ A
    guided = clean + 0.7 * (1 - T) ** 2 / T * (mixture.jacobian(x, T) @ pull[..., None])[..., 0]
    keep = T * (1 - S) / ((1 - T) * S)  # of the source under the ancestral move
    mean, twisted = (S * c + (1 - S) * keep * (x - T * c) / (1 - T) for c in (clean, guided))
    std = (1 - S) * (1 - keep**2).sqrt()
    expected = twisted + std * z
    law = lambda centre: -(expected - centre).square().sum(1) / (2 * std**2)  # noqa: E731
    change = law(mean) - law(twisted) + psi(expected, S) - psi(x, T)
    for start in (None, torch.randn(3, k).double()):
        options = {"tempering": tempering, "twist": 0.7, "threshold": 0.0, "log_w": start}
        step = first(tds(mixture, y, x, TIMES, particles=k, noise=Noise(5, 6), **options))
        torch.testing.assert_close(step.x, expected, atol=1e-10, rtol=0)
        weights = (psi(x, T).view(3, k) if start is None else start) + change.view(3, k)
        torch.testing.assert_close(step.info["log_w"], weights, atol=1e-9, rtol=0)
        torch.testing.assert_close(step.clean, mixture.ends(expected, S).clean)


def test_without_a_twist_it_is_the_prior_s_sampler_weighted_by_the_likelihood(mixture):
    x, y = torch.randn(12, 2).double(), measured(3)
    options = {"particles": 4, "twist": 0.0, "threshold": 0.0}
    last = run(tds(mixture, y, x, mixture.times(6), noise=Noise(2, 12), **options))
    free = run(integrate(mixture, x, mixture.times(6), transition=ancestral, noise=Noise(2, 12)))
    torch.testing.assert_close(last.x, free.x, atol=1e-12, rtol=0)
    torch.testing.assert_close(last.info["log_w"], y(last.x).view(3, 4), atol=1e-10, rtol=0)


def test_before_the_start_moves_are_the_prior_s_and_weights_equal(mixture):
    x, times = torch.randn(6, 2).double(), mixture.times(5)
    steps = list(tds(mixture, measured(2), x, times, particles=3, start=0.5, threshold=0.0, noise=Noise(2, 6)))
    free = list(integrate(mixture, x, times, transition=ancestral, noise=Noise(2, 6)))
    for i in (0, 1):
        torch.testing.assert_close(steps[i].x, free[i].x)
        assert not steps[i].info["log_w"].any()
    torch.testing.assert_close(steps[2].x, free[2].x)  # psi is there from t = 0.6 on
    assert steps[2].info["log_w"].any()
    assert not torch.allclose(steps[3].x, free[3].x)
