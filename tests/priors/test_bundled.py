"""Priors that know their conditions' names: words are the tensors that they stand for; files go round."""

import json
import math
import struct
from functools import partial

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from toys import randomised

from flowhelm import guide, priors
from flowhelm.priors.bundled import NAMES, Prior, load, save, weights
from flowhelm.priors.unet import UNet

ABOUT = {
    "classes": ("T-shirt", "coat", "ankle boot"),
    "words": ("forest", "river", "dark", "bright"),
    "numbers": {"brightness": [0.4, 0.1], "detail": [0.05, 0.02]},
    "size": 8,
    "steps": 12,
}


def net(**kinds: int) -> UNet:
    torch.manual_seed(0)
    return randomised(UNet((8, 8), 1, **kinds), 0.12).requires_grad_(False)


@pytest.fixture(scope="module")
def prior() -> Prior:
    made = net(classes=3, words=4, numbers=2)
    return Prior(made, (3, 8, 8), null=made.null, name="toy", about=ABOUT)


@pytest.fixture
def x():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


T = torch.tensor(0.4, dtype=torch.float64)
NULL_WORDS, NULL_NUMBERS = torch.zeros(2, 1, dtype=torch.int64), torch.full((2, 2), math.nan)


@pytest.mark.parametrize(
    ("words", "tensors"),
    [
        ({"classes": ["coat", "ankle boot"]}, (torch.tensor([1, 2]), NULL_WORDS, NULL_NUMBERS)),
        ({"classes": ["t-shirt", 1]}, (torch.tensor([0, 1]), NULL_WORDS, NULL_NUMBERS)),
        (
            {"prompts": ["A dark forest.", "bright river, with forest"]},
            (torch.tensor([3, 3]), torch.tensor([[3, 1, 0], [4, 2, 1]]), NULL_NUMBERS),
        ),
        ({"prompts": ["", "river"]}, (torch.tensor([3, 3]), torch.tensor([[0], [2]]), NULL_NUMBERS)),
        (
            {"numbers": [{"brightness": 0.6}, {"detail": 0.04, "brightness": 0.4}]},
            (torch.tensor([3, 3]), NULL_WORDS, torch.tensor([[2.0, math.nan], [0.0, -0.5]])),
        ),
        (
            {"classes": ["coat", "coat"], "prompts": ["dark", "dark"], "numbers": [{}, {"detail": 0.05}]},
            (torch.tensor([1, 1]), torch.tensor([[3], [3]]), torch.tensor([[math.nan, math.nan], [math.nan, 0.0]])),
        ),
    ],
)
def test_words_are_the_tensors_that_they_stand_for(words, tensors, prior, x):
    told, bound = prior.told(**words), prior.bind(*tensors)
    for got, expected in zip(told.condition, bound.condition, strict=True):
        torch.testing.assert_close(got, expected, equal_nan=True)
    torch.testing.assert_close(told.velocity(x, T), bound.velocity(x, T))
    assert not torch.allclose(told.velocity(x, T), prior.velocity(x, T), atol=1e-3)
    assert told.name == "toy"


def test_the_order_of_a_prompt_is_not_seen(prior, x):
    a, b = (prior.told(prompts=[text] * 2).velocity(x, T) for text in ("dark river forest", "forest river dark"))
    torch.testing.assert_close(a, b)
    c = prior.told(prompts=["dark river", "dark river forest"]).velocity(x, T)  # and the padding is not either
    torch.testing.assert_close(c[0], prior.told(prompts=["dark river"]).velocity(x[:1], T)[0], atol=1e-5, rtol=1e-5)


def test_guidance_is_bound_with_the_words(prior, x):
    given, nothing = prior.told(["coat"] * 2).velocity(x, T), prior.velocity(x, T)
    guided = prior.told(["coat"] * 2, guidance=partial(guide.cfg, scale=3.0)).velocity(x, T)
    torch.testing.assert_close(guided, nothing + 3 * (given - nothing), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"classes": ["cot"]}, "prior 'toy' knows no class 'cot'; did you mean 'coat'?"),
        ({"classes": ["zebra"]}, "it is one of t-shirt, coat, ankle boot"),
        ({"classes": [3]}, "knows no class '3'"),
        ({"classes": [-1]}, "knows no class '-1'"),
        ({"prompts": ["dark rivr"]}, "knows no word 'rivr'; did you mean 'river'?"),
        ({"numbers": [{"brightnes": 1.0}]}, "knows no number 'brightnes'; did you mean 'brightness'?"),
        ({"classes": ["coat"], "prompts": ["dark", "dark"]}, r"conditions of one number of rows, got \[1, 2\]"),
        ({}, "conditions of one number of rows, got none"),
    ],
)
def test_what_it_does_not_know(words, message, prior):
    with pytest.raises(ValueError, match=message):
        prior.told(**words)


def test_kinds_that_it_does_not_take():
    made = net(classes=2)
    prior = Prior(made, (3, 8, 8), null=made.null, name="toy", about={"classes": ["a", "b"]})
    with pytest.raises(ValueError, match="prior 'toy' takes no words; it takes classes"):
        prior.told(prompts=["dark"])
    with pytest.raises(ValueError, match="takes no numbers; it takes no conditions"):
        Prior(net(), (3, 8, 8), name="toy").told(numbers=[{}])


# --- the network ---


