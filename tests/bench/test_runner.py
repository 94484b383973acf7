"""The runner: costs that are counted, rows that are independent, failures that are told, budgets, rows on disk, statistics."""

import csv
import json
import math
from functools import partial

import pytest
import torch
from toys import randomised

from flowhelm import GaussianFlow, NetFlow, Step, inner, operators
from flowhelm.affordable import affordable, nearest
from flowhelm.app.files.dataset import Pictures
from flowhelm.bench import intervals
from flowhelm.bench.compare import rows, runner, table
from flowhelm.bench.compare.cost import Free, Tally, watched
from flowhelm.bench.compare.protocols import Task, measured
from flowhelm.bench.compare.runner import Cell, Entry, restored
from flowhelm.known import PHOTOS
from flowhelm.metrics import psnr
from flowhelm.path import VP, linear
from flowhelm.priors.unet import UNet
from flowhelm.restore import dps, flow_dps, pnp_flow
from flowhelm.steer import mpc_flow

SHAPE = (3, 16, 16)
DEBLUR = Task("deblur", operators.deblur, {"sigma": 0.8, "border": "circular"}, 0.05)


@pytest.fixture(scope="module")
def flow() -> NetFlow:
    torch.manual_seed(0)
    net = randomised(UNet((8, 8), 1))
    return NetFlow(net.requires_grad_(False), SHAPE)


def some(count=3) -> Pictures:
    clean = torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return Pictures(clean, tuple(f"{i}.png" for i in range(count)), None, "photos.zip", "0" * 64)


def cell(flow, pictures=None, task=DEBLUR, seed=0) -> Cell:
    about = {"prior": "p", "weights": "w", "data": "photos.zip", "size": 16, "protocol": "own"}
    (found,) = runner.cells(flow, [task], pictures or some(), [seed], 99, about)
    return found


# --- cost ---


def cost_of(flow, method, steps, particles=1, count=3):
    problem = measured(DEBLUR, some(count).clean, some(count).names, 0)
    outcome = restored(flow, problem.y, Entry("m", method, {}, steps, particles), some(count).names, 0)
    assert outcome.errors == [""] * count
    return outcome.tally


def test_cost_is_that_of_the_cards(flow):
    tally = cost_of(flow, partial(pnp_flow, draws=2), 5)
    assert (tally.calls, tally.rows, tally.backward_rows, tally.evaluations(3)) == (10, 30, 0, 10)
    tally = cost_of(flow, dps, 5)
    assert (tally.calls, tally.rows, tally.backward_rows, tally.evaluations(3)) == (5, 15, 15, 15)
    few = partial(inner.adam, iterations=4)
    tally = cost_of(flow, partial(mpc_flow, horizon=2, inner=few), 3)
    assert (tally.calls, tally.backward) == (3 * (1 + 4), 3 * 4)
    assert tally.evaluations(3) == (tally.rows + 2 * tally.backward_rows) / 3


def test_a_decoder_is_counted_where_there_is_one(flow):
    class Decoded(Free):
        pixels = False

        def decode(self, clean):
            return clean

    assert cost_of(flow, pnp_flow, 4).decoder == 0
    assert cost_of(Decoded(flow), pnp_flow, 4).decoder == 4 + 1  # and one for the result


def test_memory_is_the_peak_above_what_was_in_use():
    held, tally = torch.ones(10_000_000), Tally()
    with watched(tally, torch.device("cpu")):
        more = torch.ones(20_000_000)  # 76 MiB
        del more
    if math.isnan(tally.mebibytes):
        pytest.skip("not Linux")
    assert 70 < tally.mebibytes < 110
    assert tally.seconds > 0
    with watched(tally, torch.device("cpu")):
        held.sum()
    assert tally.mebibytes < 40


@pytest.mark.parametrize("path", [linear, VP()])
def test_the_free_flow_is_that_of_the_standard_normal_law(path):
    shape, x = (1, 2, 3), torch.randn(4, 1, 2, 3, dtype=torch.float64)
    exact = GaussianFlow(torch.zeros(6, dtype=torch.float64), torch.eye(6, dtype=torch.float64), path, shape)
    for t in (0.0, 0.3, 0.9):
        t = torch.tensor(t, dtype=torch.float64)
        assert torch.allclose(Free(exact).velocity(x, t), exact.velocity(x, t), atol=1e-12)


