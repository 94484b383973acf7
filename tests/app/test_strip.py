import numpy as np
import pytest
import torch

from flowhelm.app.show.strip import strip


def test_one_panel_is_itself_over_a_caption():
    pixels = torch.rand(1, 3, 40, 50) * 2 - 1
    sheet = strip([("input", pixels)])
    assert sheet.mode == "RGB"
    assert sheet.width == 50
    assert sheet.height > 40
    top = ((pixels[0].permute(1, 2, 0) + 1) * 127.5).round().numpy()
    assert np.array_equal(np.asarray(sheet)[:40], top)
    foot = np.asarray(sheet.convert("L"))[40:]
    assert foot.min() < 60  # ink
    assert (foot[[0, -1]] == 255).all()  # and none of it cut off
    assert (foot[:, [0, -1]] == 255).all()


def test_a_small_panel_shows_its_pixels():
    small = torch.tensor([[-1.0, 1], [1, -1]]).view(1, 2, 2)
    sheet = strip([("a", small), ("b", torch.zeros(3, 64, 64))])
    block = np.asarray(sheet)[:64, :64, 0]
    assert np.array_equal(block, np.kron([[0, 255], [255, 0]], np.ones((32, 32))))
    assert (np.asarray(sheet)[:64, 64:68] == 255).all()  # the gap
    assert (np.asarray(sheet)[:64, 68:132] == 128).all()


def test_a_large_panel_is_averaged_down():
    checks = torch.tensor([[-1.0, 1], [1, -1]]).tile(40, 40)[None]
    top = np.asarray(strip([("a", checks)], height=40))[:40, :40]
    assert np.abs(top.astype(int) - 127.5).max() <= 1


def test_a_long_caption_widens_its_column():
    sheet = strip([("a very long caption over a narrow picture", -torch.ones(1, 30, 4)), ("b", torch.ones(1, 30, 30))])
    dark = np.flatnonzero((np.asarray(sheet)[:30, :, 0] == 0).all(0))
    assert len(dark) == 4
    caption = np.flatnonzero((np.asarray(sheet.convert("L"))[30:] < 200).any(0))
    assert caption.min() < dark.min() - 50
    assert caption.max() > dark.max() + 50


def test_extremes():
    assert strip([("x", torch.zeros(1, 1, 1))]).height > 1
    assert strip([("", torch.zeros(1, 500, 1))], height=8).height > 8
    assert strip([("ключ 鍵", torch.zeros(1, 3, 20, 20))]).width >= 20
    with pytest.raises(ValueError, match="at least one"):
        strip([])
