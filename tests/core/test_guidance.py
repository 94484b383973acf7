"""Guidance of conditional flows, and the guides towards rare and towards diverse samples."""

import inspect
import math
from dataclasses import dataclass, field
from functools import partial

import pytest
import torch
from torch import nn
from toys import PATHS, double

from flowhelm import Flow, GaussianFlow, MixtureFlow, NetFlow, Noise, Wrapped, integrate, rollout, run
from flowhelm.grad import dot, value_and_grad
from flowhelm.guide import GUIDANCES, cfg, cfg_zero, counted, diverse, minority, raag
from flowhelm.path import VP, at, linear, mix, time_at_snr
from flowhelm.transition import heun

VPS = VP()
TIMES = pytest.mark.parametrize("t", [0.05, 0.4, 0.93, [0.1, 0.5, 0.9]])
EACH = pytest.mark.parametrize("guidance", GUIDANCES)


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def pair(rows=3, shape=(2, 4, 4), dtype=torch.float64):
    return torch.randn(rows, *shape, dtype=dtype), torch.randn(rows, *shape, dtype=dtype)


# classifier-free guidance: closed forms

MEANS = double([[2.0, 0.0], [-1.0, 1.0], [0.0, -2.0], [1.5, 1.5]])
ROOTS = double(
    [[[0.7, 0.2], [0.0, 0.5]], [[0.4, 0.0], [0.1, 0.6]], [[0.5, -0.3], [0.0, 0.5]], [[0.3, 0.0], [0.0, 0.8]]]
)
WEIGHTS, COVARIANCES = double([0.1, 0.4, 0.3, 0.2]), ROOTS @ ROOTS.mT
CLASSES = ([0, 2], [1], [3])  # which components make up a class


def of_class(k, path=linear):
    """The exact flow given class k; all of it for the class after the last."""
    rows = CLASSES[k] if k < len(CLASSES) else range(4)
    return MixtureFlow(WEIGHTS[list(rows)], MEANS[list(rows)], COVARIANCES[list(rows)], path)


@PATHS
@TIMES
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_cfg_adds_the_gradient_of_the_class_probability(path, t, scale):
    # v_w = v + w (alpha'/alpha sigma^2 - sigma sigma') grad log p(class | x_t): the rule of every tilt
    x, t, everything = torch.randn(3, 2).double(), double(t), of_class(3, path)
    _, gradient = value_and_grad(lambda x: everything.responsibilities(x, t)[:, CLASSES[0]].sum(1).log(), x)
    c = at(path, t, x)
    rule = everything.velocity(x, t) + scale * (c.d_alpha / c.alpha * c.sigma**2 - c.sigma * c.d_sigma) * gradient
    close(cfg(of_class(0, path).velocity(x, t), everything.velocity(x, t), t, scale=scale), rule, 1e-9)


class Guided(Wrapped):
    """Two exact flows joined by a guidance."""

    def __init__(self, given, without, guidance):
        self.flow, self.without, self.guidance = given, without, guidance

    def velocity(self, x, t):
        return self.guidance(self.flow.velocity(x, t), self.without.velocity(x, t), t)


@PATHS
@TIMES
@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_cfg_of_equal_covariances_shifts_the_mean(gaussian, path, t, scale):
    # v_k = alpha' m_k + gain (x - alpha m_k) is affine in m_k, and the gain is common
    means = double([[1.0, -0.5], [-0.3, 0.4]])
    given, without = (GaussianFlow(m, gaussian.covariance, path) for m in means)
    shifted = GaussianFlow(means[1] + scale * (means[0] - means[1]), gaussian.covariance, path)
    x, t = torch.randn(3, 2).double(), double(t)
    guided = Guided(given, without, partial(cfg, scale=scale))
    close(guided.velocity(x, t), shifted.velocity(x, t), 1e-11)
    if path is linear and t.ndim == 0:
        end = run(integrate(guided, x, guided.times(200), transition=heun)).x
        close(end, shifted.map(x, double(0.0), double(1.0)), 2e-4)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0])
