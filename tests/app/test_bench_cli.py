"""`flowhelm bench`, `table` and `presets` from words to files."""

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowhelm import inner, operators
from flowhelm.app.errors import BadInput
from flowhelm.app.options.signature import options
from flowhelm.app.options.words import worded
from flowhelm.app.restore.presets import Preset, add
from flowhelm.bench.compare import command as bench
from flowhelm.bench.compare import rows, runner
from flowhelm.bench.compare.command import entry, own_task, tasks_of
from flowhelm.cards import METHODS
from flowhelm.control import flower
from flowhelm.interfaces.cli import main
from flowhelm.restore import pnp_flow
from flowhelm.steer import mpc_flow

# --- words ---


def test_a_method_with_its_options():
    found = worded("method", "mpc_flow:strength=3,energy=flower,label=a b,steps=7", METHODS, ("label", "steps"))
    assert found == (mpc_flow, {"strength": "3", "energy": "flower"}, {"label": "a b", "steps": "7"})
    assert worded("method", "pnp_flow", METHODS) == (pnp_flow, {}, {})
    assert worded("operator", "deblur:sigma=2,border=open,std=0.1", operators.ALL, ("std",)).beside == {"std": "0.1"}


def test_an_option_that_is_a_function_is_followed_by_its_own():
    found = worded("method", "mpc_flow:inner=adam:iterations=8,rate=0.1,strength=3", METHODS)
    assert found.given == {"inner": "adam:iterations=8,rate=0.1", "strength": "3"}

    def both(flow, *, inner: inner.Inner = inner.auto, rate: float = 1.0): ...

    assert worded("method", "both:rate=2,inner=adam:iterations=8,rate=0.1", [both]).given == {
        "rate": "2",
        "inner": "adam:iterations=8,rate=0.1",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pnpflow", "did you mean pnp_flow"),
        ("pnp_flow:decy=1", "did you mean decay"),
        ("pnp_flow:decay", "no option 'decay'"),
        ("pnp_flow:decay=1,decay=2", "given twice"),
        ("pnp_flow:decay=much", "expected a number"),
        ("mpc_flow:inner=adam:iterations=many", "expected a whole number"),
    ],
)
def test_words_that_do_not_fit(text, message):
    with pytest.raises(BadInput, match=message):
        worded("method", text, METHODS, ("label",))


def test_tasks_of_a_protocol_and_of_ones_own():
    (one,) = tasks_of("pnp_flow", [], (3, 32, 32))
    assert (one[0], len(one[1])) == ("pnp_flow", 5)
    found = tasks_of("pnp_flow", ["box", "jpeg:quality=30,std=0.02,label=soft"], (3, 32, 32))
    assert [(name, [t.name for t in some]) for name, some in found] == [("pnp_flow", ["box"]), ("own", ["soft"])]
    assert found[1][1][0].options == {"quality": 30}
    assert own_task("denoise", 0.3).std == 0.3
    for wrong in ("denoise", "denoise:std=0", "denoise:std=a"):
        with pytest.raises(BadInput, match="std"):
            own_task(wrong)
    with pytest.raises(BadInput, match="no operator 'bx'"):
        tasks_of("pnp_flow", ["bx"], (3, 32, 32))


