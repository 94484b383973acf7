"""Flow matching over latents: the cache, the conditions by channels, and what is lost where."""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from flowhelm.codec import LatentFlow
from flowhelm.flow import GaussianFlow, NetFlow
from flowhelm.priors.unet import UNet
from flowhelm.train import Batch, Concatenated, cached, fit, flow_matching, masked, seeded, semantic, shuffled

SIDE = 8  # of the pictures, grey
D = SIDE * SIDE


@dataclass(frozen=True, eq=False)
class Principal:
    """The linear auto-encoder of the first k principal directions: the best one for squared errors."""

    mean: Tensor
    basis: Tensor  # (d, k), orthonormal columns

    def encode(self, image):
        return (image.flatten(1) - self.mean) @ self.basis

    def decode(self, latent):
        return (self.mean + latent @ self.basis.T).view(-1, 1, SIDE, SIDE)

    def shape(self, height, width):
        return (self.basis.shape[1],)


def pictures_law():
    """A Gaussian with the spectrum of pictures: power over frequency squared."""
    f = torch.arange(SIDE, dtype=torch.float64)
    spectrum = (0.3 / (1 + f[:, None] ** 2 + f**2)).flatten()
    one = torch.cos(torch.pi / SIDE * (torch.arange(SIDE).double() + 0.5)[:, None] * f)
    one = one / one.norm(dim=0)
    basis = torch.kron(one, one)
    return torch.linspace(-0.3, 0.3, D).double(), basis @ torch.diag(spectrum) @ basis.T


def principal(mean, covariance, k):
    return Principal(mean, torch.linalg.eigh(covariance).eigenvectors[:, -k:])


def root(matrix):
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def frechet(a, b):
    """Squared W2 of two normal laws (mean, covariance): the Frechet distance."""
    half = root(a[1])
    return (a[0] - b[0]).square().sum() + (a[1] + b[1] - 2 * root(half @ b[1] @ half)).trace()


def decoded(codec, law):
    """The law of the pictures of normal latents."""
    return codec.mean + codec.basis @ law[0], codec.basis @ law[1] @ codec.basis.T


def pushed(flow, steps):
    """The law of Euler samples of an affine velocity, followed exactly."""
    k = flow.shape[0]
    mean, covariance = torch.zeros(k).double(), torch.eye(k).double()
    probe = torch.cat([torch.eye(k), torch.zeros(1, k)]).double()
    for s, t in pairwise(flow.times(steps)):
        rows = probe + (t - s) * flow.velocity(probe, s)
        matrix = (rows[:-1] - rows[-1]).T
        mean, covariance = matrix @ mean + rows[-1], matrix @ covariance @ matrix.T
    return mean, covariance


@pytest.mark.parametrize("k", [4, 16, 32])
def test_the_error_is_the_floor_of_the_codec_and_that_of_the_flow(k):
    """Squared W2 in pixels = E|x - decode(encode(x))|^2 + squared W2 in latents: exact for a Gaussian and its principal codec."""
    mean, covariance = pictures_law()
    codec = principal(mean, covariance, k)
    latent = torch.zeros(k).double(), codec.basis.T @ covariance @ codec.basis
    flow = LatentFlow(GaussianFlow(*latent), codec)
    left = torch.eye(D) - codec.basis @ codec.basis.T
    floor = (left @ covariance @ left).trace()

    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    probe = torch.cat([torch.eye(k), torch.zeros(1, k)]).double()
    exact = flow.decode(flow.flow.map(probe, *ends)).flatten(1)  # the exact flow map, decoded
    matrix = (exact[:-1] - exact[-1]).T
    total = frechet((mean, covariance), (exact[-1], matrix @ matrix.T))
    print(f"k = {k}: floor {floor:.6f}, total with the exact velocity {total:.6f}")
    assert abs(total - floor) < 1e-6
    for steps in (5, 20, 80):
        law = pushed(flow.flow, steps)
        inside, total = frechet(latent, law), frechet((mean, covariance), decoded(codec, law))
        print(f"  {steps} Euler steps: total {total:.6f} = floor + {inside:.6f}")
        assert inside > 1e-5
        assert abs(total - floor - inside) < 1e-6


