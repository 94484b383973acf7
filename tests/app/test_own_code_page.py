"""docs/own-code.md: its three files are short, and its commands say what the page says they say."""

import re
import shutil
from pathlib import Path

import pytest

from flowhelm.interfaces.cli import main

DOCS = Path(__file__).parents[2] / "docs"
BLOCKS = re.findall(r"^```console\n(.*?)^```", (DOCS / "own-code.md").read_text(encoding="utf-8"), re.S | re.M)
FILES = sorted((DOCS / "examples" / "own").glob("my_*.py"))


def runs(block):
    """(words, what is said) of a transcript."""
    for part in block.split("$ flowhelm ")[1:]:
        words, _, said = part.partition("\n")
        yield words, said.strip()


def plain(text, folder):
    """Without numbers, which other processors round otherwise, and the space that they take."""
    text = re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "#", text.replace(f"{folder}/", ""))
    return [" ".join(line.split()) for line in text.strip().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("own")
    for file in FILES:
        shutil.copy(file, place)
    return place


def test_the_files_are_short():
    assert [file.name for file in FILES] == ["my_method.py", "my_operator.py", "my_prior.py"]
    for file in FILES:
        assert len(file.read_text(encoding="utf-8").splitlines()) < 45, file.name
        assert f'--8<-- "examples/own/{file.name}"' in (DOCS / "own-code.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "number", [0, 1, pytest.param(2, marks=pytest.mark.slow), 3], ids=["check", "use", "measure", "run again"]
)
def test_the_transcript(number, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert len(BLOCKS) == 4
    if number > 1 and not (folder / "restored.run.json").exists():  # run alone
        for words, _ in runs(BLOCKS[1]):
            main(words.split())
        capsys.readouterr()
    for words, expected in runs(BLOCKS[number]):
        status = main(words.split())
        said = capsys.readouterr()
        refusal = "\n".join(line for line in said.err.splitlines() if line.startswith("flowhelm:"))
        assert status == (2 if expected.startswith("flowhelm:") else 0), said.err
        shown = [line for line in plain(said.out + refusal, folder) if line]
        wanted = [line for line in plain(expected, folder) if line]
        if words.startswith(("bench", "calibrate")):  # verdicts and margins are of these numbers
            shown, wanted = ([re.sub(r"[^a-z_:.]+", " ", line) for line in each][:1] for each in (shown, wanted))
        assert shown == wanted, words