def test_cfg_of_commuting_covariances_is_a_geometric_mean_not_the_tilted_law(scale):
    # zero means, common axes: dx/dt = 1/2 d/dt [w log C_given + (1 - w) log C_without] x,  C = alpha^2 S + sigma^2,
    # so x_1 = S_given^(w/2) S_without^((1-w)/2) x_0; the law p_given^w p_without^(1-w) has the harmonic mean instead
    axes = torch.linalg.qr(double([[1.0, 2.0], [-0.5, 1.0]]))[0]
    s_given, s_without = double([0.3, 1.4]), double([1.0, 2.0])
    flows = [GaussianFlow(torch.zeros(2).double(), axes * s @ axes.T) for s in (s_given, s_without)]
    guided = Guided(*flows, partial(cfg, scale=scale))
    end = run(integrate(guided, axes.T.contiguous(), guided.times(400), transition=heun)).x
    variances = s_given**scale * s_without ** (1 - scale)
    close(end, variances.sqrt()[:, None] * axes.T, 2e-4)
    tilted = 1 / (scale / s_given + (1 - scale) / s_without)
    print(f"\n  scale {scale}: variances {variances.tolist()}, of the tilted law {tilted.tolist()}")
    assert ((variances - tilted).abs().max() > 0.05) == (scale not in (0.0, 1.0))


# bits, limits and invariants


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("t", [0.3, [0.1, 0.5, 0.9]])
def test_scale_one_is_the_condition_to_the_bit(guidance, dtype, t):
    given, without = pair(dtype=dtype)
    joined = guidance(given, without, double(t), scale=1.0)
    assert torch.equal(joined, given)
    assert joined.dtype == guidance(given, without, double(t), scale=3.3).dtype == dtype


@EACH
@pytest.mark.parametrize("t", [[0.3] * 4, [0.0, 0.02, 0.5, 0.9]])
def test_a_row_does_not_depend_on_its_neighbours_and_has_a_time_of_its_own(guidance, t):
    given, without = pair(4)
    given *= double([0.1, 1.0, 10.0, 1.0]).view(4, 1, 1, 1)  # so that a norm over the batch would show
    more = {"scale": 4.0} | ({"start": 0.01, "stop": 0.7} if guidance is cfg else {})
    joined = guidance(given, without, double(t), **more)
    for i, time in enumerate(double(t)):
        close(guidance(given[i : i + 1], without[i : i + 1], time, **more), joined[i : i + 1], 1e-13)


def test_cfg_acts_within_its_interval():
    given, without = pair()
    times = {0.1: False, 0.25: True, 0.5: True, 0.7499: True, 0.75: False, 1.0: False}
    for t, inside in times.items():
        joined = cfg(given, without, double(t), scale=3.0, start=0.25, stop=0.75)
        assert torch.equal(joined, cfg(given, without, double(t), scale=3.0) if inside and t < 1 else given), t
    close(cfg(given, without, double(0.5), scale=0.0), without)
    close(cfg(given, without, double(0.5), scale=-1.0), 2 * without - given)


def test_raag_is_a_scale_that_fades_with_the_ratio():
    given, without, t = double([[3.0, 4.0], [0.0, 6.0]]), double([[0.0, 5.0], [0.0, 5.0]]), double(0.5)
    ratios = [math.sqrt(10) / 5, 1 / 5]
    scales = [1 + 9 * math.exp(-2 * r) for r in ratios]
    rows = [cfg(given[i : i + 1], without[i : i + 1], t, scale=w) for i, w in enumerate(scales)]
    close(raag(given, without, t, scale=10.0, decay=2.0), torch.cat(rows))
    whole = math.sqrt(11) / math.sqrt(50)  # one norm over the batch is another scale
    assert min(abs(whole - r) for r in ratios) > 0.1


