"""The example with deepinv: both directions restore, and the two value ranges meet."""

from pathlib import Path

import pytest
import torch
from toys import loaded

from flowhelm import metrics
from flowhelm.app.files.pictures import read

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def example():
    return loaded(EXAMPLES / "deepinv_denoiser.py")


@pytest.fixture(scope="module")
def photo():
    return (read(EXAMPLES / "coffee.png").pixels[..., 160:224, 160:224] + 1) / 2


def test_both_directions_restore(example, photo):
    physics, y = example.measured(photo)
    blurred, dpir, mpc = (
        metrics.psnr(2 * picture - 1, 2 * photo - 1).item()
        for picture in (y, example.theirs(physics, y), example.ours(physics, y, steps=12))
    )
    assert dpir > blurred + 1.5
    assert mpc > blurred + 1.5


def test_the_noise_of_the_measurement_is_what_is_said(example, photo):
    physics, y = example.measured(photo)
    signed, std = example.bridge.to_signed(physics, y, example.STD)
    target = example.Measurement(signed, physics, std)
    assert 0.9 < metrics.residual_ratio(target.residual(2 * photo - 1), std).item() < 1.1
    assert torch.allclose(signed, 2 * y - 1, atol=1e-5)  # a blur leaves white white
