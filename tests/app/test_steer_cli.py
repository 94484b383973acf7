"""`flowhelm steer`: budgets, rewards by their words, what is left on disk, and what is said of bad input."""

import json
import math
import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from toys import randomised

from flowhelm import NetFlow, Noise, grids, load, priors, rewards, run, steer, transition
from flowhelm.app.draw import rows
from flowhelm.app.draw.solvers import Way
from flowhelm.app.errors import BadInput
from flowhelm.app.run import Stepped, drive
from flowhelm.app.show import contact_sheet
from flowhelm.app.steer import allotment, problem, record
from flowhelm.app.steer import rewards as scores
from flowhelm.app.steer import run as app
from flowhelm.app.steer.builders import Subject
from flowhelm.app.steer.request import SteerRequest
from flowhelm.budget import Budget
from flowhelm.guide import on_path
from flowhelm.interfaces.cli import main
from flowhelm.interfaces.cli.progress import carried_out
from flowhelm.path import VP, linear
from flowhelm.rewards.classifier import Classifier

PLOT = contact_sheet.plot
FREE = ("fk", "svdd", "rbf", "best_of", "path_search", "noise_search")
MINE = """
import os, signal
calls, stop = [], None

def left(image):
    return image[..., :16].mean((1, 2, 3))

def stops(image):
    calls.append(len(image))
    if len(calls) == int(os.environ["STOP"]):
        os.kill(os.getpid(), signal.SIGINT)
    return left(image)

def hard(image):
    return left(image.detach())

def whole(image):
    return image

def number(image):
    return 1.0

def broken(image):
    raise KeyError("oops\\nand more")

def late(image):
    calls.append(1)
    if len(calls) > 3:
        raise OSError("gone")
    return left(image)

value = 3
"""


@pytest.fixture(autouse=True)
def unforetold(monkeypatch):
    """What is timed before a run, to say how long it takes, is no evaluation of it; and the plot of the curves takes as long as a run."""
    monkeypatch.setattr("flowhelm.app.steer.run.outlook", lambda *given: "")
    monkeypatch.setattr(contact_sheet, "plot", lambda lines, label, path: path.write_bytes(b"a curve"))


@pytest.fixture(autouse=True)
def _mine(here) -> None:
    (here / "mine.py").write_text(MINE)


def ran(line: str, *words: str, out: str = "a") -> dict:
    assert main(["steer", *line.split(), *words, "--out", out, "--threads", "1"]) == 0
    return json.loads(Path(f"{out}.run.json").read_text())


def rising(values: list) -> bool:
    known = [v for v in values if v is not None]
    return known == sorted(known)


# --- what is drawn ---


@pytest.mark.parametrize("method", FREE)
def test_no_worse_than_plain_sampling_within_the_budget(here, method, monkeypatch):
    seen, ask = [], NetFlow._ask
    monkeypatch.setattr(NetFlow, "_ask", lambda flow, x, *told: seen.append(len(x)) or ask(flow, x, *told))
    strength = ["--strength", "50"] if method == "fk" else []
    run = ran("fashion", "--class", "bag", "--reward", "brightness", "--method", method, "--budget", "60", *strength)
    (made,), trace = run["result"]["pictures"], run["result"]["pictures"][0]["trace"]
    assert sum(seen) == made["evaluations"] == trace[-1]["evaluations"] <= 60
    for column in ("evaluations", "rewards", "decodes", "best", "index"):
        assert rising([line[column] for line in trace]), column
    assert [line["finished"] for line in trace[-1:]] == [True]
    assert trace[-1]["best"] == made["reward"]
    flow = priors.load("fashion")
    plain = drive(rows.draw_jobs(flow, [("bag", 0)], Way(run["settings"]["steps"])))
    least = float(rewards.brightness(plain.clamp(-1, 1)))
    print(method, made["reward"], "plain", least, made["evaluations"])
    assert made["reward"] >= least - 1e-6
    shown = torch.from_numpy(np.asarray(Image.open("a.best.png"), np.float32)) / 127.5 - 1
    assert float(shown.mean()) == pytest.approx(made["reward"], abs=0.01)  # the file is the picture that was scored


