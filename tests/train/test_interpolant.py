"""Stochastic interpolants against two Gaussian mixtures, whose velocity and score are known (arXiv:2303.08797, appendix A)."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from toys import double

from flowhelm import Noise, interpolate, run
from flowhelm.bench.exact import interpolant as bench
from flowhelm.grad import value_and_grad
from flowhelm.interpolant import (
    drift,
    encoder_decoder,
    linear,
    means,
    mirror,
    one_sided,
    score,
    trigonometric,
    velocity,
)
from flowhelm.path import VP, ends_from_velocity, trig
from flowhelm.path import linear as straight
from flowhelm.path import score as path_score
from flowhelm.train.interpolant import denoiser_loss, velocity_loss
from flowhelm.transition import diffusion

FAMILIES = {
    "linear": linear(), "linear 2": linear(2.0), "trigonometric": trigonometric(0.5),
    "encoder-decoder": encoder_decoder, "one-sided": one_sided(), "one-sided trig": one_sided(trig),
    "one-sided VP": one_sided(VP()), "mirror": mirror(),
}  # fmt: skip
EACH = pytest.mark.parametrize("interpolant", FAMILIES.values(), ids=list(FAMILIES))
TIMES = torch.tensor([0.12, 0.4, 0.5001, 0.77, 0.95], dtype=torch.float64)


class Shared(Noise):
    """One stream for all rows: many rows at once."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, like):
        return torch.randn(like.shape, generator=self.generator, dtype=like.dtype)


class Exact:
    """Everything that is known of an interpolant between two independent Gaussian mixtures in d dimensions."""

    def __init__(self, interpolant, start, end):
        self.interpolant, self.start, self.end = interpolant, start, end
        (p, m, a), (q, n, b) = start, end
        self.log_weights = (p[:, None] * q).log().flatten()
        i, j = torch.meshgrid(torch.arange(len(p)), torch.arange(len(q)), indexing="ij")
        self.m, self.a, self.n, self.b = m[i.flatten()], a[i.flatten()], n[j.flatten()], b[j.flatten()]
        self.eye = torch.eye(m.shape[1]).double()

    def parts(self, x, t):
        """Weights `(k, 1 | 1, 1)`, log of weight times density `(b, k)`, x - mean and C^-1 of it `(b, k, d)`, C."""
        w = [c.reshape(-1, 1, 1) for c in self.interpolant(t)]
        mean = w[0] * self.m + w[1] * self.n
        c = w[0][..., None] ** 2 * self.a + w[1][..., None] ** 2 * self.b + w[2][..., None] ** 2 * self.eye
        e = x[:, None] - mean
        solved = (torch.linalg.inv(c) * e[..., None, :]).sum(-1)
        log_n = -0.5 * ((e * solved).sum(-1) + torch.logdet(c) + x.shape[1] * math.log(2 * math.pi))
        return w, self.log_weights + log_n, solved

    def log_density(self, x, t):
        return self.parts(x, t)[1].logsumexp(1)

    def velocity(self, x, t):
        """m' + 1/2 C' C^-1 (x - m), mixed by responsibility: the paper's own formula."""
        w, log_r, solved = self.parts(x, t)
        w4 = [c[..., None] for c in w]
        rate = 2 * (w4[0] * w4[3] * self.a + w4[1] * w4[4] * self.b + w4[2] * w4[5] * self.eye)
        moved = w[3] * self.m + w[4] * self.n + 0.5 * (rate * solved[..., None, :]).sum(-1)
        return (log_r.softmax(1)[..., None] * moved).sum(1)

    def means(self, x, t):
        w, log_r, solved = self.parts(x, t)
        each = (
            self.m + w[0] * (self.a * solved[..., None, :]).sum(-1),
            self.n + w[1] * (self.b * solved[..., None, :]).sum(-1),
            w[2] * solved,
        )
        return [(log_r.softmax(1)[..., None] * e).sum(1) for e in each]

    def denoiser(self, x, t):
        return self.means(x, t)[2]

    def score(self, x, t):
        _, log_r, solved = self.parts(x, t)
        return -(log_r.softmax(1)[..., None] * solved).sum(1)

    @staticmethod
    def draw(law, count, generator):
        p, m, c = law
        pick = torch.multinomial(p, count, True, generator=generator)
        z = torch.randn(count, m.shape[1], generator=generator, dtype=torch.float64)
        return m[pick] + (torch.linalg.cholesky(c)[pick] @ z[..., None])[..., 0]

    def pairs(self, count, seed):
        generator = torch.Generator().manual_seed(seed)
        return self.draw(self.start, count, generator), self.draw(self.end, count, generator)


