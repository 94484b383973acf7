"""What every flow offers; the mathematics of the exact ones is in tests/exact."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from toys import PATHS

from flowhelm import Flow, GaussianFlow, MixtureFlow, NetFlow, Noise, Wrapped
from flowhelm.path import Ends, Path, linear, trig, velocity


class Recorder(nn.Module):
    """A network that keeps what it was called with."""

    def __init__(self, dtype):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0, dtype=dtype))

    def forward(self, x, t):
        self.seen = x, t
        return self.weight * x


@dataclass(frozen=True, eq=False)
class Latent(Flow):
    """A prior whose states are not pictures."""

    path: Path = linear
    shape: tuple[int, ...] = (3,)
    pixels: bool = False

    def velocity(self, x, t):
        return -x

    def encode(self, image):
        return image.flatten(1)[:, :3]

    def decode(self, clean):
        return clean.tanh()[:, None, None]

    def times(self, steps):
        return torch.linspace(0, 1, steps + 1, dtype=torch.float64) ** 2

    def source(self, noise):
        return 3 * noise(torch.empty(len(noise), 3))


@dataclass(frozen=True, eq=False)
class Doubled(Wrapped):
    flow: Flow

    def velocity(self, x, t):
        return 2 * self.flow.velocity(x, t)


def test_a_wrapper_forwards_everything_but_the_velocity():
    flow = Latent()
    wrapped = Doubled(Doubled(flow))
    x, image, t = torch.randn(2, 3), torch.randn(2, 1, 1, 3), torch.tensor(0.25, dtype=torch.float64)
    assert (wrapped.path, wrapped.shape, wrapped.pixels) == (linear, (3,), False)
    assert torch.equal(wrapped.encode(image), flow.encode(image))
    assert torch.equal(wrapped.decode(x), flow.decode(x))
    assert torch.equal(wrapped.times(5), flow.times(5))
    assert torch.equal(wrapped.source(Noise(0, 2)), flow.source(Noise(0, 2)))
    torch.testing.assert_close(wrapped.velocity(x, t), -4 * x)
    torch.testing.assert_close(wrapped.ends(x, t).clean, x + 0.75 * -4 * x)  # ends follow the edited velocity


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("t", [0.5, [0.25, 0.5]])
def test_a_network_runs_in_its_own_dtype(dtype, t):
    net = Recorder(dtype)
    flow = NetFlow(net, (1, 2, 2))
    x, t = torch.randn(2, 1, 2, 2), torch.tensor(t, dtype=torch.float64)
    v = flow.velocity(x, t)
    assert v.dtype == torch.float32
    assert net.seen[0].dtype == net.seen[1].dtype == dtype
    assert net.seen[1].tolist() == t.expand(2).tolist()
    torch.testing.assert_close(v, 2 * x.to(dtype).float())
    assert flow.ends(x, t).clean.dtype == torch.float32


def test_a_network_without_weights_runs_in_the_states_dtype():
    class Minus(nn.Module):
        def forward(self, x, t):
            return -x

    x = torch.randn(2, 1, 2, 2).double()
    assert torch.equal(NetFlow(Minus(), (1, 2, 2)).velocity(x, torch.tensor(0.5, dtype=torch.float64)), -x)


def test_sized_changes_the_shape_alone():
    net = Recorder(torch.float32)
    flow = NetFlow(net, (3, 8, 8), path=trig).sized(5, 7)
    assert flow.shape == (3, 5, 7)
    assert flow.net is net
    assert flow.path is trig
    assert flow.source(Noise(0, 2)).shape == (2, 3, 5, 7)


def test_times_and_source_by_default(gaussian):
    times = gaussian.times(4)
    assert times.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert times.dtype == torch.float64
    with pytest.raises(ValueError, match="at least 1 step"):
        gaussian.times(0)
    x = gaussian.source(Noise(5, ["a", "b"]))
    assert x.dtype == torch.float32
    assert torch.equal(x, Noise(5, ["a", "b"])(torch.empty(2, 2)))


@PATHS
def test_ends_hold_the_state_and_the_velocity(mixture, path):
    flow = MixtureFlow(mixture.weights, mixture.means, mixture.covariances, path)
    x, t = torch.randn(3, 2).double(), torch.tensor(0.4, dtype=torch.float64)
    ends, c = flow.ends(x, t), path(t)
    torch.testing.assert_close(c.sigma * ends.source + c.alpha * ends.clean, x, atol=1e-12, rtol=0)
    torch.testing.assert_close(velocity(path, Ends(*ends), t), flow.velocity(x, t), atol=1e-11, rtol=0)


@PATHS
@pytest.mark.parametrize("t", [0.3, [0.2, 0.6, 0.9]])
def test_exact_flows_of_images_are_those_of_vectors(path, t):
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(2, 6, 6, generator=generator, dtype=torch.float64)
    means, covariances = torch.randn(2, 6, generator=generator).double(), root @ root.mT / 6
    x, t, shape = torch.randn(3, 1, 2, 3).double(), torch.tensor(t, dtype=torch.float64), (1, 2, 3)
    flat = x.flatten(1)
    gaussian = [GaussianFlow(means[0], covariances[0], path, s) for s in (shape, ())]
    mixture = [MixtureFlow(torch.ones(2).double(), means, covariances, path, s) for s in (shape, ())]
    for image, vector in (gaussian, mixture):
        assert image.shape == shape
        assert vector.shape == (6,)
        torch.testing.assert_close(image.velocity(x, t), vector.velocity(flat, t).view_as(x))
        torch.testing.assert_close(image.log_density(x, t), vector.log_density(flat, t))
        assert image.sample(Noise(0, 4)).shape == (4, *shape)
    torch.testing.assert_close(mixture[0].score(x, t), mixture[1].score(flat, t).view_as(x))
    torch.testing.assert_close(gaussian[0].map(x, t, t), x)


def mahalanobis(e, covariance):
    return torch.einsum("bi,ij,bj->b", e, torch.linalg.inv(covariance), e)


def test_gaussian_samples(gaussian):
    x = gaussian.sample(Noise(0, 3000))
    z = Noise(0, 3000)(torch.empty(3000, 2, dtype=torch.float64))
    # x - mean is a root of the covariance times z: its length in the metric of the covariance is that of z
    torch.testing.assert_close(mahalanobis(x - gaussian.mean, gaussian.covariance), z.square().sum(1))
    torch.testing.assert_close(x.T.cov(), gaussian.covariance, atol=0.08, rtol=0)
    singular = GaussianFlow(gaussian.mean, torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=torch.float64)).sample(
        Noise(0, 5)
    )
    torch.testing.assert_close(
        (singular - gaussian.mean) @ torch.tensor([2.0, -1.0], dtype=torch.float64),
        torch.zeros(5).double(),
        atol=1e-7,
        rtol=0,
    )


def test_mixture_samples(mixture):
    noise = Noise(0, 4000)
    x = mixture.sample(noise)
    again = Noise(0, 4000)
    again.uniform()
    z = again(torch.empty(4000, 2, dtype=torch.float64)).square().sum(1)
    lengths = [mahalanobis(x - m, s) for m, s in zip(mixture.means, mixture.covariances, strict=True)]
    drawn = torch.stack([torch.isclose(length, z, rtol=1e-8) for length in lengths])
    assert (drawn.sum(0) == 1).all()
    shares = drawn.double().mean(1)
    torch.testing.assert_close(shares, mixture.weights, atol=4 * (0.21 / 4000) ** 0.5, rtol=0)


@PATHS
@pytest.mark.parametrize("sigma", [0.02, 0.3, torch.tensor([0.02, 0.1, 0.5])], ids=["small", "large", "per row"])
def test_as_a_denoiser_it_is_the_posterior_mean(gaussian, path, sigma):
    root = torch.randn(4, 4).double()
    mean, covariance = torch.randn(4).double() / 2, root @ root.T / 8
    denoiser = GaussianFlow(mean, covariance, path, (1, 2, 2)).as_denoiser()
    y = torch.rand(3, 1, 2, 2).double()
    mean01, covariance01 = (mean + 1) / 2, covariance / 4  # in [0, 1], where deepinv works
    expected = []
    for row, std in zip(y.flatten(1), torch.as_tensor(sigma).double().expand(3), strict=True):
        gain = covariance01 @ torch.linalg.inv(covariance01 + std**2 * torch.eye(4))
        expected.append(mean01 + gain @ (row - mean01))
    actual = denoiser(y, sigma, gamma=0.5)
    torch.testing.assert_close(actual.flatten(1), torch.stack(expected), atol=1e-8, rtol=0)


def test_a_latent_prior_is_no_denoiser():
    with pytest.raises(ValueError, match="prior over pixels"):
        Latent().as_denoiser()


def test_mistaken_laws_are_refused(gaussian, mixture):
    with pytest.raises(ValueError, match=r"mean \(d,\) and a covariance \(d, d\)"):
        GaussianFlow(gaussian.mean, torch.eye(3))
    with pytest.raises(ValueError, match="positive weights"):
        MixtureFlow(torch.tensor([1.0, 0.0]), mixture.means, mixture.covariances)


def test_a_component_without_evidence_leaves_the_posterior(mixture, observed):
    far = MixtureFlow(mixture.weights, mixture.means * torch.tensor([[1.0], [1e4]]), mixture.covariances)
    posterior = far.posterior(*observed[:3])
    assert posterior.weights.tolist() == [1.0]
