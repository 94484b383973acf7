"""The pages of claims are what their rows say, and a row says enough."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
from toys import loaded

import flowhelm

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def claims():
    return loaded(ROOT / "scripts" / "claims.py")


def test_pages_are_what_the_rows_say(claims):
    made = claims.pages()
    assert {*made} == {ROOT / "docs" / "claims.md", *(ROOT / "docs" / "claims").glob("*.md")}
    for file, text in made.items():
        assert file.read_text(encoding="utf-8") == text, f"{file.name}: run python scripts/claims.py"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "](docs/claims.md)" in readme


def test_every_system_has_a_page_and_every_page_a_line(claims):
    known = claims.systems()
    assert len(known) >= 38
    index = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")
    assert all(f"](claims/{name}.md)" in index for name in known)
    assert index.count("\n| [") == len(known)
    assert len({system.system for system in known.values()}) == len(known)


def test_parts_are_there(claims):
    for name, system in claims.systems().items():
        for part in system.parts:
            at = flowhelm
            for word in part.split("."):
                if not hasattr(at, word):
                    importlib.import_module(f"{at.__name__}.{word}")
                at = getattr(at, word)
            assert at is not flowhelm, name


BASE = {"claim": "It is faster.", "command": "flowhelm methods", "measured": "2.1 ± 0.1 times", "why": "Here."}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"verdict": "holds"}, None),
        ({"verdict": "holds", "command": ""}, "needs a command"),
        ({"verdict": "does not reproduce", "measured": "slower"}, "a measured figure"),
        ({"verdict": "holds partly", "why": ""}, "a why"),
        ({}, "another verdict"),
        ({"verdict": "mostly"}, "Input should be"),
        ({"verdict": "holds", "claim": "two\nlines"}, "pattern"),
        ({"verdict": "holds", "speed": "2"}, "Extra inputs"),
    ],
)
def test_a_row_says_enough(claims, tmp_path, monkeypatch, change, problem):
    system = {"system": "A system", "source": "arXiv:2601.00001", "kind": "Sample", "claims": [{**BASE, **change}]}
    (tmp_path / "a.json").write_text(json.dumps(system))
    monkeypatch.setattr(claims, "ROWS", tmp_path)
    if problem is None:
        assert claims.systems()["a"].verdict == "holds"
        text = claims.page(claims.systems()["a"])
        assert "[arXiv:2601.00001](https://arxiv.org/abs/2601.00001)" in text
        assert re.search(r"```sh\nflowhelm methods\n```\n\n\*\*Measured here\.\*\* 2\.1 ± 0\.1 times", text)
        return
    with pytest.raises(SystemExit, match=rf"a\.json: .*{problem}"):
        claims.systems()
