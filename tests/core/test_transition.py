from functools import partial
from itertools import pairwise

import pytest
import torch
from toys import PATHS

from flowhelm import GaussianFlow, Noise
from flowhelm.guide import counted
from flowhelm.path import VP, Ends, linear, mix, trig
from flowhelm.transition import (
    ALL,
    ancestral,
    ancestral_moments,
    euler,
    glass,
    heun,
    langevin,
    langevin_moments,
    midpoint,
    renoise,
    renoise_moments,
    rk4,
)

S, T = torch.tensor([0.3, 0.45], dtype=torch.float64)


def along(flow, path):
    return GaussianFlow(flow.mean, flow.covariance, path)


@PATHS
def test_deterministic_moves_by_their_formulas(gaussian, path, x):
    flow, h = along(gaussian, path), T - S
    v, half = flow.velocity, (S + T) / 2
    torch.testing.assert_close(euler(flow, x, S, T), x + h * v(x, S))
    torch.testing.assert_close(midpoint(flow, x, S, T), x + h * v(x + h / 2 * v(x, S), half))
    torch.testing.assert_close(heun(flow, x, S, T), x + h / 2 * (v(x, S) + v(x + h * v(x, S), T)))


def test_heun_asks_nothing_at_the_end(gaussian, x):
    end = torch.tensor(1.0, dtype=torch.float64)
    flow = counted(gaussian)
    torch.testing.assert_close(heun(flow, x, S, end), euler(gaussian, x, S, end))
    assert flow.count.calls == 1


EVALUATIONS = {euler: 1, midpoint: 2, heun: 2, ancestral: 1, langevin: 1, renoise: 1, glass: 4, rk4: 4}


@pytest.mark.parametrize("move", ALL)
def test_ends_at_hand_save_an_evaluation(gaussian, x, move):
    fresh, given = counted(gaussian), counted(gaussian)
    expected = move(fresh, x, S, T, Noise(0, 3), None)
    actual = move(given, x, S, T, Noise(0, 3), gaussian.ends(x, S))
    torch.testing.assert_close(actual, expected, atol=1e-13, rtol=0)
    assert fresh.count.calls == EVALUATIONS[move]
    assert given.count.calls == EVALUATIONS[move] - 1


@pytest.mark.parametrize("move", [*ALL, partial(renoise, amount=0.3), partial(langevin, eta=0.5)])
@PATHS
def test_states_keep_their_dtype(gaussian, x, move, path):
    flow = GaussianFlow(gaussian.mean.float(), gaussian.covariance.float(), path)
    assert move(flow, x.float(), S, T, Noise(0, 3), None).dtype == torch.float32


@pytest.mark.parametrize(
    ("move", "moments"),
    [
        (ancestral, ancestral_moments),
        (partial(langevin, eta=0.7), partial(langevin_moments, eta=0.7)),
        (partial(renoise, amount=0.4), partial(renoise_moments, amount=0.4)),
    ],
)
@PATHS
def test_random_moves_are_their_mean_and_standard_deviation(gaussian, path, x, move, moments):
    flow = along(gaussian, path)
    mean, std = moments(flow, x, S, T)
    assert std > 0
    torch.testing.assert_close(move(flow, x, S, T, Noise(4, 3)), mean + std * Noise(4, 3)(x), atol=1e-14, rtol=0)
    with pytest.raises(ValueError, match="expected a Noise"):
        move(flow, x, S, T, None)


@PATHS
@pytest.mark.parametrize("amount", [0.0, 0.3, 1.0])
def test_renoise_by_its_formula(gaussian, path, x, amount):
    flow = along(gaussian, path)
    ends, c, z = flow.ends(x, S), path(T), Noise(4, 3)(x)
    expected = c.alpha * ends.clean + c.sigma * ((1 - amount) ** 0.5 * ends.source + amount**0.5 * z)
    torch.testing.assert_close(renoise(flow, x, S, T, Noise(4, 3), amount=amount), expected, atol=1e-13, rtol=0)


def test_without_noise_they_are_the_euler_step(gaussian, x):
    torch.testing.assert_close(renoise(gaussian, x, S, T, None, amount=0), euler(gaussian, x, S, T), atol=1e-13, rtol=0)
    for path in (linear, trig, VP()):
        flow = along(gaussian, path)
        moved = langevin(flow, x, S, T, None, eta=0)
        torch.testing.assert_close(moved, euler(flow, x, S, T), atol=1e-13, rtol=0)


@PATHS
def test_ancestral_is_the_posterior_of_the_noising_process(gaussian, path):
    """x_t | clean ~ N(alpha_t clean, sigma_t^2) and x_s = (alpha_s / alpha_t) x_t + noise, conditioned on x_s."""
    clean, x = torch.randn(2, 3, 1, dtype=torch.float64)
    a, b = path(S), path(T)
    ends = Ends((x - a.alpha * clean) / a.sigma, clean)
    mean, std = ancestral_moments(along(gaussian, path), x, S, T, ends)
    factor = a.alpha / b.alpha
    gain = b.sigma**2 * factor / a.sigma**2  # Var[x_s | clean] = sigma_s^2
    torch.testing.assert_close(mean, b.alpha * clean + gain * (x - a.alpha * clean), atol=1e-12, rtol=0)
    torch.testing.assert_close(std**2, b.sigma**2 - gain * factor * b.sigma**2, atol=1e-12, rtol=0)


def test_ancestral_from_the_source_draws_afresh(gaussian, x):
    start = torch.zeros((), dtype=torch.float64)
    fresh = mix(linear, Noise(4, 3)(x), gaussian.ends(x, start).clean, T)
    torch.testing.assert_close(ancestral(gaussian, x, start, T, Noise(4, 3)), fresh)


def law(flow, moments, times):
    """Mean and covariance of a chain of affine-Gaussian moves that starts in the right law: no sampling at all."""
    c = flow.path(times[0])
    mean, covariance = c.alpha * flow.mean, c.alpha**2 * flow.covariance + c.sigma**2 * torch.eye(2)
    for s, t in pairwise(times):
        rows, std = moments(flow, torch.cat([torch.eye(2).double(), torch.zeros(1, 2).double()]), s, t)
        matrix = (rows[:2] - rows[2]).T
        mean, covariance = matrix @ mean + rows[2], matrix @ covariance @ matrix.T + std**2 * torch.eye(2)
    return mean, covariance


@PATHS
@pytest.mark.parametrize(
    "moments",
    [ancestral_moments, langevin_moments, partial(langevin_moments, eta=0.3), partial(langevin_moments, eta=0)],
    ids=["ancestral", "langevin", "langevin 0.3", "langevin 0"],
)
def test_many_small_moves_keep_every_marginal(gaussian, path, moments):
    flow, errors = along(gaussian, path), []
    for steps in (250, 500):
        times = torch.linspace(0.1, 0.7, steps + 1, dtype=torch.float64)
        mean, covariance = law(flow, moments, times)
        c = path(times[-1])
        off = torch.cat([mean - c.alpha * flow.mean, (covariance - c.alpha**2 * flow.covariance).flatten()])
        off[2::3] -= c.sigma**2
        errors.append(off.abs().max())
    assert errors[1] < 0.02
    assert 0.4 < errors[1] / errors[0] < 0.6  # and what is left is of first order


def test_langevin_needs_some_signal(gaussian, x):
    start = torch.zeros((), dtype=torch.float64)
    with pytest.raises(ValueError, match="alpha > 0"):
        langevin(gaussian, x, start, T, Noise(0, 3))
    torch.testing.assert_close(langevin(gaussian, x, start, T, None, eta=0), euler(gaussian, x, start, T))