@pytest.mark.parametrize("method", ["fk", "svdd", "path_search", "noise_search", "flow_grad", "oc_flow"])
def test_the_cost_is_foretold(here, method, capsys):
    """Exactly, with what is evaluated again for a backward pass; of `rbf`, which may end earlier, at most."""
    less = ["--iterations", "2"] if method in ("flow_grad", "oc_flow") else []
    made = ran("fashion", "--reward", "brightness", "--method", method, "--budget", "50", "--steps", "4", *less)
    said = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{method}: "))
    assert f"at most {made['result']['pictures'][0]['evaluations']} of 50 evaluations per picture" in said


@pytest.mark.parametrize(("drawn", "steered"), [("1", []), ("2", ["--scale", "2"])])
def test_one_draw_is_the_picture_of_sample(here, drawn, steered):
    """By the same solver, and at the same guidance: none here unless it is asked for, the prior's own there."""
    words = ["fashion", "--class", "coat", "--seed", "3", "--steps", "5"]
    assert main(["sample", *words, "-n", "2", "--each", "plain", "--scale", drawn, "--solver", "euler"]) == 0
    ran(*words, *steered, "-n", "2", "--reward", "brightness", "--method", "best_of", "--draws", "1")
    for i in range(2):
        one, other = Image.open(f"plain/coat-00{i}.png"), Image.open(f"a.coat-00{i}.best.png")
        assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1


def test_a_picture_depends_on_its_number_alone(here):
    common = "fashion --reward brightness --budget 20 --strength 40 --transition glass:inner=2"
    one = ran(common, "--class", "bag")["result"]["pictures"]
    many = ran(common, "--class", "coat", "--class", "bag", "-n", "2", "--held-out", "compressibility", out="b")
    many = many["result"]["pictures"]
    assert [each["name"] for each in many] == ["coat-000", "coat-001", "bag-000", "bag-001"]
    assert one[0]["sha256"] == many[2]["sha256"]  # to the bit, and what was held out changed nothing
    assert len({each["sha256"] for each in many}) == 4
    other = ran(common, "--class", "bag", "--seed", "1")["result"]["pictures"]
    assert other[0]["sha256"] != one[0]["sha256"]
    best = max(many, key=lambda each: each["reward"])["name"]
    assert Path("b.best.png").read_bytes() == Path(f"b.{best}.best.png").read_bytes()


def test_a_small_batch_changes_the_last_bits_only(here):
    words = ["fashion", "--class", "bag", "--reward", "brightness", "--method", "svdd", "--draws", "6", "--steps", "4"]
    runs = [ran(*words), ran(*words, "--batch", "4", out="b")]
    values = [run["result"]["pictures"][0]["reward"] for run in runs]
    assert values[0] == pytest.approx(values[1], abs=1e-4)
    assert [run["result"]["pictures"][0]["evaluations"] for run in runs] == [1 + 6 * 3] * 2


def test_gradients_raise_the_reward(here):
    values = []
    for strength in ("0.001", "1000"):
        words = ["--method", "mpc_flow", "--inner", "adam:iterations=4,rate=1", "--chains", "2", "--steps", "5"]
        words += ["--strength", strength]
        made = ran("fashion", "--reward", "mine.py:left", *words)["result"]["pictures"][0]
        assert (made["evaluations"], made["rewards"]) == (10, 2 * 5 * 4)
        assert made["particles"][0]["reward"] != made["particles"][1]["reward"]
        values.append([each["reward"] for each in made["particles"]])
    assert values[1][0] > values[0][0] + 0.05
    assert values[1][1] > values[0][1] + 0.05


def test_a_proposal_may_follow_the_gradient(here):
    words = ["--proposal", "gradient", "--particles", "2", "--steps", "4", "--moments", "langevin_moments:eta=0.5"]
    made = ran("fashion", "--reward", "brightness", *words, "--resampler", "residual")["result"]["pictures"][0]
    assert made["backwards"] == 3  # without tempering at t = 0, and nothing at t = 1
    assert math.isfinite(made["reward"])


