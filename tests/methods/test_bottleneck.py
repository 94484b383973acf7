"""Bottleneck sampling: moves between sizes have the right law, one stage is plain sampling, the cost is what the card says."""

from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from toys import PATHS, double, seeded

from flowhelm import GaussianFlow, NetFlow, Noise, Pixels, grids, integrate, run
from flowhelm.path import linear
from flowhelm.priors.unet import UNet
from flowhelm.sample import bottleneck
from flowhelm.transition import heun
from flowhelm.transition.resize import pooled, pooled_time, renoised, repeated, repeated_time, resized, smaller


@dataclass(frozen=True, eq=False)
class Plain(Pixels):
    """Pictures of one colour c ~ N(mean, std^2) each: averaging and repeating pixels keep their law. Exact at any size."""

    side: int = 8
    mean: float = 0.4
    std: float = 0.7
    path: object = linear

    @property
    def shape(self):
        return (1, self.side, self.side)

    @property
    def exact(self):
        d = self.side**2
        return GaussianFlow(double([self.mean] * d), torch.full((d, d), self.std**2).double(), self.path, self.shape)

    def velocity(self, x, t):
        return self.exact.velocity(x, t)

    def sized(self, height, width):
        return replace(self, side=height)


PAPER = {"down": 0.15, "up": 0.55, "back": 0.15, "smaller": "renoise", "larger": "renoise"}


def states(flow, t, rows=20000, seed=0):
    g = seeded(seed)
    c = flow.path(t)
    colour = flow.mean + flow.std * torch.randn(rows, 1, 1, 1, generator=g, dtype=torch.float64)
    return c.alpha * colour + c.sigma * torch.randn(rows, *flow.shape, generator=g, dtype=torch.float64)


def assert_law(x, flow, t, std=None):
    """Mean, and covariance over pixels: alpha^2 std^2 everywhere, and sigma^2 on the diagonal."""
    c, flat = flow.path(t), x.flatten(1)
    torch.testing.assert_close(flat.mean(0), (c.alpha * flow.mean).expand(flat.shape[1]), atol=0.04, rtol=0)
    wanted = (c.alpha * (flow.std if std is None else std)) ** 2 + c.sigma**2 * torch.eye(flat.shape[1]).double()
    torch.testing.assert_close(flat.T.cov(), wanted, atol=0.04, rtol=0)