def test_raag_without_decay_is_cfg_and_with_much_the_condition():
    given, without = pair()
    t = double(0.5)
    close(raag(given, without, t, scale=7.0, decay=0.0), cfg(given, without, t, scale=7.0))
    assert torch.equal(raag(given, without, t, scale=7.0, decay=math.inf), given)
    for decay in (0.0, 8.0, math.inf):  # equal velocities, and none without the condition
        assert torch.equal(raag(given, given, t, decay=decay), given)
        assert raag(given, torch.zeros_like(given), t, decay=decay).isfinite().all()
        assert (raag(torch.zeros_like(given), torch.zeros_like(given), t, decay=decay) == 0).all()


def test_cfg_zero_guides_with_the_nearest_multiple():
    given, without = pair()
    t, scale = double(0.5), 4.0
    away = (cfg_zero(given, without, t, scale=scale) - given) / (scale - 1)  # given - s without
    close(dot(away, without), torch.zeros(3).double(), 1e-11)  # s is the projection
    close(dot(away, away) + dot(given - away, given - away), dot(given, given), 1e-11)
    close(cfg_zero(given, -3.7 * without, t, scale=scale), cfg_zero(given, without, t, scale=scale))  # its size is free
    close(cfg_zero(1.7 * without, without, t, scale=scale), 1.7 * without)  # parallel: nothing to guide with
    level = given + without * ((dot(without, without) - dot(given, without)) / dot(without, without)).view(3, 1, 1, 1)
    close(cfg_zero(level, without, t, scale=scale), cfg(level, without, t, scale=scale))  # s = 1
    close(cfg_zero(given, torch.zeros_like(given), t, scale=scale), scale * given)


def test_cfg_zero_stands_still_at_first():
    given, without = pair(4)
    joined = cfg_zero(given, without, double([0.0, 0.0999, 0.1, 0.9]), scale=3.0, zero_until=0.1)
    assert (joined[:2] == 0).all()
    assert (joined[2:] != 0).all()
    moved = cfg_zero(given, without, double(0.0), scale=3.0, zero_until=0.0)
    assert (moved != 0).all()
    # a uniform grid of n steps: n/25 of them, at least one
    for steps, zeroed in ((5, 1), (25, 1), (50, 2), (100, 4)):
        grid = torch.linspace(0, 1, steps + 1, dtype=torch.float64)[:-1]
        still = [bool((cfg_zero(given, without, t) == 0).all()) for t in grid]
        assert still == [True] * zeroed + [False] * (steps - zeroed)


def test_parity_with_diffusers():
    guiders = pytest.importorskip("diffusers.guiders")
    # rows of tokens: the magnitude-aware guider (0.42.1) refuses pictures, as torch.norm takes two dimensions at most
    given, without = pair(shape=(8, 4), dtype=torch.float32)
    given *= torch.tensor([0.2, 1.0, 5.0]).view(3, 1, 1)
    scale, steps = 4.5, 50
    theirs = {
        partial(cfg, scale=scale): guiders.ClassifierFreeGuidance(guidance_scale=scale),
        partial(cfg, scale=scale, start=0.2, stop=0.6): guiders.ClassifierFreeGuidance(scale, start=0.2, stop=0.6),
        partial(raag, scale=scale, decay=2.0): guiders.MagnitudeAwareGuidance(guidance_scale=scale, alpha=2.0),
        raag: guiders.MagnitudeAwareGuidance(),  # the defaults too
        partial(cfg_zero, scale=scale): guiders.ClassifierFreeZeroStarGuidance(scale, zero_init_steps=2),
    }
    for ours, guider in theirs.items():
        worst = 0.0
        for step in range(steps):
            guider.set_state(step, steps, None)
            there = guider.forward(given, without).pred
            here = ours(given, without, double(step / steps))
            worst = max(worst, float((here - there).abs().max()))
            torch.testing.assert_close(here, there, atol=2e-5, rtol=1e-5)
        print(f"\n  {type(guider).__name__}: at most {worst:.1e} apart over {steps} steps")