def test_a_pipeline(here, sd3, capsys):
    words = [sd3, "--prompt", "a cat", "--size", "32x32", "--reward", "colourfulness", "--held-out", "brightness"]
    run = ran(*words, "--method", "svdd", "--budget", "24", "--scale", "3")
    made = run["result"]["pictures"][0]
    plain = ran(
        *words, "--method", "best_of", "--draws", "1", "--steps", str(run["settings"]["steps"]), "--scale", "3", out="b"
    )
    assert made["reward"] >= plain["result"]["pictures"][0]["reward"]
    assert made["evaluations"] <= 24
    assert rising([line["evaluations"] for line in made["trace"]])
    assert {"prior fingerprint"} == set(run["inputs"])
    assert Image.open("a.best.png").size == (32, 32)
    assert set(made["held_out"]) == {"brightness"}
    assert "no --prompt" not in capsys.readouterr().out
    assert carried_out(app.rerun(Path("a.run.json")))
    assert capsys.readouterr().out == "identical to the bit\n"


# --- what a budget buys ---


def bought(method, given=None, **more):
    told = {"budget": None, "steps": None, "chains": None} | more
    return allotment.allot(getattr(steer, method), given or {}, allotment.Nothing(linear), **told)[0]


@pytest.mark.parametrize(
    ("method", "given", "told", "expected"),
    [
        ("fk", {}, {}, (25, "particles", 8, 200)),  # 200 if nothing is said
        ("fk", {}, {"budget": 400}, (25, "particles", 16, 400)),
        ("fk", {}, {"budget": 60}, (15, "particles", 4, 60)),  # shorter, for the sake of four
        ("fk", {}, {"budget": 30}, (10, "particles", 3, 30)),
        ("fk", {}, {"budget": 9}, (9, "particles", 1, 9)),
        ("fk", {"transition": "glass"}, {"budget": 400}, (6, "particles", 16, 384)),
        ("fk", {"transition": "glass", "particles": "8"}, {"budget": 400}, (12, "particles", 8, 384)),
        ("fk", {"particles": "2"}, {"budget": 400}, (100, "particles", 2, 200)),  # no more than a hundred
        ("fk", {"particles": "8"}, {}, (25, "particles", 8, 200)),  # no limit
        ("fk", {}, {"budget": 400, "steps": 10}, (10, "particles", 40, 400)),
        ("fk", {}, {"budget": 400, "steps": 10, "chains": 2}, (10, "particles", 20, 400)),
        ("svdd", {}, {"budget": 100, "steps": 10}, (10, "draws", 11, 100)),
        ("best_of", {}, {"budget": 400, "long": 28}, (28, "draws", 14, 392)),
        ("best_of", {"draws": "100"}, {"budget": 60}, (25, "draws", 100, 2500)),  # it ends by itself
        ("noise_search", {"draws": "2"}, {"budget": 90, "steps": 10}, (10, "iterations", 4, 90)),
        ("mpc_flow", {"inner": "adam:iterations=1"}, {"budget": 100}, (25, "chains", 4, 100)),
        ("flow_chef", {}, {"chains": 3}, (25, "chains", 3, 75)),
    ],
)  # fmt: skip
def test_the_rule(method, given, told, expected):
    found = bought(method, given, **told)
    assert (found.steps, found.option, found.width, found.evaluations) == expected


@pytest.mark.parametrize("method", [m.__name__ for m in steer.ALL if not m.__name__.startswith(("d_flow", "mpc"))])
def test_as_much_as_fits(method):
    found = bought(method, budget=99)
    assert found.evaluations <= 99
    if found.option != "chains":
        given, flow = {found.option: found.width + 1}, allotment.Nothing(linear)
        assert allotment.cost(getattr(steer, method), given, flow, linear_times(found)).evaluations > 99


def linear_times(found):
    return torch.linspace(0, 1, found.steps + 1, dtype=torch.float64)


def test_it_is_cut_rather_than_exceed(here, monkeypatch, capsys, refusal):
    """A method that costs more than was foretold ends at the budget, with the best that it had."""
    true = allotment.cost
    monkeypatch.setattr(allotment, "cost", lambda *given: true(*given)._replace(evaluations=20))
    made = ran("fashion", "--reward", "brightness", "--method", "flow_opt", "--budget", "20", "--steps", "4")
    made = made["result"]["pictures"][0]
    assert made["cut"]
    assert made["finished"]
    assert made["evaluations"] == 20
    assert len(made["trace"]) == 5
    assert "the budget was spent before the last step" in capsys.readouterr().out
    line = "fashion --reward brightness --method oc_flow --budget 20 --steps 9"
    assert "oc_flow made no step" in refusal("steer", *line.split())