START = (
    double([0.4, 0.6]),
    double([[-1.5, 0.5], [1.0, -0.5]]),
    double([[[0.3, 0.1], [0.1, 0.2]], [[0.2, -0.05], [-0.05, 0.4]]]),
)
END = (
    double([0.5, 0.2, 0.3]),
    double([[2.0, 1.0], [0.0, -1.5], [-1.0, 1.5]]),
    double([[[0.2, 0.0], [0.0, 0.3]], [[0.3, 0.1], [0.1, 0.2]], [[0.15, -0.05], [-0.05, 0.25]]]),
)


@pytest.fixture
def x():
    return torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def derivative(function, t):
    return torch.stack([torch.autograd.functional.jacobian(function, s) for s in t])


@EACH
def test_weights_and_their_derivatives(interpolant):
    w = interpolant(TIMES)
    for value, rate in ((0, 3), (1, 4), (2, 5)):
        expected = derivative(lambda t, k=value: interpolant(t)[k], TIMES)
        torch.testing.assert_close(w[rate], expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("linear", (1, 0, 0), (0, 1, 0)), ("trigonometric", (1, 0, 0), (0, 1, 0)),
        ("encoder-decoder", (1, 0, 0), (0, 1, 0)), ("one-sided", (0, 0, 1), (0, 1, 0)),
        ("one-sided trig", (0, 0, 1), (0, 1, 0)), ("mirror", (0, 1, 0), (0, 1, 0)),
    ],
)  # fmt: skip
def test_ends(name, first, last):
    w = FAMILIES[name](double([0.0, 1.0]))
    torch.testing.assert_close(torch.stack(w[:3]).T, double([first, last]), atol=1e-12, rtol=0)


def test_families_by_their_formulas():
    t = double(0.3)
    assert FAMILIES["linear 2"](t).gamma == pytest.approx(math.sqrt(2 * 0.3 * 0.7))
    a = trigonometric()(t)
    assert a.alpha**2 + a.beta**2 == pytest.approx(1)
    assert a.gamma == pytest.approx(math.sqrt(0.21))
    assert encoder_decoder(t).beta == encoder_decoder(1 - t).alpha == 0
    middle = encoder_decoder(double(0.5))
    torch.testing.assert_close(torch.stack(middle[:3]), double([0, 0, 1]), atol=1e-12, rtol=0)
    assert all(w.isfinite() for w in linear(0)(double(0.0)))  # no noise: flow matching, regular at its ends


@EACH
def test_score_and_velocity_are_those_of_the_density(interpolant, x):
    """Score against autograd of log p_t; velocity against the continuity equation d log p / dt + div b + b . score = 0."""
    exact = Exact(interpolant, START, END)
    worst = [0.0, 0.0]
    for t in TIMES:
        _, gradient = value_and_grad(lambda y, t=t: exact.log_density(y, t), x)
        b, eta = exact.velocity(x, t), exact.denoiser(x, t)
        torch.testing.assert_close(score(interpolant, eta, t), gradient, atol=1e-6, rtol=1e-6)
        rate = torch.autograd.functional.jacobian(lambda s: exact.log_density(x, s), t)
        jacobian = torch.autograd.functional.jacobian(lambda y, t=t: exact.velocity(y, t).sum(0), x)  # (d, b, d)
        divergence = torch.einsum("ibi->b", jacobian)
        residual = rate + divergence + (b * gradient).sum(1)
        torch.testing.assert_close(residual, torch.zeros_like(residual), atol=1e-6, rtol=0)
        worst = [
            max(worst[0], float((score(interpolant, eta, t) - gradient).abs().max())),
            max(worst[1], float(residual.abs().max())),
        ]
    print(f"score off by {worst[0]:.1e}, continuity equation by {worst[1]:.1e}")


