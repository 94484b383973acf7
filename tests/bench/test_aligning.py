"""The frontier of fine-tuning: its arithmetic, and its command on the smallest run of `aerial`."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from flowhelm.app.show.sheet import sheet, top
from flowhelm.bench.quality import aligning
from flowhelm.rewards.classifier import Classifier

SMALLEST = {"rows": 2, "checked": 3, "every": 20, "most": 1, "steps": 2, "draws": (1, 2), "numbers": {"detail": 0.04}}


def test_a_reward_is_read_where_the_distance_is_reached():
    rows = [{"frechet": f, "value": v} for f, v in ((0.0, 1.0), (0.36, 4.0), (0.25, 5.0), (2.25, 7.0))]
    assert aligning.at_distance(rows, 0.09) == pytest.approx(2.5)  # half of the distance, a quarter of its square
    assert aligning.at_distance(rows, 1.0) == pytest.approx(6.0)  # between the last two
    assert math.isnan(aligning.at_distance(rows, 3.0))
    assert aligning.best_within(rows, 1.0) == pytest.approx(6.0)  # the crossing counts
    assert aligning.best_within(rows, 0.3) == pytest.approx(5.0)
    # a shift of a law: its reward grows as the shift does, its squared distance as the square, and what is read is exact
    shifted = [{"frechet": d**2, "value": 3 * d} for d in (0.0, 0.7, 2.0)]
    assert aligning.at_distance(shifted, 1.21) == pytest.approx(3.3)


@pytest.mark.parametrize("side", [28, 64])
def test_a_sheet_is_read_back(tmp_path, side):
    pictures = torch.randint(256, (5, 3, side, side), generator=torch.Generator().manual_seed(0)) / 127.5 - 1
    sheet([("", pictures)], columns=4).save(tmp_path / "a.png")
    torch.testing.assert_close(top(tmp_path / "a.png", side), pictures[:4])


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two methods on `aerial`, one update each, with a classifier that knows nothing."""
    monkeypatch.setitem(aligning.FRONTIERS, "aerial", aligning.FRONTIERS["aerial"]._replace(**SMALLEST))
    monkeypatch.setattr(aligning, "whole", lambda *given: {})
    monkeypatch.setattr(aligning, "classifier", lambda *given: None)
    net, out = Classifier(3, 7, (4,)), tmp_path / "runs"
    (out / "work" / "0").mkdir(parents=True)
    weights = {name: each.contiguous() for name, each in net.state_dict().items()}
    save_file(weights, out / "work" / "0" / "aerial_classifier.safetensors", {"about": json.dumps(net.about)})
    (tmp_path / "found" / "brightness").mkdir(parents=True)
    settings = {"draft": {"rate": 1e-3}, "refl": {"rate": 2e-3}}
    (tmp_path / "found" / "brightness" / "settings.json").write_text(json.dumps(settings))
    return out


def test_the_frontier_of_aerial_at_the_smallest_size(runs, tmp_path):
    call = [
        "run", "--prior", "aerial", "--data", "none.zip", "--out", str(runs), "--settings", str(tmp_path / "found"), "--seeds", "1",
        "--budget", "1", "--only", "brightness", "--method", "draft", "--method", "refl",
    ]  # fmt: skip
    said = lambda *words: CliRunner().invoke(aligning.app, list(map(str, words)), catch_exceptions=False)  # noqa: E731
    assert said(*call).exit_code == 0
    told = json.loads((runs / "brightness" / "refl" / "0" / "run.json").read_text())["settings"]
    assert (told["numbers"], told["classes"], told["rate"]) == ({"detail": 0.04}, ["forest"], 2e-3)
    assert told["held_out"][1] == "colourfulness"

    before = (runs / "brightness" / "draft" / "0" / "checks.csv").read_bytes()
    assert said(*call).exit_code == 0  # all of it is there
    assert (runs / "brightness" / "draft" / "0" / "checks.csv").read_bytes() == before

    file = runs / "brightness" / "settings.json"  # a method that has its settings, and no run yet, is passed over
    file.write_text(json.dumps(json.loads(file.read_text()) | {"vgg_pmp": {"rate": 1e-3}}))
    assert said("csv", runs, "--out", tmp_path / "a.csv").exit_code == 0
    by = aligning.read(tmp_path / "a.csv")
    assert [method for _, method in by] == ["draft", "refl", "best_of", "fk", aligning.AGAIN]
    first = by["brightness", "draft"][0][0]
    assert float(first["frechet"]) == pytest.approx(0, abs=1e-9)
    assert float(first["diversity"]) == 1
    one, two = by["brightness", "best_of"][0]
    # the best of one is the prior's own picture, and more of them are never worse
    assert float(one["value"]) == pytest.approx(float(first["value"]), abs=1e-6)
    assert float(one["frechet"]) == pytest.approx(0, abs=1e-9)
    assert float(two["value"]) >= float(one["value"])
    assert float(by["brightness", aligning.AGAIN][0][0]["frechet"]) > 0.01
    gained = aligning.gains(by, "brightness")
    assert aligning.AGAIN not in gained
    assert all(float(run[0][name]) == 0 for runs in gained.values() for run in runs for name in aligning.SCORES)

    table = said("table", tmp_path / "a.csv").output
    assert "| colourfulness | diversity | dark | edges | saturation |" in table
    assert "From other noise they are at a distance of" in table
    for words in (("plot", tmp_path / "a.csv"), ("plot", tmp_path / "a.csv", "--over", "evaluations"), ("sheet", runs)):
        assert said(*words, "--out", tmp_path / "a.png").exit_code == 0
    assert top(tmp_path / "a.png", 64).shape[1:] == (3, 64, 64)


def test_what_is_not_there_is_refused(runs, tmp_path):
    for words, why in (
        (("--prior", "animals"), "expected fashion, aerial"),
        (("--method", "ddpo"), "expected vgg_flow"),
        (("--prior", "aerial", "--only", "brightness", "--settings", str(tmp_path)), "there are no settings of vgg_flow"),
    ):  # fmt: skip
        found = CliRunner().invoke(aligning.app, ["run", "--data", "a.zip", "--out", str(runs), *words])
        assert found.exit_code == 2
        assert why in " ".join(found.output.replace("│", " ").split())
