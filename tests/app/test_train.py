"""`flowhelm train`: a run's folder, going on, Ctrl-C, divergence, bad input, and the data of each recipe."""

import csv
import json
import math
import os
import pickle
import signal
import sys
import zipfile
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from encoded import encoded
from PIL import Image
from safetensors.torch import load_file
from toys import randomised

from flowhelm import priors, recipes
from flowhelm.app.options import sources
from flowhelm.app.train import keeper
from flowhelm.app.train import run as app
from flowhelm.interfaces.cli import main
from flowhelm.priors.bundled import save
from flowhelm.priors.unet import UNet
from flowhelm.recipes import Recipe
from flowhelm.recipes.recipe import conditional
from flowhelm.train import Batch, flow_matching, seeded, shuffled


def small(data: Path, *, batch: int = 4, seed: int = 0) -> Recipe:
    """Args:
    data: 24 grey pictures of 4 x 4, and their classes.
    batch: pictures in a batch.
    seed: of everything.
    """
    if data.suffix != ".npz":
        raise ValueError(f"data: expected small.npz, got '{data}'")
    with np.load(data, allow_pickle=False) as f:
        clean, label = torch.from_numpy(f["pictures"]), torch.from_numpy(f["labels"])
    torch.manual_seed(seed)
    net = UNet((8,), 1, channels=1, classes=2)
    rows = shuffled(clean[:16], label[:16], batch=batch, seed=seed)
    about = {"classes": ("dark", "light"), "size": 4}
    return Recipe(
        conditional(net, 4), partial(flow_matching, drop=0.2), hooked(rows), shuffled(clean[16:], label[16:], batch=4),
        steps=30, rate=1e-3, about=about,
    )  # fmt: skip


def hooked(rows):
    def data(index: int) -> Batch:
        HOOK[0](index)
        return BROKEN[0](index, rows(index))

    return data


HOOK, BROKEN = [lambda index: None], [lambda index, batch: batch]


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(recipes, "ALL", (*recipes.ALL, small))
    stub = sources.pick  # the command line reads recipes off the package's source, where this one is not
    monkeypatch.setattr(
        sources, "pick", lambda part, name: small if (part, name) == ("recipe", "small") else stub(part, name)
    )
    HOOK[0], BROKEN[0] = lambda index: None, lambda index, batch: batch


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    draw = np.random.default_rng(0)
    labels = np.arange(24) % 2
    pictures = (draw.integers(0, 100, (24, 1, 4, 4)) + 150 * labels[:, None, None, None]).astype(np.uint8)
    np.savez(tmp_path / "small.npz", pictures=pictures, labels=labels)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def go(out: str, *more: str, steps: int = 30) -> int:
    return main(["train", "small", "--data", "small.npz", "--out", out, "--steps", str(steps), *more])


def rows(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


FILES = {"checkpoint.safetensors", "curve.png", "log.csv", "run.json", "samples.png", "small.safetensors"}


def test_a_run_and_its_folder(folder, capsys):
    assert go("a") == 0
    said = capsys.readouterr()
    assert {path.name for path in (folder / "a").iterdir()} == FILES
    assert "wrote a/small.safetensors" in said.out
    assert "step 30/30, loss" in said.err
    assert "pictures/s" in said.err
    log = rows(folder / "a" / "log.csv")
    assert [int(r["step"]) for r in log] == list(range(1, 31))
    assert [int(r["step"]) for r in log if r["held_apart"]] == [10, 20, 30]
    assert all(float(a["seconds"]) <= float(b["seconds"]) for a, b in pairwise(log))
    prior = priors.load(folder / "a" / "small.safetensors")
    assert prior.about == {"classes": ["dark", "light"], "size": 4, "steps": 30}
    assert prior.told(["light"]).shape == (1, 4, 4)
    average = load_file(folder / "a" / "checkpoint.safetensors")
    for name, value in prior.net.state_dict().items():
        assert torch.equal(value, average[f"average.{name}"].half().float())
    recipe = small(Path("small.npz"))
    recipe.flow.net.load_state_dict(
        {k.removeprefix("average."): v for k, v in average.items() if k.startswith("average.")}
    )
    assert float(log[-1]["held_apart"]) == pytest.approx(app.held_apart(recipe, recipe.flow.net), rel=1e-4)
    assert Image.open(folder / "a" / "samples.png").size[0] > 4 * 64  # four of each class, and a label
    assert main(["sample", str(folder / "a" / "small.safetensors"), "-n", "1", "--steps", "1"]) == 0
    before = (folder / "a" / "small.safetensors").read_bytes()
    for name in ("small.safetensors", "samples.png"):  # as after a kill between the last checkpoint and these
        (folder / "a" / name).unlink()
    assert go("a") == 0
    assert "a holds a finished run" in capsys.readouterr().out
    assert {path.name for path in (folder / "a").iterdir()} == FILES
    assert priors.load(folder / "a" / "small.safetensors").about == prior.about
    assert len((folder / "a" / "small.safetensors").read_bytes()) == len(before)
    assert len(rows(folder / "a" / "log.csv")) == 30


def test_the_log_is_what_fit_told(folder, monkeypatch):
    """Over a hundred steps a row is a mean of several; its rate and norm are those of its own step."""
    told = []
    whole = app.fit

    def listening(*words, **more):
        for update in whole(*words, **more):
            told.append(update)
            yield update

    monkeypatch.setattr(app, "fit", listening)
    assert go("a", steps=300) == 0
    log = rows(folder / "a" / "log.csv")
    assert [int(r["step"]) for r in log] == list(range(3, 301, 3))
    for i, row in enumerate(log):
        part = told[3 * i : 3 * i + 3]
        assert float(row["loss"]) == pytest.approx(sum(u.loss.item() for u in part) / 3, rel=1e-4)
        assert float(row["rate"]) == pytest.approx(part[-1].info["rate"].item(), rel=1e-4)
        assert float(row["norm"]) == pytest.approx(part[-1].info["norm"].item(), rel=1e-4)
    assert [int(r["step"]) for r in log if r["held_apart"]] == [*range(30, 301, 30)]


def interrupted(at: int, times: int = 1):
    def hook(index: int) -> None:
        if index == at:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)

    return hook


