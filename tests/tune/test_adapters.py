"""Adapters: nothing changes at first, the base stays, folding in is adding, and files say no more and no less than was trained."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import flowhelm
from flowhelm.adapter import layers
from flowhelm.priors import adapters

T = torch.tensor(0.4, dtype=torch.float64)


@pytest.fixture
def base():
    return flowhelm.load("fashion").told(["coat", "bag"])


def moved(flow, scale=0.05):
    """As if it were trained: the second factors are no longer 0."""
    torch.manual_seed(3)
    with torch.no_grad():
        for each in flow.trained():
            each += scale * torch.randn_like(each)
    return flow


def test_it_changes_nothing_at_first_and_the_base_never(base):
    x = torch.randn(2, 1, 32, 32)
    before = base.velocity(x, T)
    flow = base.with_lora(4)
    assert torch.equal(flow.velocity(x, T), before)
    moved(flow)
    assert not torch.allclose(flow.velocity(x, T), before)
    assert torch.equal(base.velocity(x, T), before)
    shared = {p.data_ptr() for p in base.net.parameters()}
    assert shared <= {p.data_ptr() for p in flow.net.parameters()}  # one set of weights in memory
    assert not any(p.requires_grad for p in base.net.parameters())
    assert {p.ndim for p in flow.trained()} == {2, 4}  # linear layers and convolutions


def test_the_first_weights_depend_on_the_seed_alone(base):
    torch.manual_seed(7)
    state = torch.get_rng_state()
    one, other = base.with_lora(2, seed=1), base.with_lora(2, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.trained(), other.trained(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.trained(), base.with_lora(2, seed=2).trained(), strict=True))


@pytest.mark.parametrize("alpha", [None, 16.0])
def test_a_file_folded_in_is_the_adapter(base, tmp_path, alpha):
    flow, x = moved(base.with_lora(4, alpha=alpha), 0.02), torch.randn(2, 1, 32, 32)
    adapters.save(flow, tmp_path / "a.safetensors", {"method": "draft"})
    again = adapters.applied(base, tmp_path / "a.safetensors")
    assert torch.allclose(again.velocity(x, T), flow.velocity(x, T), atol=1e-4, rtol=1e-4)
    assert not any(".lora" in name for name, _ in again.net.named_parameters())
    assert adapters.read(tmp_path / "a.safetensors").about.base == "fashion"
    # a reader that looks at the tensors alone, and one that reads the header, both find the whole change
    stored = load_file(tmp_path / "a.safetensors")
    name = "encoder.0.0.first"
    change = (stored[f"{name}.lora_B.weight"].flatten(1) @ stored[f"{name}.lora_A.weight"].flatten(1)).view(
        48, 48, 3, 3
    )
    assert torch.allclose(change, again.net.get_submodule(name).weight - base.net.get_submodule(name).weight, atol=1e-5)


def test_a_header_or_a_tensor_with_another_alpha_counts(base, tmp_path):
    flow, name = moved(base.with_lora(4)), "encoder.0.0.first"
    adapters.save(flow, tmp_path / "a.safetensors", {})
    stored = load_file(tmp_path / "a.safetensors")
    header = {"lora_adapter_metadata": json.dumps({"r": 4, "lora_alpha": 8})}
    save_file(stored, tmp_path / "b.safetensors", header)
    save_file(stored | {f"{name}.alpha": torch.tensor(12.0)}, tmp_path / "c.safetensors")
    key = f"{name}.lora_B.weight"
    assert torch.allclose(adapters.read(tmp_path / "b.safetensors").weights[key], 2 * stored[key])
    assert torch.allclose(adapters.read(tmp_path / "c.safetensors").weights[key], 3 * stored[key])


def test_targets(base):
    assert layers(base.net, ["first"]) == [name for name, _ in base.net.named_modules() if name.endswith(".first")]
    with pytest.raises(ValueError, match=r"got 'to_q', which matches none; names of its layers end in .*first"):
        base.with_lora(4, ["to_q"])
    assert len(base.with_lora(4, ["head"]).trained()) == 2


def test_another_model_is_refused_in_one_sentence(base, tmp_path):
    adapters.save(base.with_lora(2), tmp_path / "a.safetensors", {})
    with pytest.raises(
        ValueError, match=r"was made for the weights of fashion .* name the prior that it was trained on"
    ):
        adapters.applied(flowhelm.load("aerial"), tmp_path / "a.safetensors")
    stored = load_file(tmp_path / "a.safetensors")
    save_file({f"other.{name}": each for name, each in stored.items()}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=r"got 'other.*the adapter is of another model"):
        adapters.applied(base, tmp_path / "b.safetensors")
    save_file({"x": torch.zeros(2)}, tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match="got 'x'; it is no LoRA adapter"):
        adapters.read(tmp_path / "c.safetensors")
    (tmp_path / "d.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        adapters.read(tmp_path / "d.safetensors")
    with pytest.raises(ValueError, match="is a pickle"):
        adapters.read("a.pt")
    with pytest.raises(ValueError, match="does not exist"):
        adapters.read(tmp_path / "e.safetensors")
    bad = {name: torch.full_like(each, torch.nan) for name, each in stored.items()}
    save_file(bad, tmp_path / "f.safetensors")
    with pytest.raises(ValueError, match="not finite"):
        adapters.read(tmp_path / "f.safetensors")
