"""PMRF on normal laws, where everything is known: the error is MMSE + W2^2, its answers have the law of pictures."""

from functools import cache, partial

import pytest
import torch

from flowhelm import Function, GaussianFlow, Linear, Measurement, NetFlow, Noise, begin, restore, run
from flowhelm.bench.contract import laws
from flowhelm.guide import counted
from flowhelm.paired import PairedFlow, PairedGaussian
from flowhelm.train import Batch, pmrf, rectified, regression, seeded

COVARIANCE = torch.diag(torch.tensor([2.0, 1.0, 0.3], dtype=torch.float64))
STD = 0.8


def rotated(values):
    """The same spectrum in a basis of its own."""
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))[0]
    return turn @ values @ turn.T


def root(matrix):
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def transported(flow, steps):
    """The linear map of mean -> x and of source -> x that the method makes, read off its answers; both `(d, d)`."""
    d = len(flow.covariance)
    eye, nothing = torch.eye(d, dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64)
    gain = flow.mean(eye).T
    times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)

    measured = Measurement(torch.cat([torch.linalg.solve(gain, eye).T, nothing]), lambda x: x, STD)
    ends = run(restore.pmrf(flow, measured, torch.cat([nothing, eye]), times)).x
    return ends[:d].T, ends[d:].T


def error_and_law(flow, steps=2000):
    """E|x - clean|^2 and the covariance of x, in closed form of the map."""
    of_mean, of_source = transported(flow, steps)
    s, c = flow.covariance, flow.means
    law = of_mean @ c @ of_mean.T + of_source @ of_source.T
    return float(s.trace() + law.trace() - 2 * (of_mean @ c).trace()), law


def mmse(flow):
    """Of the mean itself."""
    return float((flow.covariance - flow.means).trace())


def apart(flow):
    """Squared Wasserstein distance of pictures and means, which commute."""
    s, c = flow.covariance, flow.means
    return float((s + c - 2 * root(root(s) @ c @ root(s))).trace())


@pytest.mark.parametrize(("spread", "error"), [(0.3, 1.515), (0.1, 1.255), (0.02, 1.219)])
@pytest.mark.parametrize("turned", [False, True])
def test_the_error_on_normal_laws(spread, error, turned):
    """The figures of a simulation with a few thousand draws; turned, the matrices still commute."""
    flow = PairedGaussian(rotated(COVARIANCE) if turned else COVARIANCE, STD, spread)
    found, law = error_and_law(flow)
    assert found == pytest.approx(error, abs=4e-3)
    torch.testing.assert_close(law, flow.covariance, atol=2e-3, rtol=0)


def test_less_spread_comes_to_the_least_error_of_perfect_pictures():
    """MMSE + W2^2 = 1.218, where posterior samples have 2 MMSE = 2.159; the excess falls with the spread."""
    found = {spread: error_and_law(PairedGaussian(COVARIANCE, STD, spread))[0] for spread in (0.3, 0.1, 0.02, 0.002)}
    flow = PairedGaussian(COVARIANCE, STD, 0.0)
    assert mmse(flow) + apart(flow) == pytest.approx(1.218, abs=1e-3)
    assert 2 * mmse(flow) == pytest.approx(2.159, abs=1e-3)
    assert found[0.002] == pytest.approx(mmse(flow) + apart(flow), abs=1e-3)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_draws_have_the_error_and_the_law():
    """The same with draws, for a linear measurement that is no picture of the flow's shape: each number twice, with more noise."""
    flow, rows = PairedGaussian(COVARIANCE, STD, 0.1), 20000
    noise = Noise(0, rows)
    clean = GaussianFlow(torch.zeros(3, dtype=torch.float64), COVARIANCE).sample(noise)
    twice = torch.cat([clean, clean], 1)
    each = 2**0.5 * STD
    y = Measurement(
        twice + each * noise.named("measurement")(twice), Linear(lambda x: torch.cat([x, x], 1), (3,), 1e-12), each
    )
    x = run(restore.pmrf(flow, y, noise(clean), flow.times(50))).x
    errors = (x - clean).square().sum(1)
    assert float(errors.mean()) == pytest.approx(1.255, abs=4 * float(errors.std()) / rows**0.5 + 5e-3)
    torch.testing.assert_close(x.T.cov(), COVARIANCE, atol=0.06, rtol=0)


