import csv
import math
from functools import partial

import pytest
import torch
import typer
from typer.testing import CliRunner

from flowhelm.bench.exact import control
from flowhelm.bench.exact.control import Memory, best, growth, linear_quadratic, markdown, on_pictures, per_step, unseen
from flowhelm.flow import GaussianFlow
from flowhelm.grids import uniform


def test_the_optimum_is_that_of_the_reference_problem():
    double = partial(torch.tensor, dtype=torch.float64)
    flow = GaussianFlow(double([1.0, -0.5]), double([[0.8, 0.3], [0.3, 0.5]]))
    start, matrix, y = double([[0.5, -1.2]]), double([[1.0, 0.5]]), double([[0.8]])
    value = best(flow, start, uniform(100), matrix, y, 25.0)
    assert value.item() == pytest.approx(0.0206358260, abs=1e-10)


@pytest.fixture(scope="module")
def rows():
    names = ["OC-Flow", "MPC-Flow K=1", "MPC-Flow K=3", "MPC-Flow K=3, N=10", "MPC-Flow dt", "FlowGrad", "D-Flow"]
    return {r.method: r for r in linear_quadratic(names=names)}


def test_three_planned_steps_are_within_a_hundredth_of_optimal_control(rows):
    print(markdown(list(rows.values())))
    assert rows["OC-Flow"].ratio == pytest.approx(1, abs=1e-9)
    assert rows["MPC-Flow K=1"].ratio == pytest.approx(1.0585, abs=1e-4)
    assert rows["MPC-Flow K=3"].ratio == pytest.approx(1.0012, abs=1e-4)
    assert rows["MPC-Flow K=3, N=10"].ratio < 1.01
    # a tenth of the evaluations and of the backward passes, on a grid of a tenth of the steps
    cost = {name: r.evaluations + 2 * r.backward for name, r in rows.items()}
    assert cost["MPC-Flow K=3, N=10"] < 0.1 * cost["OC-Flow"]
    assert rows["MPC-Flow K=1"].evaluations == 100
    assert rows["MPC-Flow K=1"].backward == 0


def test_an_objective_is_energy_plus_misfit(rows):
    for row in rows.values():
        # one measured number: misfit = (residual std)^2 / 2
        expected = row.energy + control.STRENGTH * (0.2 * row.residual) ** 2 / 2
        assert row.objective == pytest.approx(expected, rel=1e-9, nan_ok=True)
        assert math.isnan(row.objective) is (row.method == "D-Flow")


def test_memory_counts_storages_once_while_they_live():
    x = torch.zeros(100)
    with Memory() as memory:
        a = x + 1
        view = a[:50].view(5, 10)
        view += 1
        x.mul_(2)
        assert (memory.now, memory.peak) == (400, 400)
        b = torch.cat([a, a])
        assert (memory.now, memory.peak) == (1200, 1200)
        del a, view
        assert (memory.now, memory.peak) == (800, 1200)
        b = b.double()
        assert (memory.now, memory.peak) == (1600, 2400)
    assert len(b) == 200


def test_memory_grows_by_states_not_by_activations():
    counts = (4, 8, 12)
    slopes = {name: per_step(curve, counts) for name, curve in growth(counts, side=16).items()}
    print({name: round(s, 2) for name, s in slopes.items()}, "states per step for", counts)
    assert slopes["path, checkpointed"] == pytest.approx(1, rel=0.02)
    assert slopes["D-Flow"] == pytest.approx(1, rel=0.02)
    # input of each of three convolutions (1 + 16 + 16) and of the two others (16 + 16)
    assert slopes["path, everything kept"] == pytest.approx(65, rel=0.02)
    # controls, trial and their gradients, and what joins them
    assert slopes["OC-Flow"] < 10
    assert slopes["FlowGrad"] < 10


def test_pictures(blobs):
    clean = blobs.means[:1].view(1, 1, 8, 8).expand(2, -1, -1, -1)
    names = ["OC-Flow", "MPC-Flow K=1", "MPC-Flow K=3", "FlowGrad"]
    rows = {r.method: r for r in on_pictures(blobs, clean, 6, 0, names)}
    assert list(rows) == names
    assert rows["OC-Flow"].ratio == 1
    assert rows["OC-Flow"].time == 1
    assert rows["MPC-Flow K=1"].ratio == pytest.approx(
        rows["MPC-Flow K=1"].objective / rows["OC-Flow"].objective, rel=1e-12
    )
    assert rows["MPC-Flow K=1"].peak < rows["OC-Flow"].peak
    for row in rows.values():
        assert row.residual < 3
        assert row.psnr > 10


def test_fresh_noise_fills_what_one_planned_step_leaves(blobs):
    clean = blobs.means[:1].view(1, 1, 8, 8).expand(2, -1, -1, -1)
    rows = list(unseen(blobs, clean, 10, 0))
    assert len(rows) == 9
    for problem in dict.fromkeys(r.problem for r in rows):
        plain, _, fresh = (r for r in rows if r.problem == problem)
        assert plain.method.endswith("renoise 0")
        assert fresh.psnr > plain.psnr


def test_the_command(monkeypatch, tmp_path, blobs):
    monkeypatch.setattr(control, "load", lambda name: blobs)
    monkeypatch.setattr(control, "linear_quadratic", lambda *args: iter(()))
    app = typer.Typer()
    app.command()(control.main)
    out = tmp_path / "control.csv"
    names = ("OC-Flow", "MPC-Flow K=1", *(f"MPC-Flow K=1, renoise {a}" for a in ("0", "0.5", "1")))
    chosen = [word for name in names for word in ("--only", name)]
    result = CliRunner().invoke(app, ["--images", "1", "--steps", "4", "--seeds", "2", *chosen, "--csv", str(out)])
    assert result.exit_code == 0, result.output
    with out.open(newline="") as f:
        rows = list(csv.DictReader(f))
    assert [r["method"] for r in rows][:2] == ["OC-Flow", "MPC-Flow K=1"]
    assert len(rows) == 2 * (2 + 9)
    assert result.output.count("| method |") == 4
    assert "| MPC-Flow K=1, renoise 1 | 50 |" in result.output
    assert not list(tmp_path.glob("*.part"))
