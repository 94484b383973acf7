"""The figures of the table of students."""

import csv
import math

import pytest
import torch
from torch import nn

from flowhelm import GaussianFlow, NetFlow, run, sample
from flowhelm.bench.intervals import bootstrap, correlation, interval
from flowhelm.bench.quality import students
from flowhelm.guide import counted


@pytest.mark.parametrize("steps", range(1, 9))
def test_the_cost_of_flow_turbo_is_what_it_asks_for(steps):
    flow = counted(GaussianFlow(torch.zeros(2).double(), torch.eye(2).double()))
    asked = []

    class Light(nn.Module):
        def forward(self, x, t):
            asked.append(len(x))
            return torch.zeros_like(x[:, :2])

    refiner = NetFlow(Light(), (4,))
    times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    run(sample.flow_turbo(flow, torch.randn(1, 2).double(), times, refiner=refiner))
    assert students._turbo(steps) == f"{2 * flow.count.calls} + {len(asked)} light"


def test_diversity_is_a_distance_within_classes():
    pictures = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    pictures[1] += 51
    pictures[3, :, 0] += 51
    labels = torch.tensor([0, 0, 7, 7])
    assert students.varied(pictures, labels) == pytest.approx(0.4 * (1 + math.sqrt(0.5)) / 2)


def test_intervals_are_students():
    assert interval([1.0, 3.0]).shown(2) == f"2.00 ± {12.706 * math.sqrt(2) / math.sqrt(2):.2f}"
    assert interval([1.0]).shown(2) == "1.00"
    assert interval([]).shown(2) == "-"


def test_the_table_counts_the_guidance(tmp_path, capsys):
    rows = [
        {"prior": "fashion", "method": method, "calls": calls, "samples": "4", "seed": seed, "training": "0", "budget": "1",
         "frechet": value, "reference": "0.1", "accuracy": "0.5", "diversity": "1", "seconds": "0.25"}
        for method, calls, seed, value in (("Euler, guided", "50", "0", "1"), ("Euler, guided", "50", "1", "2"), ("reflow", "2", "0", "3"))
    ]  # fmt: skip
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    students.table(tmp_path / "a.csv")
    said = capsys.readouterr().out
    assert "| Euler, guided | 100 | 1.500 ± 6.353 |" in said
    assert "| reflow | 2 | 3.000 |" in said
    assert "| 250.0 |" in said


def test_the_interval_of_a_correlation_is_fishers():
    """Two figures of a table; and of normal pairs it holds the truth as often as it says."""
    low, high = correlation(0.5, 28)
    assert (round(low, 3), round(high, 3)) == (0.156, 0.736)
    assert correlation(1.0, 30)[1] == pytest.approx(1)
    assert correlation(0.9, 3) == (-1, 1)
    draw, held, rho = torch.Generator().manual_seed(0), 0, 0.8
    for _ in range(400):
        a, b = torch.randn(2, 50, generator=draw)
        low, high = correlation(float(torch.corrcoef(torch.stack([a, rho * a + 0.6 * b]))[0, 1]), 50)
        held += low < rho < high
    assert 0.92 < held / 400 < 0.98


def test_the_bootstrap_of_a_mean_is_its_interval():
    values = torch.randn(200, generator=torch.Generator().manual_seed(0)).tolist()
    low, high = bootstrap(lambda rows: sum(values[i] for i in rows) / len(rows), len(values))
    mean, half = interval(values)
    assert ((high + low) / 2, (high - low) / 2) == (pytest.approx(mean, abs=0.15 * half), pytest.approx(half, rel=0.1))
    assert bootstrap(lambda rows: 3.0, 5) == (3.0, 3.0)


def test_intervals_are_over_trainings_where_there_are_several():
    rows = [{"training": training, "frechet": value} for training, value in (("0", "1"), ("0", "3"), ("1", "4"))]
    assert students._values(rows, "frechet") == [2.0, 4.0]
    assert students._values(rows[:2], "frechet") == [1.0, 3.0]