@PATHS
@pytest.mark.parametrize("factor", [2, 4])
def test_pooled_and_repeated_states_have_the_law_of_their_time(path, factor):
    t = double(0.4)
    large = Plain(8 if factor == 4 else 4, path=path)
    small = smaller(large, factor)
    assert small.shape == (1, large.side // factor, large.side // factor)
    assert_law(pooled(small, states(large, t), t, factor), small, pooled_time(path, t, factor))
    x = states(small, t)
    assert_law(repeated(large, x, t, factor, Noise(1, len(x))), large, repeated_time(path, t, factor))


@PATHS
def test_repeating_is_undone_by_pooling(path):
    t, flow = double(0.55), Plain(4, path=path)
    x = states(flow, t, rows=3)
    s = repeated_time(path, t, 2)
    assert s < t
    torch.testing.assert_close(pooled_time(path, s, 2), t, atol=1e-9, rtol=0)
    again = pooled(flow, repeated(Plain(8, path=path), x, t, 2, Noise(0, 3)), s, 2)
    torch.testing.assert_close(again, x, atol=1e-8, rtol=0)


def test_times_of_the_linear_path_are_those_of_the_papers():
    """RALU with c = 1/4: e / (2 - e); and e / (e + (1 - e) / 2) for averages of 2 x 2."""
    for e in (0.0, 0.15, 0.4, 0.9, 1.0):
        assert float(repeated_time(linear, double(e), 2)) == pytest.approx(e / (2 - e), abs=1e-12)
        assert float(pooled_time(linear, double(e), 2)) == pytest.approx(e / (e + (1 - e) / 2), abs=1e-12)


@PATHS
def test_a_renoised_state_has_white_noise_and_the_variance_of_the_estimate(path):
    """The estimate of one colour from d noisy pixels has the variance std^4 / (std^2 + sigma^2 / (alpha^2 d)): less than the colour's."""
    t, large = double(0.3), Plain(8, path=path)
    x, c = states(large, t), path(t)
    clean = large.exact.ends(x, t).clean
    std = large.std**2 / float(large.std**2 + c.sigma**2 / (c.alpha**2 * 64)) ** 0.5
    assert std < large.std - 0.002
    small = smaller(large, 2)
    assert_law(renoised(small, clean, t, Noise(2, len(x))), small, t, std)


def test_resizing_keeps_the_mean():
    x = torch.rand(2, 3, 12, 20, generator=seeded(0), dtype=torch.float64)
    framed = torch.zeros(2, 3, 28, 36, dtype=torch.float64)
    framed[..., 8:20, 8:28] = x  # bicubic weights sum to 1 from every pixel, but for those that look over the edge
    for size in ((56, 72), (14, 18)):
        torch.testing.assert_close(resized(framed, *size).mean((2, 3)), framed.mean((2, 3)), atol=1e-12, rtol=0)
    torch.testing.assert_close(resized(torch.full((1, 1, 8, 8), 0.3), 4, 4), torch.full((1, 1, 4, 4), 0.3))
    assert resized(x, 12, 20) is x


@pytest.mark.parametrize("off", [{"down": 1.0}, {"down": 0.5, "up": 0.4}])
@pytest.mark.parametrize("times", [grids.uniform(7), grids.shifted(7, 5.0), grids.uniform(5, 0.2, 0.9)])
def test_one_stage_is_plain_sampling_to_the_bit(off, times):
    flow = Plain(4)
    x = states(flow, times[0], rows=3)
    one = list(bottleneck(flow, x, times, **off))
    plain = list(integrate(flow, x, times))
    assert len(one) == len(plain)
    for a, b in zip(one, plain, strict=True):
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.clean, b.clean)
        assert (a.index, a.total, float(a.t), float(a.info["rows"])) == (b.index, b.total, float(b.t), 1.0)


@pytest.mark.parametrize(
    ("smaller", "larger"), [("pool", "repeat"), ("renoise", "repeat"), ("pool", "renoise"), ("renoise", "renoise")]
)
def test_the_law_at_the_end(smaller, larger):
    """Pooled and repeated, it is the prior's own; a renoised colour has lost the variance that its estimate lacked, by hand."""
    flow, solver = Plain(4), partial(integrate, transition=heun)
    x = torch.randn(4000, *flow.shape, generator=seeded(3), dtype=torch.float64)
    noise = Noise(0, len(x))
    last = run(
        bottleneck(
            flow, x, grids.uniform(60), smaller=smaller, larger=larger, solver=solver, noise=noise, down=0.2, up=0.6
        )
    )
    assert last.t == 1
    assert last.x.shape == x.shape
    assert float(last.x.flatten(1).std(1).mean()) < 0.02  # of one colour
    colour, ratio = (
        last.x.mean((1, 2, 3)),
        1.0,
    )  # of the variance of a state's mean pixel and what it should be: a flow keeps it
    for rule, e, pixels, s, more in ((smaller, 0.2, 16, 0.2, 4), (larger, 0.6, 4, 0.45, 16)):
        if rule == "renoise":
            estimate = ratio * flow.std**4 / (flow.std**2 + ((1 - e) / e) ** 2 / pixels)
            spread = (1 - s) ** 2 / more
            ratio = (s**2 * estimate + spread) / (s**2 * flow.std**2 + spread)
    assert (ratio == 1) is ((smaller, larger) == ("pool", "repeat"))
    assert float(colour.mean()) == pytest.approx(flow.mean, abs=0.05)
    assert float(colour.var()) == pytest.approx(ratio * flow.std**2, rel=0.07)


