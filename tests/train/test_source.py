"""Norm alignment and pruned starts, arXiv:2512.18184, against closed forms and against plain rejection."""

import math

import pytest
import torch
from toys import double, seeded

from flowhelm import GaussianFlow, MixtureFlow, NetFlow, Noise, integrate, run
from flowhelm.guide import PrunedSource, counted, on_path, pruned
from flowhelm.path import linear
from flowhelm.train import Batch, NormAligned, flow_matching, norm_ratio
from flowhelm.transition import heun

# ---- norm alignment


@pytest.mark.parametrize("shape", [(1,), (2,), (3,), (4, 8, 8)])
def test_the_mean_norm_of_the_source_is_that_of_chi(shape):
    d = math.prod(shape)
    known = {1: math.sqrt(2 / math.pi), 2: math.sqrt(math.pi / 2), 3: 2 * math.sqrt(2 / math.pi)}
    unit = torch.zeros(5, d)
    unit[:, 0] = 1
    ratio = norm_ratio(unit.view(5, *shape))
    assert ratio == pytest.approx(known.get(d, math.sqrt(d) * (1 - 1 / (4 * d) + 1 / (32 * d**2))), rel=1e-6)
    assert norm_ratio(4 * unit.view(5, *shape)) == pytest.approx(ratio / 4)
    assert norm_ratio(torch.randn(20_000, *shape, generator=seeded())) == pytest.approx(1, abs=0.02)


def test_the_mean_norm_is_not_the_root_of_the_mean_square():
    clean = torch.tensor([[3.0, 4.0], [0.0, 1.0]])  # norms 5 and 1
    assert norm_ratio(clean) == pytest.approx(math.sqrt(math.pi / 2) / 3)
    assert norm_ratio(torch.full((1, 3072), 55.4185 / math.sqrt(3072))) == pytest.approx(55.4212 / 55.4185, rel=1e-5)