# --- rewards by their words ---


@pytest.mark.parametrize(
    ("text", "weight", "label"),
    [
        ("brightness", 1, "brightness"),
        ("2*brightness", 2, "brightness"),
        (" -0.5 * brightness ", -0.5, "brightness"),
        ("-brightness", -1, "brightness"),
        ("1e-2*compressibility:quality=80", 0.01, "compressibility:quality=80"),
        ("clip:model=a/b,prompt=a cat, two dogs", 1, "clip:model=a/b,prompt=a cat, two dogs"),
        ("clip:prompt=a * b, c=d,model=a/b", 1, "clip:prompt=a * b, c=d,model=a/b"),
    ],
)
def test_words(text, weight, label):
    found = scores.term(text)
    assert (found.weight, found.label) == (weight, label)
    again = scores.term(found.text)
    assert (again.weight, again.label, again.make.keywords) == (weight, label, found.make.keywords)


def test_weights_add_up(here):
    words = ["--reward", "2*brightness", "--reward", "-0.5*compressibility:quality=80", "--reward", "mine.py:left"]
    run = ran("fashion", "--class", "bag", *words, "--budget", "40", "--held-out", "3*brightness")
    made = run["result"]["pictures"][0]
    left = f"{here / 'mine.py'}:left"
    assert run["settings"]["reward"] == ["2.0*brightness", "-0.5*compressibility:quality=80", left]
    parts = made["parts"]
    assert set(parts) == {"brightness", "compressibility:quality=80", left}
    total = 2 * parts["brightness"] - 0.5 * parts["compressibility:quality=80"] + parts[left]
    assert made["reward"] == pytest.approx(total, abs=1e-6)
    assert made["held_out"]["3.0*brightness"] == pytest.approx(3 * parts["brightness"], abs=1e-6)
    assert set(run["inputs"]) == {"mine.py sha256", "prior sha256"}


def test_a_text_is_that_of_the_pictures(monkeypatch):
    asked = []
    monkeypatch.setattr(rewards, "clip_score", lambda *given, **more: asked.append(given) or rewards.colourfulness)
    for words, told in (
        ("clip:model=m", Subject("a cat", "bag")),
        ("clip:model=m", Subject(None, "bag")),
        ("clip:model=m,prompt=dog", Subject("a cat", "bag")),
    ):
        reward = scores.term(words).make(told)
    assert asked == [("m", "a cat"), ("m", "bag"), ("m", "dog")]
    assert reward(torch.rand(2, 1, 4, 4)).tolist() == [0, 0]  # grey pictures, as three equal channels
    assert reward.rows(torch.tensor([1]), 2)(torch.rand(1, 1, 4, 4)).shape == (1,)


def test_a_palette():
    reward = scores.term("palette:colours=ff0000+0000ff").make(Subject())
    halves = torch.full((1, 3, 4, 4), -1.0)
    halves[:, 0, :2], halves[:, 2, 2:] = 1, 1
    assert float(reward(halves)) == pytest.approx(0, abs=1e-9)
    assert float(reward(-torch.ones(1, 3, 4, 4))) < -0.1


def test_a_classifier_file(here):
    torch.manual_seed(0)
    net = randomised(Classifier(1, 10, (8, 16)).eval(), 0.3)
    about = {"widths": [8, 16], "classes": 10}
    save_file(
        {k: v.contiguous() for k, v in net.state_dict().items()}, here / "net.safetensors", {"about": json.dumps(about)}
    )
    image, told = torch.rand(2, 1, 32, 32) * 2 - 1, Subject(None, "bag", priors.load("fashion").about["classes"])
    for words, label in (("net.safetensors", 8), ("net.safetensors:label=Coat", 4), ("2*net.safetensors:label=3", 3)):
        found = scores.term(words)
        expected = net(image).log_softmax(1)[:, label]
        torch.testing.assert_close(found.make(told)(image), expected)
    assert list(scores.fingerprints([scores.term("net.safetensors")])) == ["classifier weights sha256"]
    words = ["--class", "bag", "--reward", "net.safetensors", "--method", "best_of", "--budget", "20", "--steps", "5"]
    ran("fashion", *words)
    assert main(["steer", "fashion", "--reward", "net.safetensors:label=hat"]) == 2


