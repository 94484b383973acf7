"""The table of posteriors: its problems, its rows, and the figures that were measured with other code before."""

import csv
from functools import partial

import pytest
import torch

from flowhelm.bench.exact import posterior
from flowhelm.bench.exact.posterior import Variant, lattice, plane, sampled
from flowhelm.metrics import mean_error, sliced_w2, trace_ratio
from flowhelm.restore import afdps, dps, ot_ode, tds, tmpd
from flowhelm.rng import Noise
from flowhelm.transition import euler


def test_the_plane_has_the_reference_posterior():
    law = plane(0.2).posterior
    mean, covariance = law.moments()
    assert law.weights.tolist() == pytest.approx([0.6606979506, 0.3393020494], abs=1e-9)
    assert mean.tolist() == pytest.approx([0.6645863804, 0.2269710481], abs=1e-9)
    assert covariance.flatten().tolist() == pytest.approx([0.4683233864, -0.7390877617, -0.7390877617, 1.2812620798])


def test_the_lattice_has_25_modes_and_a_measurement_of_one_of_them():
    problem = lattice(3)
    assert problem.prior.means.shape == (25, 8)
    assert sorted(problem.prior.means[:, 0].unique().tolist()) == [-16, -8, 0, 8, 16]
    assert torch.equal(problem.prior.means[:, :2], problem.prior.means[:, 6:])
    assert 0 < float(problem.matrix.norm()) < 1
    rows = problem.measurement(3)
    assert rows.y.shape == (3, 1)
    z = torch.randn(3, 8).double()
    torch.testing.assert_close(rows.operator.A_adjoint(rows.operator.A(z)), z @ problem.matrix.T @ problem.matrix)
    assert not torch.equal(lattice(4).matrix, problem.matrix)


def figures(problem, got):
    reference = problem.posterior.sample(Noise(7, 4000))
    mean, covariance = problem.posterior.moments()
    w2 = sliced_w2(got.x, reference, got.weights)
    return [float(v) for v in (w2, mean_error(got.x, mean, got.weights), trace_ratio(got.x, covariance, got.weights))]


# (sliced W2, error of the mean, covariance trace ratio) of an independent implementation, 8000 samples, 100 steps.
EARLIER = {
    ("dps exact", 0.2): (0.467, 0.062, 0.30), ("dps exact", 1.0): (0.524, 0.513, 0.77),
    ("ot_ode", 0.2): (0.356, 0.384, 0.79), ("ot_ode", 1.0): (0.263, 0.243, 0.94), ("tmpd", 0.2): (0.353, 0.374, 0.79),
    ("tmpd", 1.0): (0.223, 0.220, 0.94),
}  # fmt: skip
WAYS = {
    "dps exact": partial(dps, exact=True),
    "ot_ode": partial(ot_ode, gamma="one", start=0.0, transition=euler),
    "tmpd": tmpd,
}


@pytest.mark.parametrize(("name", "std"), EARLIER)
def test_figures_agree_with_those_of_other_code(name, std):
    problem = plane(std)
    mine = figures(problem, sampled(problem, WAYS[name], Variant(), 1500, 0))
    print(f"{name}, std {std}: {mine}, earlier {EARLIER[name, std]}")
    for value, other, slack in zip(mine, EARLIER[name, std], (0.06, 0.06, 0.05), strict=True):
        assert value == pytest.approx(other, abs=slack)


@pytest.mark.parametrize("method", [afdps, tds])
def test_weighted_particles_come_nearer_than_guidance(method):
    """Groups of 64 particles, each weighted by itself."""
    problem = plane(0.2)
    got = sampled(problem, method, Variant(options={"particles": 64}, steps=100), 1000, 0)
    assert got.x.shape == (960, 2)
    assert got.weights.sum() == pytest.approx(15)
    assert (got.evaluations, got.backward) == (100, 90 if method is tds else 0)
    w2, error, trace = figures(problem, got)
    print(f"{method.__name__}: {w2:.3f}, {error:.3f}, {trace:.3f}")
    assert w2 < 0.2
    assert error < 0.15
    assert 0.85 < trace < 1.1


def test_the_command_goes_on_where_it_was(tmp_path, capsys, monkeypatch):
    def broken(flow, y, x, times):
        raise ValueError("broken: expected luck; try again")

    monkeypatch.setattr(posterior, "METHODS", {"dps": dps, "broken": broken})
    out = tmp_path / "rows.csv"
    options = {"samples": 200, "problem": ["plane, std 1"], "seed": 0, "out": out}
    posterior.main(**options)
    text, printed = out.read_text(), capsys.readouterr().out
    rows = list(csv.DictReader(text.splitlines()))
    names = ["exact samples", "exact posterior velocity", "dps, exact", "dps, norm, step 0.05", "broken"]
    assert [r["method"] for r in rows] == names
    assert rows[-1]["note"] == "broken: expected luck"
    assert "| broken | broken: expected luck |" in printed
    assert (rows[2]["evaluations"], rows[2]["backward"]) == ("100", "100")
    assert float(rows[0]["w2"]) < float(rows[2]["w2"])
    posterior.main(**options)
    assert out.read_text() == text
    kept = text.splitlines(keepends=True)
    out.write_text("".join(kept[:3] + kept[4:]))
    posterior.main(**options)
    again = list(csv.DictReader(out.open(newline="")))
    same = lambda rows: sorted((r["method"], r["w2"], r["mean"], r["trace"]) for r in rows)  # noqa: E731
    assert same(again) == same(rows)
    assert "| exact samples | " in capsys.readouterr().out


def test_several_seeds_are_a_mean_and_its_interval(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(posterior, "METHODS", {"dps": dps})
    out = tmp_path / "rows.csv"
    posterior.main(samples=100, problem=["plane, std 1"], seed=3, seeds=2, only="dps, norm", out=out)
    rows = list(csv.DictReader(out.open(newline="")))
    assert [(r["method"], r["seed"]) for r in rows] == [
        (name, seed) for seed in "34" for name in ("exact samples", "dps, norm, step 0.05")
    ]
    one, two = (float(r["w2"]) for r in rows[1::2])
    assert f"| {(one + two) / 2:.3f} ± {12.706 * abs(one - two) / 2:.3f} |" in capsys.readouterr().out


def test_a_problem_that_is_not_there_is_told():
    with pytest.raises(Exception, match="expected problems among"):
        posterior.main(samples=10, problem=["sphere"], seed=0, out=None)
