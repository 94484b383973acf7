"""The mixture of π-Flow: Bayes' rule, its path, how it begins, and what is learnt of it."""

from dataclasses import dataclass
from functools import partial

import pytest
import torch
from maps import Weight, generator
from toys import PATHS, double

import flowhelm
from flowhelm import GaussianFlow, MixtureFlow, NetFlow, Noise, distil
from flowhelm.learning import empty
from flowhelm.path import linear
from flowhelm.policy import Mixture, PiFlow, mixed, without
from flowhelm.priors import pi

WIDTHS, MEANS, SPREAD = double([0.5, 0.3, 0.2]), double([[1.0, -0.5], [-1.2, 0.4], [0.2, 1.5]]), 0.3


def law(path=linear):
    return MixtureFlow(WIDTHS, MEANS, SPREAD**2 * torch.eye(2).double().expand(3, 2, 2), path)


def seen(x, s, path=linear, off=0.0, pieces=16):
    """The law of the clean state, given x at s, from a mixture: textbook formulas of each component."""
    c = path(s)
    variance = 1 / (1 / SPREAD**2 + (c.alpha / c.sigma) ** 2)
    means = variance * (MEANS / SPREAD**2 + (c.alpha / c.sigma**2 * x)[:, None])
    wide = c.alpha**2 * SPREAD**2 + c.sigma**2
    logits = WIDTHS.log() - (x[:, None] - c.alpha * MEANS).square().sum(-1) / (2 * wide)
    return Mixture(means + off, logits[..., None], variance.expand(len(x), 1, 1), x, s, path, pieces)


def states(rows=64):
    return torch.randn(rows, 2, generator=generator(1), dtype=torch.float64)


@PATHS
@pytest.mark.parametrize("s", [0.0, 0.4])
def test_a_mixture_seen_from_a_state_is_the_flow_of_its_law_everywhere(path, s):
    """What is left of p(clean | x_s) at another state and time is p(clean | x_t), whatever the first state was."""
    flow, p = law(path), seen(states(), double(s), path)
    for t in (0.05, 0.4, 0.8, 0.99):
        y = 2 * states().flip(0)
        assert torch.allclose(p.velocity(y, double(t)), flow.velocity(y, double(t)), rtol=1e-9, atol=1e-9)
    each = torch.linspace(0.1, 0.9, 64, dtype=torch.float64)
    assert torch.allclose(p.velocity(y, each), flow.velocity(y, each), rtol=1e-9, atol=1e-9)


def test_its_path_is_the_integral_of_its_velocity():
    """That of one part is known: a normal law keeps a state's place in it; that of several is integrated by Runge and Kutta."""
    a, b, x = double(0.2), double(0.95), states()
    wide = lambda t: ((t * SPREAD) ** 2 + (1 - t) ** 2).sqrt()  # noqa: E731
    one = seen(x, a, pieces=3000)._replace(logits=double([0.0, -1e9, -1e9])[:, None].expand(64, 3, 1))
    assert torch.allclose(one.moved(x, a, b), b * MEANS[0] + (x - a * MEANS[0]) * wide(b) / wide(a), atol=1e-6)
    flow, y, h = law(), x, (b - a) / 400
    for t in a + h * torch.arange(400):
        k = flow.velocity(y, t)
        m = flow.velocity(y + h / 2 * k, t + h / 2)
        n = flow.velocity(y + h / 2 * m, t + h / 2)
        y = y + h / 6 * (k + 2 * m + 2 * n + flow.velocity(y + h * n, t + h))
    coarse, fine = ((seen(x, a, pieces=n).moved(x, a, b) - y).square().mean().sqrt() for n in (128, 256))
    assert 1.8 < float((coarse / fine).log2()) < 2.2
    assert fine < 1e-4
    p = seen(x, a)
    assert torch.allclose(x + (b - a) * p.average(x, a, b), p.moved(x, a, b))
    assert torch.allclose(p.average(x, a, a), p.velocity(x, a))


