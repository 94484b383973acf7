"""Restoring and drawing from a program: the numbers are those of the command line, whoever asks and from how many threads."""

import inspect
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toys import ramps

import flowhelm
from flowhelm.app.errors import BadInput
from flowhelm.app.files.pictures import read, write
from flowhelm.app.models.request import ModelRequest
from flowhelm.app.restore.request import PictureRequest
from flowhelm.app.restore.restorer import Restorer
from flowhelm.interfaces.cli import main


@pytest.fixture
def photo(tmp_path) -> Path:
    return ramps(tmp_path / "photo.png", 32, 24, 7, 9, 4)


@pytest.fixture
def mask(tmp_path) -> Path:
    known = np.full((24, 32), 255, np.uint8)
    known[5:9, 10:20] = 0
    Image.fromarray(known).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


@pytest.fixture(scope="module")
def restorer(prior) -> Restorer:
    return Restorer(prior, threads=1)


def commanded(photo, prior, *words):
    """Hash and file that the command line makes of it."""
    assert main(["restore", str(photo), "--prior", prior, "--threads", "1", *words]) == 0
    run = json.loads(photo.with_name(f"{photo.stem}.run.json").read_text())
    return run, photo.with_name(f"{photo.stem}.restored.png").read_bytes()


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("--operator deblur --steps 3", {"operator": "deblur", "steps": 3}),
        (
            "--operator superres --factor 2 --std 0.1 --steps 2 --seed 5",
            {"operator": "superres", "operator_options": {"factor": 2}, "std": 0.1, "steps": 2, "seed": 5},
        ),
        (
            "--operator box --size 6 --simulate --keep --steps 3",
            {"operator": "box", "operator_options": {"size": 6}, "simulate": True, "keep": True, "steps": 3},
        ),
        ("--operator colorize --steps 2", {"operator": "colorize", "steps": 2}),
        ("--operator jpeg --simulate --steps 2", {"operator": "jpeg", "simulate": True, "steps": 2}),
        (
            "--operator denoise --method fk --particles 4 --threshold 0 --strength 1e-3 --steps 3",
            {
                "operator": "denoise", "method": "fk", "steps": 3,
                "method_options": {"particles": 4, "threshold": 0, "strength": 1e-3},
            },
        ),
        ("--operator denoise --method dps --steps 3", {"operator": "denoise", "method": "dps", "steps": 3}),
        (
            "--operator denoise --method mpc_flow --steps 3 --warm 0.4",
            {"operator": "denoise", "method": "mpc_flow", "steps": 3, "warm": 0.4},
        ),
        ("--operator denoise --steps 3 --tile 32", {"operator": "denoise", "steps": 3, "tile": 32}),
    ],
)  # fmt: skip
def test_the_numbers_are_those_of_the_command_line(photo, prior, restorer, words, given):
    run, written = commanded(photo, prior, *words.split())
    made = restorer(photo, **given)
    assert made.sha256 == run["result"]["sha256"]
    assert made.png() == written
    assert made.evaluations == run["result"]["evaluations"]
    assert made.residual == run["result"]["residual"]
    assert dict(made.settings) == {name: value for name, value in run["settings"].items() if name != "out"}
    scores = {n: v for n, v in run["result"].items() if n not in ("sha256", "residual", "seconds", "evaluations")}
    assert made.scores == scores


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "I;16"])
def test_what_a_file_holds_beside_colours_is_kept(tmp_path, prior, restorer, mode):
    path = tmp_path / "other.png"
    values = np.arange(24 * 32).reshape(24, 32)
    grey = (
        Image.fromarray((values * 80).astype(np.uint16)) if mode == "I;16" else Image.fromarray(values.astype(np.uint8))
    )
    (grey if mode == "I;16" else grey.convert(mode)).save(path)
    _, written = commanded(path, prior, "--operator", "denoise", "--steps", "2")
    made = restorer(Image.open(path), "denoise", steps=2)
    assert made.png() == written
    assert made.image.mode == mode


