"""`flowhelm presets velocity`: the table is what the formula says, whatever the batches; mistakes leave nothing behind."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from toys import randomised

from flowhelm import Noise, priors
from flowhelm.app.errors import BadInput
from flowhelm.app.models import batches
from flowhelm.app.models.velocity_error import weights
from flowhelm.interfaces.cli import main
from flowhelm.priors.bundled import save
from flowhelm.priors.unet import UNet
from flowhelm.velocity_error import reciprocal


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A prior over 8 x 8 grey pictures with classes, and five pictures."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    net = randomised(UNet((8, 8), 1, channels=1, classes=2))
    save(net, tmp_path / "tiny.safetensors", {"classes": ["a", "b"], "size": 8})
    (tmp_path / "pictures").mkdir()
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 256, (10, 9), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i}.png")
    return tmp_path


def velocity(*more, out="table.json", data="pictures", images="3"):
    words = ["tiny.safetensors", "--data", data, "--out", out, "--points", "5", "--images", images]
    return main(["presets", "velocity", *words, *more])


def made(here, out="table.json"):
    return json.loads((here / out).read_text())


def test_the_table_is_the_mean_square_error(here, capsys):
    assert velocity("--draws", "2", "--seed", "7") == 0
    found = made(here)
    flow, t = priors.load(here / "tiny.safetensors"), torch.linspace(0, 1, 5).double()
    chosen = [0, 2, 4]  # evenly spaced
    rows = [np.asarray(Image.open(here / "pictures" / f"{i}.png"))[1:9, 0:8] for i in chosen]
    clean = torch.from_numpy(np.stack(rows))[:, None].float() / 127.5 - 1
    noise, error, half = Noise(7, [f"{i}.png" for i in chosen]), [], []
    for s in t:
        of = []
        for _ in range(2):
            source = noise(clean)
            with torch.no_grad():
                v = flow.velocity(s.float() * clean + (1 - s.float()) * source, s)
            of.append((v - clean + source).square().flatten(1).mean(1))
        each = sum(of) / 2
        error.append(each.mean())
        half.append(1.96 * each.std() / 3**0.5)
    torch.testing.assert_close(torch.tensor(found["error"]), torch.tensor(error), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.tensor(found["half"]), torch.tensor(half), atol=1e-5, rtol=1e-4)
    assert found["t"] == t.tolist()
    torch.testing.assert_close(
        torch.tensor(found["weight"]).double(), reciprocal(torch.tensor(found["error"])), atol=1e-6, rtol=0
    )
    assert (found["prior"], found["images"], found["size"], found["draws"], found["seed"]) == ("tiny", 3, 8, 2, 7)
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == ["t", "error", "±", "weight"]
    assert said[2].split() == [
        "0.25",
        f"{found['error'][1]:.4f}",
        f"{found['half'][1]:.4f}",
        f"{found['weight'][1]:.3f}",
    ]
    assert said[-1] == "wrote table.json"


def test_batches_do_not_matter(here, monkeypatch):
    assert velocity(images="5") == 0
    monkeypatch.setattr(batches, "PIXELS", 128)  # two pictures at once
    assert velocity(out="again.json", images="5") == 0
    torch.testing.assert_close(torch.tensor(made(here)["error"]), torch.tensor(made(here, "again.json")["error"]))


def test_a_table_becomes_weights(here):
    assert velocity() == 0
    of, found = weights(here / "table.json"), made(here)
    for t, w in zip(found["t"], found["weight"], strict=True):
        assert float(of(torch.tensor(t, dtype=torch.float64))) == pytest.approx(w, rel=1e-6)
    middle = (found["weight"][1] + found["weight"][2]) / 2
    assert float(of(torch.tensor(0.375, dtype=torch.float64))) == pytest.approx(middle, rel=1e-6)


@pytest.mark.parametrize(
    "text", [None, "{}", "[1]", "no", '{"t": [0, 1], "weight": [1]}', '{"t": [1, 0], "weight": [1, 1]}']
)
def test_what_is_no_table_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "other.json").write_text(text)
    with pytest.raises(BadInput, match=r"does not exist|no table"):
        weights(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"images": "6"}, "expected 6 pictures"),
        ({"out": "table.csv"}, "'table.json'"),
        ({"out": "nowhere/table.json"}, "cannot be written to"),
        ({"data": "missing.zip"}, "expected a zip archive"),
    ],
)
def test_mistakes_are_told_in_a_line_and_leave_nothing(here, capsys, wrong, words):
    before = sorted(here.rglob("*"))
    assert velocity(**wrong) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1
    assert sorted(here.rglob("*")) == before


def test_larger_crops_than_the_prior_has_pictures(here):
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(here / "pictures" / "9.png")
    assert velocity("--size", "16", images="1") == 0
    assert made(here)["size"] == 16
    assert made(here)["half"] == [None] * 5  # of one picture