def test_ctrl_c_and_on(folder, capsys):
    """Exit 130, everything saved; the same command ends in the bits of an unbroken run, and no row comes twice."""
    assert go("whole") == 0
    HOOK[0] = interrupted(11)
    before = signal.getsignal(signal.SIGINT)
    assert go("broken", "--minutes", "60") == 130
    assert signal.getsignal(signal.SIGINT) is before
    said = capsys.readouterr()
    assert "stopped after step 11 of 30, all saved in broken; go on with the same command" in said.out
    assert {path.name for path in (folder / "broken").iterdir()} == FILES - {"samples.png"}
    assert priors.load(folder / "broken" / "small.safetensors").about["steps"] == 11
    HOOK[0] = lambda index: None
    assert go("broken") == 0
    assert "going on after step 11" in capsys.readouterr().out
    for name in ("checkpoint.safetensors", "small.safetensors"):
        a, b = (load_file(folder / run / name) for run in ("whole", "broken"))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a)
    for a, b in zip(rows(folder / "whole" / "log.csv"), rows(folder / "broken" / "log.csv"), strict=True):
        assert {**a, "seconds": ""} == {**b, "seconds": ""}


def test_a_second_ctrl_c_is_not_waited_for(folder, capsys):
    HOOK[0] = interrupted(5, times=2)
    assert go("a", "--minutes", "60") == 130
    assert "stopped after" not in capsys.readouterr().out
    assert not (folder / "a" / "checkpoint.safetensors").exists()  # the step was not finished


def test_rows_after_the_checkpoint_come_once(folder):
    """As after kill -9: the log is further than the checkpoint, and its last row is cut."""

    def hook(index: int) -> None:
        if index == 20:
            raise OSError("cut")

    assert go("whole") == 0
    HOOK[0] = interrupted(9)
    assert go("broken", "--minutes", "60") == 130
    old = (folder / "broken" / "checkpoint.safetensors").read_bytes()
    HOOK[0] = hook
    with pytest.raises(OSError, match="cut"):
        go("broken", "--minutes", "60")
    assert (folder / "broken" / "checkpoint.safetensors").read_bytes() == old
    log = folder / "broken" / "log.csv"
    assert len(rows(log)) == 19
    log.write_text(log.read_text()[:-4])
    HOOK[0] = lambda index: None
    assert go("broken") == 0
    for a, b in zip(rows(folder / "whole" / "log.csv"), rows(log), strict=True):
        assert {**a, "seconds": ""} == {**b, "seconds": ""}


def test_divergence_leaves_weights_and_says_what_to_do(folder, capsys):
    BROKEN[0] = lambda index, batch: batch._replace(clean=batch.clean * (math.nan if index == 7 else 1))
    assert go("a", "--minutes", "60") == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "not finite at step 8 of 30; lower the rate" in said
    prior = priors.load(folder / "a" / "small.safetensors")
    assert prior.about["steps"] == 7
    assert all(p.isfinite().all() for p in prior.net.parameters())
    assert int(load_file(folder / "a" / "checkpoint.safetensors")["step.stem.weight"]) == 7