@pytest.fixture(scope="module")
def fashion():
    return flowhelm.load("fashion").told(["coat", "bag"])


def test_a_student_begins_with_the_teachers_step(fashion):
    x, s, t = fashion.source(Noise(0, 2)), double(0.1), double(0.6)
    with torch.no_grad():
        v = fashion.velocity(x, s)
        narrow, wide = (pi(fashion, parts=3, spread=spread, noise=0.0) for spread in (1e-4, 0.5))
        assert torch.allclose(narrow.map(x, s, t), x + 0.5 * v, atol=1e-4)  # Euler's
        assert not torch.allclose(wide.map(x, s, t), x + 0.5 * v, atol=1e-2)
        apart = pi(fashion, parts=3)
        assert torch.allclose(apart.velocity(x, s), apart.mixture(x, s).velocity(x, s), atol=1e-5)
        assert apart.mixture(x, s).means.std(1).mean() > 0.01
        rows = apart.mixture(x, torch.stack([s, t]).float())
        for row, when in enumerate((s, t)):
            alone = apart.mixture(x, when)
            assert torch.allclose(rows.means[row], alone.means[row], atol=1e-5)
            assert torch.allclose(rows.variance[row], alone.variance[row], atol=1e-5)


def test_parts_are_dropped_but_never_all():
    p = seen(states(200), double(0.3))
    thin = p.thinned(0.99, generator())
    assert torch.equal(thin.logits, without(p.logits, 0.99, generator()))
    assert ((thin.logits == -torch.inf).sum(1) == 2).double().mean() > 0.9
    assert thin.velocity(states(200), double(0.5)).isfinite().all()


@dataclass(frozen=True, eq=False)
class Knows(PiFlow):
    """Its mixture is that of the teacher's law, shifted by a weight."""

    net: torch.nn.Module
    shape: tuple[int, ...] = (2,)
    pieces: int = 200

    def mixture(self, x, s):
        return seen(x, s, off=self.net.off, pieces=self.pieces)


@dataclass(frozen=True, eq=False)
class Teaches(NetFlow):
    net: torch.nn.Module
    shape: tuple[int, ...] = (2,)

    def velocity(self, x, t):
        return law().velocity(x, t)


@pytest.mark.parametrize("segments", [1, 3])
def test_pi_flow_is_at_rest_where_the_mixture_is_the_teachers(segments):
    """At last, on the student's own states; before, the mean over a hop is compared with its beginning, as published."""
    loss = partial(distil.pi_flow, teacher=Teaches(Weight()), segments=segments, drop=0.0)
    own = empty(8)(0)._replace(number=10**6)
    assert loss(Knows(Weight()), own, generator()).max() < 1e-12
    assert loss(Knows(Weight(0.2)), own, generator()).mean() > 1e-2
    assert 1e-6 < loss(Knows(Weight()), empty(8)(0), generator()).mean() < 1.0


def test_a_path_goes_by_the_policy_and_by_the_teacher_in_turns():
    """By the policy alone it is the policy's path; by the teacher alone it covers the whole length in straight hops."""
    one = GaussianFlow(double([0.6, -0.4]), double([[0.9, 0.5], [0.5, 0.6]]))
    x, p = states(8), seen(states(8), double(0.0), pieces=2000)
    for y, s, u, hop in mixed(p, one, x, double(0.0), 0.5, 4, 0.0, generator()):
        assert float(hop) == 0
        assert torch.allclose(u, one.velocity(y, s))
        assert torch.allclose(y, p.moved(x, double(0.0), s), atol=1e-5)
    walked, y = double(0.0), x
    for z, s, u, hop in mixed(p, one, x, double(0.0), 0.5, 4, 1.0, generator()):
        assert torch.allclose(z, y)
        assert torch.allclose(s, walked)
        walked, y = walked + hop, y + hop * u
    assert float(walked) == pytest.approx(0.5)