def test_options_are_given_or_of_a_preset_or_the_methods_own():
    task = own_task("deblur:border=circular,std=0.05")
    here = Preset(
        method="pnp_flow", operator="deblur", operator_options={"sigma": 1.6, "border": "circular"}, std=0.05, prior="p",
        options={"rate": 1.9, "decay": 0.1}, steps=64, found={},
    )  # fmt: skip
    make = partial(entry, label="m", task=task, prior="p", steps=None)
    found = make(worded("method", "pnp_flow:decay=0.7", METHODS), known=[here])
    assert (found.options, found.steps, found.settings) == (
        {"decay": 0.7, "rate": 1.9, "draws": 1},
        64,
        "given over preset",
    )
    assert found.method.keywords == found.options
    assert found.name == "pnp_flow"
    found = make(worded("method", "pnp_flow", METHODS), known=None)
    assert (found.options["rate"], found.steps, found.settings) == (1.0, bench.STEPS, "default")
    found = make(worded("method", "mpc_flow", METHODS), known=[])  # the table of `restore`
    assert (found.options["strength"], found.options["energy"], found.steps) == (pytest.approx(800), "flower", 50)
    assert found.method.keywords["energy"] is flower
    found = make(worded("method", "pnp_flow:steps=9", METHODS, ("steps",)), known=[here], steps=5)
    assert found.steps == 9
    assert make(worded("method", "pnp_flow", METHODS), known=[here], steps=5).steps == 5
    with pytest.raises(BadInput, match="whole number of steps"):
        make(worded("method", "pnp_flow:steps=a", METHODS, ("steps",)), known=[])

    def crowd(flow, y, x, times, *, particles: int = 4, noise=None): ...

    assert make(worded("method", "crowd", [crowd]), known=[]).particles == 4
    assert make(worded("method", "crowd:particles=2", [crowd]), known=[]).particles == 2


def test_no_method_has_options_of_the_words_beside():
    """`label` and `steps` would be taken for the benchmark's."""
    assert not {"label", "steps"} & {name for method in METHODS for name in options(method)}


# --- whole runs ---


@pytest.fixture
def given(tmp_path, prior, monkeypatch) -> list[str]:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    return ["--data", "photos", "--size", "16", "--prior", prior, "--images", "3"]


@pytest.fixture
def ran(monkeypatch):
    """The labels of what was really run."""
    seen = []
    whole = runner.restored

    def counts(flow, y, entry, names, seed):
        seen.append((entry.label, len(names)))
        return whole(flow, y, entry, names, seed)

    monkeypatch.setattr(runner, "restored", counts)
    return seen


METHOD = ["--method", "pnp_flow:steps=2,label=two", "--method", "dps"]


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
def test_rows_are_streamed_and_a_stopped_run_goes_on(given, ran, tmp_path, monkeypatch, capsys, name):
    line = "--task denoise --task box --steps 3 --batch 2 --out"
    words = ["bench", *given, *METHOD, *line.split(), name]
    whole = runner.rows_of

    def stops(cell, entry, measure=None):
        if len(ran) == 5:
            raise KeyboardInterrupt
        return whole(cell, entry, measure)

    monkeypatch.setattr(runner, "rows_of", stops)
    assert main(words) == 130
    held = rows.read(tmp_path / name)
    assert (
        len([r for r in held if r["name"] != "baseline"]) == 2 * (2 + 1) + 2
    )  # denoise done, a batch of box by one method
    monkeypatch.setattr(runner, "rows_of", whole)
    assert main(words) == 0
    assert ran[5:] == [("dps", 2), ("two", 1), ("dps", 1)]
    finished = rows.read(tmp_path / name)
    assert finished[: len(held)] == held
    assert len(finished) == 2 * 3 * 2 + 3 * (2 + 3)  # degraded and Wiener; degraded, nearest and biharmonic
    assert {r["steps"] for r in finished if r["method"] == "two"} == {2}
    said = capsys.readouterr().out
    assert "| two | 2 |" in said
    assert "margin over" in said
    ran.clear()
    assert main(words) == 0
    assert ran == []
    assert main(["bench", *given, *METHOD, "--task", "denoise", "--steps", "3", "--seeds", "2", "--out", name]) == 0
    assert ran == [("two", 3), ("dps", 3)]  # of the second seed only
    assert main(["table", name, "--reference", "dps", "--report", "page.html"]) == 0
    assert "margin over dps" in capsys.readouterr().out
    assert (tmp_path / "page.html").read_text().count("data:image/png") > 10


