"""Whatever stands in a file that the program reads back: a valid reading or one sentence with status 2, nothing written elsewhere.

pytest -m slow tests/app/test_damaged_files.py -s                          10,000 damaged files, and how they ended
FLOWHELM_DAMAGED=3000 pytest -m slow tests/app/test_damaged_files.py -s    so many
"""

import contextlib
import io
import json
import os
import random
import resource
import shutil
import struct
import tarfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from damage import broken, damaged
from PIL import Image
from safetensors.torch import save_file
from test_train import small

from flowhelm import recipes
from flowhelm.app.files.atomic import sha256
from flowhelm.app.options import sources
from flowhelm.app.restore import presets
from flowhelm.app.restore import run as restoration
from flowhelm.app.run import Stopped, drive
from flowhelm.bench.compare.rows import FIELDS
from flowhelm.interfaces.cli import main
from flowhelm.rewards.classifier import Classifier

LONG = 20.0  # seconds of this process, whatever else the machine does; a hundred times what the slowest takes
MEMORY = 3.0  # GiB of this process at most: torch and all that is imported take one of them
COUNT = int(os.environ.get("FLOWHELM_DAMAGED", "10000"))


def text_of(value: Any) -> bytes:
    return json.dumps(value).encode()


def of_json(data: bytes, chance: random.Random) -> bytes:
    return broken(data, chance) if chance.random() < 0.3 else text_of(damaged(json.loads(data), chance))


