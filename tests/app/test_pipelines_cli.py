"""The command line with pipelines: restoring, sampling and examining tiny random ones, end to end."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from flowhelm import Noise, integrate, run
from flowhelm.app.draw import rows as drawing
from flowhelm.app.draw.solvers import Way
from flowhelm.app.models import device
from flowhelm.app.models import opening as models
from flowhelm.app.models.fitting import Settings
from flowhelm.app.models.plan import plan
from flowhelm.app.models.request import ModelRequest
from flowhelm.app.restore import problem
from flowhelm.app.restore import run as restoration
from flowhelm.app.restore.request import RestoreSettings
from flowhelm.app.run import Noted, drive
from flowhelm.bench.pipelines import tiny
from flowhelm.interfaces.cli import main
from flowhelm.priors import pipelines
from flowhelm.priors.pipelines.sd import StableDiffusion
from flowhelm.transition import euler

FIT = ["--method", "mpc_flow", "--strength", "2500", "--inner", "adam:iterations=10,rate=1.0", "--steps", "4"]


def saved(name, folder):
    torch.manual_seed(0)
    pipe = tiny.CASES[name][0]()
    pipe.save_pretrained(folder)
    return str(folder)


def words(prior, *more):
    return ["restore", "photo.png", "--operator", "box", "--prior", prior, "--threads", "1", *FIT, *more]


def told(photo, name="photo"):
    return json.loads(photo.with_name(f"{name}.run.json").read_text())


# --- restore ---


def test_restoring_pulls_the_picture_to_the_photograph(photo, sd3, capsys, monkeypatch):
    fits, told_of = [], restoration._told

    def noted(*given):
        fits.append((event := told_of(*given)).figures["misfit"])
        return event

    monkeypatch.setattr(restoration, "_told", noted)
    free = words(sd3, "--prompt", "a cat", "--out", "free.png")
    free[free.index("2500")] = "1e-9"
    assert main(free) == 0
    assert main(words(sd3, "--prompt", "a cat", "--negative", "dog", "--scale", "3")) == 0
    assert Image.open(photo.with_name("photo.restored.png")).size == (32, 32)
    one, other = told(photo, "free"), told(photo)
    assert other["result"]["residual"] < 0.75 * one["result"]["residual"]
    captured = capsys.readouterr()
    assert len(fits) == 8
    assert fits[-4:] == sorted(fits[-4:], reverse=True)
    assert "no --prompt" not in captured.out
    settings = other["settings"]
    assert settings["prior"] == sd3
    assert (settings["prompt"], settings["negative"], settings["scale"]) == ("a cat", "dog", 3.0)
    assert (settings["dtype"], settings["quantize"]) == ("float32", None)
    assert other["inputs"]["prior fingerprint"] == models.fingerprint(sd3)
    assert {"diffusers", "transformers"} <= set(other["environment"])
    flow = pipelines.load(sd3, size=(32, 32))
    assert settings["times"] == flow.times(4).tolist()
    bound, expected = (
        models.told(flow, RestoreSettings.of_json(settings, "told")),
        flow.bind(["a cat"], negative="dog", scale=3.0),
    )
    for one, other in ((bound.told, expected.told), (bound.null, expected.null)):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert bound.guidance.keywords == {"scale": 3.0}


def test_it_runs_again_to_the_bit(photo, sd, capsys):
    assert main(words(sd)) == 0
    assert "note: no --prompt is given" in capsys.readouterr().out
    assert main(["rerun", "photo.run.json"]) == 0
    assert capsys.readouterr().out == "identical to the bit\n"


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_it_goes_on_where_it_was_stopped(photo, sd3, stopped_after):
    given = words(sd3, "--prompt", "a cat")
    assert main([*given, "--out", "whole.png"]) == 0
    stopped_after(2)
    assert main(given) == 130
    stopped_after(0)  # never
    assert main(["restore", "--resume", "photo.resume.safetensors"]) == 0
    assert photo.with_name("photo.restored.png").read_bytes() == photo.with_name("whole.png").read_bytes()


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_it_does_not_go_on_with_other_weights(photo, tmp_path, stopped_after, capsys, refusal):
    prior = saved("sd", tmp_path / "mine")
    stopped_after(1)
    assert main(words(prior)) == 130
    torch.manual_seed(1)
    tiny.sd().save_pretrained(prior)
    capsys.readouterr()
    assert "prior fingerprint was" in refusal("restore", "--resume", "photo.resume.safetensors")


def test_simulated_and_quantized(photo, sd3, capsys):
    pytest.importorskip("torchao")
    assert main(words(sd3, "--simulate", "--quantize", "torchao-int8", "--checkpointing", "--dtype", "bfloat16")) == 0
    assert "PSNR" in capsys.readouterr().out
    settings = told(photo)["settings"]
    assert (settings["quantize"], settings["dtype"], settings["checkpointing"]) == ("torchao-int8", "bfloat16", True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--prior", "photos", "--prompt", "a cat"], "--prompt is for pipelines"),
        (["--prior", "photos", "--no-plan"], "--no-plan is for pipelines"),
        (["--prior", "SD", "--dtype", "float23"], "did you mean float32?"),
        (["--prior", "SD", "--quantize", "q4"], "expected nf4, int8"),
        (["--prior", "SD", "--tile", "64"], "for a pipeline, --tiling cuts its decoder"),
        (["--prior", "SD", "--scale", "1", "--negative", "dog"], "compares with nothing"),
        (["--prior", "SD", "--method", "mpc_flo"], "did you mean mpc_flow?"),
        (["--prior", "."], "has no model_index.json"),
        (["--prior", "SD", "--operator", "deblur", "--sigma", "1.1"], "restores 43 x 44 pixels from a photograph of 31 x 32"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(photo, sd, given, message, refusal):
    if "deblur" in given:
        Image.new("RGB", (32, 31)).save(photo)
    words = [sd if word == "SD" else word for word in given]
    assert message in refusal("restore", "photo.png", "--operator", "box", *words)


def test_a_size_that_it_cannot_take(photo, sd, refusal):
    Image.new("RGB", (31, 33)).save(photo)
    assert "that 2 divides, got 33 x 31; 32 x 32 would do" in refusal(*words(sd))
    assert not list(photo.parent.glob("*.json"))


# --- what does not fit ---


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that is none: what is loaded onto it runs out of memory. Set its free bytes."""
    for module in (device, problem):
        monkeypatch.setattr(module, "to_device", lambda name: torch.device("cpu"))
    loaded = []

    def load(name, **given):
        loaded.append(given)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def has(free):
        monkeypatch.setattr(models, "free", lambda device: free)
        monkeypatch.setattr(models.pipelines, "load", load)
        return loaded

    return has