def test_a_failing_cell_does_not_end_the_run(given, ran, tmp_path, capsys):
    words = ["bench", *given, "--task", "jpeg:std=0.05", "--method", "mpc_flow:inner=exact", "--method", "pnp_flow"]
    assert main([*words, "--steps", "2", "--out", "rows.csv"]) == 0
    said = capsys.readouterr().out
    assert "failed: jpeg, mpc_flow:inner=exact: ValueError: inner solver 'exact'" in said
    assert {r["method"] for r in rows.read(tmp_path / "rows.csv") if not r["error"]} == {"degraded", "pnp_flow"}
    ran.clear()
    assert main([*words, "--steps", "2", "--out", "rows.csv"]) == 0
    assert ran == []
    assert main([*words, "--steps", "2", "--out", "rows.csv", "--retry"]) == 0
    assert ran == [("mpc_flow:inner=exact", 3)]


@pytest.mark.parametrize("budget", [("--evaluations", "12"), ("--seconds", "0.02")])
def test_a_budget_is_kept_and_its_steps_stay(given, ran, tmp_path, monkeypatch, budget):
    words = ["bench", *given, *METHOD[2:], "--method", "pnp_flow", "--task", "denoise", *budget, "--out", "rows.csv"]
    assert main(words) == 0
    held = {r["method"]: r for r in rows.read(tmp_path / "rows.csv") if r["name"] != "baseline"}
    assert {r["budget"] for r in held.values()} == {f"{budget[0][2:]}={budget[1]}"}
    if budget[0] == "--evaluations":
        assert {m: (r["steps"], r["cost"]) for m, r in held.items()} == {"dps": (4, 12), "pnp_flow": (12, 12)}
    ran.clear()
    assert main(words) == 0  # a time is not measured again: it would not be the same
    assert ran == []


def test_presets_are_searched_for_and_then_used(given, ran, tmp_path, monkeypatch, capsys):
    pytest.importorskip("optuna")
    apart = ["--data", str(tmp_path / "photos"), *given[2:-2], "--images", "1", "--skip", "-1"]
    words = ["presets", "search", "--method", "pnp_flow", "--operator", "denoise", "--std", "0.2", *apart]
    words += ["--vary", "rate=0.2:1.5:log", "--trials", "3", "--steps", "2", "--out", "found.json"]
    monkeypatch.setattr(sys, "argv", ["flowhelm", *words])
    assert main(words) == 0
    assert "with the defaults" in capsys.readouterr().out
    (found,) = json.loads((tmp_path / "found.json").read_text())["presets"]
    assert found["found"]["pictures"] == ["2.png"]
    assert found["found"]["data"] == "photos"
    assert found["found"]["trials"] == 3
    assert found["found"]["best"] >= found["found"]["default"]
    assert "/" not in found["found"]["command"]
    assert found["found"]["command"].startswith("flowhelm presets search --method pnp_flow")
    add(tmp_path / "found.json", [Preset(**found | {"options": {"rate": 0.4321}})])
    ran.clear()
    line = "--task denoise --method pnp_flow --presets found.json --out rows.csv"
    words = ["bench", *given, *line.split()]
    assert main(words) == 0
    row = next(r for r in rows.read(tmp_path / "rows.csv") if r["method"] == "pnp_flow")
    assert (json.loads(row["options"])["rate"], row["steps"], row["settings"]) == (0.4321, 2, "preset")
    assert main([*words, "--defaults"]) == 0
    assert {r["settings"] for r in rows.read(tmp_path / "rows.csv") if r["method"] == "pnp_flow"} == {
        "preset",
        "default",
    }
    assert main(["presets", "list", "found.json"]) == 0
    assert "rate 0.4321" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--protocol exact", "there is no protocol 'exact'"),
        ("--protocol posterior", "python -m flowhelm.bench.exact.posterior"),
        ("--method pnpflow", "did you mean pnp_flow"),
        ("--method dps --method dps", "one label"),
        ("--steps 3 --evaluations 9", "exclude one another"),
        ("--task denoise", "expected 30 pictures of at least 16 pixels"),
        ("--out rows.csv --images 2 --presets none.json", "does not exist"),
        ("--prior nothing", "expected one of photos"),
        ("--images 2 --lpips none.safetensors", "lpips"),
        ("--images 2 --device nowhere", "device 'nowhere' is not there"),
        ("--images 2 --out rows.txt", "name it 'rows.csv'"),
        ("--images 2 --report photos", "is a folder"),
        ("--images 2 --report none/page.html", "make it first"),
        ("--images 2 --reference dps", "--reference: expected one of pnp_flow, "),
    ],
)
def test_bad_words(given, words, message, refusal):
    typed = ["--images", "30", "--method", "pnp_flow", "--task", "denoise", *words.split()]
    for name in ("--method", "--task", "--prior"):  # which may be given several times
        if typed.count(name) + given.count(name) > 1 and name in words:
            where = given if name in given else typed
            del where[where.index(name) : where.index(name) + 2]
    assert message in refusal("bench", *given, *typed)
    assert not Path("rows.csv").exists()  # told before the work


