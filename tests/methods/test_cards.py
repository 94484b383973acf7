"""Cards: every method has one, says whose it is, is short, its example runs, and what it says is what the method does."""

import copy
import dataclasses
import inspect
import re
import sys
from functools import partial
from pathlib import Path
from textwrap import dedent

import pytest
import torch

import flowhelm
from flowhelm import Step, Update, cards, distil, edit, inverse, restore, run, sample, steer, tune
from flowhelm.interfaces.cli import main

GIVEN = {"flowhelm": flowhelm, "torch": torch, "copy": copy, "dataclasses": dataclasses, "partial": partial}
"""What the examples of `tune` and `distil` use without an import, to be short."""
METHODS = (*restore.ALL, *steer.ALL)
EVERY = pytest.mark.parametrize("method", [*METHODS, *edit.ALL, *cards.TUNERS], ids=lambda method: method.__name__)
EACH = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)


def card(method):
    return inspect.cleandoc(sys.modules[method.__module__].__doc__)


@EVERY
def test_a_card_says_what_a_method_needs_and_costs(method):
    for field in ("Needs", "Cost", "Paper"):
        assert re.search(rf"^{field} ", card(method), re.MULTILINE), field


@pytest.mark.parametrize("folder", ["restore", "steer", "edit", "tune", "transition", "guide"])
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


def smaller(name, load=flowhelm.load):
    """A prior for smaller pictures, where its network takes them."""
    return load(name).sized(16, 16) if name == "fashion" else load(name)


ITSELF = {sample.bottleneck: "times(12)"}
"""Where a grid is as long as it must be; elsewhere a test runs a short one."""


@pytest.mark.parametrize(
    "method",
    [*METHODS, *edit.ALL, *sample.ALL, *inverse.ALL, *tune.ALL, *distil.ALL],
    ids=lambda method: method.__name__,
)
def test_the_example_of_a_card_runs(method, monkeypatch):
    if method not in distil.ALL:  # whose data have the size of the prior
        monkeypatch.setattr(flowhelm, "load", smaller)
    code = dedent(re.search(r"^Example\n\n((?: {4}.*\n?)+)", card(method), re.MULTILINE)[1])
    assert 3 <= len(code.splitlines()) <= 6
    assert code.count("final =") == 1
    if method not in sample.ALL or not code.count("sample.euler("):  # one card for the four of one step
        assert re.search(rf"\.{method.__name__}\b", code)
    if method in sample.ALL:
        code = code.replace("sample.euler(", f"sample.{method.__name__}(")
    code = re.sub(r"times\(\d+\)", ITSELF.get(method, "times(2)"), code)
    code = re.sub(r", y, \d+, noise\)", ", y, 2, noise)", code)  # `begin`
    told = dict(GIVEN)
    exec(code, told)
    final = told["final"]
    if isinstance(final, Update):
        assert final.index == 1
        assert final.loss.isfinite()
        if method in tune.ALL:  # the second factors have moved
            assert any(float(p.detach().abs().max()) > 0 for p in told["flow"].trained()[1::2])
        return
    assert isinstance(final, Step)
    assert final.t == 1 or method is restore.pnp_flow  # whose last step is the one before
    assert final.x.isfinite().all()


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


CITED = cards._citable()


def test_cite(capsys):
    for name, number in (("dps", "2209.14687"), ("fk", "2501.06848"), ("draft", "2309.17400"), ("rare", "2301.12334")):
        text = flowhelm.cite(name)
        assert text.startswith(f"@misc{{{number},\n")
        assert capsys.readouterr().out == text
    assert flowhelm.cite("fk").count("@misc{") == 3
    capsys.readouterr()
    assert main(["cite", "dps"]) == 0
    assert capsys.readouterr().out.startswith("@misc{2209.14687,\n")
    assert main(["cite", "dpss"]) == 2
    assert flowhelm.cite("fig").startswith("@inproceedings{fig,")
    assert flowhelm.cite("best_of").startswith("% Best of n")
    with pytest.raises(ValueError, match=r"name of a method, one of ab, adjoint_matching, .*got 'dpss'"):
        flowhelm.cite("dpss")


def test_every_paper_of_a_card_has_an_entry_and_every_entry_a_card():
    used, without = set(), set()
    for name, method in CITED.items():
        first = card(method).partition("\n")[0]
        text = f"{first} {inspect.getdoc(method)}"
        keys = set(re.findall(r"arXiv:(\d{4}\.\d{5})", text)) | ({name} & set(cards.references()))
        assert set(cards.cited(method)) == keys, name
        used |= keys
        without |= set() if keys else {name}
    assert used == set(cards.references())
    papers = (*steer.ALL, *restore.ALL, *sample.ALL, *tune.ALL, *distil.ALL)
    assert without & {method.__name__ for method in papers} == {"best_of", "rebridge"}


def part(entry, field):
    found = re.search(rf"^  {field} = \{{(.*)\}},?$", entry, re.MULTILINE)
    return found[1] if found else ""


@pytest.mark.parametrize("name", sorted(CITED))
def test_authors_and_year_are_those_of_the_card(name):
    line = card(CITED[name]).partition("\n")[0]
    for place, key in enumerate(cards.cited(CITED[name])):
        entry = cards.references()[key]
        assert bool(part(entry, "title")) != bool(part(entry, "note"))
        assert part(entry, "eprint") == (key if key[0].isdigit() else "")
        authors = [who.strip("{}") for who in part(entry, "author").split(" and ") if who]
        if place or not (key in line or key == name):  # named in passing, by its number
            continue
        before = line.partition(key)[0] if key in line else line
        assert part(entry, "year") in before
        assert not authors or authors[0] in before
        if " et al. " not in before:
            assert all(who in before for who in authors)


def test_what_is_carried_resumes(mixture):
    x, times = torch.randn(4, 2).double(), mixture.times(4)
    for method in (partial(steer.fk, particles=2, threshold=0.0, potential="max"), partial(steer.mpc_flow, horizon=2)):
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