@pytest.mark.parametrize("command", ["restore", "sample", "steer"])
def test_what_will_not_fit_is_refused_before_it_is_loaded(photo, sd3, gpu, command, capsys, monkeypatch):
    common = ["--device", "cuda", "--prompt", "a cat"]
    given = words(sd3, *common) if command == "restore" else [command, sd3, "--size", "32x32", *common]
    if command == "steer":
        given += ["--reward", "brightness", "--method", "fk", "--particles", "2", "--out", str(photo.with_name("out"))]
    if command != "restore":
        monkeypatch.setattr(device, "to_device", torch.device)
    loaded = gpu(2**20)
    assert main(given) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    method = {"restore": "mpc_flow", "sample": "sample", "steer": "fk"}[command]
    assert f"{method} on {sd3} at 32 x 32 does not fit" in error
    assert "there are 0.0009766 GiB" in error
    assert "nothing that was tried would make it fit" in error
    assert "--no-plan" in error
    assert not loaded
    # what runs out all the same is one sentence, too
    for more, free in ((["--no-plan"], 2**20), ([], 2**40)):
        gpu(free)
        assert main([*given, *more]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "flowhelm plan" in error
    assert [each["dtype"] for each in loaded] == [torch.bfloat16] * 2
    assert not list(photo.parent.glob("*.json"))


def test_nothing_is_planned_on_the_cpu_nor_of_a_gguf_file(sd3, gpu, monkeypatch):
    loaded = gpu(0)
    monkeypatch.setattr(models, "_check", None)
    with pytest.raises(torch.OutOfMemoryError):
        drive(models.opened(ModelRequest(prior=sd3), work=models.Work("sample", (32, 32), 4)))
    monkeypatch.undo()
    assert len(loaded) == 1


def test_a_plan_that_cannot_be_made_keeps_no_run_from_running(sd3, gpu):
    loaded = gpu(2**20)
    told = []
    for more, work in (
        ({}, models.Work("sample", (31, 32), 4)),
        ({"quantize": "a.gguf"}, models.Work("sample", None, 4)),
    ):
        with pytest.raises(torch.OutOfMemoryError):
            drive(models.opened(ModelRequest(prior=sd3, device="cuda", **more), work=work), told.append)
    assert [type(event) for event in told] == [Noted]
    assert "could not be found out" in told[0].text
    assert len(loaded) == 2


@pytest.fixture(scope="module")
def as_it_is(sd3):
    """The plan of dps on 96 x 96 pixels, with nothing saved."""
    size, settings = (96, 96), Settings()
    found = plan(sd3, "dps", vram=8, size=size, operator="denoise", steps=4, scale=1.0, reserve=0.0, settings=settings)
    assert found.fits
    return found


@pytest.mark.parametrize(
    ("given", "free", "advice"), [({}, 0.85, "--checkpointing"), ({"checkpointing": True}, 0.85, None)]
)
def test_the_settings_of_the_run_are_what_is_planned(sd3, as_it_is, gpu, given, free, advice):
    work = models.Work("dps", (96, 96), 4)
    gpu(int(free * as_it_is.peak * 2**30))
    request = ModelRequest(prior=sd3, device="cuda", scale=1.0, **given)
    with pytest.raises(models.BadInput if advice else torch.OutOfMemoryError) as caught:
        drive(models.opened(request.changed(**models.settled(request)), work=work))
    assert advice is None or advice in str(caught.value)


# --- sample ---


@pytest.mark.parametrize("command", ["sample", "generate"])
def test_pictures_depend_on_their_number_alone(photo, sd3, command, capsys):
    given = [sd3, "--prompt", "a cat", "--size", "32x48", "--steps", "3", "--seed", "5"]
    assert main([command, *given, "-n", "2", "--each", "many"]) == 0
    assert main([command, *given, "--out", "one.png"]) == 0
    with Image.open("many/sd3-000.png") as first, Image.open("many/sd3-001.png") as second:
        assert first.size == second.size == (48, 32)
        assert np.abs(np.asarray(first, int) - np.asarray(second, int)).max() > 20
    flow = pipelines.load(sd3, size=(32, 48)).bind(["a cat"])
    drawn = flow.decode(run(integrate(flow, flow.source(Noise(5, [1])), flow.times(3))).x)
    exact = ((drawn.clamp(-1, 1) + 1) * 127.5).round()[0].permute(1, 2, 0).numpy()
    assert np.abs(np.asarray(Image.open("many/sd3-001.png"), int) - exact).max() <= 1
    assert "note" not in capsys.readouterr().out


def test_a_guidance_by_name(photo, sd):
    flow = pipelines.load(sd, size=(32, 32))
    drawn = [
        drive(drawing.draw_flow(bound, 1, Way(2, euler)))
        for bound in (flow.bind(["a cat"], scale=4.0), flow.bind(["a cat"], scale=1.0))
    ]
    assert not torch.allclose(*drawn, atol=1e-3)
    common = ["sample", sd, "--prompt", "a cat", "--steps", "2", "--each"]
    assert main([*common, "cfg", "--guidance", "cfg", "--scale", "4"]) == 0
    assert main([*common, "own", "--scale", "4"]) == 0
    one, other = (photo.parent / folder / "sd-000.png" for folder in ("cfg", "own"))
    assert one.read_bytes() == other.read_bytes()
    assert main([*common, "raag", "--guidance", "raag", "--scale", "4"]) == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["SD", "--class", "coat"], "--class is for bundled priors"),
        (["SD", "--number", "detail=1"], "--number is for bundled priors"),
        (["SD", "--size", "512x"], "expected HEIGHTxWIDTH"),
        (["SD", "--size", "100000x32"], "at most 16384"),
        (["SD", "--scale", "nan"], "expected a finite number"),
        (["fashion", "--size", "32x32"], "--size is for pipelines"),
        (["fashion", "--negative", "coat"], "--negative is for pipelines"),
    ],
)
def test_what_cannot_be_drawn(photo, sd, given, message, refusal):
    assert message in refusal("sample", *[sd if word == "SD" else word for word in given])