@pytest.mark.parametrize("amount", [0.0, 0.5])
def test_a_mix_of_mean_and_answer_pays_the_square_of_its_share(amount):
    """On the same draws, to the rounding of the identity's cross term: the answer knows no more of the picture than the mean does."""
    flow, rows = PairedGaussian(COVARIANCE, STD, 0.1), 20000
    noise = Noise(0, rows)
    clean = GaussianFlow(torch.zeros(3, dtype=torch.float64), COVARIANCE).sample(noise)
    y = Measurement(clean + STD * noise.named("measurement")(clean), lambda x: x, STD)
    source = noise(clean)
    whole, mixed = (run(restore.pmrf(flow, y, source, flow.times(20), amount=a)).x for a in (1.0, amount))
    mean = flow.mean(y.y)
    torch.testing.assert_close(mixed, mean + amount * (whole - mean))
    error = lambda x: float((x - clean).square().sum(1).mean())  # noqa: E731
    assert error(mixed) == pytest.approx(error(mean) + amount**2 * (error(whole) - error(mean)), abs=0.02)


def test_laws_of_every_method():
    covariance = torch.diag(torch.linspace(0.1, 1, 16))
    flow = PairedFlow(
        lambda x, t: exact.velocity(x.flatten(1), t).view_as(x),
        lambda y: exact.mean(y.flatten(1)).view_as(y), 0.1, (1, 4, 4),
    )  # fmt: skip
    exact = PairedGaussian(covariance, 0.2, 0.1)
    y = Measurement(
        torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(2)), Linear(lambda x: x, (1, 4, 4)), 0.2
    )
    for law in laws.ALL:
        law(restore.pmrf, flow, y)
    x = restore.pmrf(flow, y, flow.source(Noise(0, 3)), flow.times(3))
    assert set(next(x).info) == {"moved"}


def test_one_evaluation_for_each_step_and_none_of_its_gradient():
    flow = counted(PairedGaussian(COVARIANCE, STD, 0.1))
    y = Measurement(torch.ones(2, 3, dtype=torch.float64), lambda x: x, STD)
    run(restore.pmrf(flow, y, torch.zeros(2, 3, dtype=torch.float64), flow.times(7)))
    assert (flow.count.calls, flow.count.rows, flow.count.backward) == (7, 14, 0)


def test_without_spread_and_with_it():
    flow = PairedGaussian(COVARIANCE, STD, 0.1)
    y, x = Measurement(torch.ones(1, 3, dtype=torch.float64), lambda x: x, STD), torch.ones(1, 3, dtype=torch.float64)
    times = torch.tensor([0, 1e-6, 1], dtype=torch.float64)
    starts = [next(restore.pmrf(flow, y, x, times, spread=s)).x for s in (None, 0.0, 0.5)]
    for start, spread in zip(starts, (0.1, 0.0, 0.5), strict=True):
        torch.testing.assert_close(start, flow.mean(y.y) + spread, atol=1e-5, rtol=0)


def test_what_it_refuses():
    flow = PairedGaussian(COVARIANCE, STD, 0.1)
    plain = GaussianFlow(torch.zeros(3, dtype=torch.float64), COVARIANCE)
    y = Measurement(torch.ones(1, 3, dtype=torch.float64), lambda x: x, STD)
    with pytest.raises(ValueError, match=r"^pmrf: expected a prior with a regressor, such as blind"):
        next(restore.pmrf(plain, y, torch.zeros(1, 3), flow.times(2)))
    other = Measurement(torch.ones(1, 2), Function(lambda x: x[:, :2]), STD)
    with pytest.raises(ValueError, match=r"expected a picture of shape \(3,\) or a linear measurement, got \(2,\)"):
        next(restore.pmrf(flow, other, torch.zeros(1, 3), flow.times(2)))
    for method, prior in ((restore.hqs, flow), (restore.pmrf, plain)):
        with pytest.raises(ValueError, match="regressor"):
            begin(method, prior, y, 4, Noise(0, 1))


