"""What the samples of a picture say together: right maps, made once, whole or not at all, and again when a sample has changed."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import batches
import numpy as np
import pytest
import torch
from batches import made
from PIL import Image
from safetensors.torch import load_file

from flowhelm.app.batch import posterior
from flowhelm.app.batch.items import Item
from flowhelm.app.batch.run import batch
from flowhelm.app.errors import BadInput
from flowhelm.app.files.atomic import sha256
from flowhelm.app.restore.record import Place
from flowhelm.app.restore.result import answer, chosen
from flowhelm.app.run import Stopped
from flowhelm.interfaces.cli import main
from flowhelm.interfaces.cli.progress import carried_out
from flowhelm.rng import Noise

FILES = {
    "mean.png", "q05.png", "q50.png", "q95.png", "std.png", "interval.png", "few.png", "flip.webp", "residual.png", "maps.safetensors",
    "posterior.json",
}  # fmt: skip


def saved(folder: Path, levels: np.ndarray) -> list[Path]:
    """Levels `(k, h, w)` or `(k, h, w, 3)`, as pictures."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"a.sample-{i}.restored.png" for i in range(len(levels))]
    for path, each in zip(paths, levels, strict=True):
        Image.fromarray(each).save(path)
    return paths


def colours(k=5, side=(9, 14), seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (k, *side, 3), np.uint8)


def line(residual=1.0, method="dps"):
    return SimpleNamespace(result=SimpleNamespace(residual=residual), settings=SimpleNamespace(method=method))


def maps(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "maps.safetensors")


# --- the maps ---


@pytest.mark.parametrize("side", [(9, 14), (150, 3)])  # the second one in bands
def test_the_maps_are_those_of_the_pictures(tmp_path, side):
    levels = colours(side=side)
    told = posterior.posterior(saved(tmp_path, levels), tmp_path / "a.posterior", [line(r / 4) for r in range(5)])
    x = torch.from_numpy(levels).permute(0, 3, 1, 2).float() / 127.5 - 1
    found = maps(tmp_path / "a.posterior")
    assert set(found) == {"mean", "std", "q05", "q50", "q95"}
    for name, expected in {"mean": x.mean(0), "std": x.std(0), "q05": x.amin(0), "q50": x.median(0).values}.items():
        torch.testing.assert_close(found[name], expected, atol=1e-6, rtol=1e-5)
    assert {p.name for p in (tmp_path / "a.posterior").iterdir()} == FILES
    assert told["residual"] == {f"a.sample-{r}.restored.png": r / 4 for r in range(5)}
    assert told["interval"]["holds"] == pytest.approx(4 / 6, abs=1e-3)  # between the extremes of five
    assert told["std"]["mean"] == pytest.approx(float(x.std(0).mean()), rel=1e-5)
    shown = np.asarray(Image.open(tmp_path / "a.posterior" / "mean.png")).astype(int)
    assert np.abs(shown - levels.mean(0)).max() <= 0.5 + 1e-4
    flip = Image.open(tmp_path / "a.posterior" / "flip.webp")
    assert (flip.n_frames, flip.is_animated) == (5, True)


def test_grey_and_16_bits(tmp_path):
    levels = np.random.default_rng(0).integers(0, 65536, (3, 8, 8)).astype(np.uint16)
    posterior.posterior(saved(tmp_path, levels), tmp_path / "a.posterior")
    x = torch.from_numpy(levels.astype(np.float64)) / 32767.5 - 1
    found = maps(tmp_path / "a.posterior")
    assert found["mean"].shape == (1, 8, 8)
    torch.testing.assert_close(found["mean"][0].double(), x.mean(0), atol=2e-7, rtol=0)
    torch.testing.assert_close(found["std"][0].double(), x.std(0), atol=2e-7, rtol=1e-6)
    assert not (tmp_path / "a.posterior" / "residual.png").exists()  # nobody has told any


