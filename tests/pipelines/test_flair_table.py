"""FLAIR's table on a tiny pipeline: its tasks at a small size, its grid, its weights."""

import pytest
import torch

from flowhelm import velocity_error
from flowhelm.bench.compare import rows
from flowhelm.bench.papers import command, flair
from flowhelm.interfaces.cli import main


def test_it_runs_from_end_to_end(folder, tmp_path, monkeypatch, capsys):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    (tmp_path / "faces").mkdir()
    Image.effect_noise((40, 36), 80).convert("RGB").save(tmp_path / "faces" / "a.png")
    words = ["--data", "faces", "--images", "1", "--crop", "34", "--size", "32", "--steps", "3", "--threads", "1"]
    words += ["--task", "superres x8", "--task", "box"]
    assert main(["protocol", "flair", "--prior", folder("sd3"), *words]) == 0, capsys.readouterr().err
    made = rows.read(tmp_path / "protocol.csv")
    assert [(row["task"], row["steps"], row["error"]) for row in made] == [("superres x8", 3, ""), ("box", 3, "")]
    assert "sd3.5-medium" in made[0]["options"]
    out = capsys.readouterr()
    assert "29.54" in out.out
    assert "of 768 x 768 pixels in the paper, and of 32 x 32 here" in out.err + out.out


def test_its_grid_and_its_weights():
    """50 noise levels from 1 to 0.18; weights that are low at both ends and highest where the error is least."""
    from flowhelm import GaussianFlow

    flow = command.Timed(GaussianFlow(torch.zeros(4), torch.eye(4)))
    times = flow.times(50)
    assert len(times) == 51
    assert float(times[0]) == 0
    assert float(times[-2]) == pytest.approx(0.82)
    assert float(times[-1]) == 1
    weights = command.weights()
    at = {t: float(weights(torch.tensor(t, dtype=torch.float64))) for t in (0.0, 0.225, 0.5, 0.81)}
    assert max(at, key=at.get) == 0.225
    # the paper's lambda = 0.5 of it: .26 at the noise end, .73 at the peak, .30 at a noise level of .19
    assert [0.5 * at[t] for t in (0.0, 0.225, 0.81)] == pytest.approx([0.26, 0.73, 0.30], abs=0.02)
    times, errors = torch.tensor(flair.ERRORS, dtype=torch.float64).T
    grid = torch.linspace(0, 1, 100, dtype=torch.float64)
    exact = velocity_error.reciprocal(torch.stack([velocity_error.table(times, errors)(t) for t in grid]))
    assert float(exact.mean()) == pytest.approx(1)
