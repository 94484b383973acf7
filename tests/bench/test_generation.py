import csv

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from toys import seeded

from flowhelm.bench.intervals import interval
from flowhelm.bench.quality import classifier as clothes
from flowhelm.bench.quality import generation
from flowhelm.bench.quality.generation import (
    Judge,
    Table,
    Way,
    chosen,
    drawn,
    evaluate,
    markdown,
    nearest,
    over_seeds,
    read,
)
from flowhelm.metrics import frechet_features
from flowhelm.priors.bundled import Prior
from flowhelm.priors.unet import UNet
from flowhelm.rewards.classifier import FEATURES, scaled

COLUMNS = (
    "network_rows", "samples", "accuracy", "to_train", "reference", "pixel_near", "pixel_near_test", "feature_near",
    "feature_near_test", "pixel_nearer", "feature_nearer", "memorised",
)  # fmt: skip
NAMES = ["left", "right", "top"]


def templates():
    """One bright bar for each class: `(3, 1, 16, 16)` uint8. The mirror image of the first is not the second."""
    x = torch.full((3, 1, 16, 16), 20, dtype=torch.uint8)
    x[0, :, 2:12, 2:5], x[1, :, 6:16, 8:14], x[2, :, 1:3] = 220, 220, 220
    return x


def pictures(count, seed):
    labels = torch.arange(count) % 3
    noise = torch.randn(count, 1, 16, 16, generator=seeded(seed)) * 12
    return (templates()[labels] + noise).clamp(0, 255).round().byte(), labels


class Exact(nn.Module):
    """The exact velocity to one template per class, and to their mean for the null label 3."""

    def forward(self, x, t, labels):
        clean = torch.cat([scaled(templates()), scaled(templates()).mean(0, keepdim=True)])[labels]
        return (clean - x) / (1 - t.view(-1, 1, 1, 1)).clamp(min=1e-6)


def prior(net=None):
    null = (torch.tensor([3]),)
    return Prior(net or Exact(), (1, 16, 16), null=null, name="exact", about={"classes": NAMES, "steps": 7})


@pytest.fixture(scope="module")
def parts():
    return {"train": pictures(300, 1), "test": pictures(90, 2)}


@pytest.fixture(scope="module")
def net(parts, tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    before = clothes.TRAININGS["fashion"]
    clothes.TRAININGS["fashion"] = clothes.Training((8, 16), 6, 0)
    try:
        made = clothes.classifier("fashion", parts, work)
    finally:
        clothes.TRAININGS["fashion"] = before
    again = clothes.classifier("fashion", parts, work)  # from the file, whose widths are its own
    x = scaled(parts["test"][0])
    assert torch.equal(again(x), made(x))
    assert again.accuracy == made.accuracy
    return made


def test_the_classifier_learns_and_its_features_are_what_the_head_sees(net, parts):
    x = scaled(parts["test"][0])
    features, seen = net.judge(parts["test"][0], batch=7)
    assert net.accuracy == 1.0 == float((seen == parts["test"][1]).double().mean())
    assert features.shape == (90, FEATURES)
    assert torch.allclose(net.head(features), net(x), atol=1e-5)


def test_augmented_pictures_are_moved_mirrored_or_turned():
    x = torch.randn(40, 2, 6, 6, generator=seeded(3))
    same = clothes.augmented(x, 0, False, seeded())
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(same, x, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(same, x, strict=True)]
    assert all(m != k for m, k in zip(mirrored, kept, strict=True))
    assert 8 < sum(mirrored) < 32
    turned = clothes.augmented(x, 0, True, seeded())
    eight = [[torch.rot90(b, k, (1, 2)) for k in range(4)] for b in (*x, *x.flip(-1))]
    found = {
        next(j + 4 * (i >= 40) for i in (row, row + 40) for j in range(4) if torch.equal(turned[row], eight[i][j]))
        for row in range(40)
    }
    assert found == set(range(8))
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="ij")
    place = torch.stack([rows, columns]).expand(300, -1, -1, -1)
    moved = clothes.augmented(place, 1, False, seeded())[:, :, 2, 2]
    # up to one row and column around (2, 2) and, mirrored, around (2, 3)
    assert {tuple(r) for r in moved.tolist()} == {(y, x) for y in (1, 2, 3) for x in (1, 2, 3, 4)}