def test_one_picture_for_all_seeds_is_no_posterior(tmp_path):
    levels = colours(1).repeat(4, axis=0)
    told = posterior.posterior(saved(tmp_path, levels), tmp_path / "a.posterior", [line(method="flow_dps")] * 4)
    assert told["warning"].startswith("all 4 samples are the same picture: flow_dps gives one answer whatever the seed")
    assert maps(tmp_path / "a.posterior")["std"].eq(0).all()


def test_pictures_of_different_sizes_are_no_set(tmp_path):
    paths = [*saved(tmp_path, colours(1)), *saved(tmp_path / "b", colours(1, side=(9, 13)))]
    with pytest.raises(BadInput, match=r"expected the size of the other samples, 3 x 9 x 14, got 3 x 9 x 13"):
        posterior.posterior(paths, tmp_path / "a.posterior")
    assert not (tmp_path / "a.posterior").exists()


# --- of a batch ---


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "in").mkdir()
    for k in range(2):
        Image.fromarray(colours(1, (16, 24), k)[0]).save(tmp_path / "in" / f"p{k}.png")
    return tmp_path / "in"


def described(folder: Path, prior: str, **more):
    return batches.described(folder, prior, **{"samples": 3, "out": "out", "method": "flower"} | more)


def test_a_batch_makes_them_once(folder, prior, tmp_path, capsys):
    given, out = described(folder, prior, method_options={"gamma": 1.0}), tmp_path / "out"
    assert carried_out(batch(given))
    assert f"what the samples of 2 pictures say together: {out}/*.posterior" in capsys.readouterr().out
    names = sorted(p.name for p in out.iterdir() if p.is_dir())
    assert names == ["p0.posterior", "p1.posterior"]
    told = json.loads((out / "p0.posterior" / "posterior.json").read_text())
    assert told["samples"] == {p.name: sha256(p) for p in sorted(out.glob("p0.sample-*.restored.png"))}
    assert all(value > 0 for value in told["residual"].values())
    assert "warning" not in told
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.posterior/*")}
    assert len(before) == 2 * len(FILES)
    assert made(given)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.posterior/*")} == before
    (out / "p1.sample-2.restored.png").unlink()  # made again, to the same bytes
    assert made(given)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.posterior/*")} == before
    assert made(described(folder, prior, method_options={"gamma": 0.5}))
    assert all(p.stat().st_mtime_ns != when for p, when in before.items())


def test_a_stop_at_the_last_moment(folder, prior, tmp_path, monkeypatch):
    """After the last sample's line, in the middle of the folder: the next run makes it, and clears what a kill has left."""
    given, out = described(folder, prior), tmp_path / "out"

    def stopped(*_):
        raise Stopped(130)

    monkeypatch.setattr(posterior, "flip", stopped)
    with pytest.raises(Stopped):
        made(given)
    assert not list(out.glob("*posterior"))
    assert len(list(out.glob("p0.*.restored.png"))) == 3
    (out / ".p0.posterior").mkdir()
    (out / ".p0.posterior" / "mean.png").write_bytes(b"half")
    monkeypatch.undo()
    assert made(given)
    assert sorted(p.name for p in out.iterdir() if "posterior" in p.name) == ["p0.posterior", "p1.posterior"]
    assert {p.name for p in (out / "p0.posterior").iterdir()} == FILES


def test_what_cannot_be_made_costs_no_sample(folder, prior, tmp_path, monkeypatch, capsys):
    given, out = described(folder, prior), tmp_path / "out"

    def broken(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(posterior, "flip", broken)
    assert not carried_out(batch(given))
    said = capsys.readouterr().out
    assert "6 items: 6 done, 0 failed" in said
    assert "could not be made" in said
    assert "No space left" in said
    assert not list(out.glob("*.posterior"))
    monkeypatch.undo()
    assert carried_out(batch(given))
    assert "6 done (6 of them before)" in capsys.readouterr().out
    assert len(list(out.glob("*.posterior"))) == 2


def test_one_sample_and_failed_ones_make_none(folder, prior, tmp_path):
    assert made(described(folder, prior, samples=1, seeds=[0, 1]))
    assert not list((tmp_path / "out").glob("*.posterior"))
    (folder / "p1.png").write_text("no picture")
    assert not made(described(folder, prior, out="other", seeds=[3, 4]))
    sets = sorted(p.name for p in (tmp_path / "other").glob("*.posterior"))
    assert sets == ["p0.seed-3.posterior", "p0.seed-4.posterior"]


def test_a_method_without_chance_is_told_of(folder, prior, tmp_path, monkeypatch, capsys):
    same = Item.own_seed.fget
    monkeypatch.setattr(Item, "own_seed", property(lambda item: same(item._replace(sample=0))))
    assert carried_out(batch(described(folder, prior)))
    assert "warning: p0.png: all 3 samples are the same picture: flower gives one answer" in capsys.readouterr().out


# --- the samples themselves ---


def test_simulated_samples_are_of_one_measurement(folder, prior, tmp_path):
    assert made(described(folder, prior, simulate=True, method="mpc_flow"))
    out = tmp_path / "out"
    assert len({sha256(p) for p in out.glob("p0.sample-*.degraded.png")}) == 1
    assert len({sha256(p) for p in out.glob("*.degraded.png")}) == 2
    assert len({sha256(p) for p in out.glob("p0.sample-*.restored.png")}) == 3
    # the first sample is what the picture alone would be
    assert made(described(folder, prior, simulate=True, method="mpc_flow", samples=1, out="alone"))
    assert sha256(tmp_path / "alone" / "p0.restored.png") == sha256(out / "p0.sample-0.restored.png")


def test_a_sample_of_weighted_particles_is_one_of_them(folder, prior, tmp_path, capsys):
    """Their mean, which is what one picture alone gets, would have too little spread."""
    given = described(folder, prior, method="afdps", method_options={"particles": 4}, inputs=["in/p0.png"])
    assert made(given)
    out = tmp_path / "out"
    assert len({sha256(p) for p in out.glob("p0.sample-*.restored.png")}) == 3
    capsys.readouterr()
    assert main(["rerun", str(out / "manifest.jsonl"), "--item", "p0.sample-1.restored.png"]) == 0
    assert "identical to the bit" in capsys.readouterr().out
    # and a batch of single pictures has their mean
    assert made(given.changed(samples=1, out=str(tmp_path / "alone")))
    assert (tmp_path / "alone" / "p0.restored.png").exists()


def test_particles_are_chosen_row_by_row():
    x, sure = torch.arange(3).repeat(40).float()[:, None], {"log_w": torch.tensor([[-1e9, 0.0, -1e9]]).repeat(40, 1)}
    assert torch.equal(chosen(x, sure, Noise(1, 40)), torch.ones(40, 1))
    assert torch.equal(chosen(x[:40], {}, Noise(0, 40)), x[:40])
    assert torch.equal(chosen(x, {}, Noise(0, 40)), torch.zeros(40, 1))  # without weights the first one is the best


def test_particles_are_drawn_by_their_weights():
    """Not their mean, which a single restoration gives and which has too little spread; as often as its weight says."""
    x = torch.arange(4.0).view(4, 1, 1, 1)
    problem = SimpleNamespace(
        flow=SimpleNamespace(decode=lambda clean: clean), observed=SimpleNamespace(measurement=SimpleNamespace(y=x[:1]))
    )
    info = {"log_w": torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log()}
    place = Place(1, x, torch.empty(0), info, None, 0.0, 0)

    def one(seed, drawn):
        return float(answer(problem, [SimpleNamespace(seed=seed, drawn=drawn)], place))

    found = [one(seed, True) for seed in range(400)]
    shares = torch.bincount(torch.tensor(found).long(), minlength=4) / 400
    assert {value % 1 for value in found} == {0.0}
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.2, 0.3, 0.4]), atol=0.08, rtol=0)
    assert one(0, False) == pytest.approx(2.0)