def test_another_run_is_refused_in_the_folder(folder, capsys):
    HOOK[0] = interrupted(3)
    assert go("a") == 130
    capsys.readouterr()
    before = {path: path.read_bytes() for path in (folder / "a").iterdir()}
    for more, message in (
        (["--batch", "2"], "holds another run: batch was 4, is 2; use another --out"),
        (["--start", "start.safetensors"], "start sha256 was None"),
        (["--rate", "0.1"], "other settings: rate 0.001 (now 0.1)"),
    ):
        save(small(Path("small.npz")).flow.net, Path("start.safetensors"), {})
        assert go("a", *more) == 2
        assert message in capsys.readouterr().err
    assert go("a", steps=40) == 2
    assert "steps 30 (now 40)" in capsys.readouterr().err
    np.savez("small.npz", pictures=np.zeros((24, 1, 4, 4), np.uint8), labels=np.zeros(24, np.int64))
    assert go("a") == 2
    assert "data sha256 was" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (folder / "a").iterdir()} == before
    (folder / "a" / "run.json").write_text("[")
    assert go("a") == 2
    assert "its run.json cannot be read" in capsys.readouterr().err


def test_a_start_from_weights(folder, capsys):
    """With next to no learning, the weights are those of the start (in fp16)."""
    net = randomised(small(Path("small.npz")).flow.net)
    save(net, Path("start.safetensors"), {})
    assert go("a", "--start", "start.safetensors", "--rate", "1e-12", steps=2) == 0
    after = priors.load(folder / "a" / "small.safetensors").net.state_dict()
    assert all(torch.equal(after[name], value.half().float()) for name, value in net.state_dict().items())
    save(small(Path("small.npz"), seed=1).flow.net, Path("start.safetensors"), {})
    assert go("a", "--start", "start.safetensors", "--rate", "1e-12", steps=2) == 2
    assert "holds another run: start sha256 was" in capsys.readouterr().err
    save(UNet((8, 8), 1, channels=1, classes=2), Path("other.safetensors"), {})
    assert go("b", "--start", "other.safetensors") == 2
    assert "of another network: widths [8, 8] (here [8])" in capsys.readouterr().err
    Path("bad.safetensors").write_bytes(pickle.dumps({"a": 1}))
    assert go("b", "--start", "bad.safetensors") == 2
    assert "pickle" in capsys.readouterr().err
    assert not (folder / "b").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "name a recipe first, one of photos, fashion, aerial, animals"),
        ("fashon --data small.npz", "there is no recipe 'fashon'; did you mean fashion?"),
        ("small", "small needs --data: 24 grey pictures"),
        ("small --data missing.npz", "small: 'missing.npz' does not exist"),
        ("small --data small.txt", "data: expected small.npz, got 'small.txt'"),
        ("small --data other.npz", "the files are not those that recipe small reads (KeyError"),
        ("small --data small.npz --bach 3", "there is no option --bach here; did you mean --batch?"),
        ("small --data small.npz --batch many", "--batch: expected a whole number, got 'many'"),
        ("small --data small.npz --batch 17", "expected a batch of 1 to 16 rows, got 17"),
        ("small --data small.npz --steps 0", "--steps"),
        ("small --data small.npz --device moon", "device 'moon' is not there"),
        ("small --data small.npz --out small.npz", "is a file; name a folder"),
        ("small --data small.npz --start nothing", "expected one of photos, photos-2, fashion, aerial, animals, "),
        (
            "small --data small.npz --start deepinv:DRUNet",
            "--start: 'deepinv:DRUNet' is not of a network that a recipe",
        ),
        ("small other --data small.npz", "got also other"),
        ("fashion --data other.npz", "data: expected train_images, train_labels"),
        ("photos --data text.zip", "data: expected a zip archive of pictures, got 'text.zip'"),
        ("photos --data few.zip", "data: expected more than 24 photographs"),
        ("animals --data few.zip", "data: expected train/CLASS/*.JPEG"),
        ("aerial --data few.zip", "aerial needs --split"),
        ("aerial --data few.zip --split text.zip", "split: expected JSON as"),
        ("aerial --data few.zip --split split.json", "data: expected 7 folders"),
    ],
)
def test_bad_input(words, message, folder, refusal):
    for name in ("small.txt", "text.npz", "text.zip"):
        (folder / name).write_text("no data")
    np.savez("other.npz", a=np.zeros(3))
    (folder / "split.json").write_text('{"test": []}')
    with zipfile.ZipFile("few.zip", "w") as archive:
        archive.writestr("a/1.png", encoded(np.zeros((8, 8, 3), np.uint8)))
    before = {path.name for path in folder.rglob("*")}
    assert message in refusal("train", *words.split())
    made = {path.name for path in folder.rglob("*")} - before
    assert not made


