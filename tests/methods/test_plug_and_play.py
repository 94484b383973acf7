"""HQS, PnP-ADMM and RED: exact where their fixed points are known, and DPIR as deepinv runs it."""

from itertools import pairwise

import pytest
import torch

from flowhelm import (
    GaussianFlow,
    Linear,
    Measurement,
    NetFlow,
    Noise,
    begin,
    grids,
    guide,
    load,
    operators,
    restore,
    run,
    simulate,
)
from flowhelm.path import linear, trig
from flowhelm.start import filled, grid, guess

EYE = torch.eye(3, dtype=torch.float64)
A = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, -0.3]], dtype=torch.float64)
STD = 0.3


class Matrix(Linear):
    """z -> A z, with the prox of a dense matrix."""

    def __init__(self):
        super().__init__(lambda z: z @ A.T, (3,), tolerance=1e-14, iterations=50)


@pytest.fixture
def gaussian():
    root = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    return lambda path: GaussianFlow(torch.tensor([0.2, -0.4, 0.1], dtype=torch.float64), root @ root.T / 3, path)


@pytest.fixture
def measured():
    return Measurement(torch.tensor([[0.7, -0.2]], dtype=torch.float64), Matrix(), STD)


def still(level, steps, path):
    """A grid that stays at one noise level."""
    t = grids.levels(1, path, level, level)[0]
    return torch.cat([t.repeat(steps), torch.ones(1, dtype=torch.float64)])


def denoiser(flow, r):
    """Matrix D and vector d with E[clean | clean + r noise = z] = D z + d."""
    gain = flow.covariance @ torch.linalg.inv(flow.covariance + r**2 * EYE)
    return gain, flow.mean - gain @ flow.mean