def test_nearest_is_the_nearest():
    rows, store = torch.randn(9, 2, 3, 4, generator=seeded(4)), torch.randn(57, 2, 3, 4, generator=seeded(5))
    flip = lambda x: x.flip(-1)  # noqa: E731
    plain = torch.cdist(rows.flatten(1), store.flatten(1)) / 24**0.5
    both = torch.minimum(plain, torch.cdist(flip(rows).flatten(1), store.flatten(1)) / 24**0.5)
    for expected, mirrored in ((plain, None), (both, flip)):
        distance, index = nearest(rows, store, mirrored, chunk=10)
        assert torch.allclose(distance, expected.topk(2, largest=False)[0], atol=1e-5)
        assert torch.equal(index, expected.argmin(1))


def test_uint8_pictures_are_compared_on_their_scale():
    rows = torch.full((1, 1, 2, 2), 10, dtype=torch.uint8)
    store = torch.tensor([0, 15, 60], dtype=torch.uint8).view(3, 1, 1, 1).expand(-1, 1, 2, 2)
    distance, index = nearest(rows, store)
    assert distance[0].tolist() == pytest.approx([5 / 127.5, 10 / 127.5], abs=1e-5)
    assert index.tolist() == [1]


def test_the_judge_knows_copies_fresh_pictures_and_wrong_labels(net, parts):
    judge = Judge(net, parts, looked=90, seed=0)
    fresh = judge(*parts["test"], NAMES)
    assert (fresh["accuracy"], fresh["to_test"]) == ("1.0000", "0.0000")
    assert fresh["pixel_near"] == fresh["pixel_near_test"]
    assert float(fresh["pixel_nearer"]) == float(fresh["feature_nearer"]) == pytest.approx(1 / 90, abs=1e-4)
    assert float(fresh["memorised"]) == 0
    expected = frechet_features(judge.features["test"], judge.features["train"])
    assert float(fresh["to_train"]) == pytest.approx(float(expected), abs=1e-4)
    copies = parts["train"][0][:60].flip(-1)  # mirrored: to the classifier something else, to the neighbours a copy
    copied = judge(copies, parts["train"][1][:60], NAMES)
    assert float(copied["memorised"]) == float(copied["pixel_nearer"]) == 1
    assert float(copied["pixel_near"]) < 0.01
    wrong = parts["test"][1].clone()
    wrong[(wrong == 1).nonzero()[:3]] = 2
    said = judge(parts["test"][0], wrong, NAMES)
    assert said["accuracy"] == f"{87 / 90:.4f}"
    assert said["worst"] == f"top {30 / 33:.3f}"
    share = judge.features["train"][judge.order["train"][:40]]
    assert judge.reference(40) == pytest.approx(float(frechet_features(share, judge.features["test"])))
    assert judge.reference(40) > judge.reference(300)  # fewer pictures, a larger distance


@pytest.mark.parametrize(("solver", "calls"), [("euler", 4), ("midpoint", 8), ("heun", 7)])
@pytest.mark.parametrize(("guidance", "numbers"), [("none", ()), ("cfg", (1.0,)), ("raag", (1.0, 8.0))])
def test_samples_are_what_was_told_whatever_the_batch(solver, calls, guidance, numbers):
    way = Way(guidance, numbers, 4, solver)
    whole, counted = drawn(prior(), way, range(7), 0)
    assert counted == calls
    if solver == "euler":  # its last step is exact for a point
        assert torch.equal(whole, templates()[torch.arange(7) % 3])
    normal = prior(
        UNet((8, 16), channels=1, classes=3)
    )  # a fresh one: the flow of a normal law, so every sample differs
    whole = drawn(normal, way, range(7), 0)[0]
    parted = torch.cat([drawn(normal, way, range(*of), 0)[0] for of in ((0, 2), (2, 7))])
    assert (whole.int() - parted.int()).abs().max() <= 1
    assert min(float((whole[i].int() - whole[j].int()).abs().float().mean()) for i in range(7) for j in range(i)) > 10


def test_guidance_overshoots_as_it_should():
    """For points, constant guidance s ends at mean + s (template - mean), clamped."""
    x = scaled(templates())
    expected = x.mean(0) + 1.25 * (x - x.mean(0))
    got = scaled(drawn(prior(), Way("cfg", (1.25,), 5, "euler"), range(3), 0)[0])
    assert torch.allclose(got, expected.clamp(-1, 1), atol=1 / 127)
    assert not torch.allclose(got, x, atol=0.1)


def test_guidances_are_read():
    assert read("none") == ("none", ())
    assert read("cfg:1.5") == ("cfg", (1.5,))
    assert read("raag:6:8") == ("raag", (6.0, 8.0))
    assert read("raag") == ("raag", None)
    for wrong in ("raag:6", "none:1", "apg:2"):
        with pytest.raises(ValueError, match="guidance: expected"):
            read(wrong)