# --- the data of the real recipes, through networks made small ---


def write_data(name: str, folder: Path) -> list[str]:
    draw = np.random.default_rng(1)
    noise = lambda *shape: draw.integers(0, 256, shape).astype(np.uint8)  # noqa: E731
    if name == "fashion":
        sets = {f"{p}_images": noise(20, 28, 28) for p in ("train", "test")}
        np.savez(folder / "data.npz", **sets, **{f"{p}_labels": np.arange(20) % 10 for p in ("train", "test")})
        return ["--data", "data.npz"]
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        if name == "photos":
            for i in range(26):
                archive.writestr(f"{i:02d}.jpg", encoded(noise(20, 24, 3), "JPEG"))
            return ["--data", "data.zip", "--patch", "16"]
        if name == "animals":
            for animal in sys.modules["flowhelm.recipes.animals"].CLASSES:
                for part in ("train", "val"):
                    archive.writestr(f"{part}/{animal.replace(' ', '_')}/a.JPEG", encoded(noise(64, 64, 3), "JPEG"))
            return ["--data", "data.zip"]
        names = [f"{letter}/{i}.jpg" for letter in "abcdefg" for i in range(4)]
        for each in names:
            archive.writestr(each, encoded(noise(128, 128, 3), "JPEG"))
    (folder / "split.json").write_text(json.dumps({"test": names[::4]}))
    return ["--data", "data.zip", "--split", "split.json"]


@pytest.mark.parametrize("name", ["photos", "fashion", "aerial", "animals"])
def test_every_recipe_trains(name, folder, monkeypatch):
    tiny = lambda widths, **more: UNet((4,) * len(widths), 1, **more)  # noqa: E731
    small = ("from_photos", lambda **more: tiny((1, 1), **more)) if name in ("aerial", "animals") else ("UNet", tiny)
    monkeypatch.setattr(sys.modules[f"flowhelm.recipes.{name}"], *small)
    words = ["train", name, *write_data(name, folder), "--steps", "2", "--batch", "2"]
    assert main(words) == 0
    out = folder / "runs" / name
    assert {path.name for path in out.iterdir()} == (FILES - {"small.safetensors"}) | {f"{name}.safetensors"}
    prior = priors.load(out / f"{name}.safetensors")
    assert prior.about["steps"] == 2
    log = rows(out / "log.csv")
    assert len(log) == 2
    assert all(math.isfinite(float(row["loss"])) for row in log)
    if name == "aerial":
        assert (
            prior.told(["forest"], prompts=["bright forest"], numbers=[{"detail": 0.1}]).condition[2][0].isnan().sum()
            == 3
        )


# --- its parts ---


def test_the_held_apart_loss(folder):
    """A mean over the first batches, with draws of their own; the network's mode and the global generator do not matter."""
    recipe = small(Path("small.npz"))
    net = recipe.flow.net.train()
    got = app.held_apart(recipe, net)
    assert net.training
    by_hand = [
        flow_matching(recipe.flow, recipe.apart(i), seeded(0, i, purpose="held apart"), drop=0.2).mean()
        for i in range(app.HELD_APART)
    ]
    assert got == pytest.approx(torch.stack(by_hand).mean().item(), rel=1e-6)
    torch.rand(3)
    assert app.held_apart(recipe, net) == got


def test_tensorboard(folder):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    HOOK[0] = interrupted(11)
    assert go("a", "--tensorboard") == 130
    HOOK[0] = lambda index: None
    assert go("a", "--tensorboard") == 0
    events = EventAccumulator(str(folder / "a" / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("loss")] == list(range(1, 31))
    assert [e.step for e in events.Scalars("held_apart")] == [10, 20, 30]
    log = rows(folder / "a" / "log.csv")
    assert [e.value for e in events.Scalars("loss")] == pytest.approx([float(r["loss"]) for r in log], rel=1e-5)


def test_tensorboard_forgets_what_came_after_the_checkpoint(tmp_path):
    """A run that was killed at its fifth step goes on from its third: the others come again."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for done, steps in ((0, range(1, 6)), (3, range(4, 8))):
        board = keeper.Board(keeper.tensorboard(), tmp_path, done)
        for step in steps:
            board.add({"loss": 10.0 * done + step}, step)
        board.close()
    scalars = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss")
    assert [(e.step, e.value) for e in scalars] == [(1, 1), (2, 2), (3, 3), (4, 34), (5, 35), (6, 36), (7, 37)]