@pytest.mark.parametrize("path", [linear, trig])
@pytest.mark.parametrize("weight", [0.4, 1.0])
def test_admm_ends_at_the_posterior_mean(gaussian, measured, path, weight):
    """A Gaussian's denoiser is the prox of its energy, so PnP-ADMM at one level minimises |A x - y|^2 / (2 weight std^2) + energy."""
    flow, precision = gaussian(path), weight * STD**2
    inverse = torch.linalg.inv(flow.covariance)
    expected = torch.linalg.solve(A.T @ A / precision + inverse, A.T @ measured.y[0] / precision + inverse @ flow.mean)
    x = torch.zeros(1, 3, dtype=torch.float64)
    found = run(restore.pnp_admm(flow, measured, x, still(0.5, 300, path), weight=weight)).x
    torch.testing.assert_close(found[0], expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("path", [linear, trig])
def test_hqs_ends_at_the_least_of_the_split_energy(gaussian, measured, path):
    """min over z and x of |A z - y|^2 / (2 std^2) + w |z - x|^2 / (2 r^2) + w energy(x): its normal equations are linear."""
    flow, r, w = gaussian(path), 0.5, 0.23
    inverse = torch.linalg.inv(flow.covariance)
    whole = torch.cat(
        [
            torch.cat([A.T @ A / STD**2 + w / r**2 * EYE, -w / r**2 * EYE], 1),
            torch.cat([-w / r**2 * EYE, w / r**2 * EYE + w * inverse], 1),
        ]
    )
    right = torch.cat([A.T @ measured.y[0] / STD**2, w * inverse @ flow.mean])
    expected = torch.linalg.solve(whole, right)[3:]
    x = torch.ones(1, 3, dtype=torch.float64)
    found = run(restore.hqs(flow, measured, x, still(r, 300, path), weight=w)).x
    torch.testing.assert_close(found[0], expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("momentum", [0.3, 0.8])
def test_momentum_of_hqs_is_a_second_order_recurrence(gaussian, measured, momentum):
    """On a Gaussian a step is x -> M x + b; with momentum the errors follow e' = M ((1 + m) e - m e before), to the same end."""
    flow, r, w = gaussian(linear), 0.5, 0.23
    gain, _ = denoiser(flow, r)
    fit = torch.linalg.inv(A.T @ A / STD**2 + w / r**2 * EYE) * w / r**2
    x = torch.ones(1, 3, dtype=torch.float64)
    steps = [step.x[0] for step in restore.hqs(flow, measured, x, still(r, 300, linear), weight=w, momentum=momentum)]
    end = run(restore.hqs(flow, measured, x, still(r, 300, linear), weight=w)).x[0]
    torch.testing.assert_close(steps[-1], end, atol=1e-9, rtol=0)
    errors = [x[0] - end, *(step - end for step in steps[:6])]
    torch.testing.assert_close(errors[1], gain @ fit @ errors[0], atol=1e-9, rtol=0)
    for before, now, after in zip(errors, errors[1:], errors[2:], strict=False):
        torch.testing.assert_close(after, gain @ fit @ ((1 + momentum) * now - momentum * before), atol=1e-9, rtol=0)


@pytest.mark.parametrize("path", [linear, trig])
def test_red_ends_where_its_gradient_is_zero(gaussian, measured, path):
    """A^T (A x - y) / std^2 + w / r^2 (x - D(x)) = 0, the gradient of RED's energy."""
    flow, r, w = gaussian(path), 0.5, 0.7
    x = torch.ones(1, 3, dtype=torch.float64)
    found = run(restore.red(flow, measured, x, still(r, 300, path), weight=w)).x[0]
    gain, shift = denoiser(flow, r)
    gradient = A.T @ (A @ found - measured.y[0]) / STD**2 + w / r**2 * (found - gain @ found - shift)
    assert gradient.abs().max() < 1e-8


def test_one_step_of_hqs_on_noise_is_the_posterior_mean(mixture):
    """On a picture with nothing but noise: one evaluation at the noise's level, E[clean | y], whatever the weight."""
    y = Measurement(torch.randn(5, 2, dtype=torch.float64), Linear(lambda z: z, (2,)), 0.4)
    exact = mixture.posterior(torch.eye(2).double(), y.y[0], 0.16 * torch.eye(2).double())
    mean = (exact.weights[:, None] * exact.means).sum(0)
    x, times = begin(restore.hqs, mixture, y, 1)
    found = run(restore.hqs(mixture, y, x, times, weight=0.7)).x[0]
    torch.testing.assert_close(found, mean, atol=1e-9, rtol=0)


@pytest.mark.parametrize("task", ["deblur", "average"])
def test_hqs_is_dpir(task):
    """deepinv's DPIR with the same denoiser, from the same start: levels, weights and order of the moves."""
    from deepinv.optim import DPIR

    from flowhelm.bench.rivals.deepinv import Handed
    from flowhelm.operators.bridge import to_unit

    flow = load("photos").sized(32, 32)
    builder = {"deblur": lambda: operators.deblur(flow.shape, sigma=1.0, border="circular"),
               "average": lambda: operators.superres(flow.shape, factor=2)}[task]  # fmt: skip
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) - 0.5
    y = simulate(builder(), picture, 0.06, Noise(0, rows=1))
    physics = builder()
    y01, std01 = to_unit(physics, y.y, y.std)
    first = guess(y)
    with torch.no_grad():
        theirs = 2 * DPIR(sigma=std01, denoiser=Handed(flow))(y01, physics, init=(first + 1) / 2) - 1
    ours = run(restore.hqs(flow, y, *begin(restore.hqs, flow, y, 8), looks="upright")).x
    scale = (ours - first).abs().max()
    assert (ours - theirs).abs().max() < 1e-3 * scale


class Half(torch.nn.Module):
    def forward(self, x, t):
        return -x / 2


LOOKS = {
    "upright": [lambda z: z], "mirrored": [lambda z: z, lambda z: z.flip(-1)],
    "turned": [
        lambda z: z, lambda z: z.flip(-1), lambda z: z.flip(-2), lambda z: torch.rot90(z, 2, (-2, -1)),
        lambda z: z.mT, lambda z: torch.rot90(z, 1, (-2, -1)), lambda z: torch.rot90(z, -1, (-2, -1)), lambda z: z.flip(-2, -1).mT,
    ],
}  # fmt: skip


@pytest.mark.parametrize("looks", LOOKS)
def test_hqs_looks_at_the_picture_in_turn(looks):
    """A look at a turned picture is one of the prior, turned back, at the picture as it is, which is the last."""
    shape = (1, 2, 3)
    draw = torch.Generator().manual_seed(1)
    root = torch.randn(6, 6, dtype=torch.float64, generator=draw)
    mean, covariance = torch.randn(6, dtype=torch.float64, generator=draw), root @ root.T / 6
    flow = GaussianFlow(mean, covariance, shape=shape)
    y = Measurement(torch.randn(1, *shape, dtype=torch.float64, generator=draw), Linear(lambda z: 0.5 * z, shape), STD)
    start, times = torch.zeros(1, *shape, dtype=torch.float64), grids.levels(9, linear, 1.5, STD)
    found = [step.x for step in restore.hqs(flow, y, start, times, looks=looks)]
    x = start
    for i, got in enumerate(found):
        look = LOOKS[looks][(8 - i) % len(LOOKS[looks])]
        order = look(torch.arange(6).view(shape)).flatten().argsort()
        turned = GaussianFlow(mean[order], covariance[order][:, order], shape=shape)
        x = run(restore.hqs(turned, y, x, times[i : i + 2], looks="upright")).x
        torch.testing.assert_close(got, x, atol=1e-12, rtol=0)
    if looks == "upright":  # nothing is known of whether such a prior may be mirrored
        torch.testing.assert_close(run(restore.hqs(flow, y, start, times)).x, found[-1], atol=0, rtol=0)
    # the last one by all of them
    every, before = [], found[-2]
    for look in LOOKS[looks]:
        order = look(torch.arange(6).view(shape)).flatten().argsort()
        turned = GaussianFlow(mean[order], covariance[order][:, order], shape=shape)
        every.append(run(restore.hqs(turned, y, before, times[-2:], looks="upright")).x)
    counting = guide.counted(flow)
    last = run(restore.hqs(counting, y, start, times, looks=looks, ensemble=True)).x
    torch.testing.assert_close(last, torch.stack(every).mean(0), atol=1e-12, rtol=0)
    assert counting.count.calls == 8 + len(every)


class Slanted(torch.nn.Module):
    def forward(self, x, t):
        return torch.linspace(-1, 1, x.shape[-1]).to(x) - x / 2


def test_looks_are_those_that_the_prior_was_made_for(gaussian, measured):
    flow = NetFlow(Slanted(), (3, 8, 8), looks="turned")
    wrapped = guide.counted(flow)
    y = simulate(operators.superres(flow.shape, factor=2), torch.rand(1, 3, 8, 8), 0.2, Noise(0, 1))
    x, times = begin(restore.hqs, flow, y, 4)
    assert wrapped.looks == flow.looks
    turned = run(restore.hqs(flow, y, x, times, looks="turned")).x
    assert torch.equal(run(restore.hqs(wrapped, y, x, times)).x, turned)
    assert not torch.allclose(run(restore.hqs(flow, y, x, times, looks="upright")).x, turned, atol=1e-2)
    names = {"photos": "turned", "aerial": "turned", "animals": "mirrored", "fashion": "upright"}
    assert {name: load(name).looks for name in names} == names
    with pytest.raises(
        ValueError, match=r"hqs: looks are at pictures .* got a state of shape \(1, 3\); leave them out"
    ):
        next(restore.hqs(gaussian(linear), measured, torch.zeros(1, 3).double(), times, looks="mirrored"))
    with pytest.raises(ValueError, match="looks"):
        next(restore.hqs(flow, y, x, times, looks="sideways"))


@pytest.mark.parametrize("path", [linear, trig])
def test_levels_fall_evenly_in_their_logarithm(path):
    times = grids.levels(5, path, 0.8, 0.05)
    c = path(times[:-1])
    ratio = (c.sigma / c.alpha).log()
    torch.testing.assert_close(ratio.diff(), ratio.diff().mean().expand(4), atol=1e-9, rtol=0)
    assert ratio[0].exp() == pytest.approx(0.8)
    assert ratio[-1].exp() == pytest.approx(0.05)
    assert times[-1] == 1
    assert (times.diff() > 0).all()
    assert grids.levels(1, path, 0.8, 0.05)[0] == times[-2]
    with pytest.raises(ValueError, match="expected 0 < low <= high"):
        grids.levels(3, path, 0.1, 0.2)


def test_filled_is_biharmonic():
    """On scattered holes the surface of skimage's solver; a plane goes through every hole; what is known stays."""
    from flowhelm.operators.baseline import biharmonic

    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 24), torch.linspace(-1, 1, 31), indexing="ij")
    picture = torch.stack([0.3 * rows + 0.2 * columns, (3 * rows * columns).sin()])[None].double()
    known = (torch.rand(1, 24, 31, generator=generator) > 0.4).double()
    surface = filled(picture, known, sweeps=400)
    assert (surface - biharmonic(picture, known[0]))[..., 4:-4, 4:-4].abs().max() < 0.01
    assert torch.equal(surface * known, picture * known)
    assert (filled(picture, known) - picture)[:, 0, 4:-4, 4:-4].abs().max() < 0.02


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("denoise", {}), ("deblur", {"sigma": 1.0}), ("deblur", {"sigma": 1.0, "border": "circular"}), ("box", {"size": 6}),
        ("random_mask", {"missing": 0.5}), ("superres", {"factor": 2}), ("superres", {"factor": 2, "filter": "decimate"}),
        ("demosaic", {}), ("colorize", {}), ("jpeg", {"quality": 40}),
    ],
)  # fmt: skip
def test_a_guess_is_a_picture_near_the_clean_one(name, options):
    """Smooth pictures come back from any linear measurement to a tenth of their range, whatever the measurement's shape."""
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    clean = torch.stack([0.5 * rows, 0.5 * rows + 0.1 * columns, 0.5 * rows])[None].expand(2, 3, 32, 32)
    operator = getattr(operators, name)((3, 32, 32), **options)
    y = simulate(operator, clean.contiguous(), 0.001, Noise(0, rows=2))
    found = guess(y)
    assert found.shape == clean.shape
    assert (found - clean).square().mean().sqrt() < 0.1


