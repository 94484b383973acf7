"""FLUX.2: pictures shown beside the prompt; MPC-Flow through its decoder is the released code's, formula by formula."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from flowhelm import Noise, inner, integrate, run, steer
from flowhelm.bench.pipelines import tiny
from flowhelm.control import flux2
from flowhelm.priors.pipelines import wrap


def made(size=(64, 64)):
    torch.manual_seed(0)
    pipe = tiny.flux2()
    pipe.set_progress_bar_config(disable=True)
    return wrap(pipe, size=size)


def test_a_picture_beside_the_prompt_is_the_pipeline_s_image():
    flow, told = made(), tiny.embeddings(48)
    levels = torch.randint(0, 256, (64, 64, 3), generator=torch.Generator().manual_seed(3))
    picture = levels.permute(2, 0, 1)[None] / 127.5 - 1
    bound = flow.bind(told).beside(picture)
    x = flow.source(Noise(0, 1))
    shown = Image.fromarray(levels.byte().numpy())
    call = {"height": 64, "width": 64, "num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "latent"}
    theirs = flow.pipe(**told, image=shown, latents=x, **call).images
    ours = run(integrate(bound, x, bound.times(3))).x
    torch.testing.assert_close(ours, flow.returned(theirs), atol=1e-5, rtol=0)
    assert (ours - run(integrate(flow.bind(told), x, bound.times(3))).x).abs().max() > 1e-3  # it is looked at
    with pytest.raises(ValueError, match="bind the prompts first"):
        flow.beside(picture)


def published(flow, cost, x, steps, *, rate, rho, iterations):
    """MPC-Flow's code for FLUX.2, from its description: tokens, sigma, noisewards velocity; its own Adam.

    delta <- Adam on cost(decode(latents - sigma out + delta)) + rho (1 - sigma) |delta|^2 from 0; out <- out - delta / sigma.
    """
    pipe, told = flow.pipe, {name: each.double() for name, each in flow.told.items()}
    height, width = x.shape[-2:]
    latents, sigmas = x.flatten(2).mT, 1 - flow.times(steps)
    places = torch.cartesian_prod(*(torch.arange(n) for n in (1, height, width, 1)))[None]
    words = torch.cartesian_prod(*(torch.arange(n) for n in (1, 1, 1, told["prompt_embeds"].shape[1])))[None]
    std = (pipe.vae.bn.running_var + pipe.vae.config.batch_norm_eps).sqrt().view(1, -1, 1, 1)
    mean, history = pipe.vae.bn.running_mean.view(1, -1, 1, 1), []
    for sigma, after in pairwise(sigmas):
        with torch.no_grad():
            out = pipe.transformer(
                hidden_states=latents, timestep=sigma.expand(1), guidance=told["guidance"], txt_ids=words,
                encoder_hidden_states=told["prompt_embeds"], img_ids=places, return_dict=False,
            )[0]  # fmt: skip
        estimate, delta = latents - sigma * out, torch.zeros_like(latents, requires_grad=True)
        first = second = torch.zeros_like(latents)
        for k in range(1, iterations + 1):
            picture = (estimate + delta).mT.reshape(1, -1, height, width) * std + mean
            small = (
                picture.reshape(1, -1, 2, 2, height, width)
                .permute(0, 1, 4, 2, 5, 3)
                .reshape(1, -1, 2 * height, 2 * width)
            )
            shown = (pipe.vae.decode(small).sample.clamp(-1, 1) + 1) / 2
            value = cost(shown) + rho * (1 - sigma) * delta.square().sum()
            if k == 1:
                history.append(float(value.detach()))
            (slope,) = torch.autograd.grad(value, delta)
            first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
            move = (first / (1 - 0.9**k)) / ((second / (1 - 0.999**k)).sqrt() + 1e-8)
            delta = (delta - rate * move).detach().requires_grad_()
        out = out - delta.detach() / sigma
        latents = latents + (after - sigma) * out
    return latents.mT.reshape(x.shape), history


def grey(picture):
    return (torch.tensor([0.299, 0.587, 0.114], dtype=picture.dtype).view(1, 3, 1, 1) * picture).sum(1, keepdim=True)


@pytest.mark.parametrize(("rate", "rho", "size"), [(0.2, 1e-6, 1.0), (0.5, 2.5e-6, 1.0), (0.5, 64.0, 1e6)])
def test_mpc_flow_is_the_released_code_s(rate, rho, size):
    """Rates and rho of the demonstrations of luminance, superresolution and style (whose cost, of Gram matrices, is large)."""
    flow = made((32, 32)).bind(tiny.embeddings(48))
    for part in (flow.pipe.transformer, flow.pipe.vae):
        part.double()
    x = flow.source(Noise(0, 1)).double()
    target = grey(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(5), dtype=torch.float64))

    def cost(shown):
        return size * (grey(shown) - target).square().mean()

    calls = []
    flow.net.register_full_backward_hook(lambda *_: calls.append("backward"))
    flow.net.register_forward_hook(lambda *_: calls.append("forward"))
    expected, before = published(flow, cost, x, 4, rate=rate, rho=rho, iterations=20)
    assert calls == ["forward"] * 4
    calls.clear()

    def reward(image):
        return -size * (grey((image.clamp(-1, 1) + 1) / 2) - target).square().mean((1, 2, 3))

    decodes, falls = [], []

    def watched(problem, start, closed):
        solution = inner.adam(problem, start, closed, iterations=20, rate=rate)
        with torch.no_grad():
            falls.append((float(problem(start)), float(problem(solution))))
        return solution

    decode = flow.pipe.vae.decode
    flow.pipe.vae.decode = lambda *a, **k: decodes.append(1) or decode(*a, **k)
    steps = steer.mpc_flow(
        flow, reward, x, flow.times(4), strength=1.0, energy=partial(flux2, rho=rho), unit="displacement", inner=watched
    )
    ours = run(steps).x
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-6)
    assert calls == ["forward"] * 4  # no backward pass of the network, one evaluation a step
    assert len(decodes) == 4 * (20 + 2)  # and two for watching
    assert all(end < start for start, end in falls)
    torch.testing.assert_close(torch.tensor([start for start, _ in falls]), torch.tensor(before), atol=0, rtol=1e-5)
