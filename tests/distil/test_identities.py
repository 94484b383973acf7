"""The losses of flow maps vanish at the exact map of a normal law, for each reason that its paper gives, and not beside it."""

from functools import partial

import pytest
import torch
from maps import LAW, Exact, Weight, generator, samples
from toys import double

from flowhelm import NetFlow, Noise, distil
from flowhelm.flow_map import NetMap, along, jump, onwards
from flowhelm.grad import per_row
from flowhelm.learning import Batch, empty
from flowhelm.learning.batches import instants
from flowhelm.path import mix

ROWS = 64
TIMES = torch.rand(ROWS, generator=generator(9), dtype=torch.float64)


def exact(off=0.0):
    return Exact(net=Weight(off))


@pytest.fixture
def batch():
    return Batch(samples(ROWS))


def test_the_velocity_is_the_average_over_no_time():
    x = samples(ROWS)
    assert torch.allclose(exact().velocity(x, TIMES), LAW.velocity(x, TIMES))
    assert torch.allclose(exact().average(x, TIMES, TIMES + 1e-7), LAW.velocity(x, TIMES), atol=1e-5)


@pytest.mark.parametrize("step", [None, 1e-4])
def test_along_the_flow_the_average_changes_as_the_identity_says(step):
    """v = u - (t - s) du/ds with the later time fixed."""
    x, s = samples(ROWS), 0.9 * TIMES
    t = s + (1 - s) * 0.7
    u, change = along(exact().average, x, s, t, LAW.velocity(x, s), step=step)
    assert torch.allclose(u - per_row(t - s, x) * change, LAW.velocity(x, s), atol=1e-9 if step is None else 1e-6)
    assert (change.abs() > 0.05).any()


@pytest.mark.parametrize("step", [None, 1e-4])
def test_from_the_source_on_the_velocity_is_met(step):
    """v(f, t) = F + t dF/dt with the source fixed: FreeFlow's identity."""
    z, t = torch.randn(ROWS, 2, dtype=torch.float64), 0.05 + 0.9 * TIMES
    u, change = onwards(exact().average, z, t, step=step)
    found = LAW.velocity(z + per_row(t, z) * u, t)
    assert torch.allclose(u + per_row(t, z) * change, found, atol=1e-9 if step is None else 1e-6)


