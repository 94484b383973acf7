"""The command of every claim starts: at its smallest, on small stand-ins for the data, in this process; what takes longer is slow."""

import json
import re
import runpy
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from encoded import encoded
from shell import calls, stand_ins
from toys import loaded

from flowhelm.interfaces import cli

ROOT = Path(__file__).parents[2]
CLAIMS = loaded(ROOT / "scripts" / "claims.py")
QUICK = {
    "boss-0", "bottleneck-0", "dual_fast-0", "flair-0", "ghvb-0", "glass-0", "gs_jacobi-1", "mpc_flow-0", "pmrf-0", "rbf-1", "starflow_v-0",
    "stochastic_interpolants-0", "stsl-0", "tutorial-0", "vble-0",
}  # fmt: skip
"""Commands that a default run starts, by page and number of the claim: each takes at most three seconds of a processor. Others are slow."""


def rows():
    """(page, number, command at its smallest) of every claim that has one; the same command once."""
    seen = set()
    for name, system in CLAIMS.systems().items():
        for number, row in enumerate(system.claims):
            text = row.smallest or row.command
            if text and text not in seen:
                seen.add(text)
                yield name, number, text


ALL = list(rows())
EACH = [
    pytest.param(text, id=f"{name}-{number}", marks=[] if f"{name}-{number}" in QUICK else [pytest.mark.slow])
    for name, number, text in ALL
]


def picture(draw, side, label=0):
    """A smooth picture `(side, side, 3)`: blobs whose number and colour go with the label."""
    y, x = np.mgrid[:side, :side] / side
    made = np.zeros((side, side, 3))
    for _ in range(2 + label):
        a, b, width = draw.random(3)
        made += np.exp(-((x - a) ** 2 + (y - b) ** 2) / (0.02 + 0.1 * width))[..., None] * draw.random(3)
    return (255 * made / made.max()).astype(np.uint8)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Stand-ins for the sets that the commands name, of a few pictures each."""
    folder, draw = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    labels = np.tile(np.arange(10, dtype=np.uint8), 56)
    grey = np.stack([picture(draw, 28, label)[..., 0] for label in labels])
    parts = {"train_images": grey, "train_labels": labels, "test_images": grey[::-1], "test_labels": labels[::-1]}
    np.savez(folder / "fashion_mnist.npz", **parts)
    np.savez(folder / "mnist_t10k.npz", images=np.tile(grey, (4, 1, 1)), labels=np.tile(labels, 4))
    with zipfile.ZipFile(folder / "test_photos.zip", "w") as archive:
        for number in range(4):
            archive.writestr(f"CBSD68/{number}.png", encoded(picture(draw, 96, number)))
    names = [f"{chr(97 + scene)}/{number}.jpg" for scene in range(7) for number in range(30)]
    with zipfile.ZipFile(folder / "rsscn7_128.zip", "w") as archive:
        for name in names:
            archive.writestr(name, encoded(picture(draw, 128, ord(name[0]) - 97), "JPEG"))
    (folder / "split.json").write_text(json.dumps({"test": names[::3]}))
    return folder


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    return stand_ins(tmp_path_factory.mktemp("bin"))


@pytest.fixture
def desk(data, tmp_path, monkeypatch):
    """A folder with the stand-ins, and the files of docs/data that commands read."""
    for file in data.iterdir():
        (tmp_path / file.name).symlink_to(file)
    for file in (ROOT / "docs" / "data").iterdir():
        if file.suffix == ".json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(before)


def started(program, words):
    """Runs one call as the shell would, in this process; fails unless it ends well."""
    if program == "flowhelm":
        assert cli.main(words) == 0, words
        return
    assert program == "python", (program, words)
    if words[:2] == ["-m", "pytest"]:  # part of the suite itself: it only has to be there
        file = ROOT / words[2]
        text = file.read_text(encoding="utf-8")
        assert "-k" not in words or words[words.index("-k") + 1] in text
        assert "-m" not in words[2:] or f"mark.{words[words.index('-m', 2) + 1]}" in text
        return
    before = sys.argv
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*found in sys.modules.*")
            if words[0] == "-m":
                sys.argv = words[1:]
                status = ended(lambda: runpy.run_module(words[1], run_name="__main__", alter_sys=True))
            else:
                sys.argv = [str(ROOT / words[0]), *words[1:]]
                status = ended(lambda: runpy.run_path(sys.argv[0], run_name="__main__"))
            assert status in (None, 0), (words, status)
    finally:
        sys.argv = before


def ended(run):
    try:
        run()
    except SystemExit as end:
        return end.code
    return 0


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("text", EACH)
def test_a_claims_command_starts(text, programs, desk):
    known = calls(text, programs, desk)
    assert known
    for _, program, *words in known:
        started(program, words)


def test_the_smallest_is_the_same_command():
    """It names the programs that the command names, and no option that the command could not have."""

    def programs_of(text):
        return set(re.findall(r"(?:python -m [\w.]+(?: (?!-)[a-z]+)?|python \S+\.py|flowhelm [a-z]+)", text))

    for name, system in CLAIMS.systems().items():
        for row in system.claims:
            if row.smallest:
                assert programs_of(row.smallest) <= programs_of(row.command), name


def test_quick_ones_are_there():
    assert {f"{name}-{number}" for name, number, _ in ALL} >= QUICK
