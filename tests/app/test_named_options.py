"""Functions of the library that are typed by their names."""

import inspect
from functools import partial

import pytest
import torch

from flowhelm import particles, transition
from flowhelm.app.errors import BadInput
from flowhelm.app.options.signature import bind, options, plain
from flowhelm.restore import tds
from flowhelm.steer import fk, rbf


@pytest.mark.parametrize("name", ["systematic", "stratified", "residual"])
def test_resamplers_by_name(name):
    assert bind(fk, {"resampler": name}) == {"resampler": getattr(particles, name)}
    stored = plain(fk, {"resampler": name})["resampler"]
    assert stored == name
    assert bind(fk, {"resampler": stored})["resampler"] is getattr(particles, name)
    assert plain(fk, {})["resampler"] == "systematic"


@pytest.mark.parametrize("method", [fk, tds])
def test_moments_by_name_with_options_of_their_own(method):
    assert bind(method, {"moments": "ancestral_moments"})["moments"] is transition.ancestral_moments
    chosen = bind(method, {"moments": "langevin_moments:eta=0.5"})["moments"]
    assert isinstance(chosen, partial)
    assert (chosen.func, chosen.keywords) == (transition.langevin_moments, {"eta": 0.5})


def test_diffusions_by_name_with_options_of_their_own():
    words = "langevin:diffusion=falling:level=4.5,power=4"
    assert plain(rbf, {"transition": words})["transition"] == words
    t = torch.tensor([0.0, 0.3, 0.9], dtype=torch.float64)
    for text, expected in (
        (words, 4.5 * (1 - t) ** 4),
        ("langevin:diffusion=constant,eta=0.5", torch.ones_like(t)),
        ("langevin:diffusion=hill:level=2", 2 * torch.sin(torch.pi * t) ** 2),
    ):
        chosen = bind(rbf, {"transition": text})["transition"]
        assert chosen.func is transition.langevin
        torch.testing.assert_close(chosen.keywords["diffusion"](t), expected)
    for wrong, said in (("falling:levl=1", "did you mean level"), ("fallin", "did you mean falling")):
        with pytest.raises(BadInput, match=said):
            bind(rbf, {"transition": f"langevin:diffusion={wrong}"})


def test_every_resampler_and_every_move_with_moments_has_a_name():
    found = [f for f in vars(particles).values() if inspect.isfunction(f)]
    takes = [f for f in found if list(inspect.signature(f).parameters) == ["log_w", "noise"] and f.__name__[0] != "_"]
    takes.remove(particles.categorical)  # one particle, not k
    for each in takes:
        assert bind(fk, {"resampler": each.__name__})["resampler"] is each
    for name in vars(transition):
        if name.endswith("_moments"):
            assert bind(fk, {"moments": name})["moments"] is getattr(transition, name)


def test_a_wrong_name_is_told():
    assert {"resampler", "moments", "transition", "tempering", "energy", "inner"} <= set(options(fk))
    with pytest.raises(BadInput, match="did you mean systematic"):
        bind(fk, {"resampler": "systemati"})
    with pytest.raises(BadInput, match="systematic, stratified, residual"):
        bind(fk, {"resampler": "xyz"})
