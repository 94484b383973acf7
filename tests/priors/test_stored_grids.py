"""Grids beside a prior's weights: read as they were written, and anything else is one clear sentence."""

import json

import pytest
import torch

from flowhelm.app.files.atomic import sha256
from flowhelm.priors import grids
from flowhelm.priors.bundled import NAMES, weights


def candidate(*times, error=0.1):
    return {"times": [0.0, *times, 1.0], "error": error, "half": 0.01, "margin": 0.0, "margin_half": 0.0}


def found():
    two = {"best": "local", "candidates": {"uniform": candidate(0.5), "local": candidate(0.4)}}
    return {"prior": "toy", "sha256": "0" * 64, "solvers": {"euler": {"made": {"seed": 0}, "steps": {"2": two}}}}


@pytest.fixture
def toy(tmp_path):
    """Weights' path, and a function that writes what stands beside them."""

    def write(content):
        (tmp_path / "toy.grids.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return tmp_path / "toy.safetensors"

    return write


def test_the_best_is_taken(toy):
    times = grids.stored(toy(found()), 2)
    assert times.tolist() == [0.0, 0.4, 1.0]
    assert times.dtype == torch.float64
    assert grids.stored(str(toy(found())), 2, "euler:start=rk4").tolist() == [0.0, 0.4, 1.0]


def test_what_was_not_searched_says_what_was(toy, tmp_path):
    with pytest.raises(
        ValueError, match=r"\(euler 2\), got euler 3.*flowhelm grids .*toy.safetensors --solver euler --steps 3"
    ):
        grids.stored(toy(found()), 3)
    with pytest.raises(ValueError, match="got heun 2"):
        grids.stored(toy(found()), 2, "heun")
    with pytest.raises(ValueError, match="does not exist; make it with flowhelm grids"):
        grids.stored(tmp_path / "other.safetensors", 4)


def broken(change):
    content = found()
    change(content, content["solvers"]["euler"]["steps"]["2"])
    return content


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no file of grids"),
        ("[1, 2]", "no file of grids"),
        ('{"prior": "toy"}', "Field required"),
        (broken(lambda all_, two: two.update(best="other")), "the best among the candidates"),
        (broken(lambda all_, two: two["candidates"].update(local=candidate(0.4, 0.4))), "as many times|that rise"),
        (broken(lambda all_, two: two["candidates"].update(local=candidate(1.5))), "less than or equal to 1"),
        (broken(lambda all_, two: two["candidates"]["local"].update(times=[0.1, 0.4, 1.0])), "rise from 0 to 1"),
        (broken(lambda all_, two: all_["solvers"]["euler"].update(steps={"3": two})), "expected 4 times for 3 steps"),
        (broken(lambda all_, two: all_.update(more=1)), "Extra inputs"),
        (json.dumps(found()).replace("0.4", "NaN"), "finite|no file of grids"),
        ("{" + " " * 2**21 + "}", "no file of grids"),
    ],
)
def test_other_files_are_refused(toy, content, said):
    with pytest.raises(ValueError, match=said):
        grids.stored(toy(content), 2)


@pytest.mark.parametrize("name", [name for name in NAMES if grids.place(name).exists()])
def test_bundled_grids_are_of_the_bundled_weights(name):
    file = grids.read(grids.place(name))
    assert file.prior == name
    assert file.sha256 == sha256(weights(name))
    for solver, searched in file.solvers.items():
        for steps, kept in searched.steps.items():
            assert len(grids.stored(name, steps, solver)) == steps + 1
            assert {"uniform", "shifted", "local", "endpoint"} <= kept.candidates.keys()
