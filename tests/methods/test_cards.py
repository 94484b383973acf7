"""Cards: every method has one, says whose it is, is short, and its example runs."""

import inspect
import re
import sys
from pathlib import Path
from textwrap import dedent

import pytest

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


@pytest.mark.parametrize("method", restore.ALL, ids=lambda method: method.__name__)
def test_a_method_fits_on_two_screens(method):
    assert len(Path(inspect.getfile(inspect.unwrap(method))).read_text(encoding="utf-8").splitlines()) <= 110


@EACH
def test_help_begins_with_the_name_and_the_paper(method):
    first = inspect.getdoc(method).partition("\n")[0]
    if first == "Args:":
        pytest.skip("has no summary yet")
    assert card(method).startswith(first.removesuffix("."))
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
