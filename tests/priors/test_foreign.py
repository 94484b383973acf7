"""Exact flows written in every foreign convention and wrapped back; parity with diffusers and deepinv."""

from copy import deepcopy
from functools import partial

import pytest
import torch
from conventions import DDPM, cast, clean_of, levels, predictor
from torch import nn
from toys import double

from flowhelm import MixtureFlow, NetFlow, Noise, integrate, run
from flowhelm.guide import on_path
from flowhelm.path import VP, linear, trig
from flowhelm.priors.foreign import (
    Sigmas,
    by_name,
    diffusers_net,
    from_clean,
    from_denoiser,
    from_edm,
    from_noise,
    from_score,
    from_v,
    from_velocity,
)
from flowhelm.transition import heun

SHAPE = (1, 1, 2)
TIMES = [0.0, 0.01, 0.1, 0.35, 0.5, 0.65, 0.9, 0.98, 1.0]


def law(path=linear, dtype=torch.float64):
    return MixtureFlow(
        torch.tensor([0.3, 0.7], dtype=dtype),
        torch.tensor([[0.7, -0.2], [-0.6, 0.4]], dtype=dtype),
        torch.tensor([[[0.05, 0.02], [0.02, 0.03]], [[0.02, -0.005], [-0.005, 0.04]]], dtype=dtype),
        path,
        SHAPE,
    )


def moved(middle, gain, dtype=torch.float64):
    """The law of middle + gain clean: what a network with another range was trained on."""
    exact = law(dtype=dtype)
    return MixtureFlow(exact.weights, middle + gain * exact.means, gain**2 * exact.covariances, linear, SHAPE)


table_level = levels(DDPM)


def vp_level(label):
    c = VP()(1 - label.double() / 999)
    return c.alpha, c.sigma


def reversed_1000(x, label):
    return -law(dtype=x.dtype).velocity(x, 1 - label.double() / 1000)


def instaflow(x, label):
    return law(dtype=x.dtype).velocity(x, 1 - label.double() / 1000)


def unit_range(x, t):
    return moved(0.5, 0.5, x.dtype).velocity(x, t.double())


def doubled(x, t):
    return torch.cat([law(dtype=x.dtype).velocity(x, t.double()), x], 1)


def edm(x, sigma):
    return clean_of(law(dtype=x.dtype), x, torch.ones_like(sigma), sigma)


def deepinv_like(x, sigma):
    return law(dtype=x.dtype).as_denoiser()(x, sigma)


def on(path):
    return lambda x, t: law(path, x.dtype).velocity(x, t.double())


def given(kind, level):
    return lambda x, label: predictor(kind, level, law(dtype=x.dtype))(x, label)


