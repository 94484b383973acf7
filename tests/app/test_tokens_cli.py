"""Priors over tokens at the command line: trained, drawn from, restored with, and what is wrong said in one sentence."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import flowhelm
from flowhelm import Noise, recipes, restore, run
from flowhelm.interfaces.cli import main
from flowhelm.known import kind
from flowhelm.masked import Masked
from flowhelm.priors import tokens
from flowhelm.priors.token_nets import Filler, Patches
from flowhelm.train import codebook


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Pictures of bars on black, as Fashion-MNIST is stored."""
    rng = np.random.default_rng(0)
    images = np.zeros((200, 28, 28), np.uint8)
    for image in images:
        left, width = rng.integers(4, 14), rng.integers(4, 12)
        image[4:24, left : left + width] = rng.integers(90, 255, (20, 1))
    labels = np.arange(200, dtype=np.uint8) % 10
    path = tmp_path_factory.mktemp("data") / "fashion_mnist.npz"
    np.savez(path, train_images=images, train_labels=labels, test_images=images[:70], test_labels=labels[:70])
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory, archive):
    """A tokenizer of eight codes and a transformer that was not trained."""
    torch.manual_seed(0)
    net, filler = Patches(8, width=8, blocks=1, border=2), Filler(8, 49, width=8, depth=1, heads=1)
    images = torch.from_numpy(np.load(archive)["train_images"])[:, None].float() / 127.5 - 1
    patches = net.cut(torch.nn.functional.pad(images, (2,) * 4, value=-1.0)).movedim(1, -1).flatten(0, -2)
    net.codes.copy_(codebook(patches, 8, rounds=5, batch=4000))
    path = tmp_path_factory.mktemp("weights") / "bars.safetensors"
    tokens.save(filler, path, {"size": 32}, net)
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture = np.zeros((32, 32), np.uint8)
    picture[6:26, 10:20] = 200
    Image.fromarray(picture).save("bar.png")
    return tmp_path


