"""What every pipeline keeps as a flow: parity, plan, gradient, independent rows, what matters to it, half precision."""

from dataclasses import replace

import pytest
import torch
from families import EACH, EACH_KIND, READ, READING, TEXTS, T, bound, flow, fresh, pipe, state

from flowhelm import FlowMap, integrate, run
from flowhelm.app.models.plan import plan
from flowhelm.bench.pipelines import tiny
from flowhelm.memory import ROUND
from flowhelm.priors import pipelines
from flowhelm.priors.pipelines.hunyuan_image import HunyuanImage, HunyuanImageMap
from flowhelm.priors.pipelines.parity import compare


@EACH
def test_parity(name):
    torch.manual_seed(0)
    p = compare(pipe(name), **tiny.CASES[name][1])
    assert p.good, p
    assert p.latents <= 1e-5
    assert p.pixels <= 1e-5


def test_every_family_has_a_case():
    assert {type(flow(name)) for name in tiny.CASES} == set(pipelines.FAMILIES)
    assert len({(name, each.fits) for each in pipelines.FAMILIES for name in each.classes}) >= len(pipelines.FAMILIES)


ONCE = {"inner": "adam:iterations=1"}


def blocks(nets):
    """Bytes of weights in bfloat16, as the allocator hands them out."""
    return sum(
        -(-(2 if each.is_floating_point() else each.element_size()) * each.numel() // ROUND) * ROUND
        for net in nets
        for each in (*net.parameters(), *net.buffers())
    )


@EACH_KIND
def test_each_can_be_planned(name, folder):
    size = tiny.CASES[name][1]["size"]
    found = plan(folder(name), "mpc_flow", vram=24, size=size, quantize="none", options=ONCE, steps=1)
    assert found.fits
    assert found.size == size
    assert found.weights["network"] * 2**30 == blocks(flow(name).nets)
    assert found.weights["decoder"] * 2**30 == blocks([flow(name).pipe.vae])
    assert found.peak == pytest.approx(sum(found.held.values()))
    assert found.peak > sum(found.weights.values())
    assert {"network forward", "decoder forward", "decoder backward"} <= set(found.parts)


@EACH_KIND
def test_the_gradient_is_that_of_the_velocity(name):
    """A directional derivative in float64 against a central difference: no part of a network is left out."""
    own = fresh(name)
    for part in own.components.values():
        if isinstance(part, torch.nn.Module):
            part.double()
    told = tiny.CASES[name][1]
    mine = pipelines.wrap(own, size=told["size"]).bind(
        told["prompt"], negative=told.get("negative"), scale=told.get("scale")
    )
    x = state(name).double()
    way, cotangent = torch.randn_like(x), torch.randn_like(x)
    z = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad((mine.velocity(z, T) * cotangent).sum(), z)
    h = 2e-4
    with torch.no_grad():
        ahead, behind = (mine.velocity(x + sign * h * way, T) for sign in (1, -1))
    numeric = ((ahead - behind) / (2 * h) * cotangent).sum()
    torch.testing.assert_close((slope * way).sum(), numeric, rtol=1e-2, atol=1e-3)


def close(found, expected):
    """Equal but for the rounding of float32, which goes with the scale of the whole row, not with that of an entry."""
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@EACH_KIND
def test_a_time_per_row(name):
    mine, x = bound(name), state(name, 2)
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    both = mine.velocity(x, t)
    for i in range(2):
        close(both[i : i + 1], mine.velocity(x[i : i + 1], t[i]))


@READING
def test_prompts_of_different_lengths_do_not_disturb_one_another(name):
    x, both = state(name, 2), bound(name, *TEXTS)
    together = both.velocity(x, T)
    for i, text in enumerate(TEXTS):
        alone = bound(name, text).velocity(x[i : i + 1], T)
        close(together[i : i + 1], alone)
        picked = both.rows(torch.tensor([i]), 2).velocity(x[i : i + 1], T)
        close(picked, alone)


@READING
def test_particles_are_rows_of_their_prompt(name):
    both, x = bound(name, *TEXTS), state(name, 4)
    together = both.velocity(x, T)
    for i in (1, 2):
        alone = both.rows(torch.tensor([i]), 4).velocity(x[i : i + 1], T)
        close(together[i : i + 1], alone)
        same = both.rows(torch.tensor([i // 2]), 2).velocity(x[i : i + 1], T)
        close(alone, same)


@EACH
def test_sampling_leaves_the_pipeline_as_it_was(name):
    before = dict(vars(pipe(name).scheduler))
    weights = {k: v.clone() for k, v in flow(name).net.state_dict().items()}
    mine = bound(name)
    run(integrate(mine, state(name), mine.times(2)))
    after = vars(pipe(name).scheduler)
    assert before.keys() == after.keys()
    assert all(after[key] is value or after[key] == value for key, value in before.items())
    assert all(torch.equal(v, weights[k]) for k, v in flow(name).net.state_dict().items())


@EACH
def test_the_prompt_and_the_codec_matter(name):
    mine, x = bound(name), state(name)
    picture = mine.decode(x)
    assert picture.shape == (1, 3, *mine.size)
    assert mine.encode(picture).shape == x.shape
    if name in READ:
        other = bound(name, "zzz 9").velocity(x, T)
        assert (other - mine.velocity(x, T)).abs().max() > 1e-3


@EACH_KIND
def test_a_network_of_half_precision(name):
    """Everything the network is told reaches it in a dtype that it takes; the state stays float32."""
    own = fresh(name).to(torch.bfloat16)
    told, null = bound(name).told, bound(name).null
    half = replace(pipelines.wrap(own, size=bound(name).size), told=told, null=null, guidance=bound(name).guidance)
    x = state(name)
    v, reference = half.velocity(x, T), bound(name).velocity(x, T)
    assert v.dtype == torch.float32
    assert (v - reference).norm() < 0.1 * reference.norm()
    assert half.decode(x).dtype == torch.float32


@pytest.mark.parametrize("name", ["qwen-image", "qwen-image-2.1", "krea2"])
def test_pictures_are_not_clamped(name):
    """The auto-encoder's own decode clamps; within [-1, 1] they agree."""
    own, x = fresh(name), state(name)
    with torch.no_grad():
        own.vae.decoder.conv_out.weight.mul_(20)
    codec = pipelines.wrap(own, size=flow(name).size).codec
    picture = codec.decode(x)
    clamped = own.vae.decode((x * codec.scale + codec.shift)[:, :, None]).sample[:, :3, 0]
    assert picture.abs().max() > 1
    torch.testing.assert_close(picture.clamp(-1, 1), clamped)


def test_only_the_distilled_one_is_a_map():
    assert isinstance(flow("hunyuan-image-distilled"), HunyuanImageMap)
    assert isinstance(flow("hunyuan-image-distilled"), FlowMap)
    assert type(flow("hunyuan-image")) is HunyuanImage
    assert not isinstance(flow("hunyuan-image"), FlowMap)


def test_a_map_moves_by_the_mean_velocity_and_a_velocity_is_that_of_two_equal_times():
    told, x = bound("hunyuan-image-distilled"), state("hunyuan-image-distilled")
    s, t = (torch.tensor(each, dtype=torch.float64) for each in (0.3, 0.8))
    seen = []
    hook = told.net.register_forward_pre_hook(lambda net, args, given: seen.append(given), with_kwargs=True)
    try:
        moved, v = told.map(x, s, t), told.velocity(x, s)
    finally:
        hook.remove()
    labels = [(float(given["timestep"]), float(given["timestep_r"])) for given in seen]
    assert labels == [pytest.approx((700, 200), abs=1e-3), pytest.approx((700, 700), abs=1e-3)]
    assert all(float(given["guidance"]) == 3250 for given in seen)
    mean = told.net(**seen[0])[0]
    torch.testing.assert_close(moved, x + 0.5 * -mean, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(v, -told.net(**seen[1])[0])
    torch.testing.assert_close(told.map(x, s, s), x)
