"""The tables of PMRF and VBLE, on two small pictures with priors that were not trained."""

import csv
import zipfile

import numpy as np
import pytest
import torch
from encoded import encoded
from PIL import Image

from flowhelm import Noise, Step
from flowhelm.bench.quality import compressive, posterior_means
from flowhelm.codec import CodecPrior, Latents
from flowhelm.priors import bundled
from flowhelm.priors.hyperprior import Hyperprior
from flowhelm.priors.pair import Pair


@pytest.fixture
def data(tmp_path):
    torch.manual_seed(0)
    bundled.save(Pair((4, 4), 1), tmp_path / "pair.safetensors", {"size": 32})
    bundled.save(Hyperprior((4, 4), latent=4, hyper=2), tmp_path / "small.safetensors", {"size": 32})
    rng, path = np.random.default_rng(0), tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as z:
        for i in range(2):
            z.writestr(f"CBSD68/{i}.png", encoded(rng.integers(0, 256, (40, 36, 3), dtype=np.uint8)))
    return path


def rows(path):
    return list(csv.DictReader(path.open(newline="", encoding="utf-8")))


def test_the_plane(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(posterior_means, "SAMPLE", 2)
    monkeypatch.setattr(posterior_means, "STEPS", (1, 2))
    out, prior = tmp_path / "means.csv", str(tmp_path / "pair.safetensors")
    for task in ("mixture", "noise"):
        posterior_means.run(data, out, "CBSD68", 2, 32, 0.2, prior, 0, [task])
    found = rows(out)
    assert [r["task"] for r in found] == ["mixture"] * 7 + ["noise"] * 7
    for task in ("mixture", "noise"):
        mine = {r["method"]: r for r in found if r["task"] == task}
        # a regressor that was not trained gives what it was given
        assert mine["mean (regressor)"]["psnr"] == mine["degraded"]["psnr"]
        assert mine["mean (regressor)"]["distance"] == mine["degraded"]["distance"]
    posterior_means.table(out)
    assert capsys.readouterr().out.count("PMRF, 2 steps") == 4
    posterior_means.plot(out, tmp_path / "plane.png")
    assert Image.open(tmp_path / "plane.png").size[0] > 600


def test_vble(data, tmp_path, capsys):
    out, prior = tmp_path / "vble.csv", str(tmp_path / "small.safetensors")
    compressive.run(data, out, "CBSD68", 2, 32, 2, prior, 0, ["denoise"], True)
    found = {r["method"]: r for r in rows(out)}
    assert list(found) == ["start", "hqs, photos", "VBLE, mean", "VBLE, point"]
    assert float(found["VBLE, mean"]["promised"]) == 0.9
    compressive.table(out)
    assert "| VBLE, mean | 2 |" in capsys.readouterr().out
    compressive.rates(data, "CBSD68", 2, 32, prior)
    assert "bits per pixel, 2 crops of 32 x 32" in capsys.readouterr().out


class Plain:
    """A codec whose picture is its latent."""

    def analyse(self, image):
        return Latents(image, image.new_zeros(len(image), 0))

    def decode(self, latent):
        return latent


def test_intervals_hold_what_they_promise_of_the_law_itself():
    """Truths drawn from the boxes are in nine of ten; of boxes half as wide about half of them are not."""
    prior, shape = CodecPrior(Plain(), (3, 40, 40)), (8, 3, 40, 40)
    flat = torch.zeros(8, 2, 3 * 40 * 40)
    truth = torch.rand(shape, generator=torch.Generator().manual_seed(0)) - 0.5
    step = Step(1, 1, torch.tensor(1.0), torch.zeros(shape), torch.zeros(shape), {"law": flat})
    found = compressive._intervals(prior, None, step, truth, Noise(0, 8))
    assert float(found["coverage"]) == pytest.approx(0.9, abs=0.01)
    assert float(found["width"]) == pytest.approx(0.9, abs=0.02)
    flat[:, 1] = -0.6931
    narrow = compressive._intervals(prior, None, step, truth, Noise(0, 8))
    assert float(narrow["coverage"]) == pytest.approx(0.45, abs=0.02)