# one line each, and where its levels end on the linear path: there the estimate is clamped and only the ends' sum is exact
table_ends = tuple(float(a / (a + s)) for a, s in [table_level(torch.tensor(999.0)), table_level(torch.tensor(0.0))])
vp_ends = tuple(float(a / (a + s)) for a, s, *_ in [VP()(double(1e-4)), VP()(double(1 - 1e-4))])
ALL = {
    "plain": (lambda: from_velocity(on(linear), SHAPE), 0, 1),
    "trig velocity": (lambda: from_velocity(on(trig), SHAPE, path=trig), 0, 1),
    "vp velocity": (lambda: from_velocity(on(VP()), SHAPE, path=VP(), margin=1e-4), *vp_ends),
    "diffusers clock": (lambda: from_velocity(reversed_1000, SHAPE, clean_at=0, time_scale=1000), 0, 1),
    "instaflow": (lambda: from_velocity(instaflow, SHAPE, clean_at=0, time_scale=1000, sign=-1), 0, 1),
    "[0, 1]": (lambda: from_velocity(unit_range, SHAPE, span=(0, 1)), 0, 1),
    "2c channels": (lambda: from_velocity(doubled, SHAPE, learned_variance=True), 0, 1),
    "jit": (lambda: from_clean(given("clean", lambda t: (t, 1 - t)), SHAPE), 1e-3, 1 - 1e-3),
    "flow noise": (lambda: from_noise(given("noise", lambda t: (t, 1 - t)), SHAPE, linear, clean_at=1), 1e-3, 1 - 1e-3),
    "ddpm noise": (lambda: from_noise(given("noise", table_level), SHAPE, DDPM), *table_ends),
    "ddpm clean": (lambda: from_clean(given("clean", table_level), SHAPE, DDPM), *table_ends),
    "ddpm v": (lambda: from_v(given("v", table_level), SHAPE, DDPM), *table_ends),
    "ddpm score": (lambda: from_score(given("score", table_level), SHAPE, DDPM), *table_ends),
    "vp noise": (lambda: from_noise(given("noise", vp_level), SHAPE, VP(), time_scale=999, margin=1e-4), *vp_ends),
    "vp score": (lambda: from_score(given("score", vp_level), SHAPE, VP(), time_scale=999, margin=1e-4), *vp_ends),
    "ve score": (
        lambda: from_score(given("score", lambda s: (torch.ones_like(s), s)), SHAPE, Sigmas(0.01, 50)), 1 / 51, 1 / 1.01,
    ),
    "edm": (lambda: from_edm(edm, SHAPE), 1 / 81, 1 / 1.002),
    "deepinv": (lambda: from_denoiser(deepinv_like, SHAPE), 1 / 81, 1 / 1.002),
}  # fmt: skip
EACH = pytest.mark.parametrize("name", list(ALL))


def states(t, dtype=torch.float64):
    noise = Noise(3, rows=8)
    source, clean = noise(torch.empty(8, *SHAPE, dtype=dtype)), law(dtype=dtype).sample(noise)
    t = cast(t, clean) if t.ndim else t
    return t * clean + (1 - t) * source


@EACH
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_there_and_back_is_the_exact_flow(name, dtype, tolerance):
    make, low, high = ALL[name]
    flow, exact, worst = make(), law(), 0.0
    for t in [
        *map(double, TIMES),
        torch.linspace(0.05, 0.95, 8, dtype=torch.float64),
        torch.linspace(0, 1, 8).double(),
    ]:
        x = states(t, dtype)
        inside = ((low <= t) & (t <= high)).expand(len(x))
        ends, v = flow.ends(x, t), flow.velocity(x, t)
        assert ends.clean.dtype == v.dtype == dtype
        assert v.isfinite().all()
        wanted = exact.ends(x.double(), t)
        if dtype == torch.float32:  # an estimate of one end divides by the other's coefficient
            inside = inside & ((t >= 0.03) & (t <= 0.97)).expand(len(x))
        for got, want in [(v, exact.velocity(x.double(), t)), (ends.clean, wanted.clean), (ends.source, wanted.source)]:
            worst = max(worst, float((got - want)[inside].abs().max()) if inside.any() else 0.0)
        a = cast(t, x) if t.ndim else t
        torch.testing.assert_close(a * ends.clean + (1 - a) * ends.source, x, atol=1e-5, rtol=0)
    print(f"{name}, {dtype}: largest difference from the exact flow {worst:.1e}")
    assert worst < tolerance


@EACH
def test_beyond_the_networks_levels_the_ends_are_still_those_of_the_state(name):
    """What the module says of singular ends: the estimate is that of the nearest level, of the state with its noise (or its
    picture) at the size it has there."""
    make, low, high = ALL[name]
    flow, exact = make(), law()
    for t in map(double, [0.0, low / 2, (1 + high) / 2, 1.0]):
        x = states(t)
        ends = flow.ends(x, t)
        torch.testing.assert_close(t * ends.clean + (1 - t) * ends.source, x, atol=1e-12, rtol=0)
        if t < 0.5:
            wanted = exact.ends((1 - low) / (1 - t) * x, double(low)).clean
            torch.testing.assert_close(ends.clean, wanted, atol=1e-9, rtol=0)
        else:
            wanted = exact.ends(high / t * x, double(high)).source
            torch.testing.assert_close(ends.source, wanted, atol=1e-9, rtol=0)
    torch.testing.assert_close(flow.ends(x, double(1.0)).clean, x, atol=1e-12, rtol=0)


