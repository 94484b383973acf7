"""The table of what a file cuts off: in shadows filling in comes near what noise that was never cut off gives."""

import torch

from flowhelm.bench.quality.clipping import WAYS, ways
from flowhelm.bench.quality.denoising import Photo


def test_the_ways_of_a_dark_picture():
    dark = Photo("night", "a.png", torch.full((3, 64, 64), -0.96))
    held, found = ways(dark, "photos", 30, lit=False, seed=0)
    assert held.min() == -1
    error = {
        way: float((each.clamp(-1, 1) - dark.clean).square().mean().sqrt())
        for way, each in zip(WAYS, found, strict=True)
    }
    assert error["filled in"] < 0.4 * error["as it is"]
    assert error["bias taken off afterwards"] < error["as it is"]
    assert error["never cut off"] < 0.4 * error["as it is"]
    off = {way: float((each - dark.clean).mean()) for way, each in zip(WAYS, found, strict=True)}
    assert off["as it is"] > 0.05 > abs(off["filled in"])
