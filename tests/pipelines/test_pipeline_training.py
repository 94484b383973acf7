"""A pipeline trained on pictures by the one loss: what the loss is, and that diffusers, which loads the file, draws the same picture."""

from copy import deepcopy

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusers import StableDiffusion3Pipeline

from flowhelm import Noise, integrate, priors, run
from flowhelm.bench.pipelines import tiny
from flowhelm.priors import adapters
from flowhelm.train import Batch, dropped, fit, flow_matching, seeded
from flowhelm.train.times import draw, logit_normal, shifted

SIZE, STEPS, TEXT = (32, 64), 3, "a red cat"


@pytest.fixture
def base():
    """Random weights, twice as large: those of the beginning hardly hear a text."""
    torch.manual_seed(0)
    pipe = tiny.sd3()
    with torch.no_grad():
        for weight in pipe.transformer.parameters():
            weight.mul_(2)
    return priors.load(pipe, size=SIZE)


@pytest.fixture
def data(base):
    """Latents of four pictures, and what the encoders say of their texts, under the names of the pipeline."""
    pictures = torch.rand(4, 3, *SIZE, generator=seeded(1, 0)) * 2 - 1
    told = base.bind(["cat", "dog", "red", "blue"], scale=1.0).told
    with torch.no_grad():
        latents = base.encode(pictures)
    return lambda index: Batch(latents, tuple(told[name] for name in base.needs))


def loss_of(base):
    """SD3's: times of a logit-normal law, shifted; each part of the text is forgotten on its own."""
    nothing = base.bind([""], scale=1.0).told
    null = tuple(nothing[name] for name in base.needs)

    def loss(flow, batch, generator):
        texts = dropped(batch.condition, null, 0.46, generator)
        told = flow.bind(dict(zip(flow.needs, texts, strict=True)), scale=1.0)
        return flow_matching(told, Batch(batch.clean), generator, density=shifted(logit_normal(), 3.0))

    return loss


def whole(flow):
    """The same prior with all weights free, and the first one's left as they were."""
    return flow.with_net(deepcopy(flow.net).requires_grad_(True))


@torch.no_grad()
def drawn(flow):
    """Latents of three Euler steps without guidance, and their picture."""
    told = flow.bind([TEXT], scale=1.0)
    x = run(integrate(told, told.source(Noise(5, 1)), told.times(STEPS))).x
    return x, told.decode(x)


@torch.no_grad()
def by_diffusers(pipe, flow, kind):
    """The same by the pipeline's own call."""
    x, told = flow.source(Noise(5, 1)), flow.bind([TEXT], scale=1.0)
    made = pipe(**told.arguments(TEXT, None, 1.0), latents=flow.native(x), num_inference_steps=STEPS, height=SIZE[0],
                width=SIZE[1], output_type=kind).images  # fmt: skip
    return flow.returned(made) if kind == "latent" else 2 * made - 1


def near(one, other):
    return float((one - other).abs().max() / other.abs().max())


def test_diffusers_draws_what_was_trained(base, data, tmp_path):
    """One step of `fit` on the whole transformer; saved; loaded by diffusers: the same latents and the same picture to 1e-5."""
    before, flow = drawn(base)[0], whole(base)
    (update,) = fit(flow, loss_of(base), data, steps=1, rate=1e-2, warmup=1, weight_decay=0.0)
    assert update.loss.isfinite()
    latents, picture = drawn(flow)
    assert near(latents, before) > 1e-2
    assert torch.equal(drawn(base)[0], before)
    flow.pipe.save_pretrained(tmp_path)
    own = StableDiffusion3Pipeline.from_pretrained(tmp_path)
    assert near(by_diffusers(own, flow, "latent"), latents) < 1e-5
    assert near(by_diffusers(own, flow, "pt"), picture.clamp(-1, 1)) < 1e-5


def test_diffusers_draws_with_the_adapter(base, data, tmp_path):
    flow = base.with_lora(4)
    for _ in fit(flow, loss_of(base), data, steps=3, rate=1e-2, warmup=1, weight_decay=0.0):
        pass
    latents = drawn(flow)[0]
    assert near(latents, drawn(base)[0]) > 1e-3
    adapters.save(flow, tmp_path / "pytorch_lora_weights.safetensors", {"method": "flow_matching"})
    base.pipe.load_lora_weights(str(tmp_path))
    assert near(by_diffusers(base.pipe, base, "latent"), latents) < 1e-5


def test_the_loss_is_the_papers(base, data):
    """Noise at level sigma is (1 - sigma) clean + sigma noise; told 1000 sigma, the network of diffusers answers noise - clean."""
    batch = data(0)
    told = dict(zip(base.needs, batch.condition, strict=True))
    with torch.no_grad():
        ours = flow_matching(base.bind(told, scale=1.0), Batch(batch.clean), seeded(3, 0), density=logit_normal())
        generator = seeded(3, 0)
        noise = torch.randn(batch.clean.shape, generator=generator)
        sigma = (1 - draw(logit_normal(), 4, generator)).float()
        state = torch.lerp(batch.clean, noise, sigma.view(-1, 1, 1, 1))
        answer = base.net(state, told["prompt_embeds"], told["pooled_prompt_embeds"], 1000 * sigma, return_dict=False)[
            0
        ]
    torch.testing.assert_close(ours, (answer - (noise - batch.clean)).square().mean((1, 2, 3)), rtol=1e-5, atol=0)


def test_conditions_are_bound_not_batched(base, data):
    with pytest.raises(
        ValueError, match="without conditions for a StableDiffusion3, which bind tells what it shows, got 2"
    ):
        flow_matching(base, data(0), seeded(0, 0))
