"""FLAIR without its parts: a row differs from the whole where its part matters, and nowhere else."""

import json

import pytest
import torch
import typer
from typer.testing import CliRunner

from flowhelm.bench.quality import flair as bench


@pytest.fixture
def table(tmp_path):
    file = tmp_path / "velocity.json"
    t = torch.linspace(0, 1, 5)
    file.write_text(json.dumps({"t": t.tolist(), "error": (1 + t).tolist(), "weight": (1 / (1 + t)).tolist()}))
    return file


def test_a_row_exchanges_one_part(table, blobs):
    rows = bench.rows(table)
    t = torch.tensor(0.5)
    assert float(rows["FLAIR"]["weights"](t)) != float(rows["one weight"]["weights"](t)) == 1
    assert rows["fresh noise"] == rows["FLAIR"] | {"carry": 0.0}
    assert rows["one data step"] == rows["FLAIR"] | {"inner": 1}
    assert rows["weights of N(0, I)"] == {}
    clean = blobs.means[:1].view(1, 1, 8, 8).expand(3, -1, -1, -1)
    whole, one = (bench.restored(blobs, "blur", clean, 4, 5, rows[name]) for name in ("FLAIR", "one data step"))
    assert whole.shape == (3,)
    assert not torch.equal(whole, one)
    # where the operator's rows are orthogonal, one data step is the whole of them
    whole, one = (
        bench.restored(blobs, "4 x 4 averaged", clean, 4, 5, rows[name]) for name in ("FLAIR", "one data step")
    )
    torch.testing.assert_close(whole, one)
    # a picture's noise is its own: that of its number
    torch.testing.assert_close(
        bench.restored(blobs, "blur", clean[1:], 4, 6, rows["FLAIR"]),
        bench.restored(blobs, "blur", clean, 4, 5, rows["FLAIR"])[1:],
    )


def test_the_command(table, blobs, monkeypatch, tmp_path):
    import numpy as np

    np.savez(tmp_path / "set.npz", images=(255 * torch.rand(6, 8, 8)).byte().numpy())
    monkeypatch.setattr(bench, "load", lambda name: blobs)
    monkeypatch.setattr(type(blobs), "sized", lambda flow, *side: flow, raising=False)
    app = typer.Typer()
    app.command()(bench.main)
    words = [
        "blobs", "--velocity", str(table), "--data", str(tmp_path / "set.npz"), "--images", "3", "--tried", "2",
        "--steps", "2",
    ]  # fmt: skip
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if line.startswith("|")]
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {name}" for name in bench.rows(table)]
    assert lines[2].count("| - |") == 3
    assert all("±" in line for line in lines[2:])