@EACH
def test_its_own_grid_samples_the_right_law(name):
    """Mean and covariance of 400 samples against those of the mixture, within four standard errors."""
    flow = ALL[name][0]()
    times = flow.times(40)
    assert times[0] == 0
    assert times[-1] == 1
    assert (times.diff() > 0).all()
    x = Noise(0, rows=400)(torch.empty(400, *SHAPE, dtype=torch.float64))
    end = run(integrate(flow, x, times, transition=heun)).x.flatten(1)
    mean, covariance = law().moments()
    got = torch.cov(end.T)
    print(
        f"{name}: mean off by {(end.mean(0) - mean).abs().max():.3f}, covariance by {(got - covariance).abs().max():.3f}"
    )
    torch.testing.assert_close(end.mean(0), mean, atol=4 * float(covariance.diag().max().sqrt()) / 20, rtol=0)
    torch.testing.assert_close(got, covariance, atol=4 * float(covariance.max()) * (2 / 400) ** 0.5, rtol=0)
    fine = run(integrate(law(), x, torch.linspace(0, 1, 201, dtype=torch.float64), transition=heun)).x.flatten(1)
    assert (end - fine).abs().mean() < 0.05  # the same map, not only the same law


def test_a_linear_velocity_is_passed_on_untouched():
    torch.manual_seed(0)
    net = Tiny()
    flow, plain = from_velocity(net, (1, 4, 4)), NetFlow(net, (1, 4, 4))
    x, t = torch.randn(3, 1, 4, 4), double([0.0, 0.4, 1.0])
    assert torch.equal(flow.velocity(x, t), plain.velocity(x, t))
    _, rate = torch.func.jvp(lambda t: flow.velocity(x, t), (t,), (torch.ones_like(t),))  # its time is differentiable
    assert rate.abs().max() > 0


def test_labels_reach_a_half_precision_network_in_float32():
    seen = []

    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones((), dtype=torch.bfloat16))

        def forward(self, x, label):
            seen.append((x.dtype, label.dtype, label.tolist()))
            return self.weight * x

    x = torch.randn(2, *SHAPE)
    v = from_velocity(Half(), SHAPE, clean_at=0, time_scale=1000).velocity(x, double(0.0011))
    assert v.dtype == torch.float32
    assert seen[-1][:2] == (torch.bfloat16, torch.float32)
    assert seen[-1][2] == pytest.approx([998.9, 998.9], abs=1e-4)
    from_noise(Half(), SHAPE, DDPM, rounded=True).velocity(x, double([0.0, 1.0]))
    assert seen[-1][1:] == (torch.int64, [999, 0])
    from_noise(Half(), SHAPE, DDPM).velocity(x, double([0.0, 1.0]))
    assert seen[-1][1:] == (torch.float32, [999.0, 0.0])


@pytest.mark.parametrize("index", [0, 1, 400, 998, 999])
def test_an_index_of_the_table_is_told_as_it_is(index):
    seen = []
    flow = from_noise(lambda x, label: seen.append(float(label[0])) or x, SHAPE, DDPM)
    alpha, sigma = DDPM[index].sqrt(), (1 - DDPM[index]).sqrt()
    flow.velocity(torch.randn(1, *SHAPE, dtype=torch.float64), alpha / (alpha + sigma))
    assert seen[0] == pytest.approx(index, abs=1e-6)


def test_a_schedule_that_ends_in_noise_alone():
    """Rescaled to zero terminal SNR (Lin et al. 2023, arXiv:2305.08891), v-prediction is regular: at t = 0, v = -clean."""
    root = DDPM.sqrt()
    rescaled = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    assert rescaled[-1] == 0
    net = given("v", levels(rescaled.clamp(min=1e-12)))
    flow, x = from_v(net, SHAPE, rescaled), states(double(0.0))
    torch.testing.assert_close(flow.velocity(x, double(0.0)), law().velocity(x, double(0.0)), atol=1e-4, rtol=0)