class Pooled:
    """Two channels at half the size; counts how it is called."""

    def __init__(self):
        self.calls = []

    def encode(self, image):
        self.calls.append((len(image), torch.is_grad_enabled()))
        pooled = nn.functional.avg_pool2d(image, 2)
        return torch.cat([pooled, 2 * pooled + 1], 1)

    def decode(self, latent):
        return nn.functional.interpolate(latent[:, :1], scale_factor=2)

    def shape(self, height, width):
        return (2, height // 2, width // 2)


def test_the_cache_is_the_codec_chunk_by_chunk():
    codec, images = Pooled(), torch.rand(11, 1, 4, 6, requires_grad=True)
    latents = cached(codec, images, batch=4)
    assert codec.calls == [(4, False), (4, False), (3, False)]
    assert latents.shape == (11, *codec.shape(4, 6))
    assert not latents.requires_grad
    torch.testing.assert_close(latents, codec.encode(images.detach()))
    grey = torch.randint(0, 256, (3, 1, 4, 6), dtype=torch.uint8)
    torch.testing.assert_close(cached(codec, grey), codec.encode(grey / 127.5 - 1))
    for bad in (dict(images=images[:0]), dict(images=images, batch=0)):
        with pytest.raises(ValueError, match="at least 1 picture"):
            cached(codec, **bad)


class Seen(nn.Module):
    """Gives back what it was given."""

    def forward(self, x, t, *told):
        self.given = x, t, told
        return 2 * x


def test_concatenated_joins_maps_and_hands_the_rest_on():
    net = Seen()
    x, t = torch.randn(3, 2, 4, 4), torch.rand(3)
    first, second, label = torch.randn(3, 1, 4, 4), torch.randn(3, 5, 4, 4).double(), torch.tensor([1, 2, 3])
    out = Concatenated(net, maps=2)(x, t, first, second, label)
    assert torch.equal(out, 2 * x)  # the state's channels only
    torch.testing.assert_close(net.given[0], torch.cat([x, first, second.float()], 1))
    assert net.given[2] == (label,)
    for bad in ((), (first,), (first, label), (first, torch.randn(3, 1, 8, 8))):
        with pytest.raises(ValueError, match="expected 2 maps"):
            Concatenated(net, maps=2)(x, t, *bad)


def test_the_map_of_inpainting():
    codec, images = Pooled(), torch.rand(2, 1, 4, 4) * 2 - 1
    known = torch.ones(2, 1, 4, 4)
    known[0, :, :, 2:] = 0  # the right half of the first, one pixel of the second
    known[1, :, 0, 0] = 0
    told = masked(codec, images, known)
    assert told.shape == (2, 3, 2, 2)
    torch.testing.assert_close(told[0, 2], torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    torch.testing.assert_close(told[1, 2], torch.tensor([[0.75, 1.0], [1.0, 1.0]]))
    torch.testing.assert_close(told[:, :2], codec.encode(torch.where(known > 0, images, 0.0)))
    other = torch.where(known > 0, images, 9.0)  # what is missing is not told
    torch.testing.assert_close(masked(codec, other, known), told)
    with pytest.raises(ValueError, match="expected a mask"):
        masked(codec, images, known[:, 0])


def test_the_map_of_classes():
    labels = torch.tensor([[[0, 0, 1, 2], [0, 1, 1, 2]]])
    told = semantic(labels, 3, (1, 2))
    torch.testing.assert_close(told, torch.tensor([[[[0.75, 0.0]], [[0.25, 0.5]], [[0.0, 0.5]]]]))
    torch.testing.assert_close(semantic(labels, 4, (2, 4)).argmax(1), labels)
    torch.testing.assert_close(semantic(labels, 3, (1, 2)).sum(1), torch.ones(1, 1, 2))
    with pytest.raises(ValueError, match=r"labels \(b, h, w\) in 0..1"):
        semantic(labels, 2, (1, 2))


def test_conditions_by_class_and_map_train_and_guide():
    """A UNet over 2 latent channels and 3 of a map, with labels: one loss, one loop, guidance with both left out."""
    torch.manual_seed(0)
    codec = Pooled()
    images = torch.rand(8, 1, 16, 16) * 2 - 1
    known = (torch.rand(8, 1, 16, 16) < 0.5).float()
    labels = torch.arange(8) % 3
    latents, maps = cached(codec, images), masked(codec, images, known)
    null = (masked(codec, torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16)), torch.tensor([3]))
    net = Concatenated(UNet((8,), 1, channels=5, classes=3))
    flow = NetFlow(net, codec.shape(16, 16), null=null)
    losses = [
        float(u.loss) for u in fit(flow, flow_matching, shuffled(latents, maps, labels, batch=8), steps=60, warmup=5)
    ]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    net.eval().requires_grad_(False)
    prior = LatentFlow(flow, codec)
    cfg = lambda given, without, t: without + 2 * (given - without)  # noqa: E731
    x, t = torch.randn(8, 2, 8, 8), torch.full((8,), 0.6)
    given, without = net(x, t, maps, labels), net(x, t, *(n.expand(8, *n.shape[1:]) for n in null))
    assert (given - without).abs().max() > 1e-3  # it listens
    assert (given - net(x, t, maps.flip(0), labels)).abs().max() > 1e-4
    when = torch.tensor(0.6, dtype=torch.float64)
    torch.testing.assert_close(prior.bind(maps, labels).velocity(x, when), given)
    torch.testing.assert_close(
        prior.bind(maps, labels, guidance=cfg).velocity(x, when), without + 2 * (given - without)
    )  # fmt: skip
    # flow_matching over latents is the loss there is: with every condition dropped it is that of the nulls
    batch = Batch(latents, (maps, labels))
    silent = Batch(latents, tuple(n.expand(8, *n.shape[1:]) for n in null))
    dropped = partial(flow_matching, source=lambda clean, g: torch.zeros_like(clean))
    a, b = (
        dropped(flow, told, seeded(0, 0), drop=share, density=lambda u: torch.full_like(u, 0.3))
        for told, share in ((batch, 1.0), (silent, 0.0))
    )
    torch.testing.assert_close(a, b)