# --- budgets ---


@pytest.mark.parametrize(
    ("law", "budget", "expected"),
    [
        (lambda n: n, 100, 100),
        (lambda n: 3 * n + 7, 100, 31),
        (lambda n: 20 * n, 90, 4),  # 80 is as near as 100: the smaller one
        (lambda n: n * n, 100, 10),
        (lambda n: n * (n + 1) / 2, 5000, 99),  # 4950, as near as 5050
        (lambda n: 500 * n, 100, 1),  # nothing is cheap enough: one step
        (lambda n: max(0, 3 * (n - 2)), 300, 102),
    ],
)
def test_steps_are_those_nearest_to_the_budget(law, budget, expected):
    asked = []
    assert nearest(lambda n: asked.append(n) or law(n), budget) == expected
    assert len(asked) == len(set(asked)) <= 12
    assert max(asked) <= 5 * expected + 4


@pytest.mark.parametrize(
    "law", [lambda n: n, lambda n: 3 * n + 7, lambda n: n * n, lambda n: 20 * (n // 7), lambda n: -(60 // n)]
)
def test_the_most_steps_that_a_budget_buys(law):
    """As counting finds them, whatever the bounds; the last two laws have steps of the same cost."""
    for budget in (-30, -7, 0, 9, 20, 40, 100):
        for least, most in ((1, 25), (4, 100), (3, 3), (5, 4)):
            fitting = [n for n in range(least, most + 1) if law(n) <= budget]
            assert affordable(law, budget, least=least, most=most) == max(fitting, default=0)


def test_a_method_gets_the_evaluations_it_may_spend(flow):
    few = partial(inner.adam, iterations=4)
    for method, near in ((pnp_flow, 60), (dps, 60), (partial(mpc_flow, horizon=2, inner=few), 65)):
        entry = Entry("m", method, {}, 1)
        steps = runner.steps_of_budget(cell(flow), entry, evaluations=60, seconds=None)
        made = runner.rows_of(cell(flow), entry._replace(steps=steps))
        assert [row["cost"] for row in made.rows] == [near] * 3
        assert made.rows[0]["error"] == ""
    assert runner.steps_of_budget(cell(flow), Entry("m", pnp_flow, {}, 1), evaluations=None, seconds=1e-9) == 1
    with pytest.raises(ValueError, match="curved"):
        runner.steps_of_budget(cell(flow), Entry("m", refuses, {}, 1), evaluations=60, seconds=None)


# --- rows ---


def refuses(flow, y, x, times, *, noise=None):
    raise ValueError("expected a flat picture, got a curved one")
    yield


def test_a_row_does_not_depend_on_its_batch(flow):
    whole = runner.rows_of(cell(flow), Entry("m", flow_dps, {}, 4))
    alone = runner.rows_of(cell(flow, some().rows(1, 2)), Entry("m", flow_dps, {}, 4))
    assert (whole.outcome.image[1] - alone.outcome.image[0]).abs().max() < 1e-4
    assert whole.rows[1]["psnr"] == pytest.approx(alone.rows[0]["psnr"], abs=1e-3)
    assert whole.rows[1]["image"] == alone.rows[0]["image"] == "1.png"
    assert whole.rows[1]["psnr"] == pytest.approx(float(psnr(whole.outcome.image, some().clean)[1]))
    other = runner.rows_of(cell(flow, seed=1), Entry("m", flow_dps, {}, 4))
    assert abs(other.rows[1]["psnr"] - whole.rows[1]["psnr"]) > 1e-3


def test_every_method_has_the_same_measurement_and_source(flow):
    seen = []

    def looks(flow, y, x, times, *, noise=None):
        seen.append((y.y.clone(), x.clone()))
        yield Step(1, 1, times[-1], x, x, {})

    for label in ("a", "b"):
        runner.rows_of(cell(flow), Entry(label, looks, {}, 4))
    assert seen[0][0].equal(seen[1][0])
    assert seen[0][1].equal(seen[1][1])


def test_particles_are_averaged_by_their_weights(flow):
    values = torch.tensor([0.0, 0.5, 1.0, -1.0, 0.2, 0.4])

    def draws(flow, y, x, times, *, noise=None, weighted=True):
        assert len(x) == len(noise) == 6
        assert x[0].unique().numel() > 1
        assert not x[0].equal(x[1])
        filled = values[:, None, None, None].expand(6, *SHAPE)
        log_w = torch.tensor([[1.0, 3.0, 0.0], [0.0, 0.0, 1.0]]).log()
        yield Step(1, 1, times[-1], filled, filled, {"log_w": log_w} if weighted else {})

    problem = measured(DEBLUR, some(2).clean, some(2).names, 0)
    outcome = restored(flow, problem.y, Entry("m", draws, {}, 2, 3), some(2).names, 0)
    assert outcome.image.amax((1, 2, 3)).tolist() == pytest.approx([0.375, 0.4])
    outcome = restored(flow, problem.y, Entry("m", partial(draws, weighted=False), {}, 2, 3), some(2).names, 0)
    assert outcome.image.amax((1, 2, 3)).tolist() == pytest.approx([0.5, -0.4 / 3])


def test_what_fails_is_told_and_the_rest_goes_on(flow):
    made = runner.rows_of(cell(flow), Entry("m", refuses, {}, 4))
    assert [row["error"] for row in made.rows] == ["ValueError: expected a flat picture, got a curved one"] * 3
    assert "psnr" not in made.rows[0]

    def breaks(flow, y, x, times, *, noise=None):
        for i in range(1, 4):
            x = x.clone()
            if i == 2:
                x[1] = math.inf
            yield Step(i, 3, times[i], x, x, {})

    made = runner.rows_of(cell(flow), Entry("m", breaks, {}, 4))
    assert [row["error"] for row in made.rows] == ["", "not finite after step 2 of 3", ""]
    assert made.rows[0]["psnr"] == pytest.approx(float(psnr(made.outcome.image[:1], some().clean[:1])))
    assert "psnr" not in made.rows[1]

    def nothing(flow, y, x, times, *, noise=None):
        yield from ()

    assert "made no step" in runner.rows_of(cell(flow), Entry("m", nothing, {}, 4)).rows[0]["error"]


def test_baselines_are_rows_too(flow):
    made = list(runner.rows_of_baselines(cell(flow)))
    assert [m.rows[0]["method"] for m in made] == ["degraded", "Wiener"]
    assert all(row["name"] == "baseline" and row["cost"] == 0 and row["steps"] == 0 for m in made for row in m.rows)
    assert made[0].rows[2]["psnr"] == pytest.approx(float(psnr(made[0].problem.y.y, some().clean)[2]))
    done = {rows.key(row) for m in made[:1] for row in m.rows}
    assert [m.rows[0]["method"] for m in runner.rows_of_baselines(cell(flow), done)] == ["Wiener"]


def test_labels_are_told_to_a_prior_with_classes():
    class Prior(GaussianFlow):
        about = {"classes": ["a", "b"]}  # noqa: RUF012

        def told(self, classes):
            return classes

    prior = Prior(torch.zeros(2), torch.eye(2))
    labelled = some()._replace(labels=torch.tensor([1, 0, 1]))
    assert cell(prior, labelled).flow == [1, 0, 1]
    assert cell(prior).flow is prior


# --- on disk ---


def row(**changed):
    values = {name: {str: "a", int: 1, float: 0.25}[kind] for name, kind in rows.FIELDS.items()}
    return values | {"options": '{"rate": 1.0, "words": "a,b"}', "error": ""} | changed


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
def test_rows_are_read_as_they_were_written(tmp_path, name):
    path = tmp_path / "new" / name
    assert rows.read(path) == []
    first = [row(image="1"), row(image="2", psnr=None, error='ValueError: "a", or b')]
    rows.append(path, first)
    rows.append(path, [row(image="3", std=0.05)])
    rows.append(path, [])
    assert rows.read(path) == [*first, row(image="3", std=0.05)]
    rows.append(path, [row(image="2", psnr=30.0)])  # done again: the last one counts
    assert [(r["image"], r["psnr"]) for r in rows.read(path)] == [("1", 0.25), ("2", 30.0), ("3", 0.25)]
    assert not [p for p in path.parent.rglob("*") if p.name.startswith(".part")]


def test_a_line_that_was_cut_off_is_written_again(tmp_path):
    path = tmp_path / "rows.csv"
    rows.append(path, [row(image="1"), row(image="2")])
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert [r["image"] for r in rows.read(path)] == ["1"]
    rows.append(path, [row(image="2")])
    assert path.read_bytes() == whole
    path.write_bytes(whole[:10])  # not even the head is there
    rows.append(path, [row(image="1"), row(image="2")])
    assert path.read_bytes() == whole
    assert list(csv.DictReader(path.open()))[1]["image"] == "2"


def test_parquet_without_pyarrow_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r"flowhelm\[bench\]"):
        rows.append(tmp_path / "rows.parquet", [row()])


# --- statistics ---


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 7, 10, 19, 99, 10_000])
def test_student(freedom):
    stats = pytest.importorskip("scipy.stats")
    assert intervals.student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=3e-3)