@EACH
def test_conversions(interpolant, x):
    exact = Exact(interpolant, START, END)
    for t in (*TIMES, torch.linspace(0.1, 0.9, 6, dtype=torch.float64)):  # one time for all, and one for each row
        w = [c if c.ndim == 0 else c[:, None] for c in interpolant(t)]
        first, last, eta = exact.means(x, t)
        b, s = exact.velocity(x, t), exact.score(x, t)
        v = w[3] * first + w[4] * last
        torch.testing.assert_close(w[0] * first + w[1] * last + w[2] * eta, x, atol=1e-6, rtol=0)
        torch.testing.assert_close(b, v + w[5] * eta, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(b, v - w[2] * w[5] * s, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(score(interpolant, eta, t), s, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(drift(interpolant, b, eta, t), v, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(velocity(interpolant, v, eta, t), b, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("interpolant", [linear(2.0), trigonometric()])
def test_two_networks_give_all_three_means(interpolant, x):
    exact = Exact(interpolant, START, END)
    for t in TIMES:
        found = means(interpolant, exact.velocity(x, t), exact.denoiser(x, t), x, t)
        for mean, expected in zip(found, exact.means(x, t), strict=True):
            torch.testing.assert_close(mean, expected, atol=1e-6, rtol=1e-6)
    with pytest.raises(ValueError, match="tells start from end"):
        means(mirror(), x, x, x, t)


@pytest.mark.parametrize("path", [straight, trig])
def test_a_one_sided_interpolant_is_the_path(path, x):
    """Its denoiser and score follow from the velocity by the path's own conversions: no second network."""
    exact = Exact(one_sided(path), START, END)
    for t in TIMES:
        b, eta = exact.velocity(x, t), exact.denoiser(x, t)
        ends = ends_from_velocity(path, b, x, t)
        torch.testing.assert_close(ends.source, eta, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(path_score(path, ends, t), exact.score(x, t), atol=1e-6, rtol=1e-6)


def inner(u):
    return 0.02 + 0.96 * u


def off(x, t):
    return 0.5 * torch.stack([(2 * x[:, 0]).sin() + t, x[:, 1].cos() * x[:, 0]], 1)


@EACH
def test_losses_are_least_at_the_closed_form(interpolant):
    """L(f) - L(exact) = 1/2 E|f - exact|^2, the mean squared error, for any f; and to first order nothing is lost."""
    exact = Exact(interpolant, START, END)
    start, end = exact.pairs(12_000, 3)
    for loss, field in ((velocity_loss, exact.velocity), (denoiser_loss, exact.denoiser)):
        each = partial(loss, start=start, end=end, interpolant=interpolant, density=inner)
        seeded = lambda: torch.Generator().manual_seed(4)  # noqa: E731
        least = each(field, generator=seeded())
        squares, gaps = [], None
        for sign in (1, -1):  # linear terms of opposite sign: each must vanish in the mean

            def other(x, t, sign=sign, field=field, squares=squares):
                squares.append(off(x, t).square().mean(1) / 4)  # half of the squares, halved for the two of a pair
                return field(x, t) + sign * off(x, t)

            gaps = each(other, generator=seeded()) - least
            half = sum(squares[-2:])
            noise = (gaps - half).std() / math.sqrt(len(gaps))
            assert (gaps - half).mean().abs() < 4 * noise
            assert half.mean() > 8 * noise  # the test can tell
    print(f"gap {gaps.mean():.4f}, half the mean squared error {half.mean():.4f} +- {noise:.4f}")


def test_losses_by_their_formulas():
    """Rows, draws and scale: recomputed from the generator's numbers."""
    start, end = torch.randn(2, 5, 3, 2)
    w, g = linear(), torch.Generator().manual_seed(0)
    t = (torch.randperm(5, generator=g) + torch.rand(5, generator=g)) / 5
    z = torch.randn(5, 3, 2, generator=g)
    c = [v[:, None, None].float() for v in w(t.double())]
    field = lambda x, t: 0.3 * x + t[:, None, None]  # noqa: E731
    expected = torch.zeros(2, 5)
    for sign in (1, -1):
        f = field(c[0] * start + c[1] * end + sign * c[2] * z, t)
        for k, target in enumerate((c[3] * start + c[4] * end + sign * c[5] * z, sign * z)):
            expected[k] += 0.5 * (0.5 * f**2 - f * target).mean((1, 2))
    for loss, value in zip((velocity_loss, denoiser_loss), expected, strict=True):
        got = loss(field, start, end, torch.Generator().manual_seed(0), interpolant=w)
        torch.testing.assert_close(got, value, atol=1e-5, rtol=1e-4)


def test_the_antithetic_pair_takes_the_variance_out():
    """Near an end gamma' grows as t^-1/2; with z and -z its factor only meets the odd part of b, which is as t^1/2."""
    exact, count = Exact(linear(), START, END), 20_000
    start, end = exact.pairs(count, 0)
    table = []
    for time in (0.1, 1e-2, 1e-3, 1e-4):
        fixed = lambda u, time=time: torch.full_like(u, time)  # noqa: E731
        paired = velocity_loss(
            exact.velocity, start, end, torch.Generator().manual_seed(1), interpolant=linear(), density=fixed
        )
        w, z = linear()(double(time)), Shared(1)(end)
        x = w.alpha * start + w.beta * end + w.gamma * z
        b = exact.velocity(x, double(time))
        single = (b**2 / 2 - b * (end - start + w.d_gamma * z)).mean(1)
        assert (paired.mean() - single.mean()).abs() < 5 * (single.std() + paired.std()) / math.sqrt(count)
        table.append((time, float(single.var()), float(paired.var())))
    for time, single, paired in table:
        print(f"t = {time:g}: variance {single:.2f} of one draw, {paired:.2f} of a pair")
        assert paired < (0.7 if time == 0.1 else 0.4) * single
    assert table[-1][1] > 10 * table[0][1]  # unbounded
    assert table[-1][2] < 2 * table[1][2]  # bounded


def gaussians(interpolant):
    law = lambda m, c: (double([1.0]), double([m]), double([c]))  # noqa: E731
    return Exact(interpolant, law([1.0, -2.0], [[0.5, 0.2], [0.2, 0.3]]), law([-1.0, 0.5], [[0.2, -0.1], [-0.1, 0.6]]))


class Halves(Noise):
    """No noise in the first half of the rows, and 1 everywhere in the other."""

    def __init__(self):
        pass

    def __call__(self, like):
        return torch.cat([torch.zeros_like(like[::2]), torch.ones_like(like[::2])])


@pytest.mark.parametrize("back", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("eps", [None, diffusion.constant(0.7), diffusion.hill(2.0)], ids=["ode", "constant", "hill"])
@pytest.mark.parametrize("interpolant", [linear(), trigonometric(2.0), encoder_decoder, one_sided(), mirror()])
def test_samplers_keep_the_marginals(interpolant, eps, back):
    """Between Gaussians a step is affine: its mean and covariance are followed without sampling, and their error is O(h)."""
    exact, errors = gaussians(interpolant), []
    probe = torch.cat([torch.eye(2), torch.zeros(1, 2)]).double().repeat(2, 1)

    def law(t):
        w = interpolant(t)
        return w.alpha * exact.m[0] + w.beta * exact.n[0], w.alpha**2 * exact.a[0] + w.beta**2 * exact.b[
            0
        ] + w.gamma**2 * exact.eye

    for steps in (40, 80):
        times = torch.linspace(0.1, 0.9, steps + 1, dtype=torch.float64)
        times = times.flip(0) if back else times
        mean, covariance = law(times[0])
        for s, t in pairwise(times):
            move = partial(interpolate, interpolant, exact.velocity, probe, torch.stack([s, t]))
            move = partial(move, denoiser=exact.denoiser, diffusion=eps)
            still, pushed = run(move(noise=Halves())).x.chunk(2)
            matrix = (still[:2] - still[2]).T
            mean, covariance = matrix @ mean + still[2], matrix @ covariance @ matrix.T
            covariance = covariance + (pushed - still)[0, 0] ** 2 * exact.eye
        true = law(times[-1])
        errors.append(max((mean - true[0]).abs().max(), (covariance - true[1]).abs().max()))
    print(f"off by {errors[0]:.4f} with 40 steps, {errors[1]:.4f} with 80")
    assert errors[1] < 0.1
    assert 0.4 < errors[1] / errors[0] < 0.6


def test_what_a_step_costs_and_tells(x):
    exact, calls = Exact(linear(), START, END), []

    def counted(name, field):
        return lambda *a: calls.append(name) or field(*a)

    times = torch.linspace(0, 1, 5, dtype=torch.float64)
    bounded = diffusion.within(diffusion.constant(0.5), 0.2, 0.7)  # steps 2 and 3 of 4
    b, eta = counted("b", exact.velocity), counted("eta", exact.denoiser)
    regular = lambda x, t: calls.append("b") or -x  # noqa: E731
    steps = list(interpolate(linear(), regular, x, times, denoiser=eta, diffusion=bounded, noise=Shared(0)))
    assert calls == ["b", "b", "eta", "b", "eta", "b"]
    assert [(s.index, s.total, float(s.t)) for s in steps] == [(i, 4, i / 4) for i in range(1, 5)]
    torch.testing.assert_close(steps[0].clean, x - x)
    torch.testing.assert_close(steps[3].x, steps[3].clean)
    for bad in (
        dict(denoiser=None, noise=Shared(0)),
        dict(denoiser=eta, noise=None),
        dict(denoiser=eta, noise=Shared(0)),
    ):
        with pytest.raises(ValueError, match="denoiser, a Noise and gamma > 0"):
            run(interpolate(linear(), b, x, times, diffusion=diffusion.constant(), **bad))


def test_networks_in_float32_keep_it():
    x = torch.randn(4, 1, 3, 3)
    net = lambda x, t: 0.1 * x  # noqa: E731
    step = run(
        interpolate(
            linear(), net, x, torch.linspace(0.1, 0.9, 4).double(), denoiser=net,
            diffusion=diffusion.constant(), noise=Noise(0, 4),
        )
    )  # fmt: skip
    assert step.x.dtype == step.clean.dtype == torch.float32
    loss = velocity_loss(net, x, x + 1, torch.Generator().manual_seed(0), interpolant=linear())
    assert loss.shape == (4,)
    assert loss.dtype == torch.float32


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_with_networks_the_divergence_is_least_for_some_noise():
    """The paper's finding, KL(data | model) against eps is best inside; d = 4, five modes, small networks, one of the four trainings
    that `python -m flowhelm.bench.exact.interpolant` compares."""
    found = bench.compared(bench.law(), 1500, 4000, 0)
    floor = found.pop("the law itself")
    print(floor, found)
    gaps = {eps: abs(figures.divergence - floor.divergence) for eps, figures in found.items()}
    best = min(gaps, key=gaps.get)
    assert best not in ("0", "20")
    assert gaps[best] < 0.5 * min(gaps["0"], gaps["20"])
    assert abs(found["2"].surprise - floor.surprise) < 0.5 * abs(found["0"].surprise - floor.surprise)