def test_the_search_takes_the_nearest_of_the_accurate():
    row = lambda accuracy, distance: {"accuracy": accuracy, "to_train": distance}  # noqa: E731
    rows = [row("0.90", "1"), row("0.96", "3"), row("0.97", "2"), row("0.99", "10")]
    assert chosen(rows, 0.95) is rows[2]
    assert chosen(rows, 0.98) is rows[3]
    assert chosen(rows, 1.0) is rows[3]
    assert chosen(rows, 0.5) is rows[0]


def test_what_is_saved_is_counted_in_steps():
    def row(guidance, steps, distance, solver="euler"):
        own = {
            "guidance": guidance, "steps": str(steps), "to_test": str(distance), "solver": solver, "worst": "bag 0.9",
        }  # fmt: skip
        return {k: "1" for k in (*COLUMNS, "scale", "decay")} | own

    rows = [row("cfg", 25, 1.0), row("cfg", 5, 9.0), row("cfg", 10, 2.0), row("cfg", 5, 0.0, "heun")]
    said = markdown([*rows, row("raag", 5, 1.5), row("raag", 10, 2.0), row("raag", 25, 0.5)]).splitlines()[-5::2]
    assert "with 25 steps (5.0 times as many)" in said[0]
    assert "with 10 steps (1.0 times as many)" in said[1]
    assert "with none of these" in said[2]


def test_draws_over_seeds_are_compared_on_the_same_noise(net, parts, tmp_path):
    table = Table(prior(), "bars", Judge(net, parts, looked=30, seed=0), tmp_path / "rows.csv", 8)
    rows = list(evaluate(table, ["cfg:1", "raag:2:8"], [2], "euler", 30, 12, 5, 0.95, 3))
    assert [(r["guidance"], r["seed"]) for r in rows] == [(g, s) for g in ("cfg", "raag") for s in "567"]
    far = [float(r["to_test"]) for r in rows]
    above = interval(b - a for a, b in zip(far[:3], far[3:], strict=True))
    said = over_seeds(rows).splitlines()
    assert said[2].split("|")[4:6] == [f" {interval(far[:3]).shown(3)} ", " - "]
    assert said[3].split("|")[5] == f" {above.shown(3)} (cfg scale 1) "


def test_the_table_searches_goes_on_and_says_what_is_saved(net, parts, tmp_path, monkeypatch):
    monkeypatch.setitem(generation.GRID, "raag", [(1.0, 8.0), (9.0, 0.0)])
    judge, out = Judge(net, parts, looked=30, seed=0), tmp_path / "rows.csv"
    options = (["cfg:1", "raag"], [2, 4], "euler", 30, 12, 0, 0.95)
    rows = list(evaluate(Table(prior(), "bars", judge, out, 8), *options))
    assert [(r["guidance"], r["steps"], r["scale"]) for r in rows] == [
        ("cfg", "2", "1"), ("raag", "2", "1"), ("cfg", "4", "1"), ("raag", "4", "1"),
    ]  # fmt: skip
    assert {r["accuracy"] for r in rows} == {"1.0000"}
    assert [(r["evaluations"], r["network_rows"]) for r in rows] == [("2", "4")] * 2 + [("4", "8")] * 2
    stored = list(csv.DictReader(out.open()))
    assert [(r["part"], r["seed"], r["samples"]) for r in stored] == [("search", "1", "12")] * 4 + [
        ("table", "0", "30")
    ] * 4
    text = out.read_text()
    out.write_text("".join(text.splitlines(keepends=True)[:6]))
    again = list(evaluate(Table(prior(), "bars", judge, out, 30), *options))
    assert again == rows
    assert out.read_text() == text
    printed = markdown(rows)
    assert "raag scale 1 decay 8, 4 steps: Fréchet" in printed
    assert "constant guidance reaches that distance with 2 steps (0.5 times as many)" in printed
    generation.draw_sheet(tmp_path / "sheet.png", prior(), Way("none", (), 2, "euler"), judge, 0, groups=2, zoom=1)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("L")).astype(int)
    assert sheet.shape == (16 + 2 * (3 * 16 + 6), 110 + 3 * 16)
    assert np.abs(sheet[16:32, 110:126] - templates()[0, 0].numpy()).max() <= 2
    near = parts["train"][0][nearest(templates()[:1], parts["train"][0], lambda x: x.flip(-1))[1]]
    assert np.abs(sheet[32:48, 110:126] - near[0, 0].numpy()).max() <= 2