def test_means_and_margins_are_over_pictures():
    stats = pytest.importorskip("scipy.stats")
    scores = {"Wiener": [20.0, 22.0, 27.0, 25.0], "m": [21.0, 22.5, 27.2, 24.9]}
    listed = [
        row(
            method=label,
            name="baseline" if label == "Wiener" else "m",
            image=str(i),
            seed=seed,
            psnr=v + 0.1 * (2 * seed - 1),
        )
        for label, values in scores.items()
        for i, v in enumerate(values)
        for seed in (0, 1)
    ]
    (group,) = table.groups(listed)
    one, two = group.lines
    assert group.reference is one
    assert two.mean("psnr").value == pytest.approx(sum(scores["m"]) / 4)
    gains = torch.tensor(scores["m"]) - torch.tensor(scores["Wiener"])
    (margin, half), wins, count = group.margin(two)
    expected = stats.t.interval(0.95, 3, loc=float(gains.mean()), scale=float(gains.std()) / 2)
    assert (margin - half, margin + half) == pytest.approx(expected, rel=1e-3)
    assert (wins, count) == (3, 4)
    assert group.margin(one) is None
    (other,) = table.groups(listed, "m")
    assert other.reference.label == "m"
    with pytest.raises(ValueError, match="expected one of Wiener, m, got 'n'"):
        table.groups(listed, "n")


