"""What is shown of results: strips, sheets, maps and plots."""

import math

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image

from flowhelm.app.show import contact_sheet as contact
from flowhelm.app.show.curves import curve
from flowhelm.app.show.maps import dots, flip, shown_map
from flowhelm.app.show.sheet import class_rows, sheet
from flowhelm.app.show.strip import strip

BLUE, ORANGE, GREEN = ([0x1F, 0x77, 0xB4], [0xFF, 0x7F, 0x0E], [0x1A, 0x7F, 0x37])


def near(pixels, colour):
    """Where a picture has this colour."""
    return np.abs(np.asarray(pixels).astype(int) - colour).max(-1) < 30


# --- strips ---


def test_one_panel_is_itself_over_a_caption():
    pixels = torch.rand(1, 3, 40, 50) * 2 - 1
    whole = strip([("input", pixels)])
    assert whole.mode == "RGB"
    assert whole.width == 50
    assert whole.height > 40
    top = ((pixels[0].permute(1, 2, 0) + 1) * 127.5).round().numpy()
    assert np.array_equal(np.asarray(whole)[:40], top)
    foot = np.asarray(whole.convert("L"))[40:]
    assert foot.min() < 60  # ink
    assert (foot[[0, -1]] == 255).all()  # and none of it cut off
    assert (foot[:, [0, -1]] == 255).all()


def test_a_small_panel_shows_its_pixels():
    small = torch.tensor([[-1.0, 1], [1, -1]]).view(1, 2, 2)
    whole = strip([("a", small), ("b", torch.zeros(3, 64, 64))])
    block = np.asarray(whole)[:64, :64, 0]
    assert np.array_equal(block, np.kron([[0, 255], [255, 0]], np.ones((32, 32))))
    assert (np.asarray(whole)[:64, 64:68] == 255).all()  # the gap
    assert (np.asarray(whole)[:64, 68:132] == 128).all()


def test_a_large_panel_is_averaged_down():
    checks = torch.tensor([[-1.0, 1], [1, -1]]).tile(40, 40)[None]
    top = np.asarray(strip([("a", checks)], height=40))[:40, :40]
    assert np.abs(top.astype(int) - 127.5).max() <= 1


def test_a_long_caption_widens_its_column():
    whole = strip([("a very long caption over a narrow picture", -torch.ones(1, 30, 4)), ("b", torch.ones(1, 30, 30))])
    dark = np.flatnonzero((np.asarray(whole)[:30, :, 0] == 0).all(0))
    assert len(dark) == 4
    caption = np.flatnonzero((np.asarray(whole.convert("L"))[30:] < 200).any(0))
    assert caption.min() < dark.min() - 50
    assert caption.max() > dark.max() + 50


def test_extremes():
    assert strip([("x", torch.zeros(1, 1, 1))]).height > 1
    assert strip([("", torch.zeros(1, 500, 1))], height=8).height > 8
    assert strip([("ключ 鍵", torch.zeros(1, 3, 20, 20))]).width >= 20
    with pytest.raises(ValueError, match="at least one"):
        strip([])


# --- sheets ---


def test_a_sheet_shows_every_picture_in_its_place():
    pictures = torch.linspace(-1, 1, 6).view(6, 1, 1, 1).expand(6, 1, 32, 32)
    whole = sheet([("a", pictures[:3]), ("bc", pictures[3:])])
    left = whole.width - (3 * 68 - 4)
    assert left > 0
    assert whole.height == 2 * 68 - 4
    for i in range(6):
        row, column = divmod(i, 3)
        tile = np.asarray(whole)[68 * row : 68 * row + 64, left + 68 * column : left + 68 * column + 64]
        assert tile.shape == (64, 64, 3)
        assert (tile == round((pictures[i, 0, 0, 0].item() + 1) * 127.5)).all()
    square = sheet([("", pictures)])
    assert square.size == (3 * 68 - 4, 2 * 68 - 4)
    assert sheet([("", torch.zeros(1, 3, 100, 40))]).size == (40, 100)


def test_rows_are_the_classes():
    jobs = [("dark", 0), ("light", 0), ("dark", 1)]
    drawn = torch.arange(3.0).view(3, 1, 1, 1)
    assert [(name, part.flatten().tolist()) for name, part in class_rows(drawn, jobs)] == [
        ("dark", [0, 2]),
        ("light", [1]),
    ]