def test_what_is_scored_is_what_is_saved(here):
    made = ran("fashion", "--reward", "mine.py:left", "--method", "flow_grad", "--steps", "5", "--chains", "1")[
        "result"
    ]["pictures"][0]
    assert made["reward"] <= 1  # flow_grad leaves [-1, 1], a file does not


# --- what is left behind ---


def test_the_files_and_the_json(here, capsys, monkeypatch):
    monkeypatch.setattr(contact_sheet, "plot", PLOT)
    run = ran("fashion --class bag --reward brightness --held-out compressibility --particles 6 --steps 5")
    assert {p.name for p in here.iterdir()} == {"mine.py", "a.best.png", "a.sheet.png", "a.curve.png", "a.run.json"}
    said = capsys.readouterr()
    assert "wrote a.best.png, a.run.json, a.sheet.png, a.curve.png" in said.out
    assert "note: the effective sample size stayed at" in said.out  # strength 1 of a brightness is nothing
    assert "step 5/5, reward" in said.err
    assert said.err.rstrip().endswith("left")
    assert set(run) == {"kind", "settings", "inputs", "environment", "result"}
    assert record.read(Path("a.run.json")).stored() == run
    settings = run["settings"]
    assert settings["method_options"]["particles"] == 6
    assert settings["method_options"]["resampler"] == "systematic"
    assert (settings["steps"], settings["budget"], settings["seed"], settings["chains"]) == (5, None, 0, 1)
    assert settings["times"] == [0, 0.2, 0.4, pytest.approx(0.6), 0.8, 1]
    assert {"flowhelm", "torch", "python", "processor"} <= set(run["environment"])
    (made,) = run["result"]["pictures"]
    assert run["result"]["state"] == "finished"
    assert (made["class"], made["number"], made["name"]) == ("bag", 0, "bag-000")
    assert made["finished"]
    assert not made["cut"]
    assert (made["evaluations"], made["rewards"], made["decodes"], made["backwards"]) == (30, 30, 30, 0)
    assert len(made["particles"]) == 6
    assert max(each["reward"] for each in made["particles"]) == made["reward"]
    assert sum(each["weight"] for each in made["particles"]) == pytest.approx(1)
    for i, line in enumerate(made["trace"], 1):
        assert (line["index"], line["of"], line["evaluations"]) == (i, 5, 6 * (i + (i < 5)))
        assert {"ess", "log_z", "mean", "reward", "shown", "t", "decodes", "rewards"} <= set(line)
        assert line["best"] is None or i == 5  # an estimate on the way is no picture
        assert set(line["held_out"]) == {"compressibility"}
    sheet = Image.open("a.sheet.png").convert("RGB")
    frame = (np.asarray(sheet) == np.array([0x1A, 0x7F, 0x37])).all(-1)
    assert frame.sum() > 4 * 3 * 96  # the best has a frame
    assert Image.open("a.curve.png").size[0] > 600


def test_the_best_so_far_is_always_there(here, monkeypatch):
    written, true = [], app.write

    def write(path, picture):
        for known in set(written):
            Image.open(known).load()
        true(path, picture)
        written.append(path.name)

    monkeypatch.setattr(app, "write", write)
    ran("fashion --class bag -n 2 --reward brightness --method svdd --draws 2 --steps 4")
    assert written[:8] == ["a.best.png", "a.bag-000.best.png"] * 4  # every estimate, until the picture
    assert set(written[8:]) <= {"a.best.png", "a.bag-001.best.png"}
    assert written.count("a.bag-001.best.png") == 4
    # an estimate of the second picture never stands in the place of the first, which is finished
    last = [i for i, name in enumerate(written[8:]) if name == "a.best.png"]
    assert len(last) <= 2