def test_the_best_baseline_is_the_reference_and_failures_are_shown():
    listed = [
        row(method=method, name=name, image=str(i), psnr=psnr, lpips=None, error=error)
        for i in range(2)
        for method, name, psnr, error in (
            ("degraded", "baseline", 20.0, ""), ("Wiener", "baseline", 25.0, ""), ("m", "m", 24.0 + i, ""),
            ("n", "n", None, "it broke"),
        )
    ]  # fmt: skip
    (group,) = table.groups(listed)
    assert group.reference.label == "Wiener"
    head, cells = table.cells_of(group)
    assert "LPIPS" not in head
    text = table.table(listed)
    assert "margin over Wiener" in text
    of = {line[0]: dict(zip(head, line, strict=True)) for line in cells}
    assert of["m"]["PSNR"].startswith("24.50 ± ")
    assert of["m"]["margin dB (95 %)"].startswith("-0.50 ± ")
    assert of["m"]["wins"] == "0/2"
    assert (of["n"]["PSNR"], of["n"]["failed"], of["m"]["failed"]) == ("-", "2", "-")
    more = [row(method="m", name="m", image="0", psnr=20.0, steps=9, lpips=None)]  # one label with other settings
    labels = [line.label for line in table.groups([*listed, *more])[0].lines]
    assert labels == ["degraded", "Wiener", "m (3)", "n", "m (5)"]
    assert "pictures" in table.cells_of(table.groups([*listed, *more])[0])[0]


