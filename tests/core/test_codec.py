"""Codecs, and flows over their latents."""

from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from flowhelm import GaussianFlow, Linear, Measurement, NetFlow, Noise, Pixels, inner, restore, run, steer
from flowhelm.codec import LatentFlow, Standardized, standardized
from flowhelm.guide import chunked, counted
from flowhelm.priors.codecs import autoencoder

T = torch.tensor(0.4, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Squares:
    """Each 2x2 square of pixels as four channels, through an orthogonal matrix: nothing is lost."""

    matrix: Tensor

    def encode(self, image):
        return torch.einsum("ij,bjhw->bihw", self.matrix, nn.functional.pixel_unshuffle(image, 2))

    def decode(self, latent):
        return nn.functional.pixel_shuffle(torch.einsum("ij,bihw->bjhw", self.matrix, latent), 2)

    def shape(self, height, width):
        return (4, height // 2, width // 2)


@pytest.fixture
def codec():
    return Squares(torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0])


@pytest.fixture
def images():
    return torch.randn(50, 1, 4, 6, dtype=torch.float64) * torch.linspace(0.2, 2, 24).view(4, 6).double() + 0.3


def test_standardized_latents_have_mean_0_and_variance_1(codec, images):
    raw = codec.encode(images)
    scaled = standardized(codec, raw)
    assert scaled.shift.shape == scaled.scale.shape == (4, 1, 1)
    latents = scaled.encode(images)
    assert latents.shape[1:] == scaled.shape(4, 6) == (4, 2, 3)
    flat = latents.transpose(0, 1).flatten(1)
    torch.testing.assert_close(flat.mean(1), torch.zeros(4).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(flat.var(1, correction=0), torch.ones(4).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(scaled.decode(latents), images, atol=1e-12, rtol=0)
    torch.testing.assert_close(scaled.normalize(raw), latents, atol=0, rtol=0)
    assert standardized(codec, raw.flatten(2).float()).scale.shape == (4, 1)
    assert scaled.encode(images.float().double()).dtype == torch.float64


def test_standardized_says_what_is_wrong(codec, images):
    with pytest.raises(ValueError, match="positive finite scales"):
        standardized(codec, torch.zeros(3, 2, 4, 4))
    with pytest.raises(ValueError, match="at least 2"):
        standardized(codec, images[:1])
    with pytest.raises(ValueError, match="positive finite scales"):
        Standardized(codec, torch.zeros(1), -torch.ones(1))


def laws(codec, scaled):
    """The same Gaussian law of 4 x 4 pictures, over pixels and over latents."""
    generator = torch.Generator().manual_seed(3)
    root = torch.randn(16, 16, generator=generator, dtype=torch.float64) / 4
    mean, covariance = torch.randn(16, generator=generator, dtype=torch.float64), root @ root.T + 0.1 * torch.eye(16)
    images = torch.eye(16).double().view(16, 1, 4, 4)
    shift = codec.encode(torch.zeros(1, 1, 4, 4).double())
    to_latent = (codec.encode(images) - shift).flatten(1).T
    law = GaussianFlow(
        codec.encode(mean.view(1, 1, 4, 4)).flatten(), to_latent @ covariance @ to_latent.T, shape=(4, 2, 2)
    )
    return GaussianFlow(mean, covariance, shape=(1, 4, 4)), LatentFlow(law, scaled)


METHODS = {
    "pnp_flow": partial(restore.pnp_flow, rate=0.04),
    "flow_dps": partial(restore.flow_dps, rate=0.5),
    "dps exact": partial(restore.dps, exact=True),
    "dps": partial(restore.dps, step=0.3),
    "mpc_flow": partial(steer.mpc_flow, strength=10.0, inner=partial(inner.adam, iterations=6)),
    "mpc_flow_dt": partial(steer.mpc_flow_dt, strength=10.0, inner=partial(inner.adam, iterations=6)),
}


class Turned(Noise):
    """The noise of the pixels, seen by a codec that only turns."""

    def __init__(self, seed, rows, codec):
        super().__init__(seed, rows)
        self.codec = codec

    def __call__(self, like):
        return self.codec.encode(super().__call__(like.new_empty(len(like), 1, 4, 4)))


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
def test_restoring_through_a_turn_is_the_turn_of_restoring(codec, method):
    """An orthogonal codec changes nothing but coordinates: every gradient must have passed its decoder."""
    if "mpc" in method.func.__name__:  # its inner Adam goes by coordinate: exchange them and their signs only
        codec = Squares(torch.eye(4).double()[[2, 0, 3, 1]] * torch.tensor([1.0, -1.0, -1.0, 1.0]).double())
    pixels, latent = laws(codec, codec)
    operator = Linear(lambda x: x[..., ::2], (1, 4, 4))
    y = Measurement(torch.randn(3, 1, 4, 2, dtype=torch.float64), operator, 0.3)
    x, times = torch.randn(3, 1, 4, 4, dtype=torch.float64), pixels.times(6)
    expected = run(method(pixels, y, x, times, noise=Noise(0, 3))).x
    got = run(method(latent, y, codec.encode(x), times, noise=Turned(0, 3, codec)))
    torch.testing.assert_close(latent.decode(got.x), expected, atol=1e-6, rtol=1e-6)


def test_the_scale_of_a_codec_reaches_the_gradient(codec):
    """pnp_flow's first step is the gradient of the misfit alone: in latents of scale s it is s times that of the pixels."""
    scaled = Standardized(codec, torch.tensor([0.5]).double(), torch.tensor([3.0]).double())
    _, flow = laws(codec, scaled)
    y = Measurement(torch.randn(2, 1, 4, 2, dtype=torch.float64), Linear(lambda x: x[..., ::2], (1, 4, 4)), 0.3)
    x = torch.randn(2, 4, 2, 2, dtype=torch.float64)
    picture = codec.decode(3 * x + 0.5)
    torch.testing.assert_close(flow.decode(x), picture)
    torch.testing.assert_close(flow.encode(picture), x)
    step = next(iter(restore.pnp_flow(flow, y, x, torch.tensor([0.5, 1.0]).double(), noise=Noise(0, 2), decay=0.0)))
    torch.testing.assert_close(step.info["misfit"], y.misfit(picture))


class Told(nn.Module):
    """Any velocity network with a condition."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, x, t, label):
        return self.weight * x + label.view(-1, 1, 1, 1) * t.view(-1, 1, 1, 1)


def test_latent_flow_is_a_flow(codec):
    network = NetFlow(Told(), (4, 2, 3), null=(torch.zeros(1),))
    flow, x = LatentFlow(network, codec), torch.randn(4, 4, 2, 3)
    assert not flow.pixels
    assert not isinstance(flow, Pixels)
    assert flow.shape == (4, 2, 3)
    assert flow.source(Noise(0, 2)).shape == (2, 4, 2, 3)
    with pytest.raises(ValueError, match="decoder"):
        flow.as_denoiser()
    cfg = lambda given, without, t: 3 * given - 2 * without  # noqa: E731
    label = torch.tensor([1.0, 2.0])
    told = flow.bind(label, guidance=cfg)
    assert isinstance(told, LatentFlow)
    torch.testing.assert_close(told.velocity(x, T), network.bind(label, guidance=cfg).velocity(x, T))
    expected = 0.5 * x + 3 * label.repeat_interleave(2).view(-1, 1, 1, 1) * 0.4
    torch.testing.assert_close(told.velocity(x, T), expected)
    torch.testing.assert_close(chunked(told, 3).velocity(x, T), expected)  # rows keep what they are told
    tally = counted(told)
    tally.ends(x, T)
    assert tally.count.calls == 1
    assert tally.decode(x.double()).shape == (4, 1, 4, 6)
    assert flow.sized(8, 10).shape == (4, 4, 5)  # of pixels
    assert flow.sized(8, 10).codec is codec


def test_what_needs_a_network_says_so(codec, gaussian):
    for ask in (lambda flow: flow.bind(torch.zeros(1)), lambda flow: flow.sized(4, 4)):
        with pytest.raises(ValueError, match="expected a network's flow"):
            ask(LatentFlow(gaussian, codec))


def tiny(kind, **config):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    if kind == "kl":
        model = diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 16), layers_per_block=1, latent_channels=3, norm_num_groups=4, **config,
        )  # fmt: skip
    else:
        model = diffusers.AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8), decoder_block_out_channels=(8, 8, 8), num_encoder_blocks=(1, 1, 1),
            num_decoder_blocks=(1, 1, 1), latent_channels=3, **config,
        )  # fmt: skip
    return model.eval().requires_grad_(False)


CONFIGS = [
    ("kl", {}),  # Stable Diffusion 1: 0.18215, no shift
    ("kl", dict(scaling_factor=1.5305, shift_factor=0.0609)),  # Stable Diffusion 3
    ("kl", dict(scaling_factor=0.5, latents_mean=[0.1, -0.2, 0.3], latents_std=[1.0, 2.0, 3.0])),  # as SDXL's pipeline
    ("tiny", dict(scaling_factor=0.7, shift_factor=0.2)),
    ("tiny", {}),
]


@pytest.mark.parametrize(("kind", "config"), CONFIGS)
def test_conventions_are_those_of_diffusers(kind, config):
    model = tiny(kind, **config)
    codec, x = autoencoder(model), torch.rand(2, 3, 16, 24) * 2 - 1
    coded = model.encode(x)
    z = coded.latents if kind == "tiny" else coded.latent_dist.mode()
    if "latents_mean" in config:
        mean, std = (torch.tensor(config[k]).view(1, 3, 1, 1) for k in ("latents_mean", "latents_std"))
        expected = (z - mean) * model.config.scaling_factor / std
        back = expected * std / model.config.scaling_factor + mean
    else:
        shift = config.get("shift_factor", 0)
        expected = (z - shift) * model.config.scaling_factor
        back = expected / model.config.scaling_factor + shift
    latent = codec.encode(x)
    torch.testing.assert_close(latent, expected)
    assert latent.shape[1:] == codec.shape(16, 24)
    torch.testing.assert_close(codec.decode(latent), model.decode(back).sample)
    if kind == "kl":  # the round trip is the model's own
        torch.testing.assert_close(codec.decode(latent), model(x).sample, atol=1e-5, rtol=1e-4)
    noise = torch.randn_like(latent)
    assert (codec.decode(latent + noise) - model.decode(back).sample).abs().max() > 1e-3  # the test can tell


@pytest.mark.parametrize("kind", ["kl", "tiny"])
def test_the_decoder_is_differentiable(kind):
    model = tiny(kind, scaling_factor=0.4)
    codec = autoencoder(model)
    latent = torch.randn(2, *codec.shape(16, 16), dtype=torch.float64, requires_grad=True)
    assert codec.decode(latent).dtype == codec.encode(torch.zeros(1, 3, 16, 16).double()).dtype == torch.float64
    assert next(model.parameters()).dtype == torch.float32
    model.double()
    picture = codec.decode(latent)
    (gradient,) = torch.autograd.grad(picture.square().sum(), latent)
    assert gradient.isfinite().all()
    direction = torch.randn_like(latent)
    with torch.no_grad():
        h = 1e-6
        up, down = (codec.decode(latent + s * h * direction).square().sum() for s in (1, -1))
    torch.testing.assert_close((up - down) / (2 * h), (gradient * direction).sum(), rtol=1e-5, atol=1e-5)


def test_posterior_samples_are_for_the_asking():
    model, x = tiny("kl"), torch.rand(2, 3, 16, 16)
    drawn = autoencoder(model, generator=torch.Generator().manual_seed(5)).encode(x)
    expected = model.encode(x).latent_dist.sample(torch.Generator().manual_seed(5)) * 0.18215
    torch.testing.assert_close(drawn, expected)
    assert (drawn - autoencoder(model).encode(x)).abs().max() > 1e-3


def test_autoencoder_says_what_is_wrong():
    with pytest.raises(ValueError, match="AutoencoderKL or AutoencoderTiny, got Linear"):
        autoencoder(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="that 2 divides, got 15 x 16"):
        autoencoder(tiny("kl")).encode(torch.zeros(1, 3, 15, 16))
    with pytest.raises(ValueError, match="both latents_mean"):
        autoencoder(tiny("kl", latents_mean=[0.0, 0.0, 0.0]))