class Tiny(nn.Module):
    """A network of pictures, times and, if it has any, classes."""

    def __init__(self, classes=0):
        super().__init__()
        self.layer = nn.Conv2d(3, 1, 3, padding=1)
        self.embed = nn.Embedding(classes + 1, 1) if classes else None

    def forward(self, x, t, y=None):
        time = (t if self.embed is None or y is None else t + self.embed(y)[:, 0])[:, None, None, None].to(x)
        return self.layer(torch.cat([x, time.expand_as(x), x * time], 1)).tanh()


def test_conditions_and_guidance_of_a_foreign_network():
    """Bound rows and guidance act as on NetFlow: guided = without + 2 (given - without), in one call."""
    torch.manual_seed(0)
    net, null = Tiny(classes=4), torch.tensor([4])
    for flow in [
        from_velocity(by_name(net, "y"), (1, 4, 4), clean_at=0, null=(null,)),
        from_noise(net, (1, 4, 4), DDPM, null=(null,)),
        from_edm(net, (1, 4, 4), null=(null,)),
    ]:
        x = torch.randn(4, 1, 4, 4)
        labels = torch.tensor([0, 3])
        for t in [double(0.3), double([0.2, 0.4, 0.6, 0.8])]:
            given = flow.bind(labels).velocity(x, t)
            without = flow.bind(null.expand(2)).velocity(x, t)
            assert (given - without).abs().max() > 1e-3
            guided = flow.bind(labels, guidance=lambda v, w, _: w + 2 * (v - w)).velocity(x, t)
            torch.testing.assert_close(guided, without + 2 * (given - without), atol=1e-5, rtol=1e-5)
        assert flow.bind(labels).sized(8, 8).shape == (1, 8, 8)
    with pytest.raises(ValueError, match="at most 1 conditions"):
        from_velocity(by_name(net, "y"), (1, 4, 4), condition=(labels, labels)).velocity(x, double(0.5))


def test_other_orders_and_names():
    def time_first(t, x):
        return t[:, None, None, None] * x

    x, t = torch.randn(2, *SHAPE), double(0.25)
    torch.testing.assert_close(from_velocity(by_name(time_first), SHAPE).velocity(x, t), 0.25 * x)
    with pytest.raises(ValueError, match="by_name"):
        diffusers_net(Tiny())