def test_every_finished_sample_is_shown(here):
    made = ran("fashion --reward brightness --method noise_search --draws 3 --budget 35 --steps 5")
    made = made["result"]["pictures"][0]
    assert len(made["particles"]) == 7  # the first, and two rounds of three
    assert max(each["reward"] for each in made["particles"]) == pytest.approx(made["reward"])
    assert [line["best"] for line in made["trace"]] == sorted(line["best"] for line in made["trace"])


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(("when", "finished", "pictures"), [(4, False, 1), (9, True, 2), (6, True, 1)])
def test_a_stop_leaves_the_best_so_far(here, monkeypatch, capsys, when, finished, pictures):
    monkeypatch.setenv("STOP", str(when))  # the first call is the trial, then four steps a picture
    handlers = signal.getsignal(signal.SIGINT)
    words = ["--reward", "mine.py:stops", "--method", "svdd", "--draws", "3", "--steps", "4", "-n", "3", "--out", "a"]
    assert main(["steer", "fashion", *words]) == 130
    assert signal.getsignal(signal.SIGINT) == handlers
    run = json.loads(Path("a.run.json").read_text())
    assert run["result"]["state"] == "stopped"
    assert len(run["result"]["pictures"]) == pictures
    best = max(run["result"]["pictures"], key=lambda each: (each["finished"], each["reward"]))
    assert best["finished"] is finished
    assert Path("a.best.png").read_bytes() == Path(f"a.{best['name']}.best.png").read_bytes()
    said = capsys.readouterr().out
    assert "stopped at picture" in said
    assert ("the best finished picture is a.best.png" in said) is finished
    assert ("which is not finished, is a.best.png" in said) is not finished
    assert not [p for p in here.iterdir() if p.name.startswith(".")]
    with pytest.raises(BadInput, match="of a run that was stopped"):
        carried_out(app.rerun(Path("a.run.json")))


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_stop_before_the_first_step(here, monkeypatch, capsys):
    monkeypatch.setenv("STOP", "2")
    line = "steer fashion --reward mine.py:stops --method svdd --draws 3 --steps 4"
    assert main(line.split()) == 130
    assert "stopped before the first step; nothing was written" in capsys.readouterr().out
    assert {p.name for p in here.iterdir()} <= {"mine.py", "__pycache__"}


def test_a_reward_that_fails_later(here, capsys):
    words = ["--reward", "mine.py:late", "--method", "svdd", "--draws", "3", "--steps", "6", "--out", "a"]
    assert main(["steer", "fashion", *words]) == 2
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == "flowhelm: mine.py:late fails (OSError: gone)"
    assert json.loads(Path("a.run.json").read_text())["result"]["state"] == "failed"
    assert Path("a.best.png").is_file()


def test_too_little_memory_leaves_the_best_so_far(here, monkeypatch, capsys):
    asked, ask = [], NetFlow._ask

    def full(flow, x, *told):
        asked.append(len(x))
        if len(asked) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return ask(flow, x, *told)

    monkeypatch.setattr(NetFlow, "_ask", full)
    words = ["--reward", "brightness", "--method", "svdd", "--draws", "2", "--steps", "6", "--out", "a"]
    assert main(["steer", "fashion", *words]) == 1
    assert json.loads(Path("a.run.json").read_text())["result"]["state"] == "failed"
    assert Path("a.best.png").is_file()
    assert capsys.readouterr().err.splitlines()[-1].startswith("flowhelm: there is not enough memory on the GPU")


def test_it_runs_again_to_the_bit(here, capsys):
    ran("fashion", "--reward", "mine.py:left", "--transition", "langevin:eta=0.5", "--budget", "20", "-n", "2")
    before = {p.name for p in here.iterdir()}
    capsys.readouterr()
    assert carried_out(app.rerun(Path("a.run.json"), trust=True))
    assert capsys.readouterr().out == "identical to the bit\n"
    assert {p.name for p in here.iterdir()} == before
    (here / "mine.py").write_text(MINE.replace("[..., :16]", "[..., 16:]"))
    assert not carried_out(app.rerun(Path("a.run.json"), trust=True))
    said = capsys.readouterr().out
    assert said.startswith("not identical: ")
    assert "mine.py sha256 was" in said
    assert Path("a.rerun.best.png").is_file()


