"""VBLE where everything is known: a linear decoder and a normal density of the latents. And on a small compressor, its laws."""

from dataclasses import dataclass

import pytest
import torch
from torch.nn import functional as fn

from flowhelm import GaussianFlow, Linear, Measurement, Noise, restore, run
from flowhelm.bench.contract import laws
from flowhelm.codec import CodecPrior, Latents, bits, log_bin, log_normal_bin, packed, unpacked
from flowhelm.guide import counted
from flowhelm.priors.hyperprior import Cumulative, Hyperprior

STD = 0.3
TIMES = torch.linspace(0, 1, 501, dtype=torch.float64)
F64 = torch.float64


@dataclass(frozen=True, eq=False)
class LinearCodec:
    """decode(z) = D z; z | h ~ N(C h, S), h ~ N(0, 1), densities."""

    decoder: torch.Tensor
    coupling: torch.Tensor
    variance: torch.Tensor

    def analyse(self, image):
        z = image @ torch.linalg.pinv(self.decoder).T
        return Latents(z, z.new_zeros(len(z), self.coupling.shape[1]))

    def encode(self, image):
        return self.analyse(image).latent

    def decode(self, latent):
        return latent @ self.decoder.T

    def shape(self, height, width):
        return (self.decoder.shape[1],)

    def log_prior(self, latents):
        z, h = latents
        return -0.5 * ((z - h @ self.coupling.T).square() / self.variance).sum(1) - 0.5 * h.square().sum(1)


class Signs:
    """Uniform numbers that are only +-1/sqrt(12): each draw of eight has the mean and the covariance of independent uniforms."""

    def __init__(self, rows, numbers):
        table = torch.tensor([[1.0, 1, 1, 1, 1, 1, 1, 1], [1, -1, 1, -1, 1, -1, 1, -1], [1, 1, -1, -1, 1, 1, -1, -1],
                              [1, -1, -1, 1, 1, -1, -1, 1], [1, 1, 1, 1, -1, -1, -1, -1], [1, -1, 1, -1, -1, 1, -1, 1],
                              [1, 1, -1, -1, -1, -1, 1, 1], [1, -1, -1, 1, -1, 1, 1, -1]], dtype=F64)  # fmt: skip
        self.draws = torch.special.ndtri(0.5 + table[1 : numbers + 1].T / 12**0.5)
        self.rows, self.count = rows, 0

    def __call__(self, like):
        self.count += 1
        return self.draws[self.count % 8].expand(len(like), -1)


@pytest.fixture
def linear():
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, dtype=F64, generator=generator)  # noqa: E731
    codec = LinearCodec(draw(5, 3), draw(3, 2), torch.tensor([1.0, 0.5, 2.0], dtype=F64))
    operator = draw(4, 5)
    y = Measurement(draw(2, 4), Linear(lambda x: x @ operator.T, (5,)), STD)
    return CodecPrior(codec, (5,)), y, operator


