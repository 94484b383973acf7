"""What cards and signatures say is what a method does."""

import re
from functools import partial

import pytest
import torch

import flowhelm
from flowhelm import cards, restore, steer
from flowhelm.step import run


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
    for name in ("dps", "fk"):
        flowhelm.cite(name)
    assert [re.findall(r"arXiv:[\d.]+\d", line)[0] for line in capsys.readouterr().out.splitlines()] == [
        "arXiv:2209.14687",
        "arXiv:2501.06848",
    ]
    with pytest.raises(ValueError, match=r"name of a method, one of afdps, .*got 'dpss'"):
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