def test_admm_goes_on_with_its_dual(gaussian, measured):
    flow, times, x = gaussian(linear), grids.levels(6, linear, 0.5, 0.1), torch.zeros(1, 3, dtype=torch.float64)
    steps = list(restore.pnp_admm(flow, measured, x, times))
    on = run(restore.pnp_admm(flow, measured, steps[2].x, times[3:], dual=steps[2].info["dual"]))
    assert torch.equal(on.x, steps[-1].x)
    assert not torch.equal(run(restore.pnp_admm(flow, measured, steps[2].x, times[3:])).x, steps[-1].x)


def test_a_start_from_the_source_needs_noise(gaussian, measured):
    with pytest.raises(ValueError, match="starts from the source, got None"):
        begin(restore.flower, gaussian(linear), measured, 4)


@pytest.mark.parametrize("weight", [0.23, 1.0])
def test_hqs_is_the_one_step_plan_of_mpc_flow_without_its_source(gaussian, measured, weight):
    """The plan with the price weight t^2 / 2 at the next level of a falling grid is the next fitted estimate: the same clean
    estimates, step for step, once the state is the plan alone."""
    from flowhelm.control import planned
    from flowhelm.inner import auto
    from flowhelm.path import ends_from_clean

    flow = gaussian(linear)
    times = grids.levels(4, linear, 1.5, STD)
    start = torch.tensor([[0.5, 0.1, -0.2]], dtype=torch.float64)
    expected = [step.clean for step in restore.hqs(flow, measured, start, times, weight=weight)]
    clean = start
    for t, wanted in zip(times[:-1], expected, strict=True):
        ends = ends_from_clean(linear, clean, t * clean, t)
        plan = planned(flow, measured, t * clean, t, ends, 1.0, lambda t, h: weight * t**2 / 2, auto).clean
        clean = flow.ends(t * plan, t).clean
        torch.testing.assert_close(clean, wanted, atol=1e-12, rtol=0)