# a network with a condition


class Classes(nn.Module):
    """The exact velocity of the class each row is told, as a network; the class after the last is none. Counts calls."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.seen = []

    def forward(self, x, t, label):
        self.seen.append(len(x))
        each = torch.stack([of_class(k).velocity(x, t) for k in range(len(CLASSES) + 1)], 1)
        return each[torch.arange(len(x)), label] + self.weight


@EACH
@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("t", [0.3, [0.2, 0.6, 0.9]])
def test_a_guided_network_is_called_once_with_two_rows_per_row(guidance, particles, t):
    net, label = Classes(), torch.tensor([0, 2, 1])
    guidance = partial(guidance, scale=2.5, **({"decay": 1.0} if guidance is raag else {}))
    flow = NetFlow(net, (2,), null=(torch.tensor([3]),)).bind(label, guidance=guidance)
    x, t = torch.randn(3 * particles, 2).double(), double(t)
    t = t if t.ndim == 0 else t.repeat_interleave(particles)
    v = flow.velocity(x, t)
    assert net.seen == [6 * particles]
    told = label.repeat_interleave(particles)
    when = t.expand(len(x))
    given, without = net(x, when, told), net(x, when, torch.full_like(told, 3))
    close(v, guidance(given, without, t))
    assert (v - given).abs().max() > 0.01


# towards rare samples


def rare(path=linear):
    return MixtureFlow(
        double([0.9, 0.1]), double([[0.0, 0.0], [2.0, 0.0]]), 0.25 * torch.eye(2).double().repeat(2, 1, 1), path
    )


@dataclass(frozen=True, eq=False)
class Watched(Wrapped):
    """Keeps the states it is asked about."""

    flow: Flow
    seen: list = field(default_factory=list)

    def velocity(self, x, t):
        self.seen.append((x.detach().clone(), t.clone()))
        return self.flow.velocity(x, t)


@PATHS
@pytest.mark.parametrize("t", [0.05, 0.4, 0.93])
@torch.no_grad()
def test_minority_moves_the_clean_estimate_along_its_gradient(mixture, path, t):
    flow = MixtureFlow(mixture.weights, mixture.means, mixture.covariances, path)
    x, t, scale = torch.randn(5, 2).double(), double(t), 0.8
    watched = Watched(flow)
    guided = minority(watched, scale=scale, noise=Noise(3, 5), level=0.3)
    ends = guided.ends(x, t)
    (_, first), (renoised, second) = watched.seen
    assert (float(first), float(second)) == (float(t), 0.3)
    clean = flow.ends(x, t).clean
    c = path(second)
    noise = (renoised - c.alpha * clean) / c.sigma  # standard normal draws of the streams, one per row
    assert len(noise.flatten().unique()) == 10
    assert noise.abs().max() < 4
    again = flow.ends(mix(path, noise, clean, second), second).clean
    # grad |D(x) - again|^2 = 2 J^T (D - again) with again held fixed
    g = (flow.jacobian(x, t).mT @ (clean - again)[..., None])[..., 0]
    g = g / g.abs().amax(1, keepdim=True)
    close(ends.clean, clean + scale * path(t).sigma ** 2 * g, 1e-8)
    close(mix(path, ends.source, ends.clean, t), x, 1e-9)  # the state is that of the edited ends


@torch.no_grad()
def test_minority_renoises_the_clean_estimate_to_its_level():
    flow, t, n = rare(), double(0.4), 400
    noises = []
    for x in torch.randn(2, n, 2).double():
        watched = Watched(flow)
        minority(watched, scale=1.0, noise=Noise(3, n), level=0.3).velocity(x, t)
        noises.append((watched.seen[1][0] - 0.3 * flow.ends(x, t).clean) / 0.7)
    close(*noises)  # the same whatever the state: nothing of it is left over
    assert abs(float(noises[0].var()) - 1) < 4 * (2 / (2 * n)) ** 0.5
    assert abs(float(noises[0].mean())) < 4 * (1 / (2 * n)) ** 0.5


@torch.no_grad()
def test_minority_averages_over_draws_and_takes_any_distance():
    flow = rare()
    x, t = torch.randn(3, 2).double(), double(0.4)
    watched = Watched(flow)
    ends = minority(watched, scale=1.0, noise=Noise(3, 3), level=0.3, draws=4).ends(x, t)
    assert len(torch.stack([z for z, _ in watched.seen]).unique(dim=0)) == 5
    clean = flow.ends(x, t).clean
    mean = torch.stack([flow.ends(z, double(0.3)).clean for z, _ in watched.seen[1:]]).mean(0)
    g = (flow.jacobian(x, t).mT @ (clean - mean)[..., None])[..., 0]
    close(ends.clean, clean + 0.36 * g / g.abs().amax(1, keepdim=True), 1e-9)
    # a distance that rises with the second entry moves along the second row of the Jacobian, whatever the noise
    ends = minority(
        flow, scale=1.0, noise=Noise(3, 3), distance=lambda clean, _: clean[:, 1] ** 3 + 5 * clean[:, 1]
    ).ends(x, t)
    g = flow.jacobian(x, t)[:, 1]
    close(ends.clean, clean + 0.36 * g / g.abs().amax(1, keepdim=True), 1e-9)


@torch.no_grad()
def test_the_noise_of_minority_belongs_to_the_row_and_the_time():
    flow, x, t = rare(), torch.randn(4, 2).double(), double(0.4)
    guided = partial(minority, flow, scale=1.0, level=0.3, distance=lambda a, b: (a * b).sum(1))
    whole = guided(noise=Noise(7, 4))
    v = whole.velocity(x, t)
    other = whole.velocity(x, double(0.41))
    assert torch.equal(whole.velocity(x, t), v)  # a function of the state and the time, also after other calls
    assert torch.equal(guided(noise=Noise(7, 4)).velocity(x, double(0.41)), other)
    close(whole.velocity(x, t.expand(4)), v, 1e-11)
    close(guided(noise=Noise(7, [2])).velocity(x[2:3], t), v[2:3])  # a row alone
    same = x[:1].expand(4, 2)
    for noise in (Noise(7, 4), Noise(7, 2)):  # equal states: rows, and particles of a row, have noise of their own
        assert len(guided(noise=noise).velocity(same, t).unique(dim=0)) == 4
    late = guided(noise=Noise(7, 4)).velocity(same, double([0.4, 0.4, 0.41, 0.42]))
    close(late[:2], guided(noise=Noise(7, 4)).velocity(same, t)[:2], 1e-11)
    noises = []
    for s in (0.4, 0.41):  # another time, another draw
        watched = Watched(flow)
        minority(watched, scale=1.0, noise=Noise(7, 4), level=0.3).velocity(x, double(s))
        noises.append((watched.seen[1][0] - 0.3 * flow.ends(x, double(s)).clean) / 0.7)
    assert (noises[0] - noises[1]).abs().min() > 1e-3
    with pytest.raises(ValueError, match="multiple of the noise's 3 rows, got a batch of 4"):
        guided(noise=Noise(7, 3)).velocity(x, t)


@torch.no_grad()
def test_what_minority_costs():
    x = torch.randn(3, 2).double()
    for draws in (1, 3):
        flow = counted(rare())
        v = minority(flow, scale=1.0, noise=Noise(0, 3), draws=draws).velocity(x, double(0.4))
        assert (flow.count.calls, flow.count.rows, flow.count.backward) == (1 + draws, 3 * (1 + draws), 1)
        assert not v.requires_grad
    flow = counted(rare())
    for options, t in (
        ({"scale": 0.0}, 0.4),
        ({"scale": 1.0}, 0.0),
        ({"scale": 1.0, "start": 0.5}, 0.4),
        ({"scale": 1.0, "stop": 0.3}, 0.4),
    ):
        guided = minority(flow, noise=Noise(0, 3), **options)
        assert torch.equal(guided.velocity(x, double(t)), rare().velocity(x, double(t)))
    assert (flow.count.rows, flow.count.backward) == (4 * 3, 0)
    guided = minority(flow, scale=1.0, noise=Noise(0, 3), stop=0.5)
    mixed = guided.velocity(x, double([0.2, 0.5, 0.7]))  # some rows within, some not
    close(mixed[1:], rare().velocity(x, double([0.2, 0.5, 0.7]))[1:])
    assert (mixed[0] - rare().velocity(x[:1], double(0.2))).abs().max() > 0.1


def test_the_shift_of_minority_is_a_constant_for_others():
    flow, x, t = rare(), torch.randn(3, 2).double(), double(0.4)
    guided = minority(flow, scale=1.0, noise=Noise(0, 3), level=0.3)
    cotangent = torch.randn(3, 2).double()
    gradients = []
    for each in (guided, flow):
        z = (2 * x).requires_grad_()  # not a leaf below
        (g,) = torch.autograd.grad((each.velocity(z / 2, t) * cotangent).sum(), z)
        gradients.append(g)
    close(*gradients)
    with torch.no_grad():
        quiet = guided.velocity(x, t)
    close(guided.velocity(x, t).detach(), quiet)
    times, controls = torch.linspace(0, 1, 5, dtype=torch.float64), torch.zeros(3, 4, 2).double()
    ways = []
    for checkpointed in (True, False):  # a gradient within a checkpointed evaluation
        u = controls.clone().requires_grad_()
        ways.append(torch.autograd.grad(rollout(guided, x, times, u, checkpointed=checkpointed).square().sum(), u)[0])
    close(*ways)
    net = Classes()  # weights below the guide receive their gradient
    bound = NetFlow(net, (2,)).bind(torch.tensor([0, 1, 2]))
    minority(bound, scale=1.0, noise=Noise(0, 3)).velocity(x, t).sum().backward()
    close(net.weight.grad, double(6.0))


def test_the_level_of_the_paper_on_the_linear_path():
    c = VPS(double(0.2))  # 0.8 of the way to noise
    level = float(time_at_snr(linear, c.alpha / c.sigma))
    print(f"\n  0.8 of the VP schedule is t = {level:.4f} of the linear path")
    assert abs(level - inspect.signature(minority).parameters["level"].default) < 0.002


@torch.no_grad()
def test_minority_finds_the_rare_mode():
    flow, n, one = rare(), 1000, double(1.0)
    x = Noise(0, n)(torch.empty(n, 2, dtype=torch.float64))
    for stop in (1.0, 0.5):
        shares, cores, lost = [], [], []
        for scale in (0.0, 0.5, 1.0, 2.0):
            guided = minority(flow, scale=scale, noise=Noise(1, n), stop=stop)
            end = run(integrate(guided, x, guided.times(20))).x
            logs = flow.log_density(end, one)
            shares.append(float(flow.responsibilities(end, one)[:, 1].mean()))
            cores.append(float(((end - flow.means[1]).norm(dim=1) < 1).double().mean()))  # two standard deviations
            lost.append(float((logs < -8).double().mean()))
            print(f"\n  stop {stop}, scale {scale}: share {shares[-1]:.3f}, core {cores[-1]:.3f}, log density {logs.mean():.2f}, "
                  f"below -8 {lost[-1]:.3f}", end="")  # fmt: skip
        assert abs(shares[0] - 0.1) < 0.03
        assert shares == sorted(shares)
        assert cores == sorted(cores)  # not only pushed over the border
        assert shares[-1] > 2.5 * shares[0]
        assert lost[-1] < 0.05
    with pytest.raises(ValueError, match="level a number above 0 and below 1"):
        minority(flow, scale=1.0, noise=Noise(0, 1), level=1.0)
    with pytest.raises(ValueError, match="draws a whole number of at least 1"):
        minority(flow, scale=1.0, noise=Noise(0, 1), draws=0)


def test_ranges_of_guidance_are_checked_where_a_flow_is_told():
    flow = NetFlow(lambda x, t, label: x, (2,), null=(torch.zeros(1),))
    for wrong in (partial(cfg, stop=1.5), partial(cfg_zero, zero_until=-0.1), partial(raag, decay=-1.0)):
        with pytest.raises(
            ValueError, match=r"bind: expected guidance's (stop|zero_until|decay) a number of at least 0"
        ):
            flow.bind(torch.ones(3), guidance=wrong)
    for right in (partial(raag, decay=math.inf), partial(cfg, scale=0.0, start=0.2)):
        assert flow.bind(torch.ones(3), guidance=right).guidance is right


# towards diverse samples


@PATHS
@TIMES
def test_diverse_moves_each_clean_estimate_from_its_nearest(mixture, path, t):
    flow = MixtureFlow(mixture.weights, mixture.means, mixture.covariances, path)
    t = double(t) if isinstance(t, float) else double([*t, 0.3, 0.6, 0.7])
    x, scale = torch.randn(6, 2).double(), 0.7
    clean, sigma = flow.ends(x, t).clean, at(path, t, x).sigma
    ends = diverse(flow, 3, scale=scale).ends(x, t)
    expected = clean.clone()
    for i in range(6):
        others = [j for j in range(i // 3 * 3, i // 3 * 3 + 3) if j != i]
        j = min(others, key=lambda j: float((clean[i] - clean[j]).norm()))
        expected[i] += scale * (sigma if t.ndim == 0 else sigma[i]) * (clean[i] - clean[j])
    close(ends.clean, expected, 1e-8)
    close(mix(path, ends.source, ends.clean, t), x, 1e-9)
    if path is linear and t.ndim == 0:  # a pair: v_i moves by scale (clean_i - clean_j), and the pair's mean stays
        two = diverse(flow, 2, scale=scale).velocity(x, t) - flow.velocity(x, t)
        close(two[0], scale * (clean[0] - clean[1]), 1e-11)
        close(two[0::2], -two[1::2], 1e-11)


def test_diverse_leaves_far_rows_alone(mixture):
    x, t = 2 * torch.randn(8, 2).double(), double(0.6)
    clean = mixture.ends(x, t).clean
    apart = torch.cdist(clean.view(2, 4, 2), clean.view(2, 4, 2)) + torch.eye(4) * 1e9
    rms = apart.amin(2).flatten() / math.sqrt(2)
    between = float(rms.median() + rms[rms > rms.median()].min()) / 2
    everywhere, near = (diverse(mixture, 4, scale=1.0, threshold=h).velocity(x, t) for h in (math.inf, between))
    assert 0 < int((rms > between).sum()) < 8
    assert torch.equal(near[rms > between], mixture.velocity(x, t)[rms > between])
    assert torch.equal(near[rms <= between], everywhere[rms <= between])


def test_diverse_knows_its_group_only(mixture):
    x, t = torch.randn(6, 2).double(), double(0.5)
    guided = diverse(mixture, 3, scale=1.0)
    v = guided.velocity(x, t)
    close(guided.velocity(x[3:], t), v[3:])
    order = torch.tensor([2, 0, 1])  # and not the order within it
    close(guided.velocity(x[:3][order], t), v[:3][order])
    changed = torch.cat([x[:3], torch.randn(3, 2).double()])
    close(guided.velocity(changed, t)[:3], v[:3])


def test_diverse_without_scale_or_company_changes_no_bit(mixture):
    x, t = torch.randn(6, 2), double(0.5)
    flow = MixtureFlow(mixture.weights.float(), mixture.means.float(), mixture.covariances.float())
    for group, scale in ((3, 0.0), (1, 2.0)):
        assert torch.equal(diverse(flow, group, scale=scale).velocity(x, t), flow.velocity(x, t))
    same = x[:1].expand(6, 2)  # equal rows have nothing to tell them apart
    assert torch.equal(diverse(flow, 3, scale=2.0).velocity(same, t), flow.velocity(same, t))
    assert diverse(flow, 3, scale=2.0).velocity(x, t).dtype == torch.float32
    inner = counted(flow)
    diverse(inner, 3, scale=2.0).velocity(x, t)
    assert (inner.count.rows, inner.count.backward) == (6, 0)


def test_known_entries_are_left_alone():
    shape = (1, 2, 3)
    root = torch.randn(6, 6, generator=torch.Generator().manual_seed(1)).double()
    flow = GaussianFlow(torch.zeros(6).double(), root @ root.T / 6, shape=shape)
    x, t = torch.randn(4, *shape).double(), double(0.5)
    mask = double([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    shift = diverse(flow, 4, scale=1.0, mask=mask).velocity(x, t) - flow.velocity(x, t)
    assert (shift[..., 1:] == 0).all()
    clean = flow.ends(x, t).clean[..., 0].flatten(1)
    apart = torch.cdist(clean, clean) + 1e9 * torch.eye(4)
    close(shift[..., 0].flatten(1), clean - clean[apart.argmin(1)], 1e-11)  # the nearest among what may differ
    rms = float(apart.min()) / math.sqrt(2)  # over the two unknown entries
    for threshold, moved in ((0.99 * rms, 0), (1.01 * rms, 2)):
        v = diverse(flow, 4, scale=1.0, mask=mask, threshold=threshold).velocity(x, t)
        assert int((v != flow.velocity(x, t)).flatten(1).any(1).sum()) == moved


@torch.no_grad()
def test_diverse_spreads_a_group():
    means = double([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [-4.0, 0.0]])
    flow = MixtureFlow(double([0.7, 0.1, 0.1, 0.1]), means, 0.25 * torch.eye(2).double().repeat(4, 1, 1))
    groups, group, one = 200, 5, double(1.0)
    n = groups * group
    x = Noise(0, n)(torch.empty(n, 2, dtype=torch.float64))
    off = {}
    for threshold in (math.inf, 0.75):
        spread, modes = [], []
        for scale in (0.0, 0.5, 1.0, 2.0):
            guided = diverse(flow, group, scale=scale, threshold=threshold)
            end = run(integrate(guided, x, guided.times(50))).x
            logs, rows = flow.log_density(end, one), end.view(groups, group, 2)
            spread.append(float(torch.cdist(rows, rows).sum() / (n * (group - 1))))
            picks = flow.responsibilities(end, one).argmax(1).view(groups, group)
            modes.append(sum(len(p.unique()) for p in picks) / groups)
            off[threshold, scale] = float((logs < -8).double().mean())
            print(f"\n  threshold {threshold}, scale {scale}: distance {spread[-1]:.2f}, modes {modes[-1]:.2f}, "
                  f"log density {logs.mean():.2f}, below -8 {off[threshold, scale]:.3f}", end="")  # fmt: skip
        assert spread == sorted(spread)
        assert modes == sorted(modes)
        assert spread[-1] > 1.25 * spread[0]
    assert off[0.75, 1.0] < 0.01 < 0.2 < off[math.inf, 1.0]  # why there is a threshold


def test_diverse_wants_whole_groups(mixture):
    with pytest.raises(ValueError, match=r"multiple of 3 rows \(whole groups\), got 4"):
        diverse(mixture, 3, scale=1.0).velocity(torch.randn(4, 2).double(), double(0.5))
    for group, scale in ((0, 1.0), (2, -1.0)):
        with pytest.raises(ValueError, match=r"(group|scale) a .*number of at least"):
            diverse(mixture, group, scale=scale)
