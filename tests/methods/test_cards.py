"""Cards: every method has one, says whose it is, is short, and its example runs."""

import inspect
import re
import sys
from pathlib import Path
from textwrap import dedent

import pytest

import flowhelm
from flowhelm import restore, steer
from flowhelm.step import Step

METHODS = (*restore.ALL, *steer.ALL)
EACH = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)


def card(method):
    return inspect.cleandoc(sys.modules[method.__module__].__doc__)


@EACH
def test_a_card_says_what_a_method_needs_and_costs(method):
    for field in ("Needs", "Cost", "Paper"):
        assert re.search(rf"^{field} ", card(method), re.MULTILINE), field


@pytest.mark.parametrize("folder", ["restore", "steer", "transition", "guide"])
def test_a_file_is_read_at_one_sitting(folder):
    for file in (Path(flowhelm.__file__).parent / folder).glob("*.py"):
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 110, file.name


@EACH
def test_help_begins_with_the_name_and_the_paper(method):
    first = inspect.getdoc(method).partition("\n")[0]
    assert card(method).startswith(first.partition(". ")[0].removesuffix("."))
    assert set(re.findall(r"arXiv:[\d.]+\d", first)) <= set(re.findall(r"arXiv:[\d.]+\d", card(method)))
    assert "\nArgs:\n" in inspect.getdoc(method)
    assert re.search(r"arXiv:\d{4}\.\d{5}|OpenReview|no arXiv number", first)


@EACH
def test_the_example_of_a_card_runs(method):
    found = re.search(r"^Example\n\n((?: {4}.*\n?)+)", card(method), re.MULTILINE)
    if not found:
        pytest.skip("has no example yet")
    code = dedent(found[1])
    assert 3 <= len(code.splitlines()) <= 6
    assert f".{method.__name__}(" in code
    told = {}
    exec(code, told)
    assert isinstance(told["final"], Step)
    assert told["final"].t == 1 or method is restore.pnp_flow  # whose last step is the one before
    assert told["final"].x.isfinite().all()
