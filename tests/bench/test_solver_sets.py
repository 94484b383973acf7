"""Sets of pictures by solver: resumed by rows, the same whatever the batch, margins by pairs of seeds."""

import csv
import json

import pytest
import torch

from flowhelm.bench.quality import solver_sets
from flowhelm.bench.quality.solver_rows import RIVAL, steps_for
from flowhelm.bench.quality.solver_sets import drawn, pictures, sets, show_sets


def test_evaluations_are_steps_of_one_or_two():
    assert [steps_for(w, 8) for w in ("unipc", "pseudo", "midpoint", "heun")] == [8, 7, 4, None]
    assert steps_for("heun", 15) == 8


def test_pictures_do_not_depend_on_the_batch():
    whole, apart = (drawn("fashion", "unipc", 2, 3, 1, batch) for batch in (3, 2))
    assert whole.dtype == torch.uint8
    assert (whole.int() - apart.int()).abs().max() <= 1
    assert not torch.equal(whole, drawn("fashion", "unipc", 2, 3, 2, 3))


def test_what_is_in_the_file_is_not_measured_again(tmp_path, monkeypatch):
    asked = []

    def made(name, words, steps, count, seed, batch):
        asked.append((words, steps, seed))
        return torch.zeros(count, 1, 2, 2, dtype=torch.uint8)

    monkeypatch.setattr(solver_sets, "drawn", made)
    monkeypatch.setattr(
        solver_sets, "judge", lambda *given: lambda x: {"frechet": "1.0", "reference": "", "accuracy": ""}
    )
    out = tmp_path / "sets.csv"
    given = {"data": tmp_path, "pictures": 4, "seeds": 2, "solvers": f"euler;midpoint;{RIVAL}", "out": out}
    sets("fashion", counts="1,2", batch=2, **given)
    wanted = [(w, n // 2 if w == "midpoint" else n) for n in (1, 2) for w in ("euler", "midpoint", RIVAL)]
    assert asked == [(w, n, seed) for seed in (1, 2) for w, n in wanted if n]
    sets("fashion", counts="1,2,3", batch=4, **given)
    assert asked[10:] == [(w, 3, seed) for seed in (1, 2) for w in ("euler", RIVAL)]
    assert len(list(csv.DictReader(out.open(newline="")))) == len(asked)


def test_margins_are_of_pairs(tmp_path, capsys):
    """Seeds in another order, and a spread that the pairs do not have."""
    kept = {"prior": "fashion", "pictures": "9", "reference": "0.5"}
    found = {RIVAL: {"1": 1.0, "2": 3.0, "3": 5.0}, "unipc": {"3": 4.0, "1": 0.5, "2": 2.25}}
    rows = [
        kept | {"seed": s, "solver": w, "evaluations": "8", "frechet": str(v), "accuracy": "0.75"}
        for w, of in found.items()
        for s, v in of.items()
    ]
    with (tmp_path / "sets.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    show_sets([tmp_path / "sets.csv"])
    said = capsys.readouterr().out
    assert "3 x 9 pictures; real ones: 0.5" in said
    half = 4.303 * 2 / 3**0.5
    assert f"| {RIVAL} | 3.000 ± {half:.3f} |" in said
    assert f"| unipc | 2.250 ± {4.303 * 1.75 / 3**0.5:.3f} (-0.750 ± {4.303 * 0.25 / 3**0.5:.3f}) |" in said
    assert "| unipc | 0.750 ± 0.000 (+0.000 ± 0.000) |" in said


def test_the_best_pictures_go_into_the_table_of_auto(tmp_path):
    """At few evaluations only; a solver that lacks a seed is left out, and what the table has of nearness stays."""
    cells = {("ab", "4"): (2.0, 4.0), ("midpoint", "4"): (2.5, 2.5), ("unipc", "4"): (1.0,), ("ab", "8"): (1.0, 1.0)}
    with (tmp_path / "sets.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("prior", "seed", "solver", "evaluations", "frechet"))
        writer.writerows((p, i, *key, v) for p in ("a", "b") for key, of in cells.items() for i, v in enumerate(of))
    near = {"solver": "dpm", "grid": "own", "error": 0.1}
    (tmp_path / "auto.json").write_text(json.dumps({"b": {"4": near, "8": near}}))
    pictures([tmp_path / "sets.csv"], out=tmp_path / "auto.json", upto=4)
    best = {"solver": "midpoint", "grid": "own", "frechet": 2.5}
    assert json.loads((tmp_path / "auto.json").read_text()) == {
        "a": {"4": {"pictures": best}},
        "b": {"4": near | {"pictures": best}, "8": near},
    }


def test_a_folder_for_the_classifier_is_asked_for(tmp_path):
    with pytest.raises(Exception, match="give --work"):
        solver_sets.judge("fashion", tmp_path, None, None, 4)
