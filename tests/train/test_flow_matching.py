"""The loss against closed forms: its minimum, its gradient there, and what a network learns from it."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from toys import double, seeded

from flowhelm import GaussianFlow, MixtureFlow, NetFlow, Noise
from flowhelm.path import at, linear, mix, trig
from flowhelm.train import Batch, dropped, fit, flow_matching, normal, times


class Exact(nn.Module):
    """A closed-form velocity plus `gain` times features of (x, t): the exact one at gain 0."""

    def __init__(self, flow, error=0.0):
        super().__init__()
        self.flow, self.error = flow, error
        self.gain = nn.Parameter(torch.zeros(4, flow.shape[0], dtype=torch.float64))

    def forward(self, x, t):
        t = t[:, None]
        features = torch.cat([x, t, torch.sin(3 * x[:, :1] + t)], dim=1)
        return (1 + self.error) * self.flow.velocity(x, t[:, 0]) + features @ self.gain


def batch(flow, count, seed=1):
    return Batch(flow.sample(Noise(seed, count)))


def mean_of(values):
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))


# Of N(m, S) with eigenvalues l, independent of a normal source: Cov[x_t' | x_t] = W^2 l / (alpha^2 l + sigma^2) with
# W = alpha' sigma - sigma' alpha; its integral over t is (pi / 2) sqrt(l), times pi / 2 more on the trigonometric path.
@pytest.mark.parametrize(("path", "factor"), [(linear, math.pi / 2), (trig, math.pi**2 / 4)], ids=["linear", "trig"])
def test_the_least_loss_of_a_gaussian_in_closed_form(gaussian, path, factor):
    flow = replace(gaussian, path=path)
    least = factor * float(torch.linalg.eigvalsh(flow.covariance).sqrt().mean())
    loss = flow_matching(NetFlow(Exact(flow), (2,), path), batch(flow, 40_000), seeded()).detach()
    assert loss.shape == (40_000,)
    mean, error = mean_of(loss)
    print(f"{path.__name__}: loss at the exact velocity {mean:.4f} +- {error:.4f}, analytic {least:.4f}")
    assert error < 0.008 * least
    assert mean == pytest.approx(least, abs=3.5 * error)
    worse = flow_matching(NetFlow(Exact(flow, 0.2), (2,), path), batch(flow, 40_000), seeded()).detach()
    assert float((worse - loss).mean()) > 0.01 * least


def test_the_least_loss_of_a_mixture_row_by_row(mixture):
    """The loss less tr Cov[clean - source | x_t] / d, exact at the very x_t and t of the row: a control variate of mean 0."""
    count, seen = 20_000, []
    net = Exact(mixture)
    net.register_forward_hook(lambda module, given, out: seen.append(given))
    loss = flow_matching(NetFlow(net, (2,)), batch(mixture, count), seeded()).detach()
    x, t = seen[0]
    trace = spread(mixture, x, t)
    gap, error = mean_of(loss - trace / 2)
    print(f"mixture: loss {loss.mean():.4f}, least {float(trace.mean()) / 2:.4f}, gap {gap:.4f} +- {error:.4f}")
    assert error < 0.015 * float(loss.mean())
    assert abs(gap) < 3.5 * error


def spread(flow, x, t):
    """tr Cov[clean | x_t] / (1 - t)^2 per row, each at its own time: responsibilities and moments of the components."""
    a = t[:, None, None, None]
    eye = torch.eye(2, dtype=torch.float64)
    gain = a * flow.covariances @ torch.linalg.inv(a**2 * flow.covariances + (1 - a) ** 2 * eye)  # (b, k, d, d)
    clean = flow.means + (gain @ (x[:, None] - t[:, None, None] * flow.means)[..., None])[..., 0]
    within = ((flow.covariances - a * gain @ flow.covariances).diagonal(dim1=-2, dim2=-1)).sum(-1)
    share = flow.responsibilities(x, t)
    mean = (share[..., None] * clean).sum(1, keepdim=True)
    return (share * (within + (clean - mean).square().sum(-1))).sum(1) / (1 - t) ** 2


def test_the_spread_is_that_of_the_flow(mixture):
    x = mixture.sample(Noise(0, 5))
    t = double([0.1, 0.4, 0.4, 0.8, 0.95])
    exact = [torch.trace(mixture.covariance(x[i : i + 1], t[i])[0]) / (1 - t[i]) ** 2 for i in range(5)]
    torch.testing.assert_close(spread(mixture, x, t), torch.stack(exact), rtol=1e-9, atol=0)


def gradients(flow, error, batches=60, rows=500):
    net = Exact(flow, error)
    out = []
    for i in range(batches):
        loss = flow_matching(NetFlow(net, (2,)), batch(flow, rows, seed=i), seeded(i)).mean()
        out.append(torch.autograd.grad(loss, net.gain)[0].flatten())
    out = torch.stack(out)
    return out.mean(0), out.std(0) / math.sqrt(batches)


def test_the_gradient_at_the_exact_velocity_is_zero(mixture):
    mean, error = gradients(mixture, 0.0)
    print("gradient / its standard error:", [f"{z:.1f}" for z in (mean / error).tolist()])
    assert ((mean / error).abs() < 4).all()  # 8 numbers, 60 batches
    mean, error = gradients(mixture, 0.1)  # and the test sees a velocity that is a tenth too large
    assert (mean / error).abs().max() > 10


def tilted(t):
    return math.pi / 2 * (1 - 2 * t + 2 * t**2)  # 1 / density of cosmap


def shift_weight(factor):
    return lambda t: (1 - t + t / factor) ** 2 * factor  # 1 / density of shifted(uniform, factor)


@pytest.mark.parametrize(
    ("density", "weight"),
    [
        (times.cosmap, tilted),
        (times.shifted(times.uniform, 2.0), shift_weight(0.5)),
        (times.shifted(times.uniform, 0.5), shift_weight(2.0)),
    ],
    ids=["cosmap", "shifted to noise", "shifted to clean"],
)
def test_a_density_with_one_over_it_as_weight_is_the_uniform_one(gaussian, density, weight):
    least = math.pi / 2 * float(torch.linalg.eigvalsh(gaussian.covariance).sqrt().mean())
    flow = NetFlow(Exact(gaussian), (2,))
    data = batch(gaussian, 40_000)
    both, error = mean_of(flow_matching(flow, data, seeded(), density=density, weight=weight).detach())
    alone, _ = mean_of(flow_matching(flow, data, seeded(), density=density).detach())
    print(f"uniform {least:.4f}; density and weight {both:.4f} +- {error:.4f}; the density alone {alone:.4f}")
    assert both == pytest.approx(least, abs=3.5 * error)
    assert abs(alone - least) > 5 * error


class Told(nn.Module):
    """A velocity of 0 that notes its arguments."""

    def forward(self, x, t, *condition):
        self.given = (x, t, condition)
        return torch.zeros_like(x)


def test_source_path_target_and_weight_by_hand():
    clean, start = torch.randn(6, 1, 2, 2), torch.full((6, 1, 2, 2), 3.0)
    net = Told()
    source = lambda like, generator: start[: len(like)]  # noqa: E731
    reverse = lambda source, clean, generator: torch.arange(6).flip(0)  # noqa: E731
    start[0] = -1.0
    for path in (linear, trig):
        loss = flow_matching(
            NetFlow(net, (1, 2, 2), path), Batch(clean), seeded(), source=source, coupling=reverse,
            weight=lambda t: 1 + t,
        )  # fmt: skip
        x, t, condition = net.given
        assert condition == ()
        paired, a = start.flip(0), at(path, t, clean)
        torch.testing.assert_close(x, mix(path, paired, clean, t))
        rate = (a.d_sigma * paired + a.d_alpha * clean).square().mean((1, 2, 3))
        torch.testing.assert_close(loss, (1 + t) * rate)
    assert torch.equal(normal(clean, seeded(4)), torch.randn(clean.shape, generator=seeded(4)))
    one, two = (flow_matching(NetFlow(net, (1, 2, 2)), Batch(clean), seeded(2)) for _ in range(2))
    assert torch.equal(one, two)


def test_dropped_drops_each_condition_independently_with_its_share():
    rows, share = 40_000, 0.3
    label, words = torch.randint(0, 5, (rows,), generator=seeded(1)), torch.randn(rows, 2, 3, generator=seeded(2))
    null = (torch.tensor([9]), torch.full((1, 2, 3), torch.inf))
    told = dropped((label, words), null, share, seeded(3))
    gone = torch.stack([told[0] == 9, told[1].isinf().flatten(1).any(1)])
    assert torch.equal(told[1].isinf().flatten(1).all(1), gone[1])  # a condition goes as a whole
    assert torch.equal(told[0][~gone[0]], label[~gone[0]])
    assert torch.equal(told[1][~gone[1]], words[~gone[1]])
    table = torch.stack([gone[0] & gone[1], gone[0] & ~gone[1], ~gone[0] & gone[1], ~gone[0] & ~gone[1]]).sum(1)
    expected = rows * double([0.09, 0.21, 0.21, 0.49])
    assert float(((table - expected) ** 2 / expected).sum()) < 16.3  # chi-square, 3 degrees, 0.1%
    one = rows * double([share, 1 - share])
    in_class = torch.stack([gone[0][label == 2].sum(), (~gone[0][label == 2]).sum()])
    assert float(((in_class - one * (label == 2).double().mean()) ** 2 / one).sum()) < 10.8  # whatever it is told
    assert torch.equal(dropped((label,), null[:1], 0.0, seeded())[0], label)
    for few in ((), null[:1]):
        with pytest.raises(ValueError, match=f"for each of 2, got {len(few)}; .*`null`, or train with drop=0"):
            dropped((label, words), few, 0.1, seeded())
    assert (dropped((label,), null[:1], 1.0, seeded())[0] == 9).all()
    # one in r rows told nothing, of n conditions: share = r^(1 / n); the 46.4% of SD3's three encoders are a tenth
    assert abs(0.464**3 - 0.1) < 2e-4


def test_drop_reaches_the_network_and_only_where_there_are_conditions():
    net, clean, label = Told(), torch.randn(5000, 2), torch.zeros(5000, dtype=torch.long)
    flow = NetFlow(net, (2,), null=(torch.tensor([7]),))
    flow_matching(flow, Batch(clean, (label,)), seeded(), drop=0.25)
    assert float((net.given[2][0] == 7).float().mean()) == pytest.approx(0.25, abs=0.02)
    flow_matching(flow, Batch(clean, (label,)), seeded(), drop=0.0)
    assert torch.equal(net.given[2][0], label)
    flow_matching(NetFlow(net, (2,)), Batch(clean), seeded(), drop=0.5)
    assert net.given[2] == ()


class Tiny(nn.Module):
    """Velocity of points of the plane; `classes` labels are embedded, one more of them meaning none."""

    def __init__(self, width, classes=0):
        super().__init__()
        self.label = nn.Embedding(classes + 1, width) if classes else None
        self.first = nn.Linear(6, width)
        self.second, self.third, self.last = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 2)

    def forward(self, x, t, label=None):
        t = t[:, None]
        h = self.first(torch.cat([x, t, t**2, torch.cos(math.pi * t), torch.sin(math.pi * t)], dim=1))
        h = h if label is None else h + self.label(label)
        h = h + self.second(nn.functional.silu(h))
        h = h + self.third(nn.functional.silu(h))
        return self.last(nn.functional.silu(h))


def single(flow):
    return MixtureFlow(flow.weights.float(), flow.means.float(), flow.covariances.float())


def relative_error(learned, exact, rows=2000):
    """|learned - exact| / |exact| over states x_t at 19 times, and over time."""
    clean, start, parts = exact.sample(Noise(11, rows)), torch.randn(rows, 2, generator=seeded(12)), []
    for t in torch.linspace(0.05, 0.95, 19, dtype=torch.float64):
        x = mix(linear, start, clean, t).float()
        v = exact.velocity(x, t)
        with torch.no_grad():
            parts.append(torch.stack([(learned(x, t) - v).square().mean(), v.square().mean()]))
    total = torch.stack(parts).mean(0)
    return float((total[0] / total[1]).sqrt()), [float((e / v).sqrt()) for e, v in parts[::6]]


def learn(exact, width, rows, steps, **options):
    torch.manual_seed(0)
    flow = NetFlow(Tiny(width), (2,))
    pool = exact.sample(Noise(0, 20_000))
    data = lambda index: Batch(pool[torch.randint(20_000, (rows,), generator=seeded(index))])  # noqa: E731
    for _ in fit(flow, partial(flow_matching, **options), data, steps=steps, rate=4e-3, warmup=100):
        pass
    return flow


def shown(name, flow, exact, bound):
    error, some = relative_error(flow.velocity, exact)
    rest, _ = relative_error(lambda x, t: torch.zeros_like(x), exact)
    print(
        f"{name}: relative L2 error {error:.4f} (at t = 0.05, 0.35, 0.65, 0.95: {', '.join(f'{e:.3f}' for e in some)})"
    )
    assert rest == pytest.approx(1)
    assert error < bound


def test_a_learned_velocity_is_near_the_closed_form(mixture):
    exact = single(mixture)
    shown("learned in 900 steps of 256", learn(exact, 48, 256, 900), exact, 0.12)


def test_told_the_class_a_network_learns_the_law_of_the_class(mixture):
    exact = single(mixture)
    pool = exact.sample(Noise(0, 20_000))
    component = exact.responsibilities(pool, double(1.0 - 1e-6).float())
    label = torch.bernoulli(component[:, 1], generator=seeded(5)).long()  # a draw of the class given the point
    classes = [MixtureFlow(torch.ones(1), exact.means[k : k + 1], exact.covariances[k : k + 1]) for k in (0, 1)]
    torch.manual_seed(0)
    flow = NetFlow(Tiny(48, classes=2), (2,), null=(torch.tensor([2]),))

    def data(index):
        rows = torch.randint(20_000, (256,), generator=seeded(index))
        return Batch(pool[rows], (label[rows],))

    for _ in fit(flow, partial(flow_matching, drop=0.4), data, steps=900, rate=4e-3, warmup=100):
        pass
    for k, (name, law) in enumerate(zip(["class 0", "class 1", "nothing"], [*classes, exact], strict=True)):
        shown(f"told {name}", flow.bind(torch.tensor([k])), law, 0.1 if k < 2 else 0.25)
    wrong, _ = relative_error(flow.bind(torch.tensor([0])).velocity, classes[1])
    print(f"told class 0, measured against class 1: {wrong:.2f}")
    assert wrong > 0.5
    gaussian = GaussianFlow(exact.means[0], exact.covariances[0])  # and the law of a class is a Gaussian's
    assert relative_error(gaussian.velocity, classes[0])[0] < 1e-5