class Linear3(torch.nn.Module):
    """A regressor and a velocity that are matrices."""

    def __init__(self):
        super().__init__()
        self.matrix = torch.nn.Parameter(torch.zeros(3, 3, dtype=torch.float64))
        self.field = torch.nn.Parameter(torch.zeros(3, 3, dtype=torch.float64))

    def mean(self, y):
        return y @ self.matrix.T

    def forward(self, x, t):
        return x @ self.field.T


class TestTraining:
    """Both losses have their minima at the exact regressor and the exact velocity."""

    @staticmethod
    @cache
    def batch(rows=40000):
        noise = Noise(1, rows)
        clean = GaussianFlow(torch.zeros(3, dtype=torch.float64), COVARIANCE).sample(noise)
        return Batch(clean, (clean + STD * noise.named("measurement")(clean),))

    def slope(self, loss, name, flow, batch):
        loss(flow, batch, seeded(0, 0)).mean().backward()
        found = getattr(flow.net, name).grad
        flow.net.zero_grad()
        return found

    def test_the_regressor(self):
        exact, batch = PairedGaussian(COVARIANCE, STD, 0.1), self.batch()
        net = Linear3()
        net.matrix.data = exact.mean(torch.eye(3, dtype=torch.float64)).T
        flow = NetFlow(net, (3,))
        assert float(regression(flow, batch, seeded(0, 0)).detach().mean() * 3) == pytest.approx(mmse(exact), rel=0.02)
        assert self.slope(regression, "matrix", flow, batch).abs().max() < 0.02
        net.matrix.data *= 1.1
        assert self.slope(regression, "matrix", flow, batch).abs().max() > 0.1

    @pytest.mark.parametrize("at", [0.0, 0.4, 0.9])
    def test_the_velocity(self, at):
        exact, batch = PairedGaussian(COVARIANCE, STD, 0.3), self.batch()
        net = Linear3()
        net.matrix.data = exact.mean(torch.eye(3, dtype=torch.float64)).T
        net.field.data = exact.velocity(torch.eye(3, dtype=torch.float64), torch.tensor(at)).T
        flow = NetFlow(net, (3,))
        loss = partial(rectified, spread=0.3, density=lambda u: 0 * u + at)
        assert self.slope(loss, "field", flow, batch).abs().max() < 0.03
        assert net.matrix.grad is None
        net.field.data += 0.2
        assert self.slope(loss, "field", flow, batch).abs().max() > 0.05

    def test_both_at_once_are_the_sum_and_share_nothing(self):
        batch, net = self.batch(64), Linear3()
        net.matrix.data += 0.3
        flow = NetFlow(net, (3,))
        whole = pmrf(flow, batch, seeded(0, 0), spread=0.1, scale=0.5)
        parts = regression(flow, batch, seeded(0, 0)) + rectified(flow, batch, seeded(0, 0), spread=0.1)
        torch.testing.assert_close(whole, 4 * parts)
        whole.mean().backward()
        both = net.matrix.grad.clone()
        net.zero_grad()
        (4 * regression(flow, batch, seeded(0, 0))).mean().backward()
        torch.testing.assert_close(net.matrix.grad, both)

    def test_what_is_refused(self):
        batch = self.batch(4)
        with pytest.raises(ValueError, match="expected a network with a regressor"):
            regression(NetFlow(torch.nn.Linear(3, 3), (3,)), batch, seeded(0, 0))
        with pytest.raises(ValueError, match="what was measured"):
            pmrf(NetFlow(Linear3(), (3,)), Batch(batch.clean), seeded(0, 0), spread=0.1)
