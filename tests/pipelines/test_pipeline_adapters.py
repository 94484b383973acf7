"""Adapters of pipelines: the base is the pipeline as it was, and diffusers loads the file back at full strength."""

import pytest
import torch

from flowhelm import Noise, integrate, priors, rewards, run, tune
from flowhelm.bench.pipelines import tiny
from flowhelm.interfaces.cli import main
from flowhelm.priors import adapters

CASES = {"sd3": tiny.sd3, "flux2": tiny.flux2, "sd": tiny.sd, "qwen-image": tiny.qwen_image}


def opened(name):
    torch.manual_seed(0)
    return priors.load(CASES[name](), size=(32, 64))


def bound(flow, name):
    case = tiny.CASES[name][1]
    prompt = case["prompt"]
    return flow.bind([prompt] if isinstance(prompt, str) else prompt, scale=1.0)


@torch.no_grad()
def drawn(flow):
    return run(integrate(flow, flow.source(Noise(0, 1)), flow.times(3))).x


@pytest.mark.parametrize("name", CASES)
def test_diffusers_loads_it_at_full_strength(name, tmp_path):
    """The same latents to 1e-5 from our flow with the adapter, from the file folded in, and from diffusers' own load_lora_weights."""
    base = bound(opened(name), name)
    plain = drawn(base)
    flow = base.with_lora(4, alpha=16.0)
    assert torch.equal(drawn(flow), plain)
    torch.manual_seed(1)
    with torch.no_grad():
        for each in flow.trained():
            each += 0.05 * torch.randn_like(each)
    tuned = drawn(flow)
    assert (tuned - plain).abs().max() > 1e-3
    assert torch.equal(drawn(base), plain)
    adapters.save(flow, tmp_path / "pytorch_lora_weights.safetensors", {"method": "draft"})
    assert torch.allclose(
        drawn(adapters.applied(base, tmp_path / "pytorch_lora_weights.safetensors")), tuned, atol=1e-5
    )
    own = opened(name)
    own.pipe.load_lora_weights(str(tmp_path))
    assert torch.allclose(drawn(bound(own, name)), tuned, atol=1e-5)
    bare = {key: value for key, value in adapters.read(tmp_path / "pytorch_lora_weights.safetensors").weights.items()}
    from safetensors.torch import save_file

    (tmp_path / "bare").mkdir()  # who does not read the header finds the same strength
    prefix = adapters.component(flow)
    save_file({prefix + key: value for key, value in bare.items()}, tmp_path / "bare" / "pytorch_lora_weights.safetensors")  # fmt: skip
    own = opened(name)
    own.pipe.load_lora_weights(str(tmp_path / "bare"))
    assert torch.allclose(drawn(bound(own, name)), tuned, atol=1e-5)


def test_align_writes_what_diffusers_loads(tmp_path):
    """Ten updates of `flowhelm align` on a pipeline's folder; its adapter, loaded by diffusers, draws the same latents to 1e-5."""
    torch.manual_seed(0)
    folder, out = tmp_path / "tiny", tmp_path / "run"
    tiny.sd3().save_pretrained(folder)
    words = "--prompt cat --size 32x64 --scale 1 --reward brightness --method draft --rate 0.01 --rows 1 --updates 10 --steps 2"
    more = "--checked 2 --check-every 5 --check-steps 2 --threads 1 --rank 2 --least-diversity 0"
    assert main(["align", str(folder), *words.split(), *more.split(), "--out", str(out)]) == 0
    base = priors.load(str(folder), size=(32, 64)).bind(["cat"], scale=1.0)
    tuned = drawn(adapters.applied(base, out / "adapter.safetensors"))
    assert (tuned - drawn(base)).abs().max() > 1e-4
    base.pipe.load_lora_weights(str(out), weight_name="adapter.safetensors")
    assert torch.allclose(drawn(base), tuned, atol=1e-5)


def test_a_pipeline_learns(tmp_path):
    base = bound(opened("sd3"), "sd3")
    flow = base.with_lora(2)
    adam = torch.optim.AdamW(flow.trained(), 1e-2)
    before = drawn(base)
    scores = [
        float(u.info["reward"].mean())
        for u in tune.draft(flow, base, rewards.brightness, adam, noise=Noise(0, 1), steps=3, updates=4)
    ]
    assert all(torch.isfinite(torch.tensor(scores)))
    assert torch.equal(drawn(base), before)
    assert not torch.equal(drawn(flow), before)
    value = priors.field(base)
    both = torch.optim.AdamW([{"params": flow.trained()}, {"params": value.parameters()}], 1e-3)
    for method in (tune.vgg_flow, tune.nabla_db):
        for update in method(flow, base, rewards.brightness, both, noise=Noise(0, 1), value=value, steps=3, updates=1):
            assert update.loss.isfinite()
