"""What the tables of FlowTurbo's parts, of styles on students and of FreeFlow's ablations count."""

import csv

import pytest
import torch

from flowhelm import Noise
from flowhelm.bench.exact import distilled
from flowhelm.bench.quality import students, styled, turbo


@pytest.mark.parametrize("steps", range(3, 11))
def test_a_schedule_costs_what_the_solver_asks_for(steps):
    light = round(steps / 4)
    heavy, refined = turbo.calls((1, steps - 1 - light, light))
    assert f"{2 * heavy} + {refined} light" == students._turbo(steps)
    assert turbo.calls((steps, 0, 0)) == (2 * steps, 0)


def test_each_part_saves_what_is_cheaper_with_it(tmp_path, capsys):
    """H4 is met by H1P4 and, more cheaply, by H1P2R2; H1P1R3 is cheaper still, and worse; compiling takes another tenth off."""
    rows = [
        {"schedule": name, "heavy": heavy, "light": light, "seed": seed, "frechet": f"{worse + seed}", "distance": "0.1",
         "seconds": "" if seed else seconds, "compiled": "" if seed else 0.9 * seconds}
        for name, heavy, light, worse, seconds in (
            ("H4", 8, 0, 1.0, 0.1), ("H1P4", 7, 0, 0.9, 0.08), ("H1P2R2", 5, 4, 0.95, 0.05), ("H1P1R3", 4, 6, 1.1, 0.04),
        )
        for seed in (0, 1)
    ]  # fmt: skip
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    turbo.table(tmp_path / "a.csv", by="frechet")
    said = capsys.readouterr().out
    assert "| H4 | H4, 100.0 ms | H1P4, 80.0 ms | H1P2R2, 50.0 ms | 45.0 ms | 55% |" in said


def test_outlines_are_of_what_changes():
    picture = torch.zeros(1, 1, 9, 9, dtype=torch.uint8)
    picture[..., 2:7, 2:7] = 200
    found = styled.outlines(picture)[0, 0]
    assert found[4, 4] == 0
    assert found[0, 0] == 0
    assert (found == 200).sum() == 49 - 9  # seven by seven pixels, without the three by three that see the inside alone


def test_what_is_kept_of_a_style_is_its_projection():
    torch.manual_seed(0)
    a, b, change = (torch.randn(4, 9) for _ in range(3))
    assert styled.kept(a, a + change, b, b + change) == pytest.approx(1, abs=1e-6)
    assert styled.kept(a, a - 0.5 * change, b, b + change) == pytest.approx(-0.5, abs=1e-6)
    assert styled.kept(a, a, b, b + change) == 0


def test_a_lost_mode_shows():
    law = distilled.law()
    samples = law.sample(Noise(0, 20_000))
    assert distilled.least(samples, law) == pytest.approx(0.989, abs=0.05)  # 1 - exp(-9/2) of a round normal law
    assert distilled.least(samples[(samples - law.means[0]).norm(dim=1) > 1], law) == 0
