"""Every block of code in README and docs: commands are parsed by the command line (or run), Python is run.

A block that cannot run here (a GPU, a hub, a server, a long search) has the line `<!-- not run: why -->` above it; its commands are
parsed and its Python compiled all the same.
"""

import argparse
import ast
import importlib
import inspect
import json
import os
import re
import shlex
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import typer
from shell import calls, stand_ins

from flowhelm.interfaces import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<why>.+?) -->\n\n?)?^(?P<indent> *)```+ *(?P<kind>\S*)[^\n]*\n(?P<text>.*?)^ *```+ *$",
    re.M | re.S,
)
SNIPPET = re.compile(r'^--8<-- "([^"\n]+)"$')
OUTPUT = {"text", "json", "yaml", "bibtex", "console"}
OTHERS = {"pip", "curl", "ln", "jq", "git"}
"""Programs that are not ours."""

DRIVEN = ("restore", "bench", "draw", "look", "train")
"""Modules of the command line that carry out a piece of work."""


NET = """
class Net(torch.nn.Conv2d):
    def forward(self, x, t, condition=None):
        return super().forward(x)
net = Net(3, 3, 3, padding=1)
"""

BEFORE = {
    "README.md": "photo = torch.nn.functional.interpolate(photo, (256, 256))",
    "docs/adding-a-model.md": "from dataclasses import dataclass; from typing import ClassVar; from flowhelm import NetFlow; "
    "from flowhelm.priors.pipelines import Pipeline" + NET,
    "docs/operators.md": "picture = torch.zeros(1, 3, 256, 256)",
    "docs/services.md": "photo = photo[0]; from flowhelm import priors; flow = priors.load('fashion'); photo[:, 9:20, 9:20] = 1.0",
    "docs/training.md": "pictures = torch.rand(64, 3, 8, 8)\nfrom flowhelm.train import shuffled\n"
    "data_of_coats = shuffled(torch.zeros(4, 1, 32, 32), torch.zeros(4, dtype=torch.int64), batch=2)\n"
    "from flowhelm import guide, priors" + NET,
}
"""What a reader of the page has already."""

SMALLER = (
    ("steps=20_000", "steps=2"),
    ("steps=5000", "steps=2"),
    ("(3, 64, 64)", "(3, 8, 8)"),
    ("batch=64", "batch=4"),
    ("times(50)", "times(2)"),
    ("count=8)", "count=1)"),
    ("count=4, steps=50", "count=1, steps=2"),
    ("rows=8), beta=50.0, updates=20)", "rows=2), beta=50.0, steps=2, updates=1)"),
)
"""The same programs in less time."""


class Block(NamedTuple):
    page: Path
    line: int
    kind: str
    text: str
    why: str | None


def blocks(page: Path) -> list[Block]:
    whole = page.read_text(encoding="utf-8")
    return [
        Block(page, whole.count("\n", 0, m.start("kind")) + 1, m["kind"], m["text"], m["why"])
        for m in BLOCK.finditer(whole)
    ]


ALL = [block for page in PAGES for block in blocks(page)]


def named(block: Block) -> str:
    return f"{block.page.relative_to(ROOT)}:{block.line}"


def test_every_block_says_what_it_is():
    kinds = OUTPUT | {"sh", "python", "{.python}"}
    assert [named(block) for block in ALL if block.kind not in kinds] == []
    assert len(ALL) > 40


