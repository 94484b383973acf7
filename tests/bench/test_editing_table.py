"""The table of edits: what is obeyed at a distance, and its interval."""

import csv
import math

import pytest
import torch
import typer

from flowhelm.bench.quality import editing


def rows(*points):
    return [{"distance": str(far), "obeyed": str(share)} for far, share in points]


def test_between_two_settings_it_is_a_line():
    found = rows((0.3, 0.5), (0.1, 0.1), (0.5, 0.9))
    assert editing._at(found, 0.2) == pytest.approx(0.3)
    assert editing._at(found, 0.3) == pytest.approx(0.5)
    assert editing._at(found, 0.6) == 0.9  # it never goes so far
    assert math.isnan(editing._at(found, 0.05))  # it is always farther


def test_the_interval_is_that_of_a_share_of_all_pictures(tmp_path, capsys):
    file = tmp_path / "rows.csv"
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(("prior", "old", "new", "method", "keep", "evaluations", "obeyed", "distance", "pictures"))
        for old, new in editing.PAIRS["fashion"]:
            for far, share in ((0.1, 0.0), (0.4, 0.6)):
                writer.writerow(("fashion", old, new, "inversion", 0, 60, share, far, 16))
    editing.table(file)
    line = next(line for line in capsys.readouterr().out.splitlines() if "inversion" in line)
    half = 1.96 * (0.3 * 0.7 / 48) ** 0.5
    assert f"| 30% ± {half:.0%} |" in line


def test_a_method_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(typer.BadParameter, match="got teleport"):
        editing.measure("fashion", tmp_path / "none.npz", tmp_path, only=["inversion", "teleport"])


def test_every_price_and_guidance_is_of_a_method():
    assert {*editing.PRICE, *editing.GUIDANCE} <= set(editing.METHODS)


def test_the_error_of_an_inversion_is_a_mean_over_pictures():
    image = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    off = editing._off(image, torch.zeros(3, 1, 2, 2))
    assert off.value == pytest.approx(2)
    assert off.half == pytest.approx(4.303 / 3**0.5)