# --- doctor ---


@pytest.mark.parametrize(("dtype", "allowed"), [("float32", "1e-05"), ("bfloat16", "5e-02")])
def test_parity(sd, dtype, allowed, capsys):
    assert main(["doctor", sd, "--parity", "--size", "32x32", "--dtype", dtype, "--prompt", "a cat"]) == 0
    out = capsys.readouterr().out
    assert f"{allowed} is allowed for the dtype" in out
    assert "pixels" in out
    assert out.endswith("the flow gives what the pipeline gives\n")


def test_parity_that_is_broken(sd, monkeypatch, capsys):
    """A family that forgets its sign is found out."""
    own = StableDiffusion._slope
    monkeypatch.setattr(StableDiffusion, "_slope", lambda *given: -own(*given))
    assert main(["doctor", sd, "--parity", "--size", "32x32"]) == 1
    assert capsys.readouterr().out.endswith("broken: the flow is not the pipeline\n")


def test_a_pipeline_is_examined(sd3, capsys):
    assert main(["doctor", sd3, "--size", "32x32"]) == 0
    assert "give --pictures for the rest" in capsys.readouterr().out


@pytest.mark.slow
def test_a_pipeline_is_examined_with_pictures(sd3, photo, capsys):
    assert main(["doctor", sd3, "--size", "32x32", "--pictures", "photo.png"]) == 1  # a random network denoises nothing
    assert "broken" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--parity"], "--parity goes with a MODEL"),
        (["photos", "--parity"], "--parity is for pipelines"),
        (["photos", "--size", "32x32"], "--size is for pipelines"),
        (["."], "has no model_index.json"),
    ],
)
def test_what_cannot_be_examined(photo, given, message, refusal):
    assert message in refusal("doctor", *given)


