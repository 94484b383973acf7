"""Words that make a reader stop do not stand in help texts, schemas, messages and pages; what is better stands beside them."""

import ast
import re
from pathlib import Path

import pytest
import typer

from flowhelm.app.batch.request import BatchRequest, Spread
from flowhelm.app.draw.request import DrawRequest
from flowhelm.app.models.request import DoctorRequest, PlanRequest, VelocityRequest
from flowhelm.app.restore.request import RestoreRequest, Underway
from flowhelm.app.steer.request import SteerRequest
from flowhelm.app.train.request import TrainRequest
from flowhelm.bench.compare.request import BenchRequest, SearchRequest, TableRequest
from flowhelm.bench.exact.request import CalibrateRequest
from flowhelm.interfaces.cli import app
from flowhelm.interfaces.http.request import ServeRequest
from flowhelm.interfaces.ui.request import PageRequest

ROOT = Path(__file__).parents[2]
STOPS = {
    r"\btold\b": "name who says what: prints, knows, gets",
    r"\bsaid\b": "prints, writes, reports, states",
    r"\bwhat can have been\b": "kinds of damage",
    r"\bis (?:this|it|an?) [\w ]+ well\?": "check the installation",
    r"\bas sure as it may be\b": "as uncertain as it should be",
    r"\(1 fits\)": "say what to do when it does not fit",
    r"Allowed: of at": "at least, at most",
    r"\b\w+, say[.:;]": "such as",
    r"\bbegin(?:s|ning)? not from\b": "start",
    r"\bthat there be\b": "",
}
REQUESTS = (
    BatchRequest, BenchRequest, CalibrateRequest, DoctorRequest, DrawRequest, PageRequest, PlanRequest, RestoreRequest, SearchRequest,
    ServeRequest, Spread, SteerRequest, TableRequest, TrainRequest, Underway, VelocityRequest,
)  # fmt: skip


def stops(text: str) -> list[str]:
    found = [(match, better) for word, better in STOPS.items() for match in re.finditer(word, text)]
    return [f"{m[0]!r} in {text[max(0, m.start() - 60) : m.end() + 30]!r}: {better}" for m, better in found]


def commands(group, path=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_plain(name):
    command = COMMANDS[name]
    texts = [command.help or "", *(getattr(p, "help", None) or "" for p in command.params)]
    assert all(texts), f"{name}: an option or the command itself has no help"
    assert [stop for text in texts for stop in stops(text)] == []
    first = [text.split()[0] for text in texts]
    assert not {"Of", "Is", "Does", "What's"} & set(first)
    assert texts[0][0].isupper()
    assert re.match(r"[^\n]*\.(?:\s|$)", texts[0]), "the first line is a sentence"


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda model: model.__name__)
def test_fields_are_described_plainly(request_):
    for name, field in request_.model_fields.items():
        text = field.description or ""
        assert len(text.split()) > 1, f"{request_.__name__}.{name} is not described"
        assert stops(text) == []
        assert not text.startswith(("Of ", "That "))
        assert text.rstrip().endswith((".", ")", "`")), text


def prose(page: Path) -> str:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", "", text)


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda page: page.stem
)
def test_pages_are_plain(page):
    assert stops(prose(page)) == []


SPOKEN = {"Said", "Noted", "Warned", "Planned", "BadInput", "Broken", "ValueError", "bad"}


def messages() -> list[tuple[str, str]]:
    """Literal words of events and errors that a person reads."""
    found = []
    for file in sorted((ROOT / "src" / "flowhelm").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SPOKEN:
                words = [
                    n.value
                    for a in node.args
                    for n in ast.walk(a)
                    if isinstance(n, ast.Constant) and isinstance(n.value, str)
                ]
                found.append((f"{file.name}:{node.lineno}", re.sub(r"`[^`]*`", "", " ".join(words))))
    return found


def test_messages_are_plain():
    assert [f"{place}: {stop}" for place, text in messages() for stop in stops(text)] == []