def test_torchcfm_unet():
    """A UNet of torchcfm, whose arguments are (t, x, y)."""
    unet = pytest.importorskip("torchcfm.models.unet").UNetModel(
        dim=(1, 28, 28), num_channels=32, num_res_blocks=1, num_classes=3, class_cond=True
    )
    nn.init.normal_(unet.out[-1].weight, std=0.1)  # it starts at zero
    x, t, labels = torch.randn(2, 1, 28, 28), double(0.3), torch.tensor([0, 2])
    flow = from_velocity(by_name(unet, "y"), (1, 28, 28)).bind(labels)
    torch.testing.assert_close(flow.velocity(x, t), unet(torch.full((2,), 0.3), x, y=labels))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: from_velocity(Tiny(), SHAPE, clean_at=2), "clean_at 0 or 1"),
        (lambda: from_velocity(Tiny(), SHAPE, span=(1, 0)), "span"),
        (lambda: from_velocity(Tiny(), SHAPE, margin=0.6), "margin"),
        (lambda: from_velocity(Tiny(), SHAPE, path=DDPM), "a path for a velocity"),
        (lambda: from_noise(Tiny(), SHAPE, torch.linspace(1e-4, 0.02, 1000)), "alphas_cumprod"),  # betas
        (lambda: from_v(Tiny(), SHAPE, linear), "variance-preserving"),
        (lambda: from_edm(Tiny(), SHAPE, low=2, high=1), "low < high"),
        (lambda: from_velocity(doubled, SHAPE).velocity(torch.randn(1, *SHAPE), double(0.5)), "learned_variance=True"),
        (lambda: from_noise(Tiny(), SHAPE, DDPM).times(0), "at least 1 step"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def unet(diffusers):
    torch.manual_seed(0)
    model = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return model.eval().requires_grad_(False)


def on_linear(table, labels):
    """Times of the linear path at the labels of a VP table, and the factor from its states to ours."""
    alpha, sigma = table[labels].double().sqrt(), (1 - table[labels].double()).sqrt()
    return alpha / (alpha + sigma), 1 / (alpha + sigma)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_ddim_of_diffusers_is_euler(diffusers, unet, prediction):
    """One DDIM step of diffusers, frozen ends, is one Euler step on the linear path, for every kind of prediction."""
    scheduler = diffusers.DDIMScheduler(prediction_type=prediction, clip_sample=False, set_alpha_to_one=False)
    scheduler.set_timesteps(20)
    table, labels = scheduler.alphas_cumprod, scheduler.timesteps.tolist()
    assert labels[-1] == 0
    make = {"epsilon": from_noise, "sample": partial(from_clean, clean_at=0), "v_prediction": from_v}[prediction]
    flow = make(diffusers_net(unet), (1, 8, 8), table)
    theirs = torch.randn(2, 1, 8, 8)
    times, factor = on_linear(table, labels)
    ours = run(integrate(flow, theirs * factor[0], times)).x
    for label in scheduler.timesteps[:-1]:
        theirs = scheduler.step(unet(theirs, label).sample, label, theirs).prev_sample
    worst = float((ours - theirs * factor[-1]).abs().max() / theirs.abs().max())
    print(f"DDIM, {prediction}: relative difference after {len(labels) - 1} steps {worst:.1e}")
    assert worst < 1e-4


def test_estimates_of_ddpm_scheduler(diffusers, unet):
    """E[clean] is `pred_original_sample`, at every label."""
    scheduler = diffusers.DDPMScheduler(clip_sample=False)
    flow = from_noise(diffusers_net(unet), (1, 8, 8), scheduler.alphas_cumprod)
    for label in [0, 10, 500, 900, 999]:
        x = torch.randn(2, 1, 8, 8)
        theirs = scheduler.step(unet(x, label).sample, label, x).pred_original_sample
        t, factor = on_linear(scheduler.alphas_cumprod, label)
        torch.testing.assert_close(
            flow.ends(x * factor, t).clean, theirs, atol=1e-3 if label > 800 else 1e-4, rtol=1e-4
        )


def test_euler_discrete_of_diffusers(diffusers, unet):
    """Its states are clean + sigma noise; its times are interpolated labels."""
    scheduler = diffusers.EulerDiscreteScheduler(timestep_spacing="linspace")
    scheduler.set_timesteps(12)
    sigmas = scheduler.sigmas.double()
    x = torch.randn(2, 1, 8, 8) * scheduler.init_noise_sigma
    flow = from_noise(diffusers_net(unet), (1, 8, 8), scheduler.alphas_cumprod)
    ours = run(integrate(flow, x / (1 + sigmas[0]), 1 / (1 + sigmas))).x
    for label in scheduler.timesteps:
        x = scheduler.step(unet(scheduler.scale_model_input(x, label), label).sample, label, x).prev_sample
    print(f"Euler discrete: relative difference {float((ours - x).abs().max() / x.abs().max()):.1e}")
    torch.testing.assert_close(ours, x, atol=1e-4 * float(x.abs().max()), rtol=0)


def test_flow_match_euler_of_diffusers(diffusers, unet):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(10)
    flow = from_velocity(diffusers_net(unet), (1, 8, 8), clean_at=0, time_scale=1000)
    x = torch.randn(2, 1, 8, 8)
    ours = run(integrate(flow, x, 1 - scheduler.sigmas.double())).x
    for label in scheduler.timesteps:
        x = scheduler.step(unet(x, label).sample, label, x).prev_sample
    torch.testing.assert_close(ours, x, atol=1e-5, rtol=1e-5)


def test_transformers_of_diffusers(diffusers):
    """DiT (classes, learned variance) and SD3 (two text embeddings) as flows, their conditions bound, differentiable."""
    torch.manual_seed(0)
    dit = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=1, out_channels=2, num_layers=1, sample_size=8,
        patch_size=2, num_embeds_ada_norm=10, norm_num_groups=1,
    ).eval()  # fmt: skip
    sd3 = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=1, num_layers=2, attention_head_dim=16, num_attention_heads=4,
        joint_attention_dim=32, caption_projection_dim=64, pooled_projection_dim=32, out_channels=1, pos_embed_max_size=8,
    ).eval()  # fmt: skip
    table = diffusers.DDPMScheduler().alphas_cumprod
    text = torch.randn(2, 5, 32), torch.randn(2, 32)
    silence = tuple(torch.zeros(1, *e.shape[1:]) for e in text)
    for flow, told in [
        (from_noise(diffusers_net(dit), (1, 8, 8), table, learned_variance=True, null=(torch.tensor([10]),)), [torch.tensor([1, 7])]),
        (from_velocity(diffusers_net(sd3), (1, 8, 8), clean_at=0, time_scale=1000, null=silence), text),
    ]:  # fmt: skip
        x, t = torch.randn(2, 1, 8, 8, requires_grad=True), double(0.4)
        v = flow.bind(*told).velocity(x, t)
        gradient = torch.autograd.grad(v.square().sum(), x)[0]
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0
        with torch.no_grad():
            other = flow.bind(*(n.expand(c.shape) for n, c in zip(flow.null, told, strict=True))).velocity(x, t)
            assert (v - other).abs().max() > 1e-5
            guided = flow.bind(*told, guidance=lambda g, w, _: w + 3 * (g - w)).velocity(x, t)
            torch.testing.assert_close(guided, other + 3 * (v - other), atol=1e-4, rtol=1e-4)
    with torch.no_grad():  # by hand: sigma = 1 - t, label 1000 sigma, noise - clean
        by_hand = -sd3(
            hidden_states=x, timestep=torch.full((2,), 600.0), encoder_hidden_states=text[0], pooled_projections=text[1]
        ).sample
    torch.testing.assert_close(v, by_hand, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["DRUNet", "TVDenoiser", "MedianFilter"])