def test_stages_sizes_and_times():
    flow = Plain(8)
    x = states(flow, double(0.0), rows=2)
    steps = list(bottleneck(flow, x, grids.uniform(20), **PAPER, noise=Noise(0, 2)))
    assert [s.index for s in steps] == list(range(1, steps[0].total + 1))
    assert [len(list(g)) for g in ([s for s in steps if s.x.shape[-1] == side] for side in (4, 8))] == [8, 15]
    assert all(s.clean.shape == x.shape for s in steps)
    t = [round(float(s.t), 3) for s in steps]
    assert t[:3] == [0.05, 0.1, 0.15]
    assert t[3:11] == [0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55]
    assert t[11:] == [0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0]


def test_history_ends_with_a_stage():
    """The solver is begun anew for each, from the state and the time that the change has made."""
    flow, begun = Plain(8), []

    def solver(flow, x, times, *, noise=None):
        begun.append((x.shape[-1], float(times[0]), float(times[-1])))
        return integrate(flow, x, times)

    x = states(flow, double(0.0), rows=2)
    run(bottleneck(flow, x, grids.uniform(20), down=0.15, up=0.55, solver=solver, noise=Noise(0, 2)))
    a, b = float(pooled_time(linear, double(0.15), 2)), float(repeated_time(linear, double(0.55), 2))
    assert begun == [(8, 0.0, 0.15), (4, pytest.approx(a), 0.55), (8, pytest.approx(b), 1.0)]


def test_shift_is_over_the_given_times():
    flow = Plain(8)
    x, times = states(flow, double(0.0), rows=2), grids.uniform(20)
    steps = list(bottleneck(flow, x, times, **PAPER, shift=0.5, noise=Noise(0, 2)))
    small = [float(s.t) for s in steps if s.x.shape[-1] == 4]
    inner = grids.shifted(20, 0.5)
    assert set(small[:-1]) <= set(inner.tolist())
    assert small[-1] == 0.55


def test_evaluations_and_flops_are_those_of_the_card():
    torch.manual_seed(0)
    flow = NetFlow(UNet((8, 16), 1), (3, 32, 32))
    x, times = flow.source(Noise(0, 2)), grids.uniform(20)

    def flops(call):
        with FlopCounterMode(display=False) as count:
            steps = list(call())
        return count.get_total_flops(), steps

    one, _ = flops(lambda: integrate(flow, x, grids.uniform(1)))
    fewer, _ = flops(lambda: integrate(flow.sized(16, 16), pooled(flow, x, times[0], 2), grids.uniform(1)))
    assert fewer / one == pytest.approx(1 / 4, rel=0.1)  # but for the embedding of time
    for options, estimates in ((PAPER, 1), ({}, 0)):
        spent, steps = flops(lambda options=options: bottleneck(flow, x, times, **options, noise=Noise(0, 2)))
        rows = [float(s.info["rows"]) for s in steps]
        assert set(rows) == {1, 0.25}
        assert spent == (rows.count(1) + estimates) * one + (rows.count(0.25) + estimates) * fewer


def test_what_is_refused():
    flow = Plain(6)
    x = states(flow, double(0.0), rows=1)
    with pytest.raises(ValueError, match="expected sides that 4 divides"):
        next(bottleneck(flow, x, grids.uniform(4), factor=4, noise=Noise(0, 1)))
    with pytest.raises(ValueError, match="any size, got GaussianFlow"):
        next(bottleneck(flow.exact, x, grids.uniform(4), noise=Noise(0, 1)))
    with pytest.raises(ValueError, match="expected a Noise"):
        list(bottleneck(flow, x, grids.uniform(8)))
    with pytest.raises(ValueError, match="expected factor a whole number of at least 2"):
        next(bottleneck(flow, x, grids.uniform(4), factor=1))
