"""FLAIR against formulas in matrices, its residual, and the table of errors that weights its prior."""

from functools import partial

import pytest
import torch
from laws import TIMES, first
from toys import double

from flowhelm import GaussianFlow, Linear, Measurement, MixtureFlow, Noise, Wrapped, run
from flowhelm.path import VP
from flowhelm.restore.flair import flair
from flowhelm.velocity_error import errors, reciprocal

T, S = TIMES[:2]
MATRIX = torch.tensor([[1.0, 0.5], [-0.4, 0.9], [0.2, 0.7]], dtype=torch.float64)
STD = 0.2


@pytest.fixture
def plan():
    return torch.randn(3, 1, 2, dtype=torch.float64)


@pytest.fixture
def y(plan):
    """Two rows that mu contradicts, one that it fits."""
    y = plan[:, 0] @ MATRIX.T + torch.tensor([[1.0], [0.0], [0.4]]) * torch.tensor([[1.0, -0.6, 0.5]]).double()
    return Measurement(y, Linear(lambda x: x @ MATRIX.T, (2,), tolerance=1e-14), STD)


def steps(flow, y, x, times=TIMES, **options):
    return flair(flow, y, x, times, noise=Noise(5, len(x)), **options)


def modes(d, k):
    generator = torch.Generator().manual_seed(3)
    means = 3 * torch.randn(k, d, generator=generator, dtype=torch.float64)
    return MixtureFlow(torch.ones(k).double() / k, means, 0.25 * torch.eye(d).double().expand(k, d, d))


# one step


@pytest.mark.parametrize("weight", [0.01, 0.3, 2.0])
@pytest.mark.parametrize("rate", [0.1, 0.9])
def test_one_step_by_hand(mixture, x, plan, y, weight, rate):
    step = first(steps(mixture, y, x, plan=plan, weight=weight, weights=lambda t: 1 + t, inner=1, rate=rate, carry=0.7))
    clean, source = mixture.ends(x, T).clean, mixture.ends(x, T).source
    mu = plan[:, 0] + min(weight * 1.3 / 0.7, 1) * (clean - plan[:, 0])
    moved = 0
    for row in range(3):
        r = MATRIX @ mu[row] - y.y[row]
        g = MATRIX.T @ r
        best, goal = g @ g / (MATRIX @ g).square().sum(), 3 * STD**2 / 2
        torch.testing.assert_close(step.info["misfit"][row], r @ r / 2)
        share = 0.0
        if r @ r / 2 > goal:
            # m - share (2 - share) lowest = goal, lowest the decrease at the best step
            root = 1 - (r @ r / 2 - goal) / (best * (g @ g) / 2)
            share = min(rate, 1 - float(root.clamp(min=0).sqrt()))
        mu[row] -= share * best * g
        moved += share > 0
        assert step.info["inner"][row] == (share > 0)
        if 0 < share < rate and root > 0:
            torch.testing.assert_close((MATRIX @ mu[row] - y.y[row]).square().sum() / 2, goal + 0 * best)
    assert 0 < moved <= 3
    torch.testing.assert_close(step.clean, mu, atol=1e-12, rtol=0)
    torch.testing.assert_close(step.info["plan"], mu[:, None], atol=1e-12, rtol=0)
    a = 0.7 * S
    kept = a * source + (1 - a**2).sqrt() * Noise(5, 3)(x)
    torch.testing.assert_close(step.x, S * mu + (1 - S) * kept, atol=1e-12, rtol=0)


@pytest.mark.parametrize("rate", [0.5, 20.0])
def test_a_prox_by_hand(mixture, x, plan, y, rate):
    step = first(steps(mixture, y, x, plan=plan, inner=1, data="prox", rate=rate))
    mu = plan[:, 0] + 0.5 * 1.5 * (T**2 + (1 - T) ** 2) / 0.7 * (mixture.ends(x, T).clean - plan[:, 0])
    wrong = y.misfit(mu) > 3 * STD**2 / 2
    assert wrong.any()
    inverse = torch.linalg.inv(torch.eye(2).double() + rate * MATRIX.T @ MATRIX)
    nearer = (mu + rate * y.y @ MATRIX) @ inverse.T
    torch.testing.assert_close(step.clean, torch.where(wrong[:, None], nearer, mu), atol=1e-10, rtol=0)


def test_it_begins_at_the_most_probable_picture_of_a_standard_normal_prior(mixture, x, y):
    """weight 1e-12 leaves mu where it began, a large tolerance asks for nothing."""
    step = first(steps(mixture, y, x, weight=1e-12, tolerance=1e6))
    gain = MATRIX.T @ torch.linalg.inv(MATRIX @ MATRIX.T + STD**2 * torch.eye(3))
    torch.testing.assert_close(step.clean, y.y @ gain.T, atol=1e-8, rtol=0)
    bent = Measurement(y.y, lambda image: (image @ MATRIX.T).tanh(), STD)
    step = first(steps(mixture, bent, x, weight=1e-12, tolerance=1e6))
    torch.testing.assert_close(step.clean, mixture.ends(x, T).clean, atol=1e-8, rtol=0)