def test_along_another_path_as_rbf_in_its_paper(here, capsys):
    """The command is the method on `guide.on_path` with the paper's grid, move and starts; and it runs again to the bit."""
    moves = ["--transition", "langevin:diffusion=falling:level=4.5,power=4"]
    words = ["fashion", "--reward", "brightness", "--method", "rbf", "--steps", "5", "--draws", "4", "--starts", "6"]
    made = ran(*words, *moves, "--path", "vp", "--grid", "arc")
    assert made["settings"]["times"] == grids.arc(5).tolist()
    flow, noise = on_path(load("fashion"), VP()), Noise(0, [(0,)])
    move = partial(transition.langevin, diffusion=transition.diffusion.falling(4.5, 4))
    last = run(
        steer.rbf(
            flow, lambda image: rewards.brightness(image.clamp(-1, 1)), flow.source(noise), grids.arc(5), draws=4, starts=6,
            transition=move, noise=noise,
        )
    )  # fmt: skip
    assert made["result"]["pictures"][0]["reward"] == pytest.approx(float(last.info["reward"][0]), abs=1e-5)
    assert carried_out(app.rerun(Path("a.run.json")))
    capsys.readouterr()
    ran("fashion", "--reward", "brightness", "--method", "svdd", "--steps", "4", "--draws", "2", "--path", "trig")
    assert main(["steer", "fashion", "--reward", "brightness", "--method", "mpc_flow", "--path", "vp"]) != 0
    assert "expected a prior on the linear path" in capsys.readouterr().err


def test_closing_a_run_keeps_the_best_so_far(here):
    """A page that is left closes the generator: as a stop, but nobody is told."""
    request = SteerRequest(prior="fashion", reward=["brightness"], method="svdd", steps=4, out=Path("a"), threads=1)
    events = app.steer(app.settle(request))
    seen = [next(each for each in events if isinstance(each, Stepped)) for _ in range(2)]
    events.close()
    run = json.loads(Path("a.run.json").read_text())
    assert run["result"]["state"] == "stopped"
    assert [line["index"] for line in run["result"]["pictures"][0]["trace"]] == [1, 2]
    assert seen[1].picture().shape == (1, 1, 32, 32)
    assert seen[1].figures.shown == run["result"]["pictures"][0]["reward"]


