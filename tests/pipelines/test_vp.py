"""Variance-preserving pipelines as flows: DDIM is Euler, the conversion is that of foreign networks, and the ends are honest."""

from dataclasses import replace

import pytest
import torch

from flowhelm import Noise, integrate, priors, run
from flowhelm.bench.pipelines import tiny
from flowhelm.priors.pipelines import wrap
from flowhelm.priors.pipelines.parity import compare

SIZE = (32, 32)


def made(name, *schedule):
    torch.manual_seed(0)
    return wrap(tiny.CASES[name][0](*schedule), size=SIZE)


@pytest.fixture(scope="module")
def sd():
    return made("sd")


def level(flow, label):
    """alpha and sigma of a label, and its time."""
    kept = flow.pipe.scheduler.alphas_cumprod[label].double()
    return kept.sqrt(), (1 - kept).sqrt(), kept.sqrt() / (kept.sqrt() + (1 - kept).sqrt())


# --- the pipeline's own latents ---


@pytest.mark.parametrize(
    ("schedule", "steps"),
    [
        ({"set_alpha_to_one": True, "steps_offset": 0}, 7),
        ({"timestep_spacing": "trailing"}, 8),
        ({"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "prediction_type": "sample"}, 4),
        ({"timestep_spacing": "linspace"}, 5),
    ],
    ids=["to one", "trailing", "sample", "linspace"],
)
def test_ddim_is_euler_for_every_schedule(schedule, steps):
    torch.manual_seed(0)
    found = compare(tiny.sd(schedule), size=SIZE, prompt="a cat", negative="dog", scale=4.0, steps=steps)
    print(found)
    assert found.good
    assert found.ours == found.calls == steps


def test_other_schedulers_keep_their_levels():
    """A pipeline whose scheduler is not DDIM is compared with DDIM on the same labels, and is not changed itself."""
    flow = made("sdxl")
    before = flow.pipe.scheduler
    times = replace(flow, grid="pipeline").times(5)
    assert [round(float(t), 6) for t in times[:-1]] == [
        round(float(level(flow, label)[2]), 6) for label in (801, 601, 401, 201, 1)
    ]
    assert type(flow.reference.scheduler).__name__ == "DDIMScheduler"
    assert flow.pipe.scheduler is before
    assert flow.reference.unet is flow.pipe.unet


# --- grids ---


def test_the_pipelines_grid(sd):
    """From its first label, above 0, to its last level, below 1 without set_alpha_to_one."""
    times = replace(sd, grid="pipeline").times(4)
    expected = [level(sd, label)[2] for label in (751, 501, 251, 1)]
    torch.testing.assert_close(times, torch.stack([*expected, level(sd, 0)[2]]), rtol=0, atol=1e-12)
    assert times[0] > 0.1
    assert times[-1] < 0.98
    to_one = replace(made("sd", {"set_alpha_to_one": True}), grid="pipeline").times(4)
    assert float(to_one[-1]) == 1.0
    with pytest.raises(ValueError, match="at least 1 step"):
        replace(sd, grid="pipeline").times(0)
    with pytest.raises(ValueError, match="divides 1000 for the trailing spacing"):
        replace(made("sd_v"), grid="pipeline").times(3)


def test_factor_is_alpha_plus_sigma(sd):
    for label in (0, 400, 999):
        alpha, sigma, t = level(sd, label)
        assert float(sd.factor(t)) == pytest.approx(float(alpha + sigma), abs=1e-7)
    assert float(sd.factor(torch.tensor(0.0))) == 1


@pytest.mark.parametrize("name", ["sd", "sd_v"])
def test_the_default_grid_goes_from_the_source_to_clean(name):
    flow = made(name).bind(["a cat"], scale=2.0)
    times = flow.times(6)
    assert (float(times[0]), float(times[-1])) == (0.0, 1.0)
    assert (times.diff() > 0).all()
    x = flow.source(Noise(0, 2))
    assert x.std() == pytest.approx(1, abs=0.1)
    last = run(integrate(flow, x, times))
    assert last.x.isfinite().all()
    t = torch.tensor(1.0, dtype=torch.float64)
    torch.testing.assert_close(flow.ends(last.x, t).clean, last.x)


# --- the conversion ---


@pytest.mark.parametrize(("name", "make"), [("sd", priors.from_noise), ("sd_v", priors.from_v)])
def test_it_is_the_foreign_networks_conversion(name, make):
    flow = made(name).bind(["a cat"], scale=1.0)
    texts = flow.told["prompt_embeds"]
    foreign = make(priors.diffusers_net(flow.pipe.unet), flow.shape, flow.pipe.scheduler.alphas_cumprod).bind(texts)
    x = flow.source(Noise(3, 3))
    for t in (0.0, 0.03, 0.4, 0.7, 0.99, 1.0):
        when = torch.tensor(t, dtype=torch.float64)
        torch.testing.assert_close(flow.velocity(x, when), foreign.velocity(x, when))
    rows = torch.tensor([0.2, 0.6, 0.9], dtype=torch.float64)  # a time for each row
    got = flow.velocity(x, rows)
    each = [flow.velocity(x[i : i + 1], rows[i]) for i in range(3)]
    torch.testing.assert_close(got, torch.cat(each), atol=1e-4, rtol=1e-4)


def test_guidance_is_on_velocities(sd):
    """Joining noise predictions, as the pipeline does, and joining velocities is the same."""
    x = sd.source(Noise(1, 2))
    for t in (torch.tensor(0.3, dtype=torch.float64), torch.tensor([0.2, 0.7], dtype=torch.float64)):
        one, other = (sd.bind([text], scale=1.0).velocity(x, t) for text in ("a cat", "dog"))
        got = sd.bind(["a cat"], negative="dog", scale=6.0).velocity(x, t)
        torch.testing.assert_close(got, other + 6 * (one - other), atol=1e-4, rtol=1e-4)


# --- the codec ---


def test_the_latents_units(sd):
    """0.18215 times the encoder's mean, without a shift."""
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean = sd.pipe.vae.encode(image).latent_dist.mean
    torch.testing.assert_close(sd.encode(image), 0.18215 * mean)
    torch.testing.assert_close(sd.decode(0.18215 * mean), sd.pipe.vae.decode(mean).sample)


# --- what the networks are told of the size ---


def asked(net):
    """Keyword arguments of the last call of a network."""
    seen = {}
    net.register_forward_pre_hook(lambda module, args, words: seen.update(words), with_kwargs=True)
    return seen


def test_sizes_follow_the_flow():
    flow = made("sdxl").bind(["a cat"], scale=1.0)
    seen = asked(flow.net)
    for size in ((32, 32), (64, 48)):
        now = flow.sized(*size)
        now.velocity(now.source(Noise(0, 1)), torch.tensor(0.5))
        assert seen["added_cond_kwargs"]["time_ids"].tolist() == [[*size, 0, 0, *size]]
    own = {**flow.told, "time_ids": torch.tensor([[512, 512, 0, 0, 32, 32]])}
    flow.bind(own, scale=1.0).velocity(flow.source(Noise(0, 1)), torch.tensor(0.5))
    assert seen["added_cond_kwargs"]["time_ids"].tolist() == [[512, 512, 0, 0, 32, 32]]
    alpha = made("pixart_alpha").bind(["a cat"], scale=1.0).sized(64, 48)
    seen = asked(alpha.net)
    alpha.velocity(alpha.source(Noise(0, 1)), torch.tensor(0.5))
    assert seen["added_cond_kwargs"]["resolution"].tolist() == [[64, 48]]
    assert seen["added_cond_kwargs"]["aspect_ratio"].tolist() == [[pytest.approx(4 / 3)]]


def test_an_empty_negative_prompt_of_sdxl_is_zeros():
    flow = made("sdxl").bind(["a cat", "a cat"], negative=["", "dog"], scale=3.0)
    assert not flow.null["prompt_embeds"][0].any()
    assert not flow.null["pooled_prompt_embeds"][0].any()
    assert flow.null["prompt_embeds"][1].any()
    flow.pipe.register_to_config(force_zeros_for_empty_prompt=False)
    assert replace(flow, _known={}).bind(["a cat"], scale=3.0).null["prompt_embeds"].any()


# --- texts ---


def test_a_text_is_encoded_once():
    flow = made("sd")
    calls = []
    flow.pipe.text_encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    first = flow.bind(["a cat", "dog", "a cat"], scale=3.0)
    count = len(calls)
    again = flow.sized(64, 64).bind(["a cat", "dog"], scale=2.0)
    assert len(calls) == count > 0
    assert torch.equal(first.told["prompt_embeds"][2], first.told["prompt_embeds"][0])
    assert torch.equal(first.told["prompt_embeds"][:2], again.told["prompt_embeds"])
    flow.bind(["another"], scale=1.0)
    assert len(calls) == count + 1
    assert not any(each.requires_grad for each in first.told.values())


def test_encoders_can_be_let_go():
    flow = made("sdxl")
    bound = flow.bind(["a cat"], scale=2.0).without_encoders()
    assert flow.pipe.text_encoder is None
    assert flow.pipe.text_encoder_2 is None
    assert torch.equal(flow.bind(["a cat"], scale=3.0).told["prompt_embeds"], bound.told["prompt_embeds"])
    with pytest.raises(ValueError, match="expected a text_encoder"):
        flow.bind(["dog"])


# --- what is refused ---


def test_what_is_no_diffusion_network():
    pipe = tiny.sd()
    pipe.scheduler.register_to_config(prediction_type="flow")
    with pytest.raises(ValueError, match="prediction_type is one of epsilon, v_prediction, sample"):
        wrap(pipe, size=SIZE)
    pipe = tiny.sd()
    pipe.unet.register_to_config(time_cond_proj_dim=16)
    with pytest.raises(ValueError, match="got a consistency model"):
        wrap(pipe, size=SIZE)
    assert wrap(tiny.sd()).size == (32, 32)  # 16 latents of 2 pixels