def test_tasks_are_apart():
    assert len(table.groups([row(), row(task="b"), row(std=0.1), row(weights="other"), row(size=64)])) == 5


# --- perceptual ---


def test_lpips_is_that_of_torchmetrics(tmp_path, monkeypatch):
    """With weights drawn at random, in both."""
    monkeypatch.setattr(torch.nn.Linear, "reset_parameters", lambda self: None)  # of AlexNet's head, which is not used
    from safetensors.torch import save_file
    from torchmetrics.functional.image import lpips as functional

    from flowhelm.bench.compare.perceptual import perceptual

    theirs = functional._LPIPS(pretrained=False, net="alex", pnet_rand=True, use_dropout=True, eval_mode=True).eval()
    for head in (theirs.lin0, theirs.lin1, theirs.lin2, theirs.lin3, theirs.lin4):
        torch.nn.init.uniform_(head.model[-1].weight)
    save_file({k: v.clone() for k, v in theirs.state_dict().items()}, tmp_path / "w.safetensors")
    a, b = torch.rand(2, 2, 3, 64, 64) * 2 - 1
    mine = perceptual(tmp_path / "w.safetensors")
    with torch.no_grad():
        expected = theirs(a, b).flatten()
    assert torch.allclose(mine(a, b), expected, rtol=1e-4)
    assert float(mine(a, a).abs().max()) == 0
    (tmp_path / "x.safetensors").write_text("no")
    for path in ("x.safetensors", "missing.safetensors"):
        with pytest.raises(ValueError, match="lpips"):
            perceptual(tmp_path / path)


def test_rows_hold_finite_numbers(tmp_path):
    """An infinite one is written as none, and refused where somebody else wrote it: no mean could be taken of it."""
    path = tmp_path / "rows.csv"
    row = {name: {str: "a", int: 1, float: 0.5}[kind] for name, kind in rows.FIELDS.items()} | {
        "options": "{}",
        "error": "",
    }
    rows.append(path, [row | {"psnr": math.inf}])
    assert rows.read(path)[0]["psnr"] is None
    path.write_text(path.read_text().replace(",0.5,", ",1e999,", 1))
    with pytest.raises(ValueError, match="is inf, not a finite number"):
        rows.read(path)


# --- distances of features, and the table that decides ---


def test_the_distance_of_features_is_its_formula():
    """By hand, in float64: directions over the channels, squared, weighted, mean over pixels, sum over levels."""
    from flowhelm.metrics import feature_distance

    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    a, b = ([draw(2, 3, 4, 5), draw(2, 2, 2, 2)] for _ in range(2))
    weights = [torch.rand(3, 1, 1, generator=generator, dtype=torch.float64), torch.ones(2, 1, 1, dtype=torch.float64)]
    expected = torch.zeros(2, dtype=torch.float64)
    for x, y, w in zip(a, b, weights, strict=True):
        for n in range(2):
            for i in range(x.shape[2]):
                for j in range(x.shape[3]):
                    p, q = x[n, :, i, j], y[n, :, i, j]
                    expected[n] += ((p / p.norm() - q / q.norm()) ** 2 * w.flatten()).sum() / (x.shape[2] * x.shape[3])
    assert torch.allclose(feature_distance(a, b, weights), expected, rtol=1e-12)
    assert torch.allclose(feature_distance([3 * x for x in a], b), feature_distance(a, b), rtol=1e-12)
    assert feature_distance(a, a).abs().max() == 0
    assert torch.allclose(feature_distance(a, [-x for x in a]), torch.full((2,), 8.0, dtype=torch.float64))
    with pytest.raises(ValueError, match="of the same shapes"):
        feature_distance(a, b[:1])