def test_a_denoiser_of_deepinv_there_and_back(name):
    """denoiser -> flow -> denoiser is the denoiser itself, between its levels."""
    models = pytest.importorskip("deepinv.models")
    torch.manual_seed(0)
    options = {
        "DRUNet": {"in_channels": 1, "out_channels": 1, "nc": (4, 4, 4, 4), "nb": 1, "pretrained": None},
        "TVDenoiser": {"n_it_max": 100},
        "MedianFilter": {"kernel_size": 3},
    }
    denoiser = getattr(models, name)(**options[name])
    flow = from_denoiser(denoiser, (1, 16, 16), high=0.5)
    clean = torch.linspace(0, 1, 16).expand(3, 1, 16, 16)
    sigma = torch.tensor([0.03, 0.1, 0.4])
    picture = clean + sigma[:, None, None, None] * torch.randn(3, 1, 16, 16)
    with torch.no_grad():
        want, got = (
            deepcopy(denoiser)(picture, sigma),
            flow.as_denoiser()(picture, sigma),
        )  # TV starts where it was left
    print(f"{name}: difference after both ways {float((want - got).abs().max()):.1e}")
    torch.testing.assert_close(got, want, atol=2e-5, rtol=0)


def test_it_can_be_seen_along_another_path():
    flow = on_path(from_edm(edm, SHAPE), trig)
    x, t = states(double(0.4)), double(0.4)
    torch.testing.assert_close(flow.velocity(x, t), law(trig).velocity(x, t), atol=1e-9, rtol=0)
