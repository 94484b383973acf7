"""Noise that a file cut off at black and white: what a restoration is given, and when."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flowhelm.app.files.pictures import read
from flowhelm.app.restore.problem import prepared
from flowhelm.app.restore.request import RestoreRequest
from flowhelm.app.restore.settle import settle
from flowhelm.app.run import drive
from flowhelm.clipping import unclipped
from flowhelm.interfaces.cli import main

STD = 0.2


@pytest.fixture
def night(tmp_path):
    """Shadows at 4 levels of 255 with noise of 25, in 8 bits."""
    noise = np.random.default_rng(0).normal(0, STD * 127.5, (64, 64, 3))
    path = tmp_path / "night.png"
    Image.fromarray((4 + noise).round().clip(0, 255).astype(np.uint8)).save(path)
    return path


def given(night, prior="photos", **options):
    """What the method is given of the file."""
    asked = {"photo": night, "prior": prior, "operator": "denoise", "std": STD, "threads": 1} | options
    settings = settle(RestoreRequest.of(asked, "restore"))
    return drive(prepared(settings, read(night))).observed.measurement.y


@pytest.mark.parametrize(
    ("prior", "options"),
    [
        ("photos", {}), ("photos", {"operator": "deblur", "operator_options": {"sigma": 1.2}}),
        ("photos", {"method": "flower"}), ("codec", {"method": "vble"}),
    ],
)  # fmt: skip
def test_the_noise_is_as_often_down_as_up_again(night, prior, options):
    y, held = given(night, prior, **options), read(night).pixels
    torch.testing.assert_close(y, unclipped(held, STD), rtol=0, atol=0)
    assert abs(float((y.mean() + 1) * 127.5) - 4) < 0.5 < 8 < (held.mean() + 1) * 127.5


@pytest.mark.parametrize(
    ("prior", "options"),
    [
        ("blind", {"method": "pmrf"}),
        ("photos-2", {"adapter": Path("jpeg")}),
        ("photos", {"std": 0.01}),
        ("photos", {"operator": "jpeg"}),
    ],
)
def test_networks_that_know_files_and_operators_that_clip_see_the_file_itself(night, prior, options):
    """And so does noise of hardly a level, which is cut off only where the picture itself may end."""
    options = {"operator_options": {"quality": 90}} | options if options.get("operator") == "jpeg" else options
    assert torch.equal(given(night, prior, **options), read(night).pixels)


def test_a_simulation_is_not_cut_off(night):
    assert given(night, simulate=True).min() < -1.1


def test_what_unfading_cuts_off_is_none_of_the_file(night):
    """Its black and white are where the fading is taken to have begun."""
    noise = np.random.default_rng(0).normal(0, 12, (64, 64, 3))
    ramp = np.linspace(70, 190, 64)[None, :, None]
    Image.fromarray((ramp + noise).round().clip(0, 255).astype(np.uint8)).save(night)
    y = given(night, unfade=True, std=0.1)
    assert (y.abs() == 1).any()
    assert y.abs().max() == 1


def test_shadows_come_back_dark_and_it_is_said(night, capsys):
    assert main(["restore", str(night), "--operator", "denoise", "--std", str(STD), "--threads", "1"]) == 0
    assert "noise was cut off in 45% of the picture's values" in capsys.readouterr().out
    restored = np.asarray(Image.open(night.with_name("night.restored.png")), float)
    assert abs(restored.mean() - 4) < 1.5


def test_what_is_masked_is_not_counted(night, capsys):
    """White paint over a scratch is no noise."""
    picture = np.full((64, 64, 3), 128, np.uint8)
    picture[20:30] = 255
    Image.fromarray(picture).save(night)
    Image.fromarray(np.where(picture == 255, 0, 255).astype(np.uint8)).save(night.with_name("mask.png"))
    line = ["restore", str(night), "--operator", "inpaint", "--mask", str(night.with_name("mask.png")), "--std", "0.1"]
    assert main([*line, "--steps", "1", "--threads", "1"]) == 0
    assert "cut off" not in capsys.readouterr().out