def test_file_picture_and_tensor_are_the_same(photo, restorer, tmp_path):
    pixels = read(photo).pixels[0]
    tensor, one, two, three = (
        restorer(given, "denoise", steps=2) for given in (pixels, photo, str(photo), Image.open(photo))
    )
    assert tensor.sha256 == one.sha256 == two.sha256 == three.sha256
    assert one.settings["photo"] == str(photo)
    assert tensor.settings["photo"] is None
    one.save(tmp_path / "saved.png")
    assert (tmp_path / "saved.png").read_bytes() == one.png()
    grey = restorer(pixels[:1], "denoise", steps=2)
    assert grey.like.grey
    assert grey.image.mode == "L"
    assert restorer(pixels, "colorize", steps=2).picture.shape == (3, 24, 32)


def test_what_stands_for_a_file_is_that_file(photo, mask, restorer, tmp_path):
    picture = Image.open(mask)
    array = np.asarray(picture) > 127
    made = [
        restorer(photo, "inpaint", steps=2, operator_options={"mask": each})
        for each in (mask, str(mask), picture, array, torch.from_numpy(array), torch.from_numpy(array)[None].float())
    ]
    assert len({each.sha256 for each in made}) == 1
    assert made[0].settings["operator_options"]["mask"] == str(mask)
    assert made[2].settings["operator_options"]["mask"].startswith("in memory, sha256 ")
    json.dumps(made[2].settings)
    kernel = np.random.default_rng(0).random((3, 5))
    np.save(tmp_path / "kernel.npy", kernel)
    one, two = (
        restorer(photo, "motion", steps=2, operator_options={"kernel": each})
        for each in (kernel, tmp_path / "kernel.npy")
    )
    assert one.sha256 == two.sha256


def test_threads_do_not_disturb_one_another(photo, mask, restorer):
    jobs = [
        {"operator": "deblur", "seed": 1}, {"operator": "denoise", "seed": 2}, {"operator": "box", "seed": 3, "simulate": True},
        {"operator": "inpaint", "seed": 4, "operator_options": {"mask": Image.open(mask)}}, {"operator": "superres", "seed": 5},
        {"operator": "denoise", "method": "dps", "seed": 6}, {"operator": "denoise", "method": "fk", "method_options": {"particles": 3}},
        {"operator": "colorize", "seed": 7},
    ]  # fmt: skip
    alone = [restorer(photo, **each, steps=3) for each in jobs]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda each: restorer(photo, **each, steps=3), jobs * 2))
    for one, *others in zip(alone, together[:8], together[8:], strict=True):
        for other in others:
            assert one.sha256 == other.sha256
            assert torch.equal(one.picture, other.picture)
            assert one.evaluations == other.evaluations


