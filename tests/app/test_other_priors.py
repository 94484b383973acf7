"""Priors that one method alone takes, behind the ordinary request: a trained restorer and a compressor."""

import json

import pytest
import torch
from PIL import Image

from flowhelm import Restorer, known, load
from flowhelm.app.errors import BadInput
from flowhelm.app.restore.request import RestoreRequest
from flowhelm.app.restore.run import restore
from flowhelm.app.restore.settle import settle
from flowhelm.app.run import Noted, Warned, drive
from flowhelm.codec import CodecPrior
from flowhelm.interfaces import ui
from flowhelm.interfaces.cli import main
from flowhelm.interfaces.ui import requests
from flowhelm.interfaces.ui.request import PageRequest
from flowhelm.priors import bundled
from flowhelm.priors.bundled import PairedPrior
from flowhelm.priors.hyperprior import Hyperprior
from flowhelm.priors.pair import Pair


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A photograph, a paired flow and a compressor, both small and not trained."""
    folder = tmp_path_factory.mktemp("other")
    torch.manual_seed(0)
    bundled.save(Pair((4, 4), 1), folder / "pair.safetensors", {"size": 32})
    bundled.save(Hyperprior((4, 4), latent=4, hyper=2), folder / "small.safetensors", {"size": 32})
    pixels = torch.randint(0, 256, (20, 24, 3), dtype=torch.uint8).numpy()
    Image.fromarray(pixels).save(folder / "photo.png")
    return folder


def test_a_file_says_what_it_is(files):
    pair, small = load(files / "pair.safetensors"), load(files / "small.safetensors")
    assert isinstance(pair, PairedPrior)
    assert isinstance(small, CodecPrior)
    assert (pair.spread, pair.shape, small.shape) == (pytest.approx(0.1), (3, 32, 32), (3, 32, 32))
    assert [known.kind(files / f"{name}.safetensors") for name in ("pair", "small", "none")] == [
        "paired",
        "codec",
        "flow",
    ]
    kinds = {"fashion-tokens": "tokens", "blind": "paired", "codec": "codec"}
    assert {name: known.kind(name) for name in known.NAMES} == dict.fromkeys(known.NAMES, "flow") | kinds
    x = torch.rand(2, 3, 20, 24)
    torch.testing.assert_close(pair.mean(x), x)  # a regressor begins as nothing
    latent = small.sized(20, 24).analyse(x).latent
    assert small.sized(20, 24).picture(latent).shape == x.shape
    for given, size in ((latent[..., :-1], (32, 32)), (latent, (20, 48)), (latent, (16, 24))):
        with pytest.raises(ValueError, match=r"expected a latent of \d+ x \d+ pixels, got one of 32 x \d+; take sized"):
            small.sized(*size).picture(given)


def test_a_kind_that_is_not_known_and_tensors_of_another_network(files, tmp_path):
    net = Pair((4, 4), 1)
    net.kind = "strange"
    bundled.save(net, tmp_path / "a.safetensors", {})
    with pytest.raises(ValueError, match="a prior of kind 'strange', which this version does not know"):
        load(tmp_path / "a.safetensors")
    net.kind = "codec"
    bundled.save(net, tmp_path / "b.safetensors", {})
    with pytest.raises(ValueError, match="expected weights written by flowhelm train"):
        load(tmp_path / "b.safetensors")


@pytest.mark.parametrize(("prior", "method", "steps", "evaluations"), [("pair", "pmrf", 2, 2), ("small", "vble", 4, 0)])
def test_the_prior_brings_its_method(files, tmp_path, capsys, prior, method, steps, evaluations):
    out = tmp_path / "out.png"
    words = ["restore", str(files / "photo.png"), "--prior", str(files / f"{prior}.safetensors"), "--out", str(out)]
    words += ["--operator", "denoise", "--std", "0.1"] + (["--steps", "4"] if prior == "small" else [])
    assert main(words) == 0
    told = json.loads(out.with_suffix(".run.json").read_text())
    assert told["settings"]["method"] == method
    assert len(told["settings"]["times"]) == steps + 1
    assert told["result"]["evaluations"] == evaluations
    assert Image.open(out).size == (24, 20)
    capsys.readouterr()
    assert main(["rerun", str(out.with_suffix(".run.json"))]) == 0
    assert "identical to the bit" in capsys.readouterr().out


def test_samples_of_a_compressor_are_samples_and_the_answer_can_be_chosen(files):
    restorer = Restorer(files / "small.safetensors")
    ready = restorer.prepare(files / "photo.png", "denoise", std=0.1, steps=3)
    assert ready.settings["method_options"]["answer"] == "mean"
    ready = restorer.prepare(files / "photo.png", "denoise", std=0.1, steps=3, method_options={"answer": "centre"})
    assert ready.settings["method_options"]["answer"] == "centre"


def test_several_samples(files, tmp_path, capsys):
    out = tmp_path / "several"
    words = ["restore", str(files / "photo.png"), "--prior", str(files / "small.safetensors"), "--operator", "denoise"]
    assert main([*words, "--std", "0.1", "--steps", "3", "--samples", "2", "--rows", "2", "--out", str(out)]) == 0
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    chosen = [line["settings"]["method_options"]["answer"] for line in lines if "settings" in line and "result" in line]
    assert chosen == ["sample", "sample"]
    told = json.loads((out / "photo.posterior" / "posterior.json").read_text())
    assert told["std"]["mean"] > 0


def test_calibrate_draws_truths_from_a_compressor(files, tmp_path, capsys):
    words = ["calibrate", "vble", "--prior", str(files / "small.safetensors"), "--operator", "denoise", "--size", "16"]
    assert main([*words, "--truths", "20", "--samples", "4", "--steps", "3", "--out", str(tmp_path / "c")]) == 0
    assert "vble: " in capsys.readouterr().out
    assert json.loads((tmp_path / "c.json").read_text())["settings"]["method_options"]["answer"] == "sample"


REFUSED = [
    (["restore", "PHOTO", "--method", "pmrf", "--prior", "photos", "--operator", "denoise"], "take the prior blind"),
    (["restore", "PHOTO", "--method", "hqs", "--prior", "PAIR", "--operator", "denoise"], "take the method pmrf"),
    (["restore", "PHOTO", "--method", "pmrf", "--prior", "SMALL", "--operator", "denoise"], "take the prior blind"),
    (["restore", "PHOTO", "--prior", "PAIR", "--warm", "0.3"], "pmrf always starts from the mean of its regressor"),
    (
        ["restore", "PHOTO", "--prior", "PAIR", "--quality", "best"],
        "--quality best is for priors that are flows; give --steps",
    ),
    (["restore", "PHOTO", "--prior", "SMALL", "--operator", "denoise", "--answer", "median"], "did you mean mean?"),
    (["sample", "PAIR"], "is a trained restorer, which only restores"),
    (["sample", "SMALL"], "is a compressor, which only restores"),
    (["calibrate", "pmrf", "--prior", "PAIR"], "is a trained restorer, which only restores"),
    (["calibrate", "hqs", "--prior", "SMALL"], "take the method vble"),
    (["grids", "PAIR"], "is a trained restorer, which only restores"),
    (["doctor", "SMALL"], "is a compressor, which only restores"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=[" ".join(words[:1] + words[2:5]) for words, _ in REFUSED])
def test_what_does_not_belong_together_is_one_sentence(files, tmp_path, capsys, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    places = {"PHOTO": "photo.png", "PAIR": "pair.safetensors", "SMALL": "small.safetensors"}
    assert main([str(files / places[word]) if word in places else word for word in words]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "\n" not in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("prior", "method"), [("pair", "pmrf"), ("small", "vble")])
def test_the_page_restores_with_them(files, tmp_path, prior, method):
    """As the command line does, to the byte."""
    place = str(files / f"{prior}.safetensors")
    page = ui.checked(PageRequest(runs=tmp_path / "runs", priors=[place], threads=1))
    fields = {
        "photo": str(files / "photo.png"), "operator": "denoise", "prior": place, "steps": "2", "std": 0.1,
        "seed": "0",
    }  # fmt: skip
    where, (settings,) = requests.restoration(requests.restore_fields(fields), page)
    assert settings.method == method
    drive(restore(settings))
    words = ["restore", fields["photo"], "--operator", "denoise", "--prior", place, "--steps", "2", "--std", "0.1"]
    assert main([*words, "--threads", "1", "--out", str(tmp_path / "out.png")]) == 0
    assert (where / "photo.restored.png").read_bytes() == (tmp_path / "out.png").read_bytes()
    with pytest.raises(ValueError, match=f"take the method {method}"):
        requests.restoration(requests.restore_fields({**fields, "method": "hqs"}), page)
    if prior == "small":
        dear = requests.restore_fields({**fields, "steps": "1000", "method_options": {"draws": "100000"}})
        with pytest.raises(BadInput, match="this asks for more than"):
            requests.restoration(dear, page)


def test_restorer_refuses_the_wrong_method(files):
    with pytest.raises(BadInput, match="take the method vble"):
        Restorer(files / "small.safetensors").prepare(files / "photo.png", "denoise", std=0.1, method="hqs")


@pytest.mark.parametrize(("std", "kind"), [(0.0, Warned), (0.3, Noted)])
def test_a_restorer_is_not_told_the_noise_and_says_where_it_would_make_a_picture_worse(files, tmp_path, std, kind):
    noisy = torch.linspace(-0.5, 0.5, 32).expand(3, 32, 32) + std * torch.randn(3, 32, 32)
    Image.fromarray(((noisy.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    events = []
    request = RestoreRequest(photo=tmp_path / "a.png", prior=str(files / "pair.safetensors"), operator="denoise")
    drive(restore(settle(request)), events.append)
    told = [event for event in events if isinstance(event, Noted | Warned)]
    assert [type(event) for event in told] == [kind]  # nothing of --std, whatever the misfit
    assert "--std" not in told[0].text