def test_a_sheet_marks_the_best():
    tiles = [contact.Tile(contact.small(torch.full((1, 8, 8), v)), f"{v:g}", v == 1) for v in (-1.0, 0.0, 1.0)]
    assert tiles[0].picture.size == (96, 96)
    assert contact.small(torch.zeros(3, 512, 256)).size == (128, 256)
    pixels = np.asarray(contact.contact({"": tiles}))
    green = (pixels == np.array([0x1A, 0x7F, 0x37])).all(-1)
    left, top = np.nonzero(green)[1].min(), np.nonzero(green)[0].min()
    assert (pixels[top + 3 : top + 99, left + 3 : left + 99] == 255).all()  # around the third one, in the second row
    assert top > 96
    assert contact.contact({"a": tiles, "b": tiles}).size[1] > 2 * contact.contact({"": tiles}).size[1]


# --- maps of samples ---


def test_a_map_shows_every_value_and_its_bar_the_largest():
    values = torch.linspace(0, 0.5, 100).reshape(1, 10, 10)
    pixels = np.asarray(shown_map(values, "width"))
    blocks = pixels[9:259, 9:259].reshape(10, 25, 10, 25, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()  # of whole pixels
    expected = colormaps["viridis"](values[0].numpy() / 0.5, bytes=True)[..., :3]
    assert np.abs(blocks[:, 0, :, 0].astype(int) - expected).max() <= 3
    bar = pixels[11:257, 273].astype(int)
    assert np.abs(bar[0] - expected[-1, -1]).max() < 10
    assert np.abs(bar[-1] - expected[0, 0]).max() < 10
    assert (np.diff(bar[:, 1]) <= 0).all()  # viridis is ever greener
    assert shown_map(torch.rand(3, 300, 500), "width").width > 500


def test_dots_stand_at_their_values():
    """The middle of a dot is on the straight line through the others' middles: 0.5, 1 and 2 in order, and a gap for what is missing."""
    pixels = dots([0.5, None, 1.0, 2.0])
    rows, columns = np.nonzero(near(pixels, BLUE))
    parts = np.split(np.sort(columns), np.flatnonzero(np.diff(np.sort(columns)) > 5) + 1)
    middle = [(part.mean(), rows[np.isin(columns, part)].mean()) for part in parts]
    (a, low), (b, one), (c, high) = middle
    assert (b - a) / (c - b) == pytest.approx(2, rel=0.05)
    assert (low - one) / (one - high) == pytest.approx(0.5, rel=0.06)
    lines = np.flatnonzero(near(pixels, GREEN).sum(1) > 100)
    assert lines.mean() == pytest.approx(one, abs=2)


def test_all_samples_one_after_the_other(tmp_path):
    flip(tmp_path / "a.webp", 3, lambda i: torch.full((3, 9, 14), i - 1.0))
    with Image.open(tmp_path / "a.webp") as shown:
        assert (shown.n_frames, shown.is_animated) == (3, True)
        for i in range(3):
            shown.seek(i)
            assert np.asarray(shown.convert("RGB"))[50, 50].mean() == pytest.approx(127.5 * i, abs=3)


# --- curves ---


def test_a_loss_falls_on_a_straight_line_on_the_logarithmic_axis():
    pixels = curve({"loss": [(k, 2.0**-k) for k in range(9)], "held apart": []})
    blue = near(pixels, BLUE)
    columns = np.flatnonzero(blue.any(0))
    columns = columns[columns < 0.8 * pixels.width]  # its name is at the right
    heights = np.array([np.flatnonzero(blue[:, x]).mean() for x in columns])
    slope, start = np.polyfit(columns, heights, 1)
    assert slope > 0.2
    assert np.abs(heights - start - slope * columns).max() < 1.5
    empty = curve({"loss": [(1, math.nan), (2, -1.0)]})
    assert not near(empty, BLUE).any()


def test_a_reward_over_its_evaluations(tmp_path):
    lines = [
        contact.Line("reward", [(5, 0.1), (10, 0.3)], part=True),
        contact.Line("reward", [(10, 0.3)]),
        contact.Line("held out: b", [(5, -1.0), (10, -1.0)], beside=True),
    ]
    contact.plot(lines, "brightness", tmp_path / "a.png")
    shown = Image.open(tmp_path / "a.png").convert("RGB")
    assert shown.size == (770, 440)
    for colour in (BLUE, ORANGE):
        assert near(shown, colour).sum() > 20
    contact.plot([], "none", tmp_path / "b.png")