HEAD = ",".join(rows.FIELDS)
DENOISE = ("--operator", "denoise", "--std", "0.2", "--trials", "1", "--steps", "1")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.csv", None, "does not exist"),
        ("empty.csv", "", "holds no rows"),
        ("head.csv", f"{HEAD}\n", "holds no rows"),
        ("other.csv", "a,b\n1,2\n", "other columns"),
        ("word.csv", "mine", "no line"),
        ("bytes.csv", bytes(range(256)), "no text"),
        ("short.csv", f"{HEAD}\n1,2\n", f"line 2: 2 cells instead of {len(rows.FIELDS)}"),
        ("words.csv", f"{HEAD}\n{','.join(['x'] * len(rows.FIELDS))}\n", "line 2: invalid literal"),
        ("holes.csv", f"{HEAD}\n{',' * (len(rows.FIELDS) - 1)}\n", "line 2: no size"),
        ("photos", None, "directory"),
        ("text.parquet", "x", "text.parquet"),
    ],
)
def test_rows_that_are_none(given, tmp_path, refusal, name, content, message):
    if name == "text.parquet":
        pytest.importorskip("pyarrow")
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert message in refusal("table", name)
    if "no rows" not in message and "exist" not in message and name != "photos":  # nor are they written over
        before = (tmp_path / name).read_bytes()
        assert message in refusal("bench", *given, "--method", "dps", "--out", name)
        assert (tmp_path / name).read_bytes() == before


def test_a_search_is_refused_before_it_begins(given, tmp_path, refusal):
    pytest.importorskip("optuna")
    search = ("presets", "search", "--method", "dps", *given, *DENOISE)
    (tmp_path / "bad.json").write_text("[1]")
    bench = ("bench", *given, "--method", "dps", "--presets", "bad.json")
    for words in (("presets", "list", "bad.json"), bench, (*search, "--out", "bad.json")):
        assert "'bad.json' is not a preset file" in refusal(*words)
    assert not (tmp_path / "bad.json.journal").exists()
    (tmp_path / "found.json.journal").write_text("mine\nyours\n")
    assert "delete it to begin anew" in refusal(*search, "--out", "found.json")
    assert (tmp_path / "found.json.journal").read_text() == "mine\nyours\n"
    assert "device 'nowhere' is not there" in refusal(*search, "--device", "nowhere")
    words = ("presets", "velocity", "photos", "--data", "photos", "--out", "c.json", "--device", "nowhere")
    assert "device 'nowhere' is not there" in refusal(*words)


def test_a_prior_of_one_size_stays_at_it(given, refusal):
    words = ["bench", *given, "--prior", "fashion", "--method", "pnp_flow", "--out", "rows.csv"]
    at = words.index("--prior")
    assert "draws pictures of 32 pixels only" in refusal(*words[:at], *words[at + 2 :])