@pytest.mark.parametrize("ratio", [0.4, 2.5])
def test_the_aligned_path_is_the_flow_of_the_scaled_data(mixture, ratio):
    aligned = MixtureFlow(mixture.weights, mixture.means, mixture.covariances, NormAligned(ratio))
    scaled = MixtureFlow(mixture.weights, ratio * mixture.means, ratio**2 * mixture.covariances)
    x = torch.randn(4, 2, dtype=torch.float64)
    for t in (double(0.0), double(0.3), double(0.999), double([0.1, 0.4, 0.6, 0.9])):
        torch.testing.assert_close(aligned.velocity(x, t), scaled.velocity(x, t), atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(aligned.ends(x, t).clean, scaled.ends(x, t).clean / ratio, atol=1e-10, rtol=1e-10)
        if t.ndim == 0 and t > 0:  # the ordinary prior again; logit t is shifted by log ratio
            back = on_path(aligned, linear)
            torch.testing.assert_close(back.velocity(x, t), mixture.velocity(x, t), atol=1e-7, rtol=1e-7)


def test_training_on_the_aligned_path_is_training_on_scaled_data(mixture):
    clean = mixture.sample(Noise(0, 64)).float()
    net = torch.nn.Linear(2, 2)
    velocity = torch.nn.Module()
    velocity.forward = lambda x, t: net(x) * t[:, None]
    ratio = norm_ratio(clean)
    aligned = flow_matching(NetFlow(velocity, (2,), NormAligned(ratio)), Batch(clean), seeded())
    scaled = flow_matching(NetFlow(velocity, (2,)), Batch(ratio * clean), seeded())
    torch.testing.assert_close(aligned, scaled)
    assert float((ratio * clean).norm(dim=1).mean()) == pytest.approx(math.sqrt(math.pi / 2), rel=1e-6)


def test_a_sample_of_an_aligned_flow_is_its_clean_end(gaussian):
    ratio = 1.7
    flow = GaussianFlow(gaussian.mean, gaussian.covariance, NormAligned(ratio))
    x = torch.randn(5, 2, dtype=torch.float64)
    end = run(integrate(flow, x, flow.times(200), transition=heun)).x
    expected = gaussian.map(x, double(0.0), double(1.0))  # both map a start to the same clean state
    one = double(1.0)
    torch.testing.assert_close(flow.ends(end, one).clean, expected, atol=2e-4, rtol=0)
    torch.testing.assert_close(end / ratio, expected, atol=2e-4, rtol=0)


# ---- pruned starts


def plain(start, count, seed=0):
    """Rejection as the paper writes it."""
    z = torch.randn(count, len(start.basis), generator=seeded(seed), dtype=torch.float64)
    along = (z / z.norm(dim=1, keepdim=True)) @ start.basis.double()
    worst = torch.where(start.empty[:, None], torch.stack([along, -along]), -1.0).amax((0, 2))
    return z[worst <= start.limit], worst


def rotation(d, seed=0):
    return torch.linalg.qr(torch.randn(d, d, generator=seeded(seed), dtype=torch.float64))[0].float()


def empty(d, above, below):
    mask = torch.zeros(2, d, dtype=torch.bool)
    mask[0, above] = True
    mask[1, below] = True
    return mask


CASES = {
    "one side": PrunedSource(rotation(3), empty(3, [0], []), 0.3),
    "other side": PrunedSource(rotation(3), empty(3, [], [0, 2]), 0.2),
    "both sides": PrunedSource(rotation(3), empty(3, [1], [1]), 0.25),
    "many": PrunedSource(rotation(16), empty(16, list(range(9)), [1, 2, 12, 13]), 0.35),
}


@pytest.mark.parametrize("name", CASES)
def test_the_law_is_that_of_plain_rejection(name):
    start, count = CASES[name], 2000
    d = len(start.basis)
    ours = start.sample(Noise(0, count)).double() @ start.basis.double()
    theirs, apart = plain(start, 200_000)
    theirs = theirs @ start.basis.double()
    toward = ours / ours.norm(dim=1, keepdim=True)
    worst = torch.where(start.empty[:, None], torch.stack([toward, -toward]), -1.0).amax((0, 2))
    assert worst.max() <= start.limit + 1e-6
    assert worst.max() > start.limit - 0.01

    def features(x):
        unit = x / x.norm(dim=1, keepdim=True)
        reach = torch.where(start.empty[:, None], torch.stack([unit, -unit]), -1.0).amax((0, 2))
        return torch.cat([x, x**2, x[:, :1] * x[:, 1:], unit**2, reach[:, None], reach[:, None] ** 2], dim=1)

    one, two = features(ours), features(theirs)
    z = (one.mean(0) - two.mean(0)) / (one.var(0) / len(one) + two.var(0) / len(two)).sqrt()
    print(f"{name}: {z.numel()} moments, largest difference {float(z.abs().max()):.1f} standard errors")
    assert z.abs().max() < 4
    radius = (x := ours.norm(dim=1)).sort().values  # chi(d) and independent of the direction
    gap = torch.special.gammainc(double(d / 2), radius**2 / 2) - (torch.arange(count) + 0.5) / count
    assert gap.abs().max() < 1.95 / math.sqrt(count)
    assert abs(float(torch.corrcoef(torch.stack([x, worst]))[0, 1])) < 3.3 / math.sqrt(count)
    apart = apart[apart <= start.limit].sort().values  # the greatest cosine, which the accept step would get wrong
    level = torch.searchsorted(apart, worst.sort().values) / len(apart)
    gap = float((level - (torch.arange(count) + 0.5) / count).abs().max())
    print(f"{name}: Kolmogorov distance of the greatest cosine {gap:.4f}")
    assert gap < 1.95 * math.sqrt(1 / count + 1 / len(apart))


def test_the_rates_are_those_of_both_samplers():
    for name, start in CASES.items():
        share = len(plain(start, 30_000)[0]) / 30_000
        drawn, passing = start.rates(2000)
        print(f"{name}: accepts {drawn:.2f} of its candidates; plain rejection {share:.4f}, said to be {passing:.4f}")
        assert passing == pytest.approx(share, rel=0.12)
        assert drawn > passing
    # in three dimensions a coordinate of a random unit vector is uniform on [-1, 1] (Archimedes)
    assert CASES["one side"].rates(2000).plain == pytest.approx((1 + 0.3) / 2, rel=0.06)
    assert CASES["both sides"].rates(2000).plain == pytest.approx(0.25, rel=0.1)


def test_high_dimension():
    # what the rejection rates of the paper's CIFAR-10 setting imply: 2600 of 6144 directions at 0.048
    d = 3072
    start = PrunedSource(torch.eye(d), empty(d, list(range(1300)), list(range(1300))), 0.048)
    drawn, passing = start.rates(300)
    print(f"d = 3072: accepts {drawn:.2f} of its candidates, plain rejection would {passing:.1e}")
    assert drawn > 0.2
    assert 1e-5 < passing < 1e-4
    x = start.sample(Noise(0, 20)).double()
    assert (x[:, :1300] / x.norm(dim=1, keepdim=True)).abs().max() <= 0.048 + 1e-7
    assert float(x.norm(dim=1).mean()) == pytest.approx(math.sqrt(d), abs=4 * math.sqrt(0.5 / 20))


@pytest.mark.slow
def test_the_rejection_rates_of_the_paper():
    # arXiv:2512.18184 gives the share rejected at five limits for one set of directions; one number, how many there
    # are, has to explain them all. 1300 axes with both signs is the value that fits
    d, shown = 3072, []
    for limit, published in [(0.05, 0.9994), (0.055, 0.949), (0.06, 0.701), (0.07, 0.119), (0.08, 0.0097)]:
        start = PrunedSource(torch.eye(d), empty(d, list(range(1300)), list(range(1300))), limit)
        share = 1 - start.rates(1000).plain
        shown.append(f"{limit}: {share:.4f} ({published})")
        assert share == pytest.approx(published, abs=0.05)
    print("rejected by plain sampling (published):", "; ".join(shown))


def wedge(count, seed=0):
    """Data in the plane within 40 degrees of the first axis, at radius 3 to 4, seen in three dimensions, turned."""
    generator = seeded(seed)
    angle = (torch.rand(count, generator=generator) - 0.5) * math.radians(80)
    radius = 3 + torch.rand(count, generator=generator)
    third = 0.05 * torch.randn(count, generator=generator)
    return torch.stack([radius * angle.cos(), radius * angle.sin(), third], dim=1) @ rotation(3, 5).T


def test_fit_finds_where_no_data_lie():
    clean, turn = wedge(2000), rotation(3, 5)
    start = PrunedSource.fit(clean, tau=0.2, tau_r=0.5)
    toward = clean / clean.norm(dim=1, keepdim=True)
    torch.testing.assert_close(start.basis.T @ start.basis, torch.eye(3), atol=1e-5, rtol=0)
    reach = torch.stack([(toward @ start.basis).amax(0), (-toward @ start.basis).amax(0)])
    assert torch.equal(start.empty, reach <= 0.2)
    found = torch.stack([start.basis, -start.basis]).mT[start.empty]  # the empty directions
    # behind the wedge, and both ways out of its plane; the two sides of the second axis are reached (sin 40 degrees = 0.64)
    expected = torch.stack([-turn[:, 0], turn[:, 2], -turn[:, 2]])
    assert len(found) == 3
    assert (expected @ found.T).amax(1).min() > 0.99
    x = start.sample(Noise(0, 500))
    assert ((x / x.norm(dim=1, keepdim=True)) @ found.T).max() <= 0.5 + 1e-6


def test_each_row_is_its_own():
    start = CASES["many"]
    flow = pruned(GaussianFlow(torch.zeros(16), torch.eye(16), shape=(1, 4, 4)), start)
    together = flow.source(Noise(4, ["a", "b", "c", 7]))
    assert together.shape == (4, 1, 4, 4)
    assert together.dtype == torch.float32
    for i, key in enumerate(["a", "b", "c", 7]):
        assert torch.equal(flow.source(Noise(4, [key]))[0], together[i])
    noise = Noise(4, ["a", "b"])
    first, second = flow.source(noise), flow.source(noise)
    assert not torch.equal(first, second)  # another draw of the same streams is another start
    after, apart = Noise(4, ["c", "b"]), Noise(4, ["b"])
    flow.source(after), flow.source(apart)
    assert torch.equal(
        after(torch.empty(2, 3))[1], apart(torch.empty(1, 3))[0]
    )  # and what follows is the row's own too


def test_only_the_source_changes(mixture):
    start = PrunedSource(torch.eye(2), empty(2, [0], []), 0.1)
    flow, x, t = pruned(mixture, start), torch.randn(3, 2, dtype=torch.float64), double(0.4)
    assert torch.equal(flow.velocity(x, t), mixture.velocity(x, t))
    assert (flow.path, flow.shape, flow.pixels) == (mixture.path, mixture.shape, mixture.pixels)
    outer = counted(flow)  # and other edits hand it on
    assert torch.equal(outer.source(Noise(1, 3)), flow.source(Noise(1, 3)))
    cosine = flow.source(Noise(1, 200))
    assert (cosine[:, 0] / cosine.norm(dim=1)).max() <= 0.1 + 1e-6


def test_errors():
    clean = wedge(200)
    with pytest.raises(ValueError, match=r"no direction is empty at tau = -0\.9999: the least reach is .*raise tau"):
        PrunedSource.fit(clean, tau=-0.9999, tau_r=0.5)
    with pytest.raises(ValueError, match="at least as many clean states as they have elements, 3, got 2"):
        PrunedSource.fit(clean[:2], tau=0.1, tau_r=0.5)
    with pytest.raises(ValueError, match=r"tau < tau_r, got 0\.5 and 0\.5"):
        PrunedSource.fit(clean, tau=0.5, tau_r=0.5)
    with pytest.raises(ValueError, match=r"a limit in \(0, 1\)"):
        PrunedSource.fit(clean, tau=0.2, tau_r=1.5)
    with pytest.raises(ValueError, match=r"expected a basis \(d, d\), empty \(2, d\)"):
        PrunedSource(torch.eye(3), torch.ones(3, dtype=torch.bool), 0.1)
    every = PrunedSource(torch.eye(3), torch.ones(2, 3, dtype=torch.bool), 0.3, attempts=20)  # no unit vector passes
    with pytest.raises(ValueError, match=r"no start in 20 attempts: 6 empty directions at 0\.3"):
        every.sample(Noise(0, 1))
    assert every.rates(50) == (0.0, 0.0)
    with pytest.raises(ValueError, match="expected a start of 2 elements, got 3"):
        pruned(GaussianFlow(torch.zeros(2), torch.eye(2)), every)
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="ratio > 0"):
            NormAligned(bad)
    with pytest.raises(ValueError, match="positive mean norm"):
        norm_ratio(torch.zeros(3, 2))