def test_loops_on_one_device_take_turns(photo, prior, restorer):
    """Those of another restorer, too."""
    inside, seen = [], []

    def watch(step):
        if step.index == 1:
            inside.append(1)
        seen.append(len(inside))
        time.sleep(0.005)
        if step.index == step.total:
            inside.pop()

    pair = [restorer, Restorer(prior, threads=1)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda i: pair[i % 2](photo, "denoise", steps=3, seed=i, watch=watch), range(6)))
    assert len(seen) == 18
    assert set(seen) == {1}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"operator": "debllur"}, "did you mean deblur"),
        ({"operator_options": {"sigm": 2}}, "deblur has no option 'sigm'; did you mean sigma"),
        ({"operator_options": {"sigma": "wide"}}, "deblur: sigma: expected one of auto or a number above 0"),
        ({"operator_options": {"sigma": 1e6}}, "of at most 200"),
        ({"operator_options": {"sigma": torch.ones(2, 2)}}, "sigma names no file"),
        ({"std": float("nan")}, "std: expected one of auto or a number, got nan"),
        ({"steps": 0}, "steps: expected a whole number of at least 1 and of at most 100000 or none, got 0"),
        ({"tile": -1}, "tile: expected one of auto or a whole number of at least 0, got -1"),
        ({"warm": 2.0}, "warm: expected a number above 0 and below 1 or none, got 2.0"),
        ({"operator": "inpaint"}, "inpaint needs mask"),
        ({"operator": "inpaint", "operator_options": {"mask": torch.full((24, 32), 0.5)}}, "expected 0 .missing. and 1"),
        ({"operator": "inpaint", "operator_options": {"mask": torch.ones(3, 24, 32)}}, r"expected an array \(h, w\)"),
        ({"operator": "phase"}, "add simulate to make them"),
        ({"operator": "phase", "simulate": True, "operator_options": {"oversampling": 1e6}}, "oversampling: expected a number of"),
        ({"operator": "superres", "operator_options": {"factor": 100000}}, "more than 300 megapixels"),
        ({"method": "fk", "method_options": {"particles": 10**7}}, "for 10000000 particles"),
        ({"operator": "jpeg", "keep": True, "operator_options": {"quality": 20}}, "keep: jpeg is not linear"),
        ({"picture": "nowhere.png"}, "does not exist"),
        ({"picture": np.zeros((3, 8, 8))}, "expected a path, a Pillow picture or a tensor, got ndarray"),
        ({"picture": torch.zeros(2, 8, 8)}, r"expected a tensor \(c, h, w\)"),
        ({"picture": torch.full((3, 8, 8), 255.0)}, r"levels / 127.5 - 1"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_and_breaks_nothing(photo, restorer, given, said):
    before = restorer(photo, "denoise", steps=2).sha256
    with pytest.raises(BadInput, match=said) as caught:
        restorer(**{"picture": photo, **given})
    assert "\n" not in str(caught.value)
    assert "--" not in str(caught.value)
    assert restorer(photo, "denoise", steps=2).sha256 == before


def test_a_picture_may_be_too_large(photo, prior):
    small = Restorer(prior, threads=1, limit=24 * 32 - 1)
    for picture in (photo, Image.open(photo), read(photo).pixels[0]):
        with pytest.raises(BadInput, match=r"larger than the limit|more than 0\.000767 megapixels"):
            small(picture, "denoise")
    with pytest.raises(BadInput, match="larger than the limit"):  # said before it is turned into numbers
        small(Image.open(photo), "superres")


def test_a_prior_that_is_not_there(tmp_path):
    with pytest.raises(BadInput, match="did you mean 'photos'"):
        Restorer("photo")
    with pytest.raises(BadInput, match="prompt is for pipelines"):
        Restorer(prompt="a lamp")
    with pytest.raises(BadInput, match="device 'gpu' is not there"):
        Restorer(device="gpu")


def test_a_watcher_sees_every_step_and_may_stop(photo, restorer):
    class Enough(ValueError):
        pass

    seen = []
    restorer(photo, "denoise", steps=3, watch=seen.append)
    assert [(step.index, step.total) for step in seen] == [(1, 3), (2, 3), (3, 3)]

    def stop(step):
        raise Enough

    with pytest.raises(Enough):  # its own error, not bad input
        restorer(photo, "denoise", steps=3, watch=stop)
    restorer(photo, "denoise", steps=1)  # and the device is free


def test_gradients_are_there_in_inference_mode(photo, prior, restorer):
    """As where a host runs everything under `torch.inference_mode`."""
    given = {"operator": "denoise", "method": "dps", "steps": 2}
    pixels = read(photo).pixels[0]
    plain = restorer(pixels, **given)
    with torch.inference_mode():
        inside = Restorer(prior, threads=1)(pixels.clone(), **given)
    assert inside.sha256 == plain.sha256
    assert not inside.picture.is_inference()


def test_arguments_are_those_of_the_command_line():
    assert set(inspect.signature(Restorer).parameters) == {*ModelRequest.model_fields, "limit", "memory"}
    call, prepare = (set(inspect.signature(f).parameters) for f in (Restorer.__call__, Restorer.prepare))
    assert prepare == {*PictureRequest.model_fields, "self", "picture"}
    assert call == prepare | {"watch"}


def test_a_batch_of_particles_shows_their_mean(photo, prior, restorer):
    """What a batch writes is what one run writes, for weighted particles too."""
    words = "--operator denoise --method fk --particles 3 --steps 2 --strength 1e-3 --threshold 0 --threads 1"
    (folder := photo.parent / "many").mkdir()
    assert main(["restore", str(photo.rename(folder / "photo.png").parent), *words.split(), "--prior", prior]) == 0
    lines = (photo.parent / "many.restored" / "manifest.jsonl").read_text().splitlines()
    item = next(each for each in map(json.loads, lines) if "result" in each)
    options = {"particles": 3, "strength": 1e-3, "threshold": 0}
    one = restorer(
        folder / "photo.png", "denoise", method="fk", steps=2, seed=item["settings"]["seed"], method_options=options
    )
    assert item["result"]["sha256"] == one.sha256


def test_generate_draws_what_sample_draws(prior, tmp_path):
    words = ["-n", "3", "--steps", "2", "--threads", "1", "--seed", "4", "--each"]
    assert main(["sample", prior, *words, str(tmp_path / "drawn")]) == 0
    for flow in (prior, flowhelm.load(prior)):
        drawn = flowhelm.generate(flow, count=3, steps=2, seed=4)
        assert drawn.shape == (3, 3, 256, 256)
        for path, picture in zip(sorted((tmp_path / "drawn").iterdir()), drawn, strict=True):
            write(tmp_path / "one.png", picture)
            assert (tmp_path / "one.png").read_bytes() == path.read_bytes()
    assert not drawn.is_inference()


def test_generate_by_class_scale_and_solver(tmp_path):
    line = "sample fashion --class coat --class bag -n 2 --steps 2 --solver heun --scale 2 --threads 1 --each"
    assert main([*line.split(), str(tmp_path)]) == 0
    drawn = flowhelm.generate("fashion", classes=["coat", "bag"], count=2, steps=2, solver="heun", scale=2.0)
    for name, picture in zip(("coat-000", "coat-001", "bag-000", "bag-001"), drawn, strict=True):
        write(tmp_path / "one.png", picture)
        assert (tmp_path / "one.png").read_bytes() == (tmp_path / f"{name}.png").read_bytes()
    bound = flowhelm.load("fashion").told(["coat", "bag"])
    told = flowhelm.generate(bound, count=2, steps=2)
    alone = flowhelm.generate(flowhelm.load("fashion").told(["bag"]).rows(torch.tensor([0]), 1), count=1, steps=2)
    assert told.shape == (2, 1, 32, 32)
    assert not torch.equal(told[1], alone[0])  # another number of the seed


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"count": 0}, "count: expected a whole number of at least 1"),
        ({"solver": "hean"}, "did you mean heun"),
        ({"classes": ["cot"]}, "did you mean 'coat'"),
        ({"negative": "blur"}, "negative is for pipelines"),
        ({"scale": 2.0}, "expected a class"),
        ({"prior": "fashoin"}, "did you mean 'fashion'"),
    ],
)
def test_generate_refuses_in_a_sentence(given, said):
    with pytest.raises(ValueError, match=said):
        flowhelm.generate(**{"prior": "fashion", "steps": 1, **given})


def test_generate_does_not_tell_an_open_flow_anything():
    flow = flowhelm.GaussianFlow(torch.zeros(2), torch.eye(2), shape=(2,))
    with pytest.raises(BadInput, match="bind the conditions of an open flow"):
        flowhelm.generate(flow, prompt="a lamp")
