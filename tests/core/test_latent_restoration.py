"""Through a decoder: known pixels, the codec's own error, a start from a picture."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from flowhelm import Flow, GaussianFlow, Linear, Measurement, Noise, latent, simulate
from flowhelm.path import linear, trig

SHAPE = (1, 3, 4)


@dataclass(frozen=True, eq=False)
class Decoded(Flow):
    """The Gaussian of 5 latents behind a linear decoder with orthonormal columns: it loses 7 of 12 directions."""

    inner: Flow
    columns: Tensor
    pixels: bool = False

    @property
    def path(self):
        return self.inner.path

    @property
    def shape(self):
        return self.inner.shape

    def velocity(self, x, t):
        return self.inner.velocity(x, t)

    def encode(self, image):
        return image.flatten(1) @ self.columns

    def decode(self, clean):
        return (clean @ self.columns.T).view(-1, *SHAPE)


@pytest.fixture
def flow():
    columns = torch.linalg.qr(torch.randn(12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    spread = torch.diag(torch.linspace(0.5, 2, 5, dtype=torch.float64))
    return Decoded(GaussianFlow(torch.zeros(5, dtype=torch.float64), spread), columns)


def pictures(rows=3):
    return torch.randn(rows, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def matrix():
    return torch.randn(6, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.fixture
def y(matrix):
    operator = Linear(lambda image: image.flatten(1) @ matrix.T, SHAPE, tolerance=1e-12)
    return simulate(operator, pictures(), 0.1, Noise(0, 3))


def test_the_codec_s_error_is_the_part_outside_its_range(flow):
    outside = pictures().flatten(1) @ (torch.eye(12, dtype=torch.float64) - flow.columns @ flow.columns.T)
    torch.testing.assert_close(latent.codec_error(flow, pictures()), outside.square().mean(1).sqrt())
    torch.testing.assert_close(latent.detail(flow, pictures()).flatten(1), outside)
    again = flow.decode(flow.encode(pictures())) + latent.detail(flow, pictures())
    torch.testing.assert_close(again, pictures())


def test_an_honest_noise_level_holds_the_codec_s_error(flow, y, matrix):
    many = pictures(4000)
    outside = torch.eye(12, dtype=torch.float64) - flow.columns @ flow.columns.T
    variance = 0.1**2 + (matrix @ outside @ matrix.T).trace() / 6  # of white pictures
    assert latent.honest(flow, y, many).std == pytest.approx(math.sqrt(variance), rel=0.03)
    assert latent.honest(flow, y, flow.decode(flow.encode(many))).std == pytest.approx(0.1)  # pictures it can say
    # variances add up, which shows where the two are of one size
    error = y.operator.A(flow.decode(flow.encode(many))) - y.operator.A(many)
    alike = replace(y, std=float(error.square().mean().sqrt()))
    assert latent.honest(flow, alike, many).std == pytest.approx(math.sqrt(2) * alike.std, rel=1e-6)


def test_a_projection_keeps_what_was_measured_and_leaves_what_was_not(y, matrix):
    guess = 1.5 * pictures().flip(0)
    kept = latent.projected(y, guess)
    torch.testing.assert_close(y.operator.A(kept), y.y, atol=1e-8, rtol=0)
    null = torch.eye(12, dtype=torch.float64) - torch.linalg.pinv(matrix) @ matrix
    torch.testing.assert_close(
        (kept - guess).flatten(1) @ null, torch.zeros(3, 12, dtype=torch.float64), atol=1e-8, rtol=0
    )
    torch.testing.assert_close(latent.projected(y, guess, 1e4), kept, atol=1e-6, rtol=0)  # the limit of a large error


def test_a_projection_weighs_two_errors(y, matrix):
    """The mean of N(guess, error^2 I) given y."""
    guess, error = pictures().flip(0), 0.3
    gain = (
        error**2
        * matrix.T
        @ torch.linalg.inv(error**2 * matrix @ matrix.T + 0.1**2 * torch.eye(6, dtype=torch.float64))
    )
    expected = guess.flatten(1) + (y.y - guess.flatten(1) @ matrix.T) @ gain.T
    torch.testing.assert_close(latent.projected(y, guess, error).flatten(1), expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize("path", [linear, trig])
def test_a_warm_start_is_the_noised_picture(path):
    flow = GaussianFlow(torch.zeros(12, dtype=torch.float64), torch.eye(12, dtype=torch.float64), path, SHAPE)
    times = torch.linspace(0, 1, 6, dtype=torch.float64)
    x, rest = latent.warm(flow, pictures(), times, 0.4, Noise(7, 3))
    a = path(torch.tensor(0.4, dtype=torch.float64))
    torch.testing.assert_close(x, a.alpha * pictures() + a.sigma * Noise(7, 3)(pictures()))
    torch.testing.assert_close(rest, torch.tensor([0.4, 0.6, 0.8, 1.0], dtype=torch.float64))
    assert torch.equal(
        latent.warm(flow, pictures(), times, 0.3, Noise(0, 3))[1][:2], torch.tensor([0.3, 0.4], dtype=torch.float64)
    )
    noise, cold = latent.warm(flow, pictures(), times, 0.0, Noise(7, 3))
    torch.testing.assert_close(noise, Noise(7, 3)(pictures()))
    assert torch.equal(cold, times)


def test_mistakes(flow, y):
    bent = Measurement(y.y, lambda image: image.flatten(1)[:, :6].tanh(), 0.1)
    with pytest.raises(ValueError, match="expected a linear operator"):
        latent.projected(bent, pictures())
    with pytest.raises(ValueError, match="error above 0"):
        latent.projected(y, pictures(), 0.0)
    with pytest.raises(ValueError, match=r"start in \[0, 1\)"):
        latent.warm(flow, pictures(), torch.linspace(0, 1, 3, dtype=torch.float64), 1.0, Noise(0, 3))