def test_the_prior_rests_from_its_stop_on(mixture, x, plan, y):
    free = partial(steps, mixture, y, x, plan=plan, tolerance=1e6)
    assert torch.equal(first(free(stop=0.3)).clean, plan[:, 0])
    assert not torch.equal(first(free(stop=0.31)).clean, plan[:, 0])
    last = list(free(stop=0.4))
    assert torch.equal(last[0].clean, last[1].clean)
    assert torch.equal(last[1].x, last[1].clean)


# the residual


@pytest.mark.parametrize("std", [0.05, 0.3])
def test_the_residual_is_that_of_the_noise(std):
    """inverse.md C.5: within [0.5, 1.1] std; without the stop it would be 0.1 std."""
    flow, n, m = modes(8, 25), 40, 4
    matrix = torch.randn(m, 8).double() / 8**0.5
    operator, noise = Linear(lambda x: x @ matrix.T, (8,), tolerance=1e-12), Noise(1, n)
    truth = flow.sample(noise)
    y = Measurement(truth @ matrix.T + std * torch.randn(n, m).double(), operator, std)
    ends = {}
    for tolerance in (1.0, 1e-3):
        x = noise.named("source")(truth)
        last = run(flair(flow, y, x, flow.times(50), tolerance=tolerance, noise=noise.named("steps")))
        ends[tolerance] = y.residual(last.x).square().mean(1).sqrt() / std
        print(f"std {std}, tolerance {tolerance}: residual / std {float(ends[tolerance].mean()):.3f}")
    assert (ends[1.0] < 1.1).all()
    assert ends[1.0].mean() > 0.5
    assert ends[1e-3].mean() < 0.15


def test_what_a_mask_hides_is_not_fitted(mixture, x, plan):
    """Noise in entries that see nothing can never be explained: it does not count."""
    mask = torch.tensor([1.0, 0.0]).double()
    operator = Linear(lambda x: x * mask, (2,), tolerance=1e-14)
    ends = [
        list(steps(mixture, Measurement(y, operator, STD), x, plan=plan))
        for y in (torch.tensor([[0.4, 0.0]]).double().expand(3, 2), torch.tensor([[0.4, 50.0]]).double().expand(3, 2))
    ]
    for clear, noisy in zip(*ends, strict=True):
        torch.testing.assert_close(clear.x, noisy.x)
        assert torch.equal(clear.info["inner"], noisy.info["inner"])
    residual = (ends[0][-1].x[:, 0] - 0.4).abs()
    assert (residual <= STD * (1 + 1e-6)).all()  # one entry counts, not two


def test_a_bent_operator_and_a_decoder_are_fitted(mixture, x):
    class Decoded(Wrapped):
        def __init__(self, flow):
            self.flow = flow

        pixels = False

        def velocity(self, x, t):
            return self.flow.velocity(x, t)

        def decode(self, clean):
            return torch.stack([clean[:, 0] * clean[:, 1], clean[:, 0] - clean[:, 1]], 1)

        def encode(self, image):
            return image

    flow = Decoded(mixture)
    for operator in (lambda image: (image @ MATRIX.T).tanh(), Linear(lambda z: z, (2,))):
        image = flow.decode(mixture.sample(Noise(2, 3)))
        seen = operator(image) if callable(operator) else image
        y = Measurement(seen, operator, 0.1)
        end = run(steps(flow, y, x, mixture.times(20))).x
        assert (y.residual(flow.decode(end)).square().mean(1).sqrt() <= 0.11).all()
        with pytest.raises(ValueError, match="data='gradient'"):
            first(steps(flow, y, x, data="prox"))


def test_mistakes_are_told(mixture, x, y):
    with pytest.raises(ValueError, match="below 2 for gradient steps"):
        first(steps(mixture, y, x, rate=2.0))
    with pytest.raises(ValueError, match="linear path"):
        first(steps(MixtureFlow(mixture.weights, mixture.means, mixture.covariances, VP()), y, x))
    with pytest.raises(ValueError, match="end at 1"):
        first(steps(mixture, y, x, TIMES[:2]))


# the weights


def test_without_a_table_the_weights_are_those_of_a_standard_normal_prior(x, y, plan):
    flow, wide = (GaussianFlow(torch.zeros(d).double(), torch.eye(d).double()) for d in (2, 50))
    grid, noise = double([(k + 0.5) / 20 for k in range(20)]), Noise(4, 800)
    measured = reciprocal(errors(wide, wide.sample(noise), grid, noise))
    for t, r in zip(grid, measured, strict=True):
        step = first(steps(flow, y, x, torch.stack([t, double(1.0)]), plan=plan, weight=0.01, tolerance=1e6))
        used = (step.clean - plan[:, 0]) / (flow.ends(x, t).clean - plan[:, 0]) * (1 - t) / 0.01
        assert (used / r - 1).abs().max() < 0.02