# commands


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> Path:
    """Stand-ins that write down how they were called, for bash to find."""
    return stand_ins(tmp_path_factory.mktemp("bin"))


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """A folder with what the pages speak of."""
    from PIL import Image

    photo = Image.open(ROOT / "examples" / "chelsea.png").convert("RGB").resize((64, 48))
    for name in (
        "photo.jpg", "scene.jpg", "photo.png", "small.png", "clean.png", "blurred.png", "grey.png", "painting.png",
        "old.png", "print.jpg", "scan.jpg",
    ):  # fmt: skip
        photo.save(tmp_path / name)
    for file in (ROOT / "examples").glob("*.png"):
        size = (64, 48) if "small" not in file.name else (32, 24)
        Image.open(file).resize(size, Image.Resampling.NEAREST).save(tmp_path / file.name)
        (tmp_path / "examples").mkdir(exist_ok=True)
        (tmp_path / "examples" / file.name).write_bytes((tmp_path / file.name).read_bytes())
    mask = Image.new("L", photo.size, 255)
    mask.paste(0, (20, 20, 30, 24))
    for name in ("mask.png", "scratches.png", "scan.mask.png"):
        mask.save(tmp_path / name)
    for folder in ("photos", "pictures", "masks"):
        (tmp_path / folder).mkdir()
    for name in ("a.jpg", "b.jpg"):
        photo.save(tmp_path / "photos" / name)
    import numpy as np

    np.save(tmp_path / "kernel.npy", np.eye(5) / 5)
    (tmp_path / "mine.py").write_text(next(b.text for b in ALL if b.text.startswith("def left")))
    job = json.loads(next(b.text for b in ALL if b.kind == "json" and '"inputs"' in b.text))
    (tmp_path / "job.json").write_text(
        json.dumps(job | {"inputs": "photos/*.jpg", "operator_options": {"mask": "mask.png"}})
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


class Accepted(Exception):
    """The command line has read a command and is about to do it."""


@pytest.fixture
def accepts(monkeypatch):
    """Whether the command line takes a command, without doing it."""
    from flowhelm.app.models import plan
    from flowhelm.interfaces import http, ui
    from flowhelm.interfaces.cli import restore

    def stop(*given, **named):
        raise Accepted

    for name in DRIVEN:
        monkeypatch.setattr(importlib.import_module(f"flowhelm.interfaces.cli.{name}"), "carried_out", stop)
    monkeypatch.setattr(restore, "look_at", stop)
    monkeypatch.setattr(plan, "planned", stop)
    monkeypatch.setattr(ui, "serve", stop)
    monkeypatch.setattr("flowhelm.interfaces.http.serve.serve", stop)
    monkeypatch.setattr("flowhelm.app.models.doctor.doctor", stop)
    assert http

    def accepted(words: list[str], err, offline: bool) -> None:
        try:
            status = cli.main(words)
        except Accepted:
            return
        heard = err().err
        absent = ("hub cannot be reached", "cannot be fetched", *("cannot load", "is not there") * offline)
        if any(word in heard for word in absent):
            return
        assert status == 0, f"flowhelm {shlex.join(words)}: {heard}"

    return accepted


def parsed(module: str, words: list[str], monkeypatch) -> None:
    """Whether a benchmark's own command line takes these words; those that have none of their own are let alone."""
    found = importlib.import_module(module)
    if isinstance(getattr(found, "app", None), typer.Typer):  # several commands
        group = typer.main.get_command(found.app)
        group.commands[words[0]].make_context(words[0], words[1:])
        return
    main = found.main
    if inspect.signature(main).parameters:
        parser = typer.Typer(add_completion=False)
        parser.command()(main)
        typer.main.get_command(parser).make_context(module, words)
        return
    real = argparse.ArgumentParser.parse_args

    def read(parser, *given):
        real(parser, words)
        raise Accepted

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", read)
    if "ArgumentParser" in inspect.getsource(main):
        with pytest.raises(Accepted):
            main()


SHELL = [block for block in ALL if block.kind == "sh"]


@pytest.mark.parametrize("block", SHELL, ids=[named(block) for block in SHELL])
def test_commands_are_accepted(block, programs, desk, accepts, capsys, monkeypatch):
    known = calls(block.text, programs, desk)
    for word in (
        word for _, _, *words in known for word in words
    ):  # files whose content nobody asks for before the work begins
        if re.fullmatch(r"[\w./]+\.(?:zip|npz|csv|safetensors|py|json)", word) and not (desk / word).exists():
            (desk / word).parent.mkdir(parents=True, exist_ok=True)
            (desk / word).touch()
            if word.endswith("student.safetensors"):  # but for a student's prior
                said = json.dumps({"__metadata__": {"student": json.dumps({"base": "fashion"})}}).encode()
                (desk / word).write_bytes(len(said).to_bytes(8, "little") + said)
    assert known
    for own, name, *words in known:
        for variable, value in own.items():
            monkeypatch.setenv(variable, value)
        if name == "flowhelm":
            accepts(words, capsys.readouterr, block.why is not None)
        elif name == "python" and words[0] == "-m" and words[1].startswith("flowhelm"):
            parsed(words[1], words[2:], monkeypatch)
        elif name == "python" and words[:2] == ["-m", "pytest"]:
            assert all((ROOT / word).exists() for word in words if word.startswith("tests/"))
        elif name in ("python", "bash") and not words[0].startswith("-"):
            assert (ROOT / words[0]).is_file() or (ROOT / "examples" / words[0]).is_file(), words[0]
        else:
            assert name in OTHERS or words[:2] == ["-m", "pip"], (name, words)


# Python

PYTHON = [page for page in PAGES if any(block.kind in ("python", "{.python}") for block in blocks(page))]


def source(block: Block) -> tuple[str, str]:
    """The program, and its file if it is one."""
    found = SNIPPET.match(block.text.strip())
    if found is None:
        return textwrap.dedent(block.text), f"<{named(block)}>"
    file = next(place / found[1] for place in (ROOT / "docs", ROOT) if (place / found[1]).is_file())
    return file.read_text(encoding="utf-8"), str(file)


@pytest.mark.parametrize("page", PYTHON, ids=[str(page.relative_to(ROOT)) for page in PYTHON])
def test_python_runs(page, desk, monkeypatch):
    """The blocks of a page are one program, in one namespace; a whole file of its own."""
    from flowhelm.app.files.pictures import read

    monkeypatch.setattr(sys, "argv", ["restore.py", "photo.png", "restored.png"])
    photo, place = read("photo.png").pixels, str(page.relative_to(ROOT))
    space = {
        "photo": photo, "picture": photo[None], "torch": torch, "shape": tuple(photo.shape), "__name__": "__main__",
    }  # fmt: skip
    exec(BEFORE.get(place, ""), space)
    for block in blocks(page):
        if block.kind not in ("python", "{.python}"):
            continue
        text, name = source(block)
        own = {"__name__": "__main__"} if name.endswith(".py") else space
        if block.why is not None:
            ast.parse(text)
            continue
        if own is space:
            for large, small in SMALLER:
                text = text.replace(large, small)
        exec(compile(text, name, "exec"), own)
        if own is not space:
            space |= {key: value for key, value in own.items() if not key.startswith("__")}


assert os.name == "posix" or not SHELL