def of_yaml(data: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.5:
        return broken(data, chance)
    return yaml.safe_dump(damaged(yaml.safe_load(data), chance), allow_unicode=False).encode(errors="replace")


def of_lines(data: bytes, chance: random.Random) -> bytes:
    lines = data.splitlines()
    at = chance.randrange(len(lines))
    lines[at] = of_json(lines[at], chance)
    return b"\n".join(lines) + b"\n"


def of_weights(data: bytes, chance: random.Random) -> bytes:
    """The words in a .safetensors file, its tensors' shapes and types, or its bytes."""
    if chance.random() < 0.2:
        return broken(data[: chance.choice((8, 400, len(data)))], chance) + data[400:]
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    words = header["__metadata__"]
    name = chance.choice(list(words))
    kind = chance.random()
    if kind < 0.6:
        words[name] = of_json(words[name].encode(), chance).decode(errors="replace")
    elif kind < 0.8:
        header["__metadata__"] = damaged(words, chance)
    else:
        header = damaged(header, chance)
    text = text_of(header)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def of_bytes(data: bytes, chance: random.Random) -> bytes:
    """Of an archive or a stack: most of what matters stands in its beginning or its end."""
    head = chance.choice((200, 600, len(data)))
    at = chance.choice((0, max(len(data) - head, 0)))
    return data[:at] + broken(data[at : at + head], chance) + data[at + head :]


def of_words(data: bytes, chance: random.Random) -> bytes:
    """A reward as it is typed, of parts of others."""
    found = chance.choice(data.splitlines()).decode()
    for _ in range(chance.choice((0, 1, 1, 2, 3))):
        at, pieces = (
            chance.randrange(len(found) + 1),
            [*"*:=,+-.; {}", "\0", "\x1b", "\ud800", "1e999*", "nan*", "..", "/", ".py:x", "0*", "é"],
        )
        piece = chance.choice([*pieces, chance.choice(data.splitlines()).decode()])
        found = found[:at] + piece + found[at + chance.choice((0, 0, 1, 3)) :]
    return (chance.choice(("", "", "3*", "-", "1e-3*", " ")) + found).encode(errors="surrogatepass")


class Kind(NamedTuple):
    """A file that is read: which, how it is damaged, by what words ({} is what stands in it), and how what is written begins."""

    file: str
    damage: Callable[[bytes, random.Random], bytes]
    words: list[str]
    written: tuple[str, ...] = ()


FEW = ["--operator", "denoise", "--std", "0.1", "--threads", "1"]
STEER = ["--method", "fk", "--particles", "2", "--steps", "1", "--threads", "1", "--out", "new"]
STACK = ["--out", "new", *FEW, "--steps", "1", "--prior", "own.safetensors", "--range", "0,255"]
TRAIN = ["train", "small", "--data", "small.npz", "--out", "runs", "--steps", "2", "--threads", "1"]
KINDS = {
    "run": Kind("photo.run.json", of_json, ["rerun", "photo.run.json"], ("photo.rerun.png",)),
    "steered": Kind("best.run.json", of_json, ["rerun", "best.run.json"], ("best.rerun.",)),
    "resume": Kind("half.resume.safetensors", of_weights, ["restore", "--resume", "half.resume.safetensors"], ("half.",)),
    "manifest": Kind("out/manifest.jsonl", of_lines, ["batch", "job.json"], ("out/",)),
    "item": Kind("out/manifest.jsonl", of_lines, ["rerun", "out/manifest.jsonl", "--item", "p0.png"], ("out/",)),
    "json": Kind("job.json", of_json, ["batch", "job.json", "--dry-run"]),
    "yaml": Kind("job.yaml", of_yaml, ["batch", "job.yaml", "--dry-run"]),
    "prior": Kind("own.safetensors", of_weights, ["restore", "photo.png", *FEW, "--steps", "1", "--prior", "own.safetensors"], ("photo.",)),
    "tar": Kind("s.tar", of_bytes, ["restore", "s.tar", *STACK], ("new/",)),
    "npy": Kind("s.npy", of_bytes, ["restore", "s.npy", *STACK], ("new/",)),
    "npz": Kind("s.npz", of_bytes, ["restore", "s.npz", *STACK], ("new/",)),
    "reward": Kind("reward.txt", of_words, ["steer", "own.safetensors", "--reward", "{}", *STEER], ("new.",)),
    "held out": Kind("reward.txt", of_words, ["steer", "own.safetensors", "--reward", "brightness", "--held-out", "{}", *STEER], ("new.",)),
    "classifier": Kind(
        "judge.safetensors", of_weights, ["steer", "own.safetensors", "--reward", "judge.safetensors:label=1", *STEER], ("new.",)
    ),
    "presets": Kind("presets.json", of_json, ["presets", "list", "presets.json"]),
    "rows": Kind("rows.csv", of_bytes, ["table", "rows.csv"]),
    "training": Kind("runs/run.json", of_json, TRAIN, ("runs/",)),
    "checkpoint": Kind("runs/checkpoint.safetensors", of_weights, TRAIN, ("runs/",)),
    "log": Kind("runs/log.csv", of_bytes, TRAIN, ("runs/",)),
}  # fmt: skip


MILD = (
    "manifest", "log", "tar", "npy", "npz",
)  # a damaged line counts as none, a damaged picture as one that has failed  # fmt: skip


class Folder(NamedTuple):
    """`here`, where the files were made and name one another, and a copy of it to begin from."""

    here: Path
    kept: Path


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patched:
        yield patched


def more(patched: pytest.MonkeyPatch) -> None:
    """Archives, stacks, rewards, a classifier, presets, rows of a benchmark, a training."""
    values = np.random.default_rng(0).integers(0, 256, (2, 8, 8), np.uint8)
    np.save("s.npy", values)
    np.savez("s.npz", volume=values)
    with tarfile.open("s.tar", "w") as tar:
        tar.add("photo.png", "a/photo.png")
        tar.add("photo.png", "b.png")
    Path("mine.py").write_text("def score(image):\n    return image.mean((1, 2, 3))\n")
    Path("reward.txt").write_text(
        "brightness\n2*brightness\n-0.5*colourfulness\ncompressibility:quality=50\npalette:colours=1d3557+e63946,directions=4\n"
        "judge.safetensors:label=1\nclassifier:weights=judge.safetensors,label=0\nmine.py:score\n-mine.py:score\n"
    )
    torch.manual_seed(0)
    judge = Classifier(3, 2, (8, 8))
    judge.accuracy = 0.5
    save_file(
        {k: v.contiguous() for k, v in judge.state_dict().items()},
        "judge.safetensors",
        {"about": json.dumps(judge.about)},
    )
    listed = [each.model_dump() for each in presets.shipped()[:3]]
    Path("presets.json").write_text(json.dumps({"presets": listed}))
    row = {name: {str: "a", int: "1", float: "0.5"}[kind] for name, kind in FIELDS.items()} | {
        "options": "{}",
        "error": "",
    }
    lines = [",".join(FIELDS), *(",".join((row | {"method": m, "image": i}).values()) for m in "ab" for i in "xy")]
    Path("rows.csv").write_text("\n".join(lines) + "\n")
    labels = np.arange(24) % 2
    np.savez(
        "small.npz", pictures=np.random.default_rng(0).integers(0, 256, (24, 1, 4, 4)).astype(np.uint8), labels=labels
    )
    patched.setattr(recipes, "ALL", (*recipes.ALL, small))
    stub = sources.pick  # the command line reads recipes off the package's source, where this one is not
    patched.setattr(sources, "pick", lambda part, name: small if name == "small" else stub(part, name))
    assert main(TRAIN) == 0


@pytest.fixture(scope="module")
def whole(prior, tmp_path_factory, monkeypatch_module) -> Folder:
    """One of each, as the program has written it."""
    base = tmp_path_factory.mktemp("whole")
    folder = Folder(base / "here", base / "kept")
    folder.here.mkdir()
    with contextlib.chdir(folder.here):
        shutil.copy(prior, "own.safetensors")
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)).save("photo.png")
        Path("in").mkdir()
        for k in range(2):
            shutil.copy("photo.png", f"in/p{k}.png")
        assert main(["restore", "photo.png", *FEW, "--steps", "2", "--prior", "own.safetensors"]) == 0
        words = ["--reward", "brightness", "--particles", "2", "--steps", "2", "--threads", "1", "--out", "best"]
        assert main(["steer", "own.safetensors", "--method", "fk", *words]) == 0
        job = {
            "inputs": "in", "operator": "denoise", "std": 0.1, "steps": 2, "prior": "own.safetensors", "threads": 1,
            "out": "out",
        }  # fmt: skip
        job |= {"operator_options": {}, "method": "mpc_flow", "method_options": {"inner": "adam:iterations=1"}}
        Path("job.json").write_text(json.dumps(job))
        Path("job.yaml").write_text(yaml.safe_dump(job))
        assert main(["batch", "job.json"]) == 0
        settings = restoration.record.get_run(Path("photo.run.json")).settings
        seen = []

        def stops(event):
            seen.append(event)
            if len(seen) == 2:
                raise Stopped(130)

        with pytest.raises(Stopped):
            drive(restoration.restore(settings.changed(out=str(folder.here / "half.png"))), stops)
        more(monkeypatch_module)
    shutil.copytree(folder.here, folder.kept)
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): sha256(path) for path in folder.rglob("*") if path.is_file()}