def test_mpc_picture_lies_between_hqs_and_the_euler_step(gaussian, measured):
    """kept = 0: the same steps as hqs. kept = 1 and a measurement that says nothing: the flow's own step, so that a state of the flow
    is carried to where the flow carries it. It goes on from a step's source as if it had not stopped."""
    from flowhelm.path import mix

    flow = gaussian(linear)
    times = grids.levels(5, linear, 1.5, STD)
    start = torch.tensor([[0.5, 0.1, -0.2]], dtype=torch.float64)
    for mine, theirs in zip(
        restore.mpc_picture(flow, measured, start, times, kept=0.0),
        restore.hqs(flow, measured, start, times),
        strict=True,
    ):
        torch.testing.assert_close(mine.x, theirs.x, atol=0, rtol=0)
    silent = Measurement(measured.y, measured.operator, 1e6)
    shown = torch.tensor([[1.5, -0.7, 0.9]], dtype=torch.float64)
    ends = flow.ends(times[0] * shown, times[0])
    expected = times[0] * shown
    for t, s in pairwise(times[:-1]):
        ends = flow.ends(expected, t)
        expected = mix(linear, ends.source, ends.clean, s)
    r = (1 - times[0]) / times[0]
    first = flow.ends(times[0] * shown, times[0]).clean
    steps = list(restore.mpc_picture(flow, silent, first, times[1:], kept=1.0, source=(shown - first) / r))
    level = (1 - times[-2]) / times[-2]
    found = times[-2] * (steps[-1].x + level * steps[-1].info["source"])
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=0)
    half = list(restore.mpc_picture(flow, measured, start, times, kept=0.4))
    on = run(restore.mpc_picture(flow, measured, half[1].x, times[2:], kept=0.4, source=half[1].info["source"]))
    torch.testing.assert_close(on.x, half[-1].x, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("builder", "options", "share"),
    [
        (operators.superres, {"factor": 2, "filter": "decimate"}, 1 / 4), (operators.demosaic, {}, 1 / 3),
        (operators.superres, {"factor": 2}, 1.0), (operators.deblur, {"sigma": 1.0, "border": "circular"}, 1.0),
        (operators.deblur, {"sigma": 1.0}, 1.0), (operators.denoise, {}, 1.0), (operators.jpeg, {"quality": 30}, 1.0),
    ],
)  # fmt: skip
def test_levels_end_at_the_noise_that_is_left(builder, options, share):
    """The mean power of the noise that the pseudo-inverse spreads over the picture, by its trace, where it copies pixels."""
    shape = (3, 16, 16)
    operator, flow = builder(shape, **options), GaussianFlow(torch.zeros(2), torch.eye(2))
    y = Measurement(operator.A(torch.rand(2, *shape)), operator, 0.3)
    assert y.noise_share == pytest.approx(share)
    if y.linear and share < 1:
        noise = torch.randn(400, *y.y.shape[1:], generator=torch.Generator().manual_seed(0))
        assert float(operator.A_dagger(noise).square().mean()) == pytest.approx(share, rel=0.02)
    times = grid(restore.hqs, flow, 8, y)
    assert float((1 - times[-2]) / times[-2]) == pytest.approx(0.3 * share**0.5)
    assert float((1 - times[0]) / times[0]) == pytest.approx(0.6)  # twice the noise, as before


def test_the_weight_is_less_where_pixels_are_missing():
    """Without one it is 0.23 times the share of the pixels that bear noise; with noise everywhere it is the paper's."""
    flow = NetFlow(Half(), (3, 8, 8))
    for options, share in (({"filter": "decimate"}, 1 / 4), ({}, 1.0)):
        y = simulate(operators.superres(flow.shape, factor=2, **options), torch.rand(1, 3, 8, 8), 0.2, Noise(0, 1))
        found, same, other = (
            run(restore.hqs(flow, y, *begin(restore.hqs, flow, y, 4), weight=w)).clean
            for w in (None, 0.23 * share, 0.5 * share)
        )
        assert torch.equal(found, same)
        assert not torch.allclose(found, other)