def refused(capsys, *words):
    before = None
    assert main([str(word) for word in words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert before is None
    return said


RESTORE = ("restore", "bar.png", "--operator", "box", "--size", "8", "--std", "0.05")


def test_a_picture_is_restored_and_again_to_the_bit(here, weights, capsys):
    words = [*RESTORE, "--prior", str(weights), "--simulate", "--steps", "3", "--inner", "3", "--out", "out.png"]
    assert main(words) == 0
    made = json.loads((here / "out.run.json").read_text())
    assert made["settings"]["method"] == "aps"
    assert made["result"]["evaluations"] == 3
    assert Image.open("out.png").size == (32, 32)
    assert main(["rerun", "out.run.json"]) == 0
    assert "identical to the bit" in capsys.readouterr().out


@pytest.mark.parametrize("method", [each.__name__ for each in restore.TOKENS])
def test_every_method_for_tokens_restores(here, weights, method):
    few = {"sgdd": ["--proposals", "3"], "tag": []}.get(method, ["--inner", "2"])
    words = [*RESTORE, "--prior", str(weights), "--method", method, "--steps", "2", *few, "--out", "out.png"]
    assert main(words) == 0


def test_what_does_not_fit_is_one_sentence_and_nothing_is_written(here, weights, capsys):
    Image.new("L", (40, 36)).save("large.png")
    before = sorted(path.name for path in here.iterdir())
    prior = ("--prior", weights)
    said = refused(capsys, *RESTORE, *prior, "--method", "hqs")
    assert "is a prior over tokens; take the method aps" in said
    said = refused(capsys, *RESTORE, "--prior", "fashion", "--method", "aps")
    assert "aps restores with a prior over tokens, and fashion is a flow; take the prior fashion-tokens" in said
    said = refused(capsys, "restore", "large.png", *RESTORE[2:], *prior)
    assert "prior 'bars': expected a picture of 32 x 32 pixels, got 36 x 40; scale it, or take another prior" in said
    assert "has no state between noise and a picture; leave out --warm" in refused(
        capsys, *RESTORE, *prior, "--warm", "0.3"
    )
    assert "expected no tiles for 'bars'" in refused(capsys, *RESTORE, *prior, "--tile", "16")
    assert "inner" in refused(capsys, *RESTORE, *prior, "--inner", "0")
    said = refused(capsys, "sample", weights, "--solver", "heun")
    assert "--solver heun follows a flow" in said
    assert "--solver unmasking is for priors over tokens" in refused(
        capsys, "sample", "fashion", "--solver", "unmasking"
    )
    assert "prior 'bars' takes no classes" in refused(capsys, "sample", weights, "--class", "coat")
    needs_flow = f"is a prior over tokens, which draws (flowhelm sample {weights}) and restores: flowhelm restore PHOTO"
    for words in (
        ("doctor", weights), ("grids", weights), ("steer", weights, "--reward", "brightness"),
        ("align", weights, "--reward", "brightness"), ("edit", "bar.png", *prior, "--class", "coat"),
        ("calibrate", "aps", *prior),
    ):  # fmt: skip
        assert needs_flow in refused(capsys, *words)
    assert sorted(path.name for path in here.iterdir()) == before


def test_a_sheet_is_drawn_and_a_picture_depends_on_its_number_alone(here, weights):
    assert main(["sample", str(weights), "-n", "4", "--steps", "5", "--out", "sheet.png"]) == 0
    assert Image.open("sheet.png").size[0] > 64
    two, four = (flowhelm.generate(str(weights), count=n, steps=5, seed=3) for n in (2, 4))
    assert four.shape == (4, 1, 32, 32)
    torch.testing.assert_close(two, four[:2])
    other = flowhelm.generate(str(weights), count=2, steps=5, seed=3, solver="unmasking:order=confidence,temperature=1")
    assert not torch.equal(two, other)


def test_the_two_recipes_train_a_prior(here, archive, monkeypatch):
    monkeypatch.setattr("flowhelm.recipes.as_tokens.CODES", 16)
    options = ["--data", str(archive), "--batch", "8", "--steps", "3"]
    assert main(["train", "fashion_codes", *options, "--out", "codes"]) == 0
    codes = here / "codes" / "fashion_codes.safetensors"
    assert main(["train", "fashion_tokens", *options, "--codes", str(codes), "--out", "tokens"]) == 0
    assert (here / "tokens" / "samples.png").is_file()
    prior = flowhelm.load(here / "tokens" / "fashion_tokens.safetensors")
    assert isinstance(prior, Masked)
    assert (prior.mask, prior.shape) == (16, (7, 7))
    torch.testing.assert_close(prior.tokenizer.codes, tokens.tokenizer(codes).codes)
    x = run(flowhelm.sample.unmasking(prior, prior.source(Noise(0, 1)), prior.times(2), noise=Noise(0, 1))).x
    assert (prior.decode(x)[..., :2, :] == -1).all()  # the border is black whatever is drawn


def test_the_data_of_the_recipe_are_the_tokens_of_the_pictures(archive, weights):
    """A batch's number decides it, and so do the codes."""
    codes = weights.with_name("codes.safetensors")
    tokens.save(tokens.load(weights, "bars").tokenizer, codes, {"size": 32})
    recipe = recipes.fashion_tokens(archive, codes, batch=6, seed=1)
    again = recipes.fashion_tokens(archive, codes, batch=6, seed=1)
    assert recipe.data(3).clean.shape == (6, 7, 7)
    assert torch.equal(recipe.data(3).clean, again.data(3).clean)
    assert recipe.apart(0).clean.max() < 8


def test_what_recipes_refuse(here, archive, weights, capsys):
    said = refused(capsys, "train", "fashion_tokens", "--data", archive, "--codes", "nowhere.safetensors")
    assert "nowhere.safetensors' does not exist" in said
    said = refused(capsys, "train", "fashion_tokens", "--data", archive, "--codes", archive)
    assert "not a readable safetensors file" in said


def changed(weights, path, tensors=None, **config):
    with safe_open(weights, "pt") as f:
        told = json.loads(f.metadata()["tokens"]) | config
    save_file(load_file(weights) | (tensors or {}), path, {"tokens": json.dumps(told)})
    return path


def test_files_that_are_no_tokens(tmp_path, weights):
    config = json.loads(safe_open(weights, "pt").metadata()["tokens"])
    whole = config["tokenizer"]
    for wrong, words in (
        ({"tokenizer": whole | {"codes": 10**9}, "filler": None}, "codes"),
        ({"tokenizer": whole | {"more": 1}, "filler": None}, "more"),
        ({"tokenizer": whole | {"codes": 9}, "filler": config["filler"]}, "its tensors are not those of the tokenizer"),
        ({"tokenizer": whole, "filler": config["filler"] | {"places": 50}}, "its tensors are not those of the filler"),
        ({"tokenizer": whole, "filler": None}, "it also holds 'filler"),
    ):
        path = changed(weights, tmp_path / "a.safetensors", **wrong)
        with pytest.raises(
            ValueError, match=r"expected tokens that flowhelm train has written, got '.*a.safetensors'"
        ) as error:
            flowhelm.load(path)
        assert words in str(error.value)
    path = changed(weights, tmp_path / "a.safetensors", {"more": torch.zeros(1)})
    with pytest.raises(ValueError, match="it also holds 'more'"):
        flowhelm.load(path)
    path = changed(weights, tmp_path / "a.safetensors", about={"size": 64})
    with pytest.raises(ValueError, match="its transformer is not of its tokenizer's tokens"):
        flowhelm.load(path)
    path = changed(weights, tmp_path / "a.safetensors", about={"size": 33})
    with pytest.raises(ValueError, match=r"expected a picture of 4 n \+ 4 pixels each way, got 33 x 33"):
        flowhelm.load(path)


def test_what_is_written_again_has_the_same_bytes(tmp_path, weights):
    """By which a training that goes on knows its tokenizer."""
    prior = tokens.load(weights, "bars")
    for _ in range(4):
        tokens.save(prior.net, tmp_path / "again.safetensors", {"size": 32}, prior.tokenizer)
        assert (tmp_path / "again.safetensors").read_bytes() == weights.read_bytes()


def test_a_tokenizer_alone_is_no_prior(tmp_path, weights):
    path = tmp_path / "codes.safetensors"
    tokens.save(tokens.load(weights, "bars").tokenizer, path, {"size": 32})
    with pytest.raises(ValueError, match="holds a tokenizer alone; train the prior over its tokens"):
        flowhelm.load(path)


def test_which_files_are_of_tokens_is_told_by_their_header(tmp_path, weights):
    assert kind(weights) == kind("fashion-tokens") == "tokens"
    assert kind("fashion") == kind("nowhere.safetensors") == "flow"
    for name, content in (("a", b""), ("b", b"\xff" * 40), ("c", (10).to_bytes(8, "little") + b"[1, 2, 3] ")):
        (tmp_path / name).write_bytes(content)
        assert kind(tmp_path / name) == "flow"


def test_the_tokenizer_is_its_nearest_code_and_corrects_by_nothing_at_first(weights):
    prior = flowhelm.load(weights)
    codes = prior.tokenizer.codes
    x = prior.encode(torch.rand(2, 1, 32, 32) * 2 - 1)
    plain = Patches(8, width=8, blocks=1, border=2)
    plain.codes.copy_(codes)
    picture = plain.decode(prior.embed(x))
    assert (plain.encode(picture) == x).all()
    torch.testing.assert_close(plain.cut(picture), prior.embed(x))


def test_codes_are_the_means_of_what_is_nearest_to_them():
    """Six clusters with small noise, and twice as many codes: each cluster has one."""
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(6, 4, generator=generator)
    vectors = centres.repeat(500, 1) + 0.1 * torch.randn(3000, 4, generator=generator)
    found = codebook(vectors, 12, rounds=20, batch=3000)
    assert float(torch.cdist(centres, found).min(1).values.max()) < 0.3
    error = torch.cdist(vectors, found).min(1).values.square().mean()
    assert float(error) <= 4 * 0.1**2  # no more than the noise
    with pytest.raises(ValueError, match="expected at least 6 different vectors, got 1"):
        codebook(torch.zeros(10, 4), 6)
