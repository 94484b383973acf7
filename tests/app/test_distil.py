"""`flowhelm distil`: a run's folder, every method, going on after a cut, the chain of reflow, and bad input."""

import csv
import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from toys import randomised

from flowhelm import distil, priors
from flowhelm.app.distil import problem as made
from flowhelm.app.distil import run as job
from flowhelm.app.distil.request import DistilRequest
from flowhelm.app.run import drive
from flowhelm.interfaces.cli import main
from flowhelm.priors import adapters, bundled, distilled
from flowhelm.priors.unet import UNet

FILES = {
    "README.md", "checkpoint.safetensors", "curve.png", "log.csv", "run.json", "samples.png", "student.safetensors",
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    """A prior of 8 x 8 pixels and two classes that changes what it is given."""
    torch.manual_seed(0)
    net = randomised(UNet((8,), 1, classes=2))
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    bundled.save(net, path, {"classes": ("dark", "light"), "size": 8, "scale": 2.0})
    return str(path)


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job, "HELD", 4)
    monkeypatch.setattr(job, "FINE", 3)


def go(tiny: str, out: str, *more: str, updates: int = 4) -> int:
    small = f"--updates {updates} --rows 4 --rank 2 --parts 2 --pairs 8 --pair-steps 2".split()
    return main(["distil", tiny, "--out", out, *small, *more])


@pytest.mark.parametrize("method", [loss.__name__ for loss in distil.ALL])
def test_every_method_makes_a_student_that_draws(method, tiny, tmp_path, capsys):
    calls = "1" if method == "free_flow" else "2"
    assert go(tiny, "a", "--method", method, "--steps", calls, updates=2) == 0
    said = capsys.readouterr()
    assert "wrote a/student.safetensors" in said.out
    assert "step 2/2, loss" in said.err
    way = made.WAYS[method]
    beside = {"nothing": set(), "pictures": {"pairs.safetensors"}, "pairs": {"pairs.safetensors", "reflow"}}[way.reads]
    assert {path.name for path in (tmp_path / "a").iterdir()} == FILES | beside
    student = priors.load("a/student.safetensors")
    assert student.about["calls"] == int(calls)
    assert main(["sample", tiny, "--student", "a/student.safetensors", "-n", "2", "--out", "b.png"]) == 0
    assert f"Solver {way.solver}, {calls} step" in capsys.readouterr().out
    assert Image.open("a/samples.png").size[0] > 64
    card = (tmp_path / "a" / "README.md").read_text()
    assert f"--method {method}" in card or method == "arc_flow"  # the default is not typed
    assert "flowhelm sample" in card
    trained = sum(
        each.numel() for key, each in load_file("a/student.safetensors").items() if not key.startswith("base.")
    )
    assert f"| trained | {trained:,} numbers" in card
    with (tmp_path / "a" / "log.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2"]


def test_a_student_restores(tiny, tmp_path):
    assert go(tiny, "a", "--method", "mdt_dist", updates=1) == 0
    Image.new("RGB", (8, 8), (120, 60, 30)).save("photo.png")
    words = ["restore", "photo.png", "--operator", "denoise", "--method", "hqs", "--steps", "2", "--std", "0.1"]
    assert main([*words, "--prior", tiny, "--student", "a/student.safetensors", "--out", "c.png"]) == 0
    told = json.loads(next(tmp_path.glob("c*.json")).read_text())
    assert "student.safetensors" in json.dumps(told)