def posterior(codec, y, operator, weight):
    """Mean and precision of (z, h) given y, by hand."""
    whole = torch.cat([operator @ codec.decoder, torch.zeros(4, 2, dtype=F64)], 1)
    inverse = torch.diag(1 / codec.variance)
    c = codec.coupling
    prior = torch.cat(
        [torch.cat([inverse, -inverse @ c], 1), torch.cat([-c.T @ inverse, torch.eye(2) + c.T @ inverse @ c], 1)]
    )
    precision = whole.T @ whole / STD**2 + weight * prior
    return torch.linalg.solve(precision, whole.T @ y.y.T / STD**2).T, precision


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_the_exact_mean_and_the_exact_widths(linear, weight):
    flow, y, operator = linear
    mean, precision = posterior(flow.codec, y, operator, weight)
    x = flow.codec.decode(torch.zeros(2, 3, dtype=F64))
    steps = restore.vble(flow, y, x, TIMES, noise=Signs(2, 5), draws=8, weight=weight, answer="centre")
    end = run(steps)
    law = end.info["law"]
    torch.testing.assert_close(law[:, 0], mean, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(
        law[:, 1].exp(), (12 * weight / precision.diag()).sqrt().expand(2, -1), atol=0, rtol=5e-3
    )
    torch.testing.assert_close(end.x, flow.codec.decode(law[:, 0, :3]), atol=1e-12, rtol=0)


def test_a_point_is_the_ridge_solution(linear):
    flow, y, operator = linear
    mean, _ = posterior(flow.codec, y, operator, 1.0)
    end = run(restore.vble(flow, y, torch.zeros(2, 5, dtype=F64), TIMES, law="point", noise=Noise(0, 2)))
    torch.testing.assert_close(end.info["law"][:, 0], mean, atol=1e-4, rtol=1e-4)
    assert (end.info["law"][:, 1] == 0).all()
    assert "std" not in end.info


def test_the_mean_and_the_map_of_deviations_are_of_the_boxes(linear):
    flow, y, _ = linear
    x = torch.zeros(2, 5, dtype=F64)
    end = run(restore.vble(flow, y, x, TIMES[:301], decodes=2000, noise=Noise(0, 2)))
    law, decoder = end.info["law"], flow.codec.decoder
    torch.testing.assert_close(end.x, flow.codec.decode(law[:, 0, :3]), atol=0.03, rtol=0)
    variance = (law[:, 1, :3].exp().square() / 12) @ decoder.square().T
    torch.testing.assert_close(end.info["std"], variance.sqrt(), atol=0, rtol=0.05)
    one = run(restore.vble(flow, y, x, TIMES[:301], answer="sample", noise=Noise(0, 2))).x
    latent = (one - flow.codec.decode(law[:, 0, :3])) @ torch.linalg.pinv(decoder).T
    assert (latent.abs() <= law[:, 1, :3].exp() / 2 + 1e-9).all()
    assert latent.abs().max() > 1e-3


def test_all_corners_of_signs_are_there():
    """The table of this test is right: means, and products of any two, are those of independent uniforms."""
    signs = Signs(1, 5)
    u = torch.stack([torch.special.ndtr(signs(torch.zeros(1, 5, dtype=F64)))[0] - 0.5 for _ in range(8)])
    torch.testing.assert_close(u.mean(0), torch.zeros(5, dtype=F64), atol=1e-12, rtol=0)
    torch.testing.assert_close(u.T @ u / 8, torch.eye(5, dtype=F64) / 12, atol=1e-12, rtol=0)


@pytest.fixture(scope="module")
def small():
    """A compressor of small grey pictures, not trained, with weights that say something."""
    torch.manual_seed(0)
    net = Hyperprior((6, 8), latent=8, hyper=4, channels=1).requires_grad_(False)
    return CodecPrior(net, (1, 12, 20), stride=16)


def test_laws_of_every_method(small):
    y = Measurement(
        0.3 * torch.randn(3, 1, 12, 10, generator=torch.Generator().manual_seed(2)),
        Linear(lambda x: (x[..., ::2] + x[..., 1::2]) / 2, small.shape), 0.2,
    )  # fmt: skip
    for law in (laws.contract, laws.null, laws.resume, laws.rows):
        law(restore.vble, small, y)
    law(restore.vble, counted(small), y)
    done = list(restore.vble(small, y, torch.zeros(3, 1, 12, 20), TIMES[::50], noise=Noise(0, 3)))
    assert done[-1].info["std"].shape == (3, 1, 12, 20)
    assert (done[-1].info["bits"] > 0).all()


def test_what_is_refused(small):
    y = Measurement(torch.zeros(1, 3), lambda x: x, STD)
    plain = GaussianFlow(torch.zeros(3), torch.eye(3))
    with pytest.raises(ValueError, match=r"^vble: expected a compressor as prior, such as codec"):
        next(restore.vble(plain, y, torch.zeros(1, 3), TIMES, noise=Noise(0, 1)))
    with pytest.raises(ValueError, match="a compressor and has no velocity; use the method vble"):
        small.velocity(torch.zeros(1, 1, 12, 20), torch.tensor(0.5))
    with pytest.raises(ValueError, match=r"a height and a width that 16 divides, got 12 x 20"):
        small.codec.encode(torch.zeros(1, 1, 12, 20))


class TestLikelihood:
    def test_a_bin_of_a_normal_law(self):
        """Against its cumulative in the middle, and its own expansion far out, where differences of cumulatives are 0."""
        offset = torch.linspace(-4, 4, 41, dtype=F64)
        for scale in (0.11, 1.0, 7.0):
            law = torch.distributions.Normal(torch.zeros((), dtype=F64), scale)
            near = offset.abs() < 5 * scale
            plain = (law.cdf(offset + 0.5) - law.cdf(offset - 0.5)).log()
            found = log_normal_bin(offset, torch.full_like(offset, scale))
            torch.testing.assert_close(found[near], plain[near], atol=1e-6, rtol=1e-6)
        far = torch.tensor([30.0, -30.0], dtype=F64).requires_grad_()
        value = log_normal_bin(far, torch.ones_like(far))
        torch.testing.assert_close(
            value, torch.special.log_ndtr(torch.tensor(-29.5, dtype=F64)).expand(2), atol=1e-3, rtol=0
        )
        value.sum().backward()
        torch.testing.assert_close(far.grad, torch.tensor([-29.53, 29.53], dtype=F64), atol=0.02, rtol=0)

    def test_bins_of_every_law_add_up_to_one(self):
        torch.manual_seed(1)
        law = Cumulative(3)
        for each in (*law.weights, *law.offsets, *law.gates):
            each.data += 0.3 * torch.randn(each.shape)
        whole = torch.arange(-300, 301).float().view(1, 1, -1).expand(1, 3, -1)
        torch.testing.assert_close(law.log_bins(whole).exp().sum(-1), torch.ones(1, 3), atol=1e-3, rtol=0)
        share = torch.rand(2, 3, 4).clamp(0.01, 0.99)
        torch.testing.assert_close(law.logit(law.inverse(share)).sigmoid(), share, atol=1e-4, rtol=0)
        scale = torch.tensor([0.2, 3.0, 20.0]).view(1, 3, 1)
        torch.testing.assert_close(
            log_normal_bin(whole - 0.3, scale).exp().sum(-1), torch.ones(1, 3), atol=1e-4, rtol=0
        )

    def test_a_cumulative_rises_whatever_its_weights(self):
        torch.manual_seed(2)
        law = Cumulative(2)
        for each in (*law.weights, *law.offsets, *law.gates):
            each.data = 3 * torch.randn(each.shape)
        assert (law.logit(torch.linspace(-50, 50, 400).expand(1, 2, -1)).diff(dim=-1) >= 0).all()

    def test_the_rate_is_the_sum_of_its_parts(self, small):
        """In bits, by hand, of each latent given its moments."""
        net, image = small.codec, torch.rand(2, 1, 16, 32) - 0.5
        z, h = (each.round() for each in net.analyse(image))
        mean, scale = net.moments(h)
        law = torch.distributions.Normal(mean.double(), scale.double())
        of_z = -(law.cdf(z + 0.5) - law.cdf(z - 0.5)).log2().flatten(1).sum(1)
        of_h = -(net.law.logit(h + 0.5).double().sigmoid() - net.law.logit(h - 0.5).double().sigmoid()).log2()
        torch.testing.assert_close(bits(net, image).double(), of_z + of_h.flatten(1).sum(1), atol=1e-2, rtol=1e-4)

    def test_draws_have_the_law(self, small):
        """h by its cumulative, z by its moments: the shares of bins among many draws."""
        net = small.codec
        normal = Latents(torch.randn(400, 8, 8, 8), torch.randn(400, 4, 4, 4))
        z, h = net.draw(normal)
        for channel in range(4):
            found = (h[:, channel].round() == 0).float().mean()
            each = net.law.log_bins(torch.zeros(1, 4, 1))[0, channel].exp().squeeze()
            assert float(found) == pytest.approx(float(each), abs=0.02)
        mean, scale = net.moments(h)
        torch.testing.assert_close(
            ((z - mean) / (scale**2 + 1 / 12).sqrt()).std(), torch.tensor(1.0), atol=0.01, rtol=0
        )

    def test_a_symmetric_law_in_both_tails(self):
        one = log_bin(fn.logsigmoid, torch.tensor([40.0, -39.0]), torch.tensor([39.0, -40.0]))
        torch.testing.assert_close(one[0], one[1])
        assert one.isfinite().all()

    def test_packing(self):
        latents = Latents(torch.randn(2, 3, 2, 2), torch.randn(2, 1, 1, 1))
        for a, b in zip(unpacked(packed(latents), latents), latents, strict=True):
            assert torch.equal(a, b)


def test_a_picture_of_any_size_is_continued_and_cut_back(small):
    image = torch.rand(1, 1, 12, 20)
    wide = fn.pad(image, (0, 12, 0, 4), mode="replicate")
    z = small.analyse(image).latent
    torch.testing.assert_close(z, small.codec.encode(wide))
    assert small.picture(z).shape == (1, 1, 12, 20)
    assert small.sized(32, 16).draw(Noise(0, 2)).shape == (2, 1, 32, 16)
    assert torch.equal(small.draw(Noise(0, 2)), small.draw(Noise(0, 2)))


def test_training_brings_rate_and_distortion_down():
    """On stripes: fewer bits per pixel and a smaller error than at first, and a higher price buys a smaller error."""
    from flowhelm.flow import NetFlow
    from flowhelm.train import Batch, fit, rate_distortion

    phase = torch.linspace(0, 6, 16)
    clean = torch.sin(phase[None, :] + torch.arange(4.0)[:, None])[:, None, None].expand(4, 1, 16, 16)
    errors = {}
    for price in (0.002, 0.2):
        torch.manual_seed(0)
        net = Hyperprior((4, 4), latent=4, hyper=2, channels=1)
        flow = NetFlow(net, (1, 16, 16))
        loss = lambda f, b, g: rate_distortion(f, b, g, price=price)  # noqa: B023, E731
        losses = [float(u.loss) for u in fit(flow, loss, lambda i: Batch(clean), steps=80, rate=1e-2, warmup=5)]
        assert losses[-1] < 0.5 * losses[0]
        errors[price] = float((net(clean) - clean).detach().square().mean())
    assert errors[0.2] < errors[0.002]
