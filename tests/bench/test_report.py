"""The page: everything in one file."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from flowhelm import GaussianFlow, Step, operators
from flowhelm.app.files.dataset import Pictures
from flowhelm.bench.compare import runner, table
from flowhelm.bench.compare.gallery import Gallery, viewable
from flowhelm.bench.compare.protocols import Task
from flowhelm.bench.compare.report import plot, report
from flowhelm.bench.compare.rows import FIELDS
from flowhelm.bench.compare.runner import Entry

SHAPE = (3, 16, 16)


def keeps(flow, y, x, times, *, noise=None, rate=2.0):
    """Returns the measurement itself."""
    flow.velocity(x, times[0])
    yield Step(1, 1, times[-1], y.y.clone(), y.y, {})


def refuses(flow, y, x, times, *, noise=None):
    raise ValueError("expected <b>bold</b>, got none")
    yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Rows as they stand on disk, and the gallery."""
    flow = GaussianFlow(torch.zeros(768), torch.eye(768), shape=SHAPE)
    clean = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    taken = Pictures(clean, ("a.png", "b.png", "c.png"), None, "photos.zip", "")
    gallery = Gallery(tmp_path_factory.mktemp("g") / "rows.pictures", {"a.png", "b.png"})
    about = {"prior": "p", "weights": "w", "data": "photos.zip", "size": 16, "protocol": "own"}
    tasks = [Task("denoise", operators.denoise, {}, 0.2), Task("phase", operators.phase, {}, 0.05)]
    listed = []
    for cell in runner.cells(flow, tasks, taken, [0, 1], 3, about):
        found = list(runner.rows_of_baselines(cell))
        if cell.task.name == "denoise":
            found.append(runner.rows_of(cell, Entry("k & l", keeps, {"rate": 2.0}, 7, budget="evaluations=9")))
        found.append(runner.rows_of(cell, Entry("r", refuses, {}, 5)))
        for each in found:
            gallery.put(each)
            listed += [{name: row.get(name) for name in FIELDS} for row in each.rows]
    return listed, gallery, clean


def test_only_the_first_pictures_are_kept(made):
    listed, gallery, clean = made
    of = next(r for r in listed if r["image"] == "b.png" and r["method"] == "k & l" and r["seed"] == 0)
    for kind in ("clean", "measured", "restored"):
        assert gallery.path(kind, of).exists()
        assert not gallery.path(kind, of | {"image": "c.png"}).exists()
    assert not gallery.path("restored", of | {"seed": 1}).exists()
    stored = np.asarray(Image.open(gallery.path("clean", of)))
    assert np.abs(stored - (clean[1].permute(1, 2, 0).numpy() + 1) * 127.5).max() <= 0.51
    # two pictures, denoise: clean, measured, two baselines and a method each
    assert len(list(gallery.folder.iterdir())) == 2 * (1 + 1 + 2 + 1)


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.sources, self.links, self.stack, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.sources += [given["src"]] if "src" in given else []
        self.links += [v for k, v in attrs if k in ("href", "srcset")]
        if tag not in ("meta", "img"):
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_holds_everything(made):
    listed, gallery, _ = made
    text = report(listed, "Wiener", gallery, "flowhelm bench --data photos.zip")
    page = Page(text)
    assert page.stack == []
    assert page.links == []
    assert "http" not in re.sub(r"base64,[^\"]*", "", text)
    pictures = [
        Image.open(io.BytesIO(base64.b64decode(s.removeprefix("data:image/png;base64,")))) for s in page.sources
    ]
    assert sorted(p.size for p in pictures)[: 2 * 5] == [(16, 16)] * 10
    assert len(pictures) == 10 + 2  # and a plot for each task
    assert "flowhelm bench --data photos.zip" in page.text
    assert "rate=2.0" in page.text
    assert "7 (evaluations=9)" in page.text
    assert "failed: r: ValueError: expected <b>bold</b>, got none" in page.text
    assert "Margins are over Wiener" in page.text
    psnr = next(r["psnr"] for r in listed if r["method"] == "k & l" and r["image"] == "a.png")
    assert f"k & l {psnr:.2f} dB" in page.text
    shown = table.cells_of(table.groups(listed, "Wiener")[0])[1]
    assert all(cell in page.text for line in shown for cell in line)


def test_the_page_does_without_pictures(made, tmp_path):
    listed, _, _ = made
    assert len(Page(report(listed, "k & l", Gallery(tmp_path / "none"), "")).sources) == 2


def test_the_plot_is_a_picture_with_marks(made):
    listed, _, _ = made
    groups = table.groups(listed)
    for group in groups:  # the second has no result at all
        picture = Image.open(io.BytesIO(plot(group))).convert("RGB")
        assert picture.width > 600
    colours = {c for _, c in Image.open(io.BytesIO(plot(groups[0]))).convert("RGB").getcolors(1 << 20)}
    assert (31, 119, 180) in colours  # the first method's mark


def test_magnitudes_are_shown_by_their_logarithm():
    clean = torch.rand(1, 3, 8, 8)
    y = operators.phase((3, 8, 8)).A(clean)
    shown = viewable(y, clean)
    assert shown.shape == y.shape
    assert (shown.min(), shown.max()) == (-1, 1)
    assert shown[0, 0].argmax() == 8 * 16 + 8  # the mean, in the middle
    assert viewable(clean, clean) is clean
