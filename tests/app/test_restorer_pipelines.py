"""Restoring and drawing from a program with a pipeline, a tiny random one: the numbers are those of the command line."""

import json

import pytest
import torch

import flowhelm
from flowhelm import Noise, integrate, run
from flowhelm.app.errors import BadInput
from flowhelm.app.files.pictures import write
from flowhelm.interfaces.cli import main

pytest.importorskip("diffusers")
FIT = "--method mpc_flow --strength 2500 --inner adam:iterations=3,rate=1.0 --steps 3 --threads 1"
OPTIONS = {"strength": 2500, "inner": "adam:iterations=3,rate=1.0"}


def test_restored_through_a_decoder(photo, sd3):
    told = ["--prior", sd3, "--prompt", "a cat", "--negative", "dog", "--scale", "3"]
    assert main(["restore", str(photo), "--operator", "box", *told, *FIT.split(), "--codec-error"]) == 0
    found = json.loads(photo.with_name("photo.run.json").read_text())
    restorer = flowhelm.Restorer(sd3, threads=1, prompt="a cat", negative="dog", scale=3.0)
    with torch.inference_mode():
        made = restorer(photo, "box", method="mpc_flow", steps=3, method_options=OPTIONS, codec_error=True)
    assert made.sha256 == found["result"]["sha256"]
    assert made.png() == photo.with_name("photo.restored.png").read_bytes()
    assert dict(made.settings) == {name: value for name, value in found["settings"].items() if name != "out"}
    with pytest.raises(BadInput, match="tile cuts the networks of bundled priors"):
        restorer(photo, "box", tile=16)


def test_a_batch_is_decoded(photo, sd3):
    """Its last state is a latent; what is written is the picture."""
    (folder := photo.parent / "many").mkdir()
    photo.rename(folder / "photo.png")
    words = ["restore", str(folder), "--operator", "box", "--prior", sd3, "--prompt", "a cat", *FIT.split()]
    assert main(words) == 0
    lines = map(json.loads, (photo.parent / "many.restored" / "manifest.jsonl").read_text().splitlines())
    item = next(each for each in lines if "result" in each)
    restorer = flowhelm.Restorer(sd3, threads=1, prompt="a cat")
    seed = item["settings"]["seed"]
    made = restorer(folder / "photo.png", "box", method="mpc_flow", steps=3, seed=seed, method_options=OPTIONS)
    assert item["result"]["sha256"] == made.sha256


def test_drawn_by_name_and_opened(sd3, tmp_path):
    line = "--size 32x48 --steps 2 --seed 3 -n 2 --threads 1 --each"
    words = ["sample", sd3, "--prompt", "a cat", *line.split()]
    assert main([*words, str(tmp_path / "drawn")]) == 0
    seen = []
    named = flowhelm.generate(sd3, prompt="a cat", size=(32, 48), steps=2, seed=3, count=2, watch=seen.append)
    assert seen == [1, 2, 3, 4]
    flow = flowhelm.load(sd3, size=(32, 48)).bind(["a cat"])
    opened = flowhelm.generate(flow, steps=2, seed=3, count=2)
    assert torch.equal(named, opened)
    two = flowhelm.generate(flowhelm.load(sd3, size=(32, 48)).bind(["a cat", "dog"]), steps=2, seed=3, count=2)
    assert torch.allclose(two[0], opened[0], atol=1e-4)  # texts are encoded together
    assert not torch.allclose(two[1], opened[1], atol=1e-4)  # each row its own prompt
    for path, picture in zip(sorted((tmp_path / "drawn").iterdir()), named, strict=True):
        write(tmp_path / "one.png", picture)
        assert (tmp_path / "one.png").read_bytes() == path.read_bytes()
    for given, said in (({"classes": ["cat"]}, "say it in the prompt"), ({"size": (33, 48)}, "33")):
        with pytest.raises(ValueError, match=said):
            flowhelm.generate(sd3, **given)


def test_what_is_bound_to_a_row_stays_with_it():
    flow = flowhelm.load("fashion").told(["coat", "bag", "sandal"])
    by_hand = run(integrate(flow, flow.source(Noise(5, 3)), flow.times(3))).x
    assert torch.equal(flowhelm.generate(flow, count=3, steps=3, seed=5, solver="euler"), by_hand)