@pytest.mark.parametrize(
    "kinds", [{"classes": 3}, {"words": 4}, {"numbers": 2}, {"classes": 3, "words": 4, "numbers": 2}]
)
def test_null_conditions_are_no_conditions(kinds, x):
    made, t = net(**kinds), torch.tensor([0.2, 0.9])
    null = tuple(n.expand(2, *n.shape[1:]) for n in made.null)
    torch.testing.assert_close(made(x, t, *null), made(x, t), rtol=0, atol=0)
    with pytest.raises(ValueError, match=f"expected {len(kinds)} conditions or none, got {len(kinds) + 1}"):
        made(x, t, *null, null[0])


def test_an_unknown_number_is_no_zero(x):
    made, t = net(numbers=2), torch.tensor([0.2, 0.9])
    zero, unknown, half = (torch.tensor([row] * 2) for row in ([0.0, 0.0], [math.nan] * 2, [math.nan, 0.0]))
    outputs = [made(x, t, told) for told in (zero, unknown, half)]
    assert all(o.isfinite().all() for o in outputs)
    for i in range(3):
        assert not torch.allclose(outputs[i], outputs[i - 1], atol=1e-3)


def test_every_condition_is_seen_by_its_own_row(prior, x):
    for one, other in ((["coat", "coat"], ["coat", "ankle boot"]),):
        a, b = prior.told(one).velocity(x, T), prior.told(other).velocity(x, T)
        torch.testing.assert_close(a[0], b[0])
        assert not torch.allclose(a[1], b[1], atol=1e-3)


# --- files ---


def test_a_file_goes_round(prior, x, tmp_path):
    path = tmp_path / "toy.safetensors"
    save(prior.net, path, ABOUT)
    again = load(path)
    assert again.name == "toy"
    assert again.about == json.loads(json.dumps(ABOUT))
    assert again.shape == (3, 8, 8)
    assert not any(p.requires_grad for p in again.net.parameters())
    assert all(p.dtype == torch.float32 for p in again.net.parameters())
    for name, value in prior.net.state_dict().items():
        assert torch.equal(again.net.state_dict()[name], value.half().float())
    rounded = net(classes=3, words=4, numbers=2)
    rounded.load_state_dict({k: v.half().float() for k, v in prior.net.state_dict().items()})
    same = Prior(rounded, (3, 8, 8), null=rounded.null, about=ABOUT)
    told = {"classes": ["coat", "T-shirt"], "numbers": [{"detail": 0.1}, {}]}
    torch.testing.assert_close(again.told(**told).velocity(x, T), same.told(**told).velocity(x, T))
    assert [p.name for p in tmp_path.iterdir()] == ["toy.safetensors"]
    assert path.stat().st_size < 2.5 * sum(v.numel() for v in prior.net.state_dict().values())
    other = tmp_path / "other"
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode  # as the umask says


def test_a_failed_save_leaves_the_old_file(prior, tmp_path):
    path = tmp_path / "toy.safetensors"
    save(prior.net, path, ABOUT)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save(prior.net, path, {"classes": object()})
    assert path.read_bytes() == before


def test_bundled_ones(monkeypatch):
    flow = priors.load("photos")
    assert flow.name == "photos"
    assert flow.shape == (3, 256, 256)
    assert flow.condition == ()
    for name in NAMES:
        assert weights(name).name == f"{name}.safetensors"
    monkeypatch.setattr("flowhelm.priors.bundled.files", lambda package: weights("nowhere").absolute())
    with pytest.raises(
        ValueError, match=r"the weights of 'aerial' are not in this installation; expected '.*aerial.safetensors'"
    ):
        load("aerial")


def test_files_that_are_no_priors(tmp_path):
    with pytest.raises(ValueError, match=r"got 'arial'; did you mean 'aerial'\?"):
        load("arial")
    with pytest.raises(
        ValueError,
        match=r"expected one of photos, photos-2, fashion, aerial, animals, .*, a \.safetensors file, deepinv:NAME",
    ):
        load(tmp_path)
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(2)}, path)
    with pytest.raises(ValueError, match="expected weights written by flowhelm train"):
        load(path)
    save_file({"a": torch.ones(2)}, path, {"config": json.dumps(net().config)})
    with pytest.raises(ValueError, match="expected weights written by flowhelm train"):
        load(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        load(path)
    (tmp_path / "a.pt").touch()
    with pytest.raises(ValueError, match="is a pickle"):
        load(tmp_path / "a.pt")


@pytest.mark.parametrize("length", [0x0280, 0x0380, 0x0480, 0x0580])
def test_a_header_as_long_as_a_pickle_is_no_pickle(length, tmp_path):
    """The first bytes of a safetensors file are its header's length, which may be 0x80 0x02 ... 0x80 0x05."""
    path = tmp_path / "a.safetensors"
    made = UNet((4,), 1)
    save(made, path, {"size": 8})
    whole = path.read_bytes()
    header = json.loads(whole[8 : 8 + struct.unpack("<Q", whole[:8])[0]])
    while True:
        text = json.dumps(header)
        if len(text) <= length:
            break
        header.pop(next(k for k in header if k != "__metadata__"))  # then it is no prior, but no pickle either
    path.write_bytes(struct.pack("<Q", length) + text.ljust(length).encode() + whole[-4:])
    assert path.read_bytes()[0] == 0x80
    with pytest.raises(ValueError, match="prior: ") as caught:
        load(path)
    assert "is a pickle" not in str(caught.value)
    with pytest.raises(Exception), safe_open(path, framework="pt"):  # noqa: B017, PT011  (its offsets are not whole)
        pass
