"""Tasks: what is measured, with which noise, and what one has without a prior."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from flowhelm import operators
from flowhelm.app.files.dataset import pictures
from flowhelm.bench.compare import protocols
from flowhelm.bench.compare.baselines import NAMES, baselines
from flowhelm.bench.compare.protocols import Task, measured
from flowhelm.metrics import psnr


def clean(count=2, side=32, channels=3):
    """Smooth pictures with an edge."""
    y, x = torch.meshgrid(torch.linspace(0, 3, side), torch.linspace(0, 3, side), indexing="ij")
    waves = [
        torch.sin((1 + i + c) * x + y) * 0.6 + 0.3 * (x > 1.5) - 0.15 for i in range(count) for c in range(channels)
    ]
    return torch.stack(waves).view(count, channels, side, side)


def names(count):
    return [f"{i}.png" for i in range(count)]


@pytest.mark.parametrize(("side", "sigma", "factor", "box"), [(32, 1.0, 2, 10), (128, 1.0, 2, 40), (256, 3.0, 4, 80)])
def test_pnp_flow_is_that_of_the_paper(side, sigma, factor, box):
    tasks = {t.name: t for t in protocols.pnp_flow((3, side, side))}
    assert [(t.name, t.std) for t in tasks.values()] == [
        ("denoise", 0.2), ("deblur", 0.05), ("superres", 0.05), ("random", 0.01), ("box", 0.05),
    ]  # fmt: skip
    assert tasks["deblur"].options == {"sigma": sigma, "border": "circular"}
    assert tasks["superres"].options == {"factor": factor, "filter": "decimate"}
    assert tasks["box"].options == {"size": box}
    assert tasks["random"].options == {"missing": 0.7}


@pytest.mark.parametrize("protocol", protocols.ALL, ids=lambda f: f.__name__)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_clean_picture_is_calibrated_in_every_task(protocol, channels):
    x = clean(3, 64, channels)
    for task in protocol(tuple(x.shape[1:])):
        problem = measured(task, x, names(3), 0)
        entries = problem.seen.expand(problem.y.y[:1].shape).sum()
        assert (problem.residual(x) - 1).abs().max() < 5 / math.sqrt(2 * entries), task.name
        assert problem.residual(x + 0.5).min() > 1.5, task.name


def test_the_noise_is_of_the_seed_and_the_name_alone():
    x, task = clean(3), Task("denoise", operators.denoise, {}, 0.2)
    whole, alone = measured(task, x, names(3), 0), measured(task, x[1:2], ["1.png"], 0)
    assert whole.y.y[1:2].equal(alone.y.y)
    assert not measured(task, x[1:2], ["1.png"], 1).y.y.equal(alone.y.y)
    assert not measured(task, x[1:2], ["2.png"], 0).y.y.equal(alone.y.y)
    # the published "degraded" of the protocol is 20.00 dB
    assert float(psnr(x + (whole.y.y - x), torch.zeros_like(x) + x).mean()) == pytest.approx(20, abs=0.7)


def test_what_is_not_seen_does_not_count():
    x = clean(1)
    problem = measured(Task("random", operators.random_mask, {"missing": 0.9}, 0.1), x, ["a"], 0)
    away = torch.where(problem.seen == 0, 9.0, x)
    assert problem.residual(away).equal(problem.residual(x))
    assert (problem.y.y[problem.seen.expand_as(problem.y.y) == 0] == 0).all()


def test_an_open_blur_shows_less_than_it_restores():
    x = clean(1, 40)
    problem = measured(Task("deblur", operators.deblur, {"sigma": 1.0}, 0.05), x, ["a"], 0)
    assert problem.shown(x).equal(x[..., 5:35, 5:35])
    assert set(baselines(Task("deblur", operators.deblur, {"sigma": 1.0}, 0.05), problem)) == {"degraded"}


def test_operators_in_words():
    assert Task("a", operators.denoise, {}, 0.1).operator == "denoise"
    assert Task("a", operators.deblur, {"sigma": 2.0, "border": "open"}, 0.1).operator == "deblur:border=open,sigma=2.0"


@pytest.mark.parametrize("protocol", protocols.ALL, ids=lambda f: f.__name__)
def test_baselines_are_pictures_of_the_right_size(protocol):
    x = clean(2, 64)
    for task in protocol(tuple(x.shape[1:])):
        problem = measured(task, x, names(2), 0)
        found = {name: make() for name, make in baselines(task, problem).items()}
        assert set(found) <= set(NAMES)
        assert all(image.shape == x.shape for image in found.values()), task.name
        assert bool(found) != (task.name == "phase")
        score = {name: float(psnr(image, x).mean()) for name, image in found.items()}
        for better in ("Wiener", "biharmonic", "rescaled"):
            # these pictures, whose edges wrap around, are none of those that the Wiener filter sharpens
            slight = task.builder is operators.denoise and task.std < 0.2
            if better in score and "degraded" in score and task.builder is not operators.deblur and not slight:
                assert score[better] > score["degraded"] + 0.5, (task.name, score)


def test_decimated_pixels_stay_where_they_were():
    x = clean(1, 16)
    task = Task("superres", operators.superres, {"factor": 2, "filter": "decimate"}, 1e-4)
    image = baselines(task, measured(task, x, ["a"], 0))["nearest"]()
    assert (image[..., ::2, ::2] - x[..., ::2, ::2]).abs().max() < 1e-3


# --- pictures ---


@pytest.fixture
def folder(tmp_path):
    draw = np.random.default_rng(0)
    for name, size in (("b/2.png", (20, 24)), ("b/1.png", (30, 21)), ("a/0.png", (12, 40)), ("b/3.png", (26, 26))):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    (tmp_path / "photos" / "read.me").write_text("no picture")
    return tmp_path / "photos"


def test_pictures_of_a_folder_and_of_an_archive_are_the_same(folder, tmp_path):
    import shutil

    archive = shutil.make_archive(str(tmp_path / "photos"), "zip", folder)
    one = pictures(folder, channels=3, size=20, folder="b", images=2)
    two = pictures(tmp_path / archive, channels=3, size=20, folder="b", images=2)
    assert one.clean.equal(two.clean)
    assert one.names == two.names == ("b/1.png", "b/2.png")
    assert one.origin == "photos"
    assert two.origin == "photos.zip"
    pixels = np.asarray(Image.open(folder / "b" / "1.png"))[5:25, 0:20]
    assert torch.allclose(one.clean[0], torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 127.5 - 1)
    assert pictures(folder, channels=3, size=20, images=2, skip=-2).names == ("b/2.png", "b/3.png")
    assert pictures(folder, channels=1, size=20, images=3).names == ("b/1.png", "b/2.png", "b/3.png")  # 0 is too small
    assert pictures(folder, channels=3, size=20, images=1, spread=True).names == ("b/2.png",)
    with pytest.raises(ValueError, match="expected 3 pictures of at least 25 pixels"):
        pictures(folder, channels=3, size=25, images=3)
    with pytest.raises(ValueError, match="zip archive"):
        pictures(folder / "read.me", channels=3, size=20, images=1)


def test_pictures_of_an_array_are_padded_and_keep_their_labels(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (10, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", test_images=images, test_labels=np.arange(10), train_images=images[:3])
    found = pictures(tmp_path / "a.npz", channels=1, size=32, images=5, spread=True)
    assert found.names == tuple(f"test_images/{i}" for i in (1, 3, 5, 7, 9))
    assert found.labels.tolist() == [1, 3, 5, 7, 9]
    assert torch.allclose(found.clean[0, 0, 2:30, 2:30], torch.from_numpy(images[1]) / 127.5 - 1)
    assert (found.clean[:, :, :2] == -1).all()
    assert pictures(tmp_path / "a.npz", channels=1, size=20, folder="train_images", images=2).labels is None
    assert found.rows(1, 3).names == ("test_images/3", "test_images/5")
    with pytest.raises(ValueError, match="3 channels, got 1"):
        pictures(tmp_path / "a.npz", channels=3, size=32, images=1)
    with pytest.raises(ValueError, match="no uint8 array 'more'"):
        pictures(tmp_path / "a.npz", channels=1, size=32, folder="more", images=1)
