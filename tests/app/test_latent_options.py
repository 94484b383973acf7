"""--keep, --warm, --inverted and --codec-error of `flowhelm restore`."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from flowhelm.app.files.pictures import read
from flowhelm.app.restore import problem
from flowhelm.app.restore import run as job
from flowhelm.app.restore.request import RestoreSettings
from flowhelm.app.run import drive
from flowhelm.interfaces.cli import main
from flowhelm.solve import integrate, inversion_start
from flowhelm.step import run


@pytest.fixture(autouse=True)
def _mask(photo) -> None:
    mask = np.full((32, 32), 255, np.uint8)
    mask[8:20, 10:22] = 0
    Image.fromarray(mask).save(photo.with_name("mask.png"))


def restored(*more, operator=("inpaint", "--mask", "mask.png"), steps=6):
    words = ["restore", "photo.png", "--operator", *operator, "--std", "0.05", "--steps", str(steps), "--threads", "1"]
    assert main([*words, *more]) == 0
    return json.loads(open("photo.run.json").read()), read("photo.restored.png").pixels


def test_kept_pixels_are_those_of_the_photograph(photo):
    seen = np.asarray(Image.open("mask.png")) > 127
    before = np.asarray(Image.open("photo.png"))
    _, plain = restored()
    made = np.asarray(Image.open("photo.restored.png"))
    assert (made != before)[seen].any()
    _, kept = restored("--keep")
    made = np.asarray(Image.open("photo.restored.png"))
    assert (made == before)[seen].all()
    hidden = torch.from_numpy(~seen)
    torch.testing.assert_close(kept[..., hidden], plain[..., hidden])  # the rest is as it was
    assert main(["rerun", "photo.run.json"]) == 0


def test_a_warm_start_takes_the_rest_of_the_grid(photo):
    settings, cold = restored("--method", "mpc_flow")
    warm, picture = restored("--method", "mpc_flow", "--warm", "0.5")
    times = settings["settings"]["times"]
    assert warm["settings"]["times"] == [0.5, *(t for t in times if t > 0.5)]
    assert warm["result"]["evaluations"] == len(warm["settings"]["times"]) - 1 < settings["result"]["evaluations"]
    assert not torch.equal(picture, cold)
    assert main(["rerun", "photo.run.json"]) == 0  # to the bit


@pytest.mark.parametrize("warm", [[], ["--warm", "0.3"]])
def test_an_inverted_start_is_the_source_of_the_filled_photograph(photo, warm, monkeypatch):
    """The state is what `solve.inversion_start` says, whatever the seed; N + 1 evaluations more."""
    seen = []
    monkeypatch.setattr(problem, "inversion_start", lambda *of: seen.append((of, inversion_start(*of))) or seen[-1][1])
    usual = ("--prior", "photos", "--method", "dps")  # six steps of Euler follow its ODE there and back
    options = (*usual, "--inverted", *warm)
    record, picture = restored(*options)
    (flow, clean, times), begun = seen[0]
    assert times.tolist() == record["settings"]["times"]
    assert (run(integrate(flow, begun, times)).x - clean).square().mean() < 0.1 * clean.square().mean()
    without = restored(*usual, *warm)
    assert record["result"]["evaluations"] == without[0]["result"]["evaluations"] + len(times)
    assert not torch.equal(picture, without[1])
    assert torch.equal(restored(*options, "--seed", "7")[1], picture)


def test_the_codec_of_a_prior_over_pixels_makes_no_error(photo):
    one, other = restored()[0], restored("--codec-error")[0]
    assert one["result"]["sha256"] == other["result"]["sha256"]


def test_the_codec_s_error_makes_a_misfit_smaller(photo, sd3):
    more = ["--prior", sd3, "--method", "mpc_flow", "--strength", "100"]
    without, with_it = (
        restored(*more, *option, steps=2)[0]["result"]["residual"] for option in ([], ["--codec-error"])
    )
    assert with_it < 0.5 * without  # of a random decoder the error is large


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method", "hqs", "--inverted"], "hqs always starts from the degraded picture; leave out --inverted"),
        (["--warm", "1.5"], "--warm: expected a number above 0 and below 1 or none, got 1.5"),
        (["--keep", "--operator", "jpeg", "--simulate"], "not linear"),
    ],
)
def test_mistakes(photo, refusal, more, message):
    operator = [] if "--operator" in more else ["--operator", "inpaint", "--mask", "mask.png"]
    assert message in refusal("restore", "photo.png", *operator, *more, "--steps", "2")
    assert not (photo.parent / "photo.restored.png").exists()


def test_settings_of_an_older_run_need_not_name_them(photo):
    settings, _ = restored()
    old = {name: value for name, value in settings["settings"].items() if name not in ("keep", "warm", "codec_error")}
    again = RestoreSettings.of_json({**old, "out": str(photo.parent / "again.png")}, "old")
    assert drive(job.restore(again)).result.sha256 == settings["result"]["sha256"]
