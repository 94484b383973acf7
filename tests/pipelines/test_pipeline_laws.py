"""What every pipeline keeps as a flow: nothing of it changes, its prompt and its codec count, and half precision will do."""

from dataclasses import replace

import pytest
import torch
from families import EACH, READ, T, bound, flow, fresh, pipe, state

from flowhelm.priors import pipelines
from flowhelm.solve import integrate
from flowhelm.step import run


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


@EACH
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