@pytest.mark.parametrize("method", ["arc_flow", "reflow"])
def test_a_run_that_is_cut_ends_in_the_same_bits(method, tiny, tmp_path, monkeypatch):
    """As by kill -9: nothing is written after the last checkpoint, and what lies beyond it comes again."""
    assert go(tiny, "whole", "--method", method) == 0
    plain = made.Problem.data

    class Cut(Exception):
        """Where a process ends."""

    def breaks(at):
        def data(self, pairs=()):
            inner = plain(self, pairs)

            def read(index):
                if index == at:
                    raise Cut
                return inner(index)

            return read

        return data

    monkeypatch.setattr(made.Problem, "data", breaks(2))
    with pytest.raises(Cut):
        go(tiny, "cut", "--method", method, "--minutes", "0")
    monkeypatch.setattr(made.Problem, "data", plain)
    assert go(tiny, "cut", "--method", method) == 0
    for name in ("student.safetensors", "checkpoint.safetensors"):
        a, b = (load_file(tmp_path / run / name) for run in ("whole", "cut"))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_pairs_go_on_in_the_same_bits(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "batches", lambda flow, count, guided: 3)
    request = DistilRequest(prior=tiny, method="reflow", updates=1, rows=4, pairs=8, pair_steps=2, rank=2, threads=1)
    problem = made.prepared(request)
    whole = drive(job._pairs(problem, tmp_path))
    (tmp_path / "pairs.safetensors").unlink()
    part, half = job._pairs(problem.__class__(**vars(problem)), tmp_path), []
    monkeypatch.setattr(problem, "request", request.changed(minutes=0))
    part = job._pairs(problem, tmp_path)
    for event in part:
        half.append(event)
        if len(half) == 3:  # planned, and two parts of three
            break
    part.close()
    assert len(load_file(tmp_path / "pairs.safetensors")["source"]) == 6
    again = drive(job._pairs(problem, tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    assert whole[2].tolist() == [0, 1] * 4
    source, clean = whole[:2]
    rows, x = job.begun(problem.teacher, range(3, 6), request.seed + job.PAIRS)
    assert torch.equal(x, source[3:6])
    assert not torch.equal(clean[3:6], source[3:6])


def test_reflow_makes_straight_paths_before_the_last_stage(tiny, capsys, tmp_path):
    assert go(tiny, "a", "--method", "reflow", "--reflow-updates", "3") == 0
    said = capsys.readouterr().out
    assert "Straightness of the teacher" in said
    assert "Straightness after reflow" in said
    assert (tmp_path / "a" / "reflow" / "straight.safetensors").exists()
    assert go(tiny, "b", "--method", "reflow", "--reflow-updates", "0") == 0
    assert not (tmp_path / "b" / "reflow").exists()


def test_the_way_up_may_stay_the_teachers(tiny, capsys, tmp_path):
    assert go(tiny, "a", "--no-way-up", updates=1) == 0
    assert not distilled.described(tmp_path / "a" / "student.safetensors").up
    assert go(tiny, "a", updates=1) == 2
    assert "way_up was False, is True" in capsys.readouterr().err


def test_the_guidance_is_inside(tiny):
    """The teacher of the loss is guided, the student's file says so, and another guidance is refused."""
    problem = made.prepared(DistilRequest(prior=tiny, threads=1, rank=2, parts=2))
    assert problem.about.scale == 2
    assert problem.teacher.guidance is not None
    assert go(tiny, "a", updates=1) == 0
    assert distilled.described(job.folder(DistilRequest(prior=tiny, out="a")) / "student.safetensors").scale == 2
    assert main(["sample", tiny, "--student", "a/student.safetensors", "--class", "dark", "--scale", "2"]) == 2


def test_another_run_is_refused_in_the_folder(tiny, capsys):
    assert go(tiny, "a", updates=1) == 0
    capsys.readouterr()
    assert go(tiny, "a", "--rate", "0.01", updates=1) == 2
    assert "holds another run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "name a prior first"),
        ("PRIOR --method arcflow", "there is no method 'arcflow'; did you mean arc_flow?"),
        ("PRIOR --method free_flow --steps 2", "draw in one call; take --steps 1"),
        ("PRIOR --segments 3", "--segments is set by the run itself"),
        ("PRIOR --lookz 3", "there is no option --lookz here"),
        ("PRIOR --data x.npz", "arc_flow reads nothing; leave it out"),
        ("PRIOR --method mean_flow --data x.npz", "leave it out: the teacher draws"),
        ("fashion --method mean_flow --data x.npz --rank 2", "'x.npz' does not exist"),
        ("PRIOR --method reflow --pairs 8 --rows 9", "expected at least the 9 of an update"),
        ("photos", "is for priors of up to 64"),
        ("deepinv:DRUNet", "is a denoiser of deepinv"),
        ("nothing", "expected one of photos, photos-2, fashion"),
        ("PRIOR other", "got also other"),
    ],
)
def test_bad_input(words, message, tiny, tmp_path, refusal):
    assert message in refusal("distil", *words.replace("PRIOR", tiny).split())
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".safetensors", ".csv")]


def test_a_student_draws_with_an_adapter_of_its_prior(tiny, tmp_path, capsys):
    """And refuses one of another prior."""
    assert go(tiny, "a", "--method", "reflow", updates=1) == 0
    tuned = bundled.load(tiny).with_lora(2)
    with torch.no_grad():
        for weight in tuned.trained():
            weight.add_(0.3)
    adapters.save(tuned, tmp_path / "style.safetensors", {})
    words = ["sample", tiny, "--student", "a/student.safetensors", "-n", "1", "--class", "dark", "--seed", "1"]
    assert main([*words, "--out", "plain.png"]) == 0
    assert main([*words, "--adapter", "style.safetensors", "--out", "styled.png"]) == 0
    assert Image.open("plain.png").tobytes() != Image.open("styled.png").tobytes()
    capsys.readouterr()
    assert main(["sample", "fashion", "--student", "2", "--adapter", "style.safetensors", "--out", "b.png"]) == 2
    assert "was made for the weights of tiny" in capsys.readouterr().err