def test_no_parity_without_encoders(tmp_path, refusal):
    assert "has no text encoder here" in refusal(
        "doctor", saved("flux2", tmp_path / "flux2"), "--parity", "--size", "32x32"
    )


# --- fingerprints ---


def test_fingerprints(tmp_path):
    """Names, sizes, whole small files, and the first and last MiB of large ones."""
    (tmp_path / "unet").mkdir()
    large = tmp_path / "unet" / "w.safetensors"
    data = bytearray(5 * 2**20)
    large.write_bytes(data)
    (tmp_path / "model_index.json").write_text("{}")
    before = models.fingerprint(str(tmp_path))
    assert before == models.fingerprint(str(tmp_path))
    (tmp_path / "README.md").write_text("words")
    assert before == models.fingerprint(str(tmp_path))
    for place, seen in ((0, True), (2**20 - 1, True), (2**21, False), (len(data) - 1, True)):
        data[place] = 1
        large.write_bytes(data)
        assert (models.fingerprint(str(tmp_path)) != before) is seen, place
        data[place] = 0
    large.write_bytes(data + b"0")
    assert models.fingerprint(str(tmp_path)) != before
    large.write_bytes(data)
    (tmp_path / "model_index.json").write_text("[]")
    assert models.fingerprint(str(tmp_path)) != before