def read(kind: Kind, seed: str, whole: Folder) -> str:
    """How reading a damaged file ends."""
    chance, folder = random.Random(seed), whole.here
    shutil.rmtree(folder)
    shutil.copytree(whole.kept, folder)
    path = folder / kind.file
    path.write_bytes(kind.damage(path.read_bytes(), chance))
    before, damage, said, began = contents(folder), path.read_bytes(), io.StringIO(), time.process_time()
    words = [word.replace("{}", damage.decode(errors="surrogatepass")) if word == "{}" else word for word in kind.words]
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            status = main(words)
        except Exception as error:
            raise AssertionError((seed, damage[:2000])) from error
    told = said.getvalue()
    assert time.process_time() - began < LONG, (seed, damage)
    assert status in (0, 1, 2), (seed, told)
    assert "Traceback" not in told, (seed, told)
    if status == 2:
        (line,) = [each for each in told.splitlines() if not each.startswith("step ")]
        assert line.startswith("flowhelm: "), (seed, told)
        assert len(line) < 3000, (seed, told)
    after = contents(folder)
    lost = {name for name in before if after.get(name) != before[name]} - {kind.file}
    assert not {name for name in lost if not name.startswith(("photo.", "half.", "out/", "runs/"))}, (seed, lost)
    new = {name for name in after.keys() - before.keys() if not name.startswith(kind.written or ("nothing",))}
    assert not {name for name in new if "__pycache__" not in name}, (seed, new)
    assert after["photo.png"] == before["photo.png"], seed
    assert {each.name for each in folder.parent.iterdir()} == {"here", "kept"}, seed
    if kind is KINDS["manifest"] and status == 0:
        lines = [json.loads(line) for line in (folder / "out/manifest.jsonl").read_bytes().splitlines()[2:]]
        assert all(line["status"] == "done" for line in lines), seed
        assert {p.name for p in (folder / "out").glob("*.png")} == {"p0.restored.png", "p1.restored.png"}, seed
    return {0: "read", 1: "read", 2: "refused"}[status]


def all_of(count: int, whole: Folder, monkeypatch, capfd) -> Counter[str]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    ended, faults = Counter[str](), list[str]()
    threads = torch.get_num_threads()
    for name, kind in KINDS.items():
        for seed in range(count // len(KINDS)):
            try:
                ended[f"{name} {read(kind, f'{name} {seed}', whole)}"] += 1
            except AssertionError as error:  # the others are tried all the same
                faults.append(str(error)[:3000])
    torch.set_num_threads(threads)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    with capfd.disabled():
        print(f"\nat most {most:.2f} GiB of memory")
        print(f"damaged files: {sum(ended.values())}, {dict(sorted(ended.items()))}")
    assert not faults, "\n".join([f"{len(faults)} faults", *faults[:20]])
    assert most < MEMORY
    return ended


@pytest.mark.timeout(1200)
def test_damaged_files(whole, monkeypatch, capfd):
    ended = all_of(5 * len(KINDS), whole, monkeypatch, capfd)
    assert all(ended[f"{name} refused"] for name in KINDS if name not in MILD)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_damaged_files_by_the_thousand(whole, monkeypatch, capfd):
    all_of(COUNT, whole, monkeypatch, capfd)