def test_a_classifier_measures_pictures(tmp_path):
    """The classifier's own levels: they end in its features, and a file of another kind is refused."""
    from safetensors.torch import save_file

    from flowhelm.bench.compare.perceptual import classified
    from flowhelm.metrics import feature_distance
    from flowhelm.rewards.classifier import Classifier

    net = Classifier(3, 4, (8, 16)).eval()
    save_file(net.state_dict(), tmp_path / "c.safetensors", {"about": json.dumps(net.about)})
    a, b = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    levels = net.levels(a)
    assert [tuple(x.shape[1:]) for x in levels] == [(8, 16, 16), (16, 8, 8), (64, 8, 8)]
    assert torch.equal(levels[-1].mean((2, 3)), net.features(a))
    measure = classified(tmp_path / "c.safetensors", 3)
    with torch.no_grad():
        assert torch.allclose(measure(a, b), feature_distance(net.levels(a), net.levels(b)), rtol=1e-5)
    assert float(measure(a, a).max()) == 0
    with pytest.raises(ValueError, match="expected a classifier of pictures with 1 channels, got 3"):
        classified(tmp_path / "c.safetensors", 1)


def test_rows_of_an_earlier_version_get_todays_columns(tmp_path):
    """They are read, and the first append gives the file the new column; nothing else in it changes."""
    path, first = tmp_path / "rows.csv", row(image="1", features=None)
    rows.append(path, [first])
    at = list(rows.FIELDS).index("features")
    cut = lambda line: ",".join(cell for i, cell in enumerate(line) if i != at)  # noqa: E731
    path.write_text("".join(cut(line) + "\n" for line in ([*rows.FIELDS], ["x"] * len(rows.FIELDS))))
    head = path.read_text().splitlines()[0]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, head.split(","), extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerow(first)
    assert "features" not in path.read_text().splitlines()[0]
    assert rows.read(path) == [first]
    rows.append(path, [row(image="2", features=0.5)])
    assert rows.read(path) == [first, row(image="2", features=0.5)]


def test_the_table_that_decides():
    """The default's row is found by what restore would do; others are paired with it, the costly ones left out."""
    from flowhelm.bench.compare.decide import decided

    def made(method, name, steps, psnr, features, cost, options="{}", images=3):
        return [
            row(
                task="noise", operator="denoise", std=0.2, method=method, name=name, steps=steps, psnr=psnr + 0.1 * i,
                features=features, cost=cost, options=options, image=str(i),
            )
            for i in range(images)
        ]  # fmt: skip

    listed = [
        *made("one", "hqs", 1, 30.0, 0.3, 1.0, '{"sure": true}'), *made("eight", "hqs", 8, 30.03, 0.4, 8.0),
        *made("fig", "fig", 50, 29.0, 0.1, 50.0),
        *made("long", "fig", 400, 40.0, 0.01, 400.0), *made("deepinv DPIR", "deepinv_dpir", 8, 29.5, 0.5, 8.0, images=2),
    ]  # fmt: skip
    text = decided(listed)
    (line,) = [line for line in text.splitlines() if line.startswith("| noise")]
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "noise", "one", "1", "0.25", "30.10", "0.250", "0.300", "eight", "8", "0.25", "-0.03 ± 0.00", "fig", "+0.200 ± 0.000",
        "deepinv DPIR", "8", "0.25", "+0.50 ± 0.00", "2 to 3",
    ]  # fmt: skip
    assert "ahead of all others on 0 tasks, within 0.05 dB of the best of them on 1, and behind by more on none" in text
    assert "behind by more on 1: noise (-0.20 ± 0.00, eight)" in decided(
        [*listed[:3], *made("eight", "hqs", 8, 30.2, 0.4, 8.0)]
    )
    assert "Without a row of the default: noise" in decided(listed[3:])
    of_photos = [each | {"prior": PHOTOS} for each in listed]  # which takes the whole answer
    assert "Without a row of the default: noise" in decided(of_photos)
    assert "| noise | one |" in decided(
        [each | {"options": each["options"].replace("true", "false")} for each in of_photos]
    )


def test_margins_in_a_distance_are_won_by_less():
    listed = [
        row(method=m, name=m, image=str(i), features=f, psnr=25.0)
        for m, f in (("a", 0.2), ("b", 0.1))
        for i in range(3)
    ]
    (group,) = table.groups(listed, "a")
    assert group.margin(group.lines[1], "features")[1:] == (3, 3)
    head, cells = table.cells_of(group, "features")
    assert dict(zip(head, cells[1], strict=True))["margin features (95 %)"] == "-0.100 ± 0.000"
