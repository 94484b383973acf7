"""What lies on a scan is found where it lies, in both polarities, and little else is."""

import pytest
import torch

from flowhelm.flaws import chance, flaws
from flowhelm.recipes.scratched import scratched


@pytest.fixture(scope="module")
def clean():
    coarse = torch.rand(1, 3, 7, 7, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.6
    smooth = torch.nn.functional.interpolate(coarse, (160, 200), mode="bicubic")
    return smooth + 0.02 * torch.randn(smooth.shape, generator=torch.Generator().manual_seed(1))


def line(picture, value):
    damaged, mask = picture.clone(), torch.ones_like(picture[:, :1])
    for i in range(100):
        damaged[..., 30 + i // 2 : 32 + i // 2, 20 + i] = value
        mask[..., 30 + i // 2 : 32 + i // 2, 20 + i] = 0
    damaged[..., 120:122, 150:152] = value
    mask[..., 120:122, 150:152] = 0
    return damaged, mask


@pytest.mark.parametrize("value", [0.95, -0.95])
def test_a_scratch_and_a_speck_are_marked(clean, value):
    damaged, mask = line(clean, value)
    found = flaws(damaged)
    assert ((1 - found) * (1 - mask)).sum() > 0.9 * (1 - mask).sum()
    near = torch.nn.functional.max_pool2d(1 - mask, 5, 1, 2)  # edges are mixed with the picture, and marked
    assert ((1 - found) * (1 - near)).sum() < 0.02 * (1 - mask).sum()
    assert found[..., 121, 151] == 0


def test_sensitivity_marks_more_and_grow_widens(clean):
    damaged, _ = scratched(clean.clamp(-1, 1), 0)
    marked = [flaws(damaged, sensitivity=s) == 0 for s in (0.2, 0.6, 1.0)]
    assert marked[0].sum() < marked[1].sum() < marked[2].sum()
    wide = flaws(damaged, grow=2) == 0
    expected = torch.nn.functional.max_pool2d(marked[1].float(), 5, 1, 2) > 0
    assert torch.equal(wide, expected)


def test_a_clean_picture_is_left_alone(clean):
    assert flaws(clean).min() == 1
    assert flaws(clean, sensitivity=1.0).mean() > 0.9  # and not wholly marked where much is
    edge = torch.where(torch.arange(200) < 100, -0.8, 0.8).expand(1, 3, 160, 200)
    assert flaws(edge).min() == 1  # an edge is no line
    assert flaws(torch.zeros(1, 1, 9, 9)).min() == 1


def test_bands_change_nothing(clean, monkeypatch):
    damaged, _ = line(clean, 0.95)
    whole = chance(damaged)
    monkeypatch.setattr("flowhelm.flaws.BAND", 37)
    torch.testing.assert_close(chance(damaged), whole)


def test_bad_input():
    with pytest.raises(ValueError, match="expected one picture"):
        flaws(torch.zeros(2, 3, 9, 9))
    with pytest.raises(ValueError, match="sensitivity"):
        flaws(torch.zeros(1, 3, 9, 9), sensitivity=2.0)