LOSSES = {
    "mean_flow": partial(distil.mean_flow, teacher=LAW, same=0.3, power=0.0),
    "mdt_dist": partial(distil.mdt_dist, teacher=LAW),
    "mdt_dist by differences": partial(distil.mdt_dist, teacher=LAW, step=1e-4),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_vanish_at_the_exact_map_only(name, batch):
    assert LOSSES[name](exact(), batch, generator()).max() < 1e-12
    assert LOSSES[name](exact(0.1), batch, generator()).mean() > 1e-4


def test_the_loss_of_data_is_least_at_the_exact_map():
    """Without a teacher the target is noisy; its mean is the identity all the same, so the gradient vanishes on average."""
    many, student = Batch(samples(200_000)), exact()
    distil.mean_flow(student, many, generator(), same=0.5, power=0.0).mean().backward()
    beside = exact(0.05)
    distil.mean_flow(beside, many, generator(), same=0.5, power=0.0).mean().backward()
    assert student.net.off.grad.abs() < 0.01
    assert beside.net.off.grad.abs() > 0.04


def test_consistency_vanishes_with_the_step(batch):
    sizes = [
        float(distil.consistency(exact(), batch, generator(), teacher=LAW, step=h, floor=1e-12).mean())
        for h in (0.02, 0.01)
    ]
    assert sizes[0] / sizes[1] == pytest.approx(2, rel=0.2)  # what a step of Euler misses, divided by its length
    assert sizes[1] < 0.05
    assert distil.consistency(exact(0.3), batch, generator(), teacher=LAW, step=0.01).mean() > 3 * sizes[1]


class Critic(torch.nn.Module):
    def __init__(self, flow, off=0.0):
        super().__init__()
        self.flow, self.off = flow, torch.nn.Parameter(torch.tensor(off, dtype=torch.float64))

    def forward(self, x, t):
        return self.flow.velocity(x, t) + self.off


def watched(off=0.0, critic=0.0):
    student = exact(off)
    held = distil.Watched(student.net, Critic(LAW, critic))
    held.off = student.net.off
    return Exact(net=held)


def test_free_flow_is_at_rest_at_the_exact_map():
    student = watched()
    rows = empty(4096)(0)
    loss = partial(distil.free_flow, teacher=LAW, power=0.0, predictor=0.5)
    assert loss(student, rows, generator())[:2048].max() < 1e-12
    loss(student, rows, generator()).mean().backward()
    assert student.net.off.grad.abs() < 1e-9  # the predictor's error is 0, and so is the difference of the velocities
    assert student.net.critic.off.grad.abs() < 0.1  # noise of a mean
    spoilt = watched(0.1)
    assert loss(spoilt, rows, generator())[:2048].mean() > 1e-4


def test_the_corrector_moves_pictures_against_the_difference_of_velocities():
    """Its gradient in F is critic - teacher, a constant here: that of the reverse divergence, of weight 1."""
    rows, ahead = empty(512)(0), 0.3
    student = watched(0.0, critic=ahead)
    loss = distil.free_flow(student, rows, generator(), teacher=LAW, power=0.0, predictor=0.0)
    (found,) = torch.autograd.grad(loss.sum(), student.net.off)
    z = torch.randn(512, 2, generator=generator(), dtype=torch.float64)
    slope = torch.sin(3 * z + 3)  # of F(z, 1) in the weight
    assert torch.allclose(found, (slope * ahead).sum() / 2, rtol=1e-9)  # means over 2 numbers


def test_free_flow_reads_no_data():
    class Unread:
        def __init__(self, rows):
            self.rows = rows

        def __len__(self):
            return self.rows

        def __getattr__(self, name):
            raise AssertionError(f"data were read: {name}")

    batch = Batch(Unread(8))  # type: ignore[arg-type]
    assert distil.free_flow(watched(), batch, generator(), teacher=LAW).isfinite().all()


def test_the_distillation_of_mdt_is_the_gap_of_marginal_velocities(batch):
    """A student of another law: D is its marginal velocity less the teacher's, whatever x is."""
    other = type(LAW)(double([1.5, 0.2]), double([[0.4, 0.0], [0.0, 1.2]]))
    student, x, t = Exact(law=other), samples(ROWS), TIMES
    one = torch.ones_like(t)
    change = along(student.average, x, t, one, LAW.velocity(x, t))[1]
    apart = student.average(x, t, one) - per_row(1 - t, x) * change - LAW.velocity(x, t)
    # phi - (1 - t) dphi along the *student's* velocity is that velocity; along the teacher's it is that to first order in the gap
    own = along(student.average, x, t, one, other.velocity(x, t))[1]
    assert torch.allclose(student.average(x, t, one) - per_row(1 - t, x) * own, other.velocity(x, t), atol=1e-9)
    gap = other.velocity(x, t) - LAW.velocity(x, t)
    assert torch.nn.functional.cosine_similarity(apart, gap, dim=1).mean() > 0.9


@pytest.mark.parametrize("h", [0.0, 0.7, 3.0])
def test_a_stochastic_jump_keeps_the_law(h):
    """Where the map is exact, the state after it has the marginal law of its time."""
    rows = 40_000
    s, t = (torch.tensor(time, dtype=torch.float64) for time in (0.3, 0.65))
    clean, noise = samples(rows), torch.randn(rows, 2, generator=generator(), dtype=torch.float64)
    x = jump(
        exact(),
        mix(LAW.path, noise, clean, s),
        s,
        t,
        torch.randn(rows, 2, generator=generator(1), dtype=torch.float64),
        h=h,
    )
    assert torch.allclose(x.mean(0), t * LAW.mean, atol=0.015)
    assert torch.allclose(
        x.T.cov(), t**2 * LAW.covariance + (1 - t) ** 2 * torch.eye(2, dtype=torch.float64), atol=0.015
    )
    if h == 0:
        assert torch.allclose(x, LAW.map(mix(LAW.path, noise, clean, s), s, t))


def test_maps_compose():
    """The semigroup: s to t to r is s to r."""
    x, (s, t, r) = samples(16), double([0.1, 0.4, 0.9])
    assert torch.allclose(exact().map(exact().map(x, s, t), t, r), exact().map(x, s, r))
    assert not torch.allclose(exact(0.1).map(exact(0.1).map(x, s, t), t, r), exact(0.1).map(x, s, r), atol=1e-3)


def test_guidance_is_inside():
    with pytest.raises(ValueError, match="without guidance"):
        exact().bind(guidance=lambda given, without, t: given)
    assert isinstance(exact(), NetMap)
    assert isinstance(exact(), NetFlow)
    assert exact().source(Noise(0, 2)).shape == (2, 2)


def test_the_distillation_of_mdt_moves_pictures_against_the_gap():
    """Its gradient in phi is D, that of the reverse divergence: recomputed here from the same draws."""
    batch = Batch(samples(ROWS), (), torch.randn(ROWS, 2, generator=generator(4), dtype=torch.float64))
    other = type(LAW)(double([1.5, 0.2]), double([[0.4, 0.0], [0.0, 1.2]]))
    whole, matching = (exact() for _ in range(2))
    distil.mdt_dist(whole, batch, generator(), teacher=other).sum().backward()
    distil.mdt_dist(matching, batch, generator(), teacher=other, distillation=0.0).sum().backward()
    draws, like = generator(), batch.source
    instants(like, draws)
    start, noise = (torch.randn(like.shape, generator=draws, dtype=like.dtype) for _ in range(2))
    student, one, t = exact(), torch.ones(ROWS, dtype=torch.float64), instants(like, draws)
    x = mix(LAW.path, noise, start + student.average(start, 0 * one, one), t)
    v = other.velocity(x, t)
    apart = student.average(x, t, one) - per_row(1 - t, x) * along(student.average, x, t, one, v)[1] - v
    slope = torch.sin(3 * start + 3)  # of phi(start, 0) in the weight
    assert torch.allclose(whole.net.off.grad - matching.net.off.grad, (slope * apart).detach().sum() / 2, rtol=1e-9)
