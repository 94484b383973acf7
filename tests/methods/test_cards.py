"""Cards: every method has one, says whose it is, is short, its example runs, and what it says is what the method does."""

import inspect
import re
import sys
from functools import partial
from pathlib import Path
from textwrap import dedent

import pytest
import torch

import flowhelm
from flowhelm import cards, restore, steer
from flowhelm.step import Step, run

METHODS = (*restore.ALL, *steer.ALL)
EVERY = pytest.mark.parametrize("method", [*METHODS, *cards.TUNERS], ids=lambda method: method.__name__)
EACH = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)


def card(method):
    return inspect.cleandoc(sys.modules[method.__module__].__doc__)


@EVERY
def test_a_card_says_what_a_method_needs_and_costs(method):
    for field in ("Needs", "Cost", "Paper"):
        assert re.search(rf"^{field} ", card(method), re.MULTILINE), field


@pytest.mark.parametrize("folder", ["restore", "steer", "tune", "transition", "guide"])
def test_a_file_is_read_at_one_sitting(folder):
    for file in (Path(flowhelm.__file__).parent / folder).glob("*.py"):
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 110, file.name


@EVERY
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


def named(fits, methods=cards.METHODS):
    return {method.__name__ for method in methods if fits(method)}


def test_capabilities():
    assert named(cards.takes_budget) == {"fk", "svdd", "rbf", "path_search", "best_of", "noise_search"}
    assert named(cards.pixels_only) == {"fig"}
    assert named(cards.whole_samples) == {"best_of", "noise_search"}
    follow = named(cards.needs_gradient, steer.ALL)
    assert follow == {method.__name__ for method in steer.ALL} - named(cards.takes_budget)
    for method in cards.METHODS:
        assert (cards.budget_option(method) is not None) is cards.takes_budget(method)


def test_cite(capsys):
    for name in ("dps", "fk", "draft"):
        flowhelm.cite(name)
    assert [re.findall(r"arXiv:[\d.]+\d", line)[0] for line in capsys.readouterr().out.splitlines()] == [
        "arXiv:2209.14687",
        "arXiv:2501.06848",
        "arXiv:2309.17400",
    ]
    with pytest.raises(ValueError, match=r"name of a method, one of adjoint_matching, .*got 'dpss'"):
        flowhelm.cite("dpss")


def test_what_is_carried_resumes(mixture):
    x, times = torch.randn(4, 2).double(), mixture.times(4)
    for method in (
        partial(steer.fk, particles=2, threshold=0.0, potential="max"),
        partial(steer.mpc_flow, horizon=2),
    ):
        noise = flowhelm.Noise(0, 4)
        reward = lambda image: -(image - 0.5).square().sum(1)  # noqa: E731
        whole = run(method(mixture, reward, x, times, noise=flowhelm.Noise(0, 4)))
        for step in method(mixture, reward, x, times, noise=noise):
            if step.index == 2:
                break
        more = cards.resumed(method, cards.carried(method, step.info))
        again = run(method(mixture, reward, step.x, times[2:], noise=noise, **more))
        assert torch.equal(again.x, whole.x)
        assert all(torch.equal(again.info[name], whole.info[name]) for name in whole.info if name not in SPENT)
    assert set(cards.carried(partial(restore.tds, particles=2), {"log_w": x, "ess": x})) == {"log_w"}


SPENT = ("evaluations", "rewards", "decodes")
