"""Guidance by a reward, inside the flow: for a normal prior and a linear reward it is the flow of the exact tilt."""

import pytest
import torch
from toys import PATHS, double

from flowhelm import GaussianFlow, MixtureFlow, Noise, run
from flowhelm.guide import counted, rewarded
from flowhelm.path import linear
from flowhelm.solve import integrate, valued
from flowhelm.transition import glass

MEAN, COVARIANCE = double([1.0, -0.5]), double([[0.6, 0.2], [0.2, 0.3]])
ALONG = double([0.7, -1.1])


def reward(image):
    return image.flatten(1) @ ALONG.to(image)


def prior(path=linear):
    return GaussianFlow(MEAN, COVARIANCE, path)


def tilt(strength, path=linear):
    return GaussianFlow(MEAN + strength * COVARIANCE @ ALONG, COVARIANCE, path)


@PATHS
@pytest.mark.parametrize("t", [0.05, 0.4, 0.93, [0.1, 0.5, 0.9]])
@pytest.mark.parametrize("strength", [1.0, 0.3, -2.0])
def test_a_linear_reward_of_a_normal_prior_gives_the_flow_of_the_tilt(path, t, strength):
    x, t = torch.randn(3, 2).double(), double(t)
    guided = rewarded(prior(path), reward, strength=strength, start=0.0, stop=1.0)
    torch.testing.assert_close(guided.velocity(x, t), tilt(strength, path).velocity(x, t), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(guided.ends(x, t).clean, tilt(strength, path).ends(x, t).clean, atol=1e-9, rtol=1e-9)


def test_inside_glass_it_draws_from_the_tilt():
    rows = 4000
    noise, times = Noise(0, rows), prior().times(5)
    guided = rewarded(prior(), reward, start=0.0, stop=1.0)
    x = torch.randn(rows, 2, generator=torch.Generator().manual_seed(0)).double()

    def moved(flow, x, s, t, noise, ends=None):
        return glass(flow, x, s, t, noise, ends, inner=8)

    end = run(integrate(guided, x, times, transition=moved, noise=noise)).x
    error = (end.mean(0) - tilt(1.0).mean).abs() / (COVARIANCE.diagonal() / rows).sqrt()
    assert float(error.max()) < 4.5  # standard errors; without guidance the mean is dozens of them away
    torch.testing.assert_close(end.T.cov(), COVARIANCE, atol=0.03, rtol=0.05)


def test_what_it_costs_and_where_it_acts():
    flow, x = counted(prior()), torch.randn(3, 2).double()
    guided = rewarded(flow, reward, start=0.2, stop=0.8)
    for t in (0.0, 0.2, 0.8, 1.0):
        assert torch.equal(guided.velocity(x, double(t)), prior().velocity(x, double(t)))
    assert torch.equal(
        rewarded(prior(), reward, strength=0.0).velocity(x, double(0.5)), prior().velocity(x, double(0.5))
    )
    flow.count.calls = 0
    guided.velocity(x, double(0.5))
    assert flow.count.calls == 1
    mixed = double([0.1, 0.5, 0.9])  # only the second row is guided
    shift = (guided.velocity(x, mixed) - prior().velocity(x, mixed)).abs().amax(1)
    assert (shift > 1e-9).tolist() == [False, True, False]


def test_without_the_network_the_gradient_is_that_at_the_clean_estimate():
    flow = MixtureFlow(double([0.5, 0.5]), torch.stack([MEAN, -MEAN]), torch.stack([COVARIANCE] * 2))
    curved = lambda image: -image.flatten(1).square().sum(1)  # noqa: E731
    x, t = torch.randn(3, 2).double(), double(0.5)
    clean = flow.ends(x, t).clean
    guided = rewarded(flow, curved, through=False, start=0.0, stop=1.0).ends(x, t).clean
    torch.testing.assert_close(guided, clean + 0.5 * -2 * clean)  # sigma^2 / alpha = 1/2
    whole = rewarded(flow, curved, start=0.0, stop=1.0).ends(x, t).clean
    torch.testing.assert_close(whole, clean + 0.5 * valued(flow, curved, x, t)[2])
    with pytest.raises(ValueError, match="strength"):
        rewarded(flow, curved, strength=float("nan"))