# --- bad input ---


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "name a prior first: flowhelm steer fashion"),
        ("--reward brightness", "name a prior first"),
        ("fashion", "--reward is missing: what the pictures are steered by, one of brightness,"),
        ("fashion extra --reward brightness", "expected one prior and options, got also extra"),
        ("foto --reward brightness", "got 'foto'; did you mean 'photos'?"),
        ("fashion --reward brigthness", "there is no reward 'brigthness'; did you mean brightness?"),
        ("fashion --reward brightness --held-out clp", "there is no held out 'clp'; did you mean clip?"),
        ("fashion --reward two*brightness", "--reward: expected WEIGHT*NAME with a weight that is not 0"),
        ("fashion --reward brightness --reward 2*brightness", "--reward brightness is given twice; give it once, with a weight"),
        ("fashion --reward brightness:level=1", "brightness has no option 'level'; expected none"),
        ("fashion --reward compressibility:qualty=3", "compressibility has no option 'qualty'; did you mean quality?"),
        ("fashion --reward compressibility:quality=99", "expected a quality of 1 to 95, got 99"),
        ("fashion --reward compressibility:quality=9,quality=8", "quality is given twice"),
        ("fashion --reward clip:prompt=a,modle=b", "clip has no option 'modle'"),
        ("fashion --reward clip", "clip: expected model=..., a folder or a name of the hub; write clip:model=..."),
        ("fashion --reward aesthetic:model=a", "aesthetic: expected head=..., .safetensors file that scripts/convert_reward.py made"),
        ("fashion --reward style:model=a", "style: expected picture=..., whose style; write style:picture=..."),
        ("fashion --reward style:model=a,picture=b.png", "style: 'b.png' does not exist"),
        ("fashion --reward clip:model=./none", "clip: expected a text, got none; give --prompt, or write clip:prompt=..."),
        ("fashion --class bag --reward clip:model=./none", "clip: cannot load './none' as CLIPModel"),
        ("fashion --reward palette", "palette: expected colours=..., RRGGBB joined by +"),
        ("fashion --reward palette:colours=red", "got 'red'"),
        ("fashion --reward palette:colours=ff0000", "expected pictures of 3 channels, got 1"),
        ("fashion --reward colourfulness", "colourfulness: expected pictures of 3 channels, got 1"),
        ("fashion --reward classifier", "classifier: expected weights=..., its .safetensors file, which python -m"),
        ("fashion --reward bad.safetensors --class bag", "is not what python -m flowhelm.bench.quality.classifier writes"),
        ("fashion --reward none.py:f", "--reward: 'none.py' does not exist"),
        ("fashion --reward mine.py", "expected FILE.py:FUNCTION, got 'mine.py'"),
        ("fashion --reward mine.py:nothing", "reward mine.py:nothing: mine.py has no 'nothing'"),
        ("fashion --reward mine.py:value", "mine.py:value is no function"),
        ("fashion --reward mine.py:broken", "mine.py:broken fails (KeyError:"),
        ("fashion --reward mine.py:number", "mine.py:number: expected a tensor of one number per picture, (2,), got float"),
        ("fashion --reward brightness --held-out mine.py:whole", "got (2, 1, 32, 32)"),
        ("fashion --reward brightness --method fkk", "there is no method 'fkk'; did you mean fk?"),
        ("fashion --reward brightness --partcles 3", "there is no option --partcles here; did you mean --particles?"),
        ("fashion --reward brightness --particles 0", "--particles: expected a whole number of at least 1, got '0'"),
        ("fashion --reward brightness --particles", "--particles needs a value"),
        ("fashion --reward brightness --method svdd --transition euler", "all draws would be the same; take a random move"),
        ("fashion --reward brightness --method noise_search --transition glass", "glass: expected a Noise"),
        ("fashion --reward compressibility --method flow_opt", "flow_opt follows the gradient of the reward, and compressibility has none"),
        ("fashion --reward mine.py:hard --method flow_chef", "does not depend on it; take fk, svdd"),
        ("fashion --reward compressibility --proposal gradient", "fk follows the gradient of the reward, and compressibility has none"),
        ("fashion --reward brightness --budget 3", "one trajectory of fk takes 4 evaluations (4 steps); give --budget 4 or more"),
        ("fashion --reward brightness --budget 9 --steps 10", "(10 steps); give --budget 10 or more, or fewer --steps"),
        ("fashion --reward brightness --budget 9 --particles 3", "of fk with --particles 3 takes 12 evaluations (4 steps)"),
        ("fashion --reward brightness --budget 99 --particles 20 --steps 5", "fk with --particles 20 and 5 steps takes 100 evaluations"),
        ("fashion --reward brightness --class bga", "knows no class 'bga'; did you mean 'bag'?"),
        ("fashion --reward brightness --out no/a", "folder 'no' cannot be written to"),
        ("fashion --reward brightness --device moon", "device 'moon' is not there"),
        ("SD --reward brightness --class bag", "--class is for bundled priors; say it in the --prompt"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(words, message, here, sd3, refusal):
    (here / "bad.safetensors").write_bytes(b"nothing")
    assert message in refusal("steer", *words.replace("SD", sd3).split())
    assert {p.name for p in here.iterdir()} <= {"mine.py", "bad.safetensors", "__pycache__"}


def test_a_reward_by_a_model_asks_for_its_model(refusal):
    for name in ("pickscore", "hps", "image_reward", "aesthetic", "vqa", "style"):
        assert f"write {name}:model=..." in refusal("steer", "fashion", "--reward", name)


def test_what_is_held_is_never_exceeded_and_spent_to_the_last_evaluation():
    """In whatever chunks the network works, and whatever the batches are that it is asked for."""
    seen = []

    class Net(torch.nn.Module):
        def forward(self, x, t):
            seen.append(len(x))
            return -x

    net = NetFlow(Net(), (1, 2, 2), linear)

    def limited(limit, ledger):
        return ledger.watch(problem.Limited(net, 3, ledger.count, limit), rewards.brightness, 1)[0]

    ledger = Budget()
    flow, t = limited(11, ledger), torch.tensor(0.5, dtype=torch.float64)
    for batch in (4, 5, 2):
        x = torch.randn(batch, 1, 2, 2)
        assert torch.equal(flow.velocity(x, t), net.velocity(x, t))
    assert int(ledger.spent["evaluations"]) == 11
    before = len(seen)
    with pytest.raises(problem.Over):
        flow.velocity(torch.randn(1, 1, 2, 2), t)
    assert len(seen) == before
    flow = limited(12, ledger := Budget())
    flow.velocity(torch.randn(11, 1, 2, 2), t)
    before = len(seen)
    with pytest.raises(problem.Over):  # a batch is whole or not at all
        flow.velocity(torch.randn(2, 1, 2, 2), t)
    assert len(seen) == before
