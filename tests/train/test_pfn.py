"""Prior-data fitted networks: the bars are a law, the masks hide what they must, and a trained network is near Bayes' rule."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal
from toys import randomised

from flowhelm import NetFlow
from flowhelm.train import Batch, fit, seeded
from flowhelm.train.bars import Bars
from flowhelm.train.gaussian_process import GaussianProcess
from flowhelm.train.pfn import PFN, pfn_loss, processes


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.fixture
def bars() -> Bars:
    return Bars(draw(5000), 12)


class TestProcess:
    """Against the joint normal law, whose conditionals torch knows nothing of."""

    def test_evidence_and_prediction_are_those_of_the_joint_law(self):
        gp = GaussianProcess(torch.tensor([0.3, 0.7]), torch.tensor([0.1, 0.2]))
        x, y = torch.rand(2, 5, 3, dtype=torch.float64), draw(2, 5)
        for row, (length, noise) in enumerate(((0.3, 0.1), (0.7, 0.2))):
            square = torch.cdist(x[row], x[row]) ** 2
            joint = torch.exp(-square / (2 * length**2)) + noise**2 * torch.eye(5)
            law = lambda n: MultivariateNormal(torch.zeros(n).double(), joint[:n, :n])  # noqa: B023, E731
            torch.testing.assert_close(gp.evidence(x, y)[row], law(5).log_prob(y[row]), rtol=1e-6, atol=1e-6)
            chain = law(5).log_prob(y[row]) - law(4).log_prob(y[row, :4])
            told = gp.log_density(x[:, :4], y[:, :4], x[:, 4:], y[:, 4:])[row, 0]
            torch.testing.assert_close(told, chain, rtol=1e-6, atol=1e-6)

    def test_samples_have_the_covariance(self):
        x = torch.rand(1, 3, 1).expand(20000, 3, 1)
        y = GaussianProcess(0.3, 0.2).sample(x, seeded(0, 0))
        expected = GaussianProcess(0.3, 0.2).kernel(x[:1], x[:1])[0] + 0.04 * torch.eye(3)
        torch.testing.assert_close(y.T.cov(), expected, rtol=0, atol=5 * math.sqrt(2 / 20000))


class TestBars:
    def test_it_is_a_density(self, bars):
        """One by the trapezoidal rule between the outermost borders, where it jumps, and half-normal beyond."""
        logits, y = draw(12), torch.linspace(-30, 30, 600_001, dtype=torch.float64)
        density = bars.log_density(logits.expand(len(y), -1), y).exp()
        assert float(torch.trapezoid(density, y)) == pytest.approx(1, abs=1e-4)
        assert float(torch.trapezoid(density * y, y)) == pytest.approx(float(bars.mean(logits)), abs=1e-3)

    def test_tails_have_their_median_at_the_width(self, bars):
        for tail, border in ((0, 0), (11, -1)):
            logits = torch.full((12,), -torch.inf, dtype=torch.float64)
            logits[tail] = 0
            assert float(bars.quantile(logits, 0.5)) == pytest.approx(float(bars.borders[border]))

    def test_quantiles_invert_the_distribution_function(self, bars):
        logits, y = draw(12), torch.linspace(-30, 30, 600_001, dtype=torch.float64)
        below = torch.cumulative_trapezoid(bars.log_density(logits.expand(len(y), -1), y).exp(), y)
        for level in (0.01, 0.2, 0.5, 0.97, 0.999):
            at = float(bars.quantile(logits, level))
            assert float(below[torch.searchsorted(y, at) - 1]) == pytest.approx(level, abs=2e-4)

    def test_bars_are_alike_likely_in_the_prior(self, bars):
        values = torch.randn(5000, dtype=torch.float64, generator=seeded(3, 0))
        own = Bars(values, 10)
        inside = torch.bucketize(values, own.borders[1:-1]).bincount()
        assert (inside - 500).abs().max() <= 1

    def test_samples_of_a_fine_histogram_are_of_its_law(self):
        y = torch.linspace(-4, 4, 4001, dtype=torch.float64)
        bars = Bars(y, 400)
        middle = (bars.borders[1:] + bars.borders[:-1]) / 2
        logits = Normal(0.5, 0.7).log_prob(middle)
        drawn = bars.quantile(logits.expand(20000, -1), torch.rand(20000, dtype=torch.float64))
        assert float(drawn.mean()) == pytest.approx(0.5, abs=4 * 0.7 / math.sqrt(20000))
        assert float(drawn.std()) == pytest.approx(0.7, rel=4 / math.sqrt(40000))

    @pytest.mark.parametrize(("values", "count"), [(torch.zeros(100), 5), (torch.arange(100.0), 2)])
    def test_what_gives_no_bars_is_refused(self, values, count):
        with pytest.raises(ValueError, match="Bars: expected at least 3 bars"):
            Bars(values, count)


class TestNetwork:
    @pytest.fixture
    def net(self, bars) -> PFN:
        return randomised(PFN(bars, features=2, width=16, layers=2, heads=2).double(), 0.4)

    def test_a_prediction_depends_on_what_is_known_alone(self, net):
        """Not on the order of it, nor on what else is asked; and on each known point."""
        x, y = draw(2, 9, 2), draw(2, 5)
        logits = net(x, y)
        assert logits.shape == (2, 4, 12)
        order = torch.tensor([3, 0, 4, 1, 2])
        torch.testing.assert_close(net(torch.cat([x[:, order], x[:, 5:]], 1), y[:, order]), logits)
        torch.testing.assert_close(net(torch.cat([x[:, :5], x[:, 7:8]], 1), y), logits[:, 2:3])
        for point in range(5):
            other = y.clone()
            other[:, point] += 0.1
            assert ((net(x, other) - logits).abs().amax((1, 2)) > 1e-4).all()

    def test_it_answers_from_no_data(self, net):
        logits = net(draw(2, 3, 2), draw(2, 0))
        assert logits.isfinite().all()
        with pytest.raises(ValueError, match="PFN: expected fewer known y than points x, got 3 and 3"):
            net(draw(2, 3, 2), draw(2, 3))

    def test_sizes_of_contexts(self, bars):
        """Each alike, to 5 standard errors."""
        seen = []

        class Spy(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.bars = bars

            def forward(self, x, y):
                seen.append(y.shape[1])
                return torch.zeros(len(x), x.shape[1] - y.shape[1], 12, dtype=torch.float64)

        batch = Batch(draw(3, 4), (draw(3, 4, 1),))
        for index in range(2000):
            pfn_loss(NetFlow(Spy(), (4,)), batch, seeded(0, index))
        share = torch.tensor(seen).bincount(minlength=4) / 2000
        expected = torch.full((4,), 0.25)
        assert ((share - expected).abs() < 5 * (expected * (1 - expected) / 2000).sqrt()).all()


def test_data_are_functions_of_the_batch_number():
    data = processes((0.1, 0.6), (0.05, 0.2), points=6, batch=3, seed=1)
    for a, b in zip(data(4), processes((0.1, 0.6), (0.05, 0.2), points=6, batch=3, seed=1)(4), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not torch.equal(data(4).clean, data(5).clean)


def test_it_learns_bayes_rule():
    """One known point, nearly without noise: the exact answer moves with it, and so does the network's after some steps."""
    torch.manual_seed(0)
    data = processes((2.0, 2.0), (0.3, 0.3), points=4, batch=32)
    y = torch.cat([data(10_000 + i).clean for i in range(40)])
    net = PFN(Bars(y, 40), width=32, layers=2)
    gp, batch = GaussianProcess(2.0, 0.3), data(99_999)
    (x,), y = batch.condition, batch.clean

    def gap() -> float:
        with torch.no_grad():
            told = net.bars.log_density(net(x, y[:, :3]), y[:, 3:])
        return float((gp.log_density(x[:, :3], y[:, :3], x[:, 3:], y[:, 3:]) - told).mean())

    before = gap()
    for _ in fit(NetFlow(net, (4,)), pfn_loss, data, steps=250, rate=3e-3, warmup=20):
        pass
    assert before > 0.5
    assert gap() < 0.3 * before
