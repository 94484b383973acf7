"""flowhelm grids: what it writes is what it measured, on noises of their own; what is wrong is said before the work."""

import json

import pytest
import torch
from toys import randomised

from flowhelm import grids as core
from flowhelm import sample
from flowhelm.app.models.grids import _nearest, interpolated, search
from flowhelm.app.models.request import GridsRequest
from flowhelm.app.run import Planned, Said, Stepped, Written, drive
from flowhelm.interfaces.cli import main
from flowhelm.priors.bundled import load, save
from flowhelm.priors.grids import read, stored
from flowhelm.priors.unet import UNet
from flowhelm.rng import Noise
from flowhelm.solve import integrate
from flowhelm.step import run
from flowhelm.transition import midpoint

_WORDS = "--steps 2,3 --fine 16 --nodes 5 --build 3 --choose 3 --report 4 --threads 1"
SMALL = _WORDS.split()


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    torch.manual_seed(0)
    net = randomised(UNet((8, 8), 1, classes=2, data_std=0.3), 0.12)
    path = tmp_path_factory.mktemp("toy") / "toy.safetensors"
    save(net, path, {"classes": ["a", "b"], "size": 8, "scale": 2.0})
    return path


def request(toy, out, **options):
    given = {"steps": "2,3", "fine": 16, "nodes": 5, "build": 3, "choose": 3, "report": 4}
    return GridsRequest(prior=str(toy), out=out, **{**given, **options})


@pytest.fixture(scope="module")
def made(toy):
    out, events = toy.with_name("toy.grids.json"), []
    return drive(search(request(toy, out)), events.append), events, out


def errors(toy, purpose, count):
    """Of a candidate on so many noises of a purpose."""
    flow = load(toy)
    x = flow.source(Noise(0, range(count)).named(purpose))
    end = run(integrate(flow, x, core.uniform(8), transition=midpoint)).x
    ends = lambda each: run(integrate(flow, x, torch.tensor(each.times, dtype=torch.float64))).x  # noqa: E731
    return lambda each: (ends(each) - end).square().flatten(1).mean(1).sqrt()


def test_errors_are_those_of_the_report_s_noises(toy, made):
    of = errors(toy, "report", 4)
    for steps, kept in made[0].solvers["euler"].steps.items():
        for each in kept.candidates.values():
            error = of(each)
            assert each.error == pytest.approx(float(error.mean()), rel=1e-3)
            assert each.half == pytest.approx(1.96 * float(error.std()) / 2, rel=1e-2)
        assert kept.candidates["uniform"].times == tuple(core.uniform(steps).tolist())
        assert kept.candidates["shifted"].margin == kept.candidates["shifted"].margin_half == 0


def test_the_best_is_the_one_of_the_choosing_noises(toy, made):
    of = errors(toy, "choose", 3)
    for kept in made[0].solvers["euler"].steps.values():
        error = {name: float(of(each).mean()) for name, each in kept.candidates.items()}
        assert error[kept.best] == pytest.approx(min(error.values()), rel=1e-4)


def test_it_says_how_far_it_is_and_what_came_of_it(toy, made):
    _, events, out = made
    planned = [e for e in events if isinstance(e, Planned)]
    steps = [e for e in events if isinstance(e, Stepped)]
    assert len(planned) == 1
    assert [e.index for e in steps] == sorted(e.index for e in steps)
    assert steps[-1].index == steps[-1].total == planned[0].total
    said = [e.text for e in events if isinstance(e, Said)]
    assert said[0].startswith("| toy, euler, steps | uniform | shifted | local | endpoint |")
    assert len(said) == 5
    again = []
    drive(search(request(toy, None, show=True)), again.append)
    assert [e.text for e in again] == said
    assert [list(e.paths) for e in events if isinstance(e, Written)] == [[out]]


def test_it_is_found_beside_the_weights(toy, made):
    result, _, _ = made
    kept = result.solvers["euler"].steps[3]
    assert stored(toy, 3).tolist() == list(kept.candidates[kept.best].times)


def test_another_solver_is_added_and_the_same_seed_gives_the_same_file(toy, made, tmp_path):
    first = made[2].read_text()
    again = tmp_path / "again.grids.json"
    drive(search(request(toy, again)))
    assert again.read_text() == first
    drive(search(request(toy, again, solver="heun", steps="2", descent=True, guided=True)))
    both = read(again)
    assert both.solvers["euler"] == read(made[2]).solvers["euler"]
    assert both.solvers["heun"].made["guidance"] == 2.0
    assert "descent" in both.solvers["heun"].steps[2].candidates
    drive(search(request(toy, again, solver="unipc", steps="3")))
    kept = read(again).solvers["unipc"].steps[3].candidates["uniform"]
    flow = load(toy)
    x = flow.source(Noise(0, range(4)).named("report"))
    end = run(integrate(flow, x, core.uniform(8), transition=midpoint)).x
    off = run(sample.unipc(flow, x, core.uniform(3))).x - end
    assert kept.error == pytest.approx(float(off.square().flatten(1).mean(1).sqrt().mean()), rel=1e-3)
    drive(search(request(toy, again, solver="unipc", steps="2")))
    assert set(read(again).solvers["unipc"].steps) == {2, 3}
    drive(search(request(toy, again, solver="unipc", steps="2", seed=1)))
    assert set(read(again).solvers["unipc"].steps) == {2}
    content = json.loads(first)
    again.write_text(json.dumps({**content, "sha256": "other weights"}))
    drive(search(request(toy, again, steps="2")))
    assert set(read(again).solvers["euler"].steps) == {2}


def test_the_command(toy, tmp_path, capsys):
    out = tmp_path / "x.grids.json"
    assert main(["grids", str(toy), *SMALL, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "| 3 |" in said.out
    assert "left" in said.err
    assert set(read(out).solvers["euler"].steps) == {2, 3}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--steps", "1,4"], "from 2 to 999"),
        (["--steps", "four"], "from 2 to 999"),
        (["--steps", "40"], "at most --fine 16"),
        (["--out", "grids.txt"], "name it 'grids.json'"),
        (["--build", "1"], "build"),
        (["--solver", "rk9"], "did you mean rk4"),
    ],
)
def test_what_is_wrong_is_said(toy, tmp_path, monkeypatch, capsys, more, said):
    monkeypatch.chdir(tmp_path)
    assert main(["grids", str(toy), *SMALL, *more]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_guided_needs_classes(tmp_path, capsys):
    torch.manual_seed(0)
    save(UNet((8, 8), 1), tmp_path / "free.safetensors", {"size": 8})
    assert main(["grids", str(tmp_path / "free.safetensors"), "--guided", "--out", str(tmp_path / "x.json")]) == 2
    assert "knows no classes" in capsys.readouterr().err


def test_interpolation_is_a_line_and_flat_outside():
    nodes, values = torch.tensor([0.2, 0.4, 1.0]).double(), torch.tensor([1.0, 3.0, 0.0]).double()
    at = torch.tensor([0.0, 0.2, 0.3, 0.7, 1.0]).double()
    assert interpolated(at, nodes, values).tolist() == pytest.approx([1.0, 1.0, 2.0, 1.5, 0.0])


@pytest.mark.parametrize("times", [[0, 0.01, 0.02, 0.03, 1], [0, 0.97, 0.98, 0.99, 1], [0, 0.3, 0.5, 0.8, 1]])
def test_nearest_indices_rise(times):
    index = _nearest(torch.tensor(times, dtype=torch.float64), 10)
    assert index[0] == 0
    assert index[-1] == 10
    assert (index.diff() > 0).all()
