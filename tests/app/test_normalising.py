"""Normalising flows at the command line and from programs: trained, drawn from, measured, and what they are asked that they cannot."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

import flowhelm
from flowhelm import priors
from flowhelm.app.draw.bijections import TOLERANCE
from flowhelm.bench.quality import normalising as bench
from flowhelm.interfaces.cli import main
from flowhelm.priors.bundled import kind, save
from flowhelm.priors.tarflow import TarFlow, load
from flowhelm.recipes.fashion import CLASSES
from flowhelm.recipes.moving_digits import moving
from flowhelm.toughness import Way

PLAN = [Way("noise"), Way("zeros", 3), Way("noise", 49, None)]


def written(path, about=None, **more):
    torch.manual_seed(0)
    net = TarFlow(28, 4, 1, (1, 1, 1), 16, 1, classes=10, **more)
    for block in net.blocks:
        torch.nn.init.normal_(block.outward.weight, std=0.05)
        torch.nn.init.normal_(block.classes.weight) if block.classes else None
    save(net, path, {"classes": CLASSES, "noise": 0.1, "scale": 2.0, "plan": PLAN} | (about or {}), "tarflow")
    return path


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    return written(tmp_path_factory.mktemp("prior") / "known.safetensors")


@pytest.fixture
def clothes(tmp_path):
    rng = np.random.default_rng(0)
    parts = {f"{p}_images": rng.integers(0, 256, (n, 28, 28), dtype=np.uint8) for p, n in (("train", 64), ("test", 32))}
    parts |= {f"{p}_labels": np.arange(n) % 10 for p, n in (("train", 64), ("test", 32))}
    path = tmp_path / "clothes.npz"
    np.savez(path, **parts)
    return path


def said(capsys):
    return capsys.readouterr().err


def test_what_is_written_is_read(known):
    flow = load(known)
    assert (flow.name, flow.noise, flow.about["scale"], flow.plan) == ("known", 0.1, 2.0, PLAN)
    assert kind(known) == "tarflow"
    assert kind("fashion") == kind("deepinv:DRUNet") == kind("nowhere.safetensors") == ""
    assert isinstance(flowhelm.load(known), type(flow))
    assert not any(p.requires_grad for p in flow.net.parameters())
    assert flow.told(["Coat", 2]).condition[0].tolist() == [4, 2]
    with pytest.raises(ValueError, match="knows no class 'cot'; did you mean 'coat'"):
        flow.told(["cot"])


def test_three_ways_to_one_picture(known, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sheets = []
    for way in ("sequential", "jacobi", "gs-jacobi"):
        assert main(["sample", str(known), "--inverse", way, "--class", "coat", "-n", "2", "--out", f"{way}.png"]) == 0
        sheets.append(np.asarray(Image.open(f"{way}.png")).astype(int))
    assert abs(sheets[0] - sheets[1]).max() <= 1
    assert abs(sheets[0] - sheets[2]).max() <= 1
    assert np.ptp(sheets[0]) > 50


def test_a_picture_is_of_its_seed_and_number_alone(known):
    four = flowhelm.generate(str(known), classes=["coat", "bag"], count=2, seed=3)
    assert four.shape == (4, 1, 28, 28)
    one = flowhelm.generate(load(known), classes=["bag"], count=1, seed=3, inverse="jacobi")
    torch.testing.assert_close(one[0], four[2], rtol=0, atol=20 * TOLERANCE)
    plain = flowhelm.generate(str(known), classes=["bag"], count=1, seed=3, scale=1.0)
    assert float((plain - four[2:3]).abs().max()) > 1e-2
    noisy = flowhelm.generate(str(known), classes=["bag"], count=1, seed=3, cleanup=False)
    told = load(known).told(["bag"], rule=None)
    assert float((noisy - four[2:3]).abs().max()) > 1e-3
    assert told.cleaned(noisy).shape == noisy.shape


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["sample", "KNOWN", "--solver", "unipc"], "--solver is for flows in time and pipelines"),
        (["sample", "KNOWN", "--steps", "10"], "--steps is for flows in time"),
        (["sample", "KNOWN", "--class", "hat"], "knows no class 'hat'"),
        (["sample", "KNOWN", "--inverse", "newton"], "inverse"),
        (["sample", "fashion", "--inverse", "jacobi"], "--inverse is for normalising flows"),
        (["sample", "fashion", "--no-cleanup"], "--no-cleanup is for normalising flows"),
        (["steer", "KNOWN", "--reward", "brightness", "--method", "fk"], "is a normalising flow, which draws"),
        (["restore", "photo.png", "--operator", "denoise", "--prior", "KNOWN"], "is a normalising flow, which draws"),
    ],
)
def test_what_it_is_not_for(known, tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    Image.new("L", (28, 28), 90).save("photo.png")
    assert main([str(known) if word == "KNOWN" else word for word in words]) == 2
    assert sentence in said(capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["photo.png"]


def test_files_that_are_damaged(known, tmp_path, capsys):
    whole = known.read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        load(cut)
    with pytest.raises(ValueError, match=r"its plan is of 1 blocks, and its network has 3"):
        load(written(tmp_path / "plan.safetensors", {"plan": [Way()]}))
    with pytest.raises(ValueError, match=r"its about\.noise"):
        load(written(tmp_path / "noise.safetensors", {"noise": -1.0}))
    with pytest.raises(ValueError, match=r"names 1 classes, and its network has 10"):
        load(written(tmp_path / "names.safetensors", {"classes": ["coat"]}))
    with pytest.raises(ValueError, match="is a normalising flow"):
        priors.bundled.load(known)


def test_train(clothes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = f"train fashion-tarflow --data {clothes} --batch 8 --deep 1 --width 32 --steps 6".split()
    assert main(words) == 0
    folder = tmp_path / "runs" / "fashion_tarflow"
    assert {p.name for p in folder.iterdir()} == {
        "checkpoint.safetensors", "run.json", "log.csv", "curve.png", "samples.png", "fashion_tarflow.safetensors",
    }  # fmt: skip
    flow = load(folder / "fashion_tarflow.safetensors")
    assert len(flow.plan) == 4
    assert flow.about["steps"] == 6
    assert main(words) == 0  # finished already
    assert main(["sample", str(folder / "fashion_tarflow.safetensors"), "-n", "1", "--out", "s.png"]) == 0
    assert main([*words[:-1], "0"]) == 2
    assert main(["train", "fashion-tarflow", "--data", str(clothes), "--width", "33", "--out", "other"]) == 2
    assert "width: expected a multiple of 32, got 33" in said(capsys)


def test_the_bench_measures_what_it_says(known, clothes, capsys):
    with torch.no_grad():
        bench.bits(str(known), clothes, count=16, learnt=64)
        bench.blocks(str(known), clothes, count=16, rows=2)
        bench.time(str(known), batch=[2], repeats=1)
    text = capsys.readouterr().out
    assert "given the class" in text
    assert text.count("| 2 | ") >= 7
    g = torch.Generator().manual_seed(0)
    x = torch.randn(500, 6, generator=g).double() @ torch.randn(6, 6, generator=g).double()
    law = torch.distributions.MultivariateNormal(x.mean(0), torch.cov(x.T) + 0.25 * torch.eye(6).double())
    torch.testing.assert_close(bench.gaussian(x, x[:9], 0.5), law.log_prob(x[:9]))
    # of a uniform density on [-1, 1] in each of 5 dimensions, 8 bits
    assert abs(float(bench.per_dimension(torch.tensor(-5 * np.log(2.0)), 5)) - 8) < 1e-6


def test_videos(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.savez(
        "digits.npz",
        images=rng.integers(0, 256, (40, 28, 28), dtype=np.uint8),
        labels=np.arange(40, dtype=np.uint8) % 10,
    )
    assert main(["train", "moving-digits", "--data", "digits.npz", "--batch", "2", "--steps", "2", "--out", "run"]) == 0
    file = "run/moving_digits.safetensors"
    assert main(["sample", file, "--class", "3", "-n", "2", "--out", "film.png", "--each", "clips"]) == 0
    with Image.open("film.gif") as film, Image.open("clips/3-001.gif") as clip:
        assert film.n_frames == clip.n_frames == 8
    assert main(["sample", file, "--class", "3", "-n", "1", "--out", "other.png", "--inverse", "gs-jacobi"]) == 0
    videos = flowhelm.generate(file, classes=["3"], count=1)
    assert videos.shape == (1, 8, 1, 16, 16)
    written(tmp_path / "pictures.safetensors")
    assert main(["sample", "pictures.safetensors", "--inverse", "starflow-v"]) == 2
    assert "'pictures' draws pictures" in said(capsys)


def test_moving_digits_move(tmp_path):
    """A digit is the same in every frame, moves by one pixel or none in each direction, and turns at the edge."""
    digits = torch.rand(6, 1, 10, 10) * 0.5 + 0.5
    batch = moving(digits, torch.arange(6), batch=20, seed=0)(3)
    assert batch.clean.shape == (20, 8, 1, 16, 16)
    again = moving(digits, torch.arange(6), batch=20, seed=0)(3)
    assert torch.equal(batch.clean, again.clean)
    for video, label in zip(batch.clean, batch.condition[0], strict=True):
        place = []
        for frame in video:
            rows, columns = (frame[0] > -1).nonzero().T
            top, left = int(rows.min()), int(columns.min())
            torch.testing.assert_close(frame[0, top : top + 10, left : left + 10], 2 * digits[label, 0] - 1)
            place.append((top, left))
        for (a, b), (c, d) in itertools.pairwise(place):
            assert max(abs(a - c), abs(b - d)) <= 1
