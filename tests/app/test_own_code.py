"""Code of your own: a method, an operator, a prior and a reward at every command, and nowhere but where it was typed."""

import json
from contextvars import copy_context

import numpy as np
import pytest
import torch
from PIL import Image

from flowhelm import Noise, priors
from flowhelm.app.batch import description
from flowhelm.app.errors import BadInput
from flowhelm.app.options import own
from flowhelm.app.options.signature import options, pick
from flowhelm.app.options.words import worded
from flowhelm.app.restore.restorer import Restorer
from flowhelm.app.steer.rewards import term
from flowhelm.cards import METHODS
from flowhelm.interfaces.cli import main

CODE = '''
from collections.abc import Iterator
from itertools import pairwise
import torch
from flowhelm import Linear, Step, load, priors
from flowhelm.entry import Count, Positive
open("ran", "a").close()

@torch.no_grad()
def mine(flow, y, x, times, *, rate: Positive = 0.5, noise=None):
    """Mine: a prox and fresh noise.

    Needs   a linear measurement on a pixel prior

    Args:
        rate: trust in the prior.
    """
    for i, (s, t) in enumerate(pairwise(times), 1):
        clean = y.prox(flow.ends(x, s).clean, y.std**2 / rate)
        x = t * clean + (1 - t) * noise(x)
        yield Step(i, len(times) - 1, t, x, clean)

def drawn(flow, y, x, times, *, noise=None):
    for i, (s, t) in enumerate(pairwise(times), 1):
        ends = flow.ends(x, s)
        x = x + (t - s) * flow.velocity(x, s)
        yield Step(i, len(times) - 1, t, x.detach(), ends.clean.detach(), {})

def halved(shape, *, factor: Count = 2):
    """A picture without every `factor`-th column.

    Options:
        factor: how many columns there are to each that is missing.
    """
    seen = (torch.arange(shape[-1]) % factor != 0).float()
    return Linear(lambda image: image * seen.to(image), shape)

def small(shape):
    return Linear(torch.nn.AvgPool2d(2), shape)

def prior(device="cpu"):
    return priors.from_velocity(load("fashion").net, (1, 32, 32))

def bright(image):
    return image.mean((1, 2, 3))

def few(flow, y): ...
def silent(flow, y, x, times): ...
def untyped(flow, y, x, times, *, rate=1.0, noise=None): ...
value = 3
'''


@pytest.fixture
def code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.py").write_text(CODE)
    y, x = np.mgrid[0:32, 0:32]
    Image.fromarray((4 * x + 4 * y).astype(np.uint8)).save(tmp_path / "photo.png")
    return tmp_path


def ran(*words):
    assert main(words[0].split(" ") if len(words) == 1 else list(words)) == 0


def refused(capsys, *words):
    assert main(words[0].split(" ") if len(words) == 1 else list(words)) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "\n" not in said
    return said


# --- the doors ---


def test_restore_with_method_and_operator_of_your_own(code, capsys):
    ran("restore photo.png --operator my.py:halved --factor 3 --method my.py:mine --rate 0.8 --steps 3 --std 0.05")
    settings = json.loads((code / "photo.run.json").read_text())
    assert settings["settings"]["method"] == f"{code / 'my.py'}:mine"
    assert settings["settings"]["method_options"] == {"rate": 0.8}
    assert settings["settings"]["operator_options"] == {"factor": 3}
    assert len(settings["inputs"]["method code sha256"]) == 64
    # the file names code: nobody has typed it
    said = refused(capsys, "rerun", "photo.run.json")
    assert "names code that would be run" in said
    assert said.endswith("run it with --trust")
    ran("rerun", "photo.run.json", "--trust")
    assert "identical to the bit" in capsys.readouterr().out
    (code / "my.py").write_text(CODE.replace("y.std**2 / rate", "y.std**2 / rate / 9"))
    assert main(["rerun", "photo.run.json", "--trust"]) == 1
    assert "method code sha256 was" in capsys.readouterr().out


def test_what_they_do_is_what_the_functions_do(code):
    """Through the command line and by hand: the same numbers."""
    ran("restore photo.png --operator my.py:halved --method my.py:mine --steps 3 --std 0.1 --seed 5")
    made = json.loads((code / "photo.run.json").read_text())

    def by_hand():
        own.trust("my.py:mine", "my.py:halved")
        method, operator = own.load("method", "my.py:mine"), own.load("operator", "my.py:halved")
        restored = Restorer()("photo.png", "my.py:halved", method="my.py:mine", steps=3, std=0.1, seed=5)
        assert own.name_of(method) == f"{code / 'my.py'}:mine"
        assert own.name_of(operator) == f"{code / 'my.py'}:halved"
        return restored.sha256

    assert copy_context().run(by_hand) == made["result"]["sha256"]


def test_a_batch_takes_what_is_typed(code, capsys):
    (code / "many").mkdir()
    (code / "photo.png").rename(code / "many" / "a.png")
    words = "restore many --operator my.py:halved --method my.py:mine --steps 2 --std 0.1 --out out"
    ran(words)
    assert (code / "out" / "a.restored.png").is_file()
    assert "names code" in refused(capsys, "rerun", "out/manifest.jsonl", "--item", "a.png")
    ran("rerun", "out/manifest.jsonl", "--item", "a.png", "--trust")
    assert "leave out --ray" in refused(capsys, f"{words} --ray auto")


def test_a_prior_and_a_reward_of_your_own_steer(code):
    ran("steer my.py:prior --reward 2*my.py:bright --method svdd --draws 2 --steps 2")
    made = json.loads((code / "my.steered.run.json").read_text())
    assert made["settings"]["prior"] == f"{code / 'my.py'}:prior"
    assert main(["rerun", "my.steered.run.json"]) == 2
    ran("rerun", "my.steered.run.json", "--trust")
    ran("steer fashion --reward brightness --method my.py:drawn --steps 2 --out drawn")
    ran("sample", "my.py:prior", "-n", "1", "--steps", "2")


def test_a_method_that_steers_by_nothing_gives_what_sample_gives(code):
    """`drawn` looks at no reward: its picture is that of `flowhelm sample`, from the same source in the same steps."""
    ran("steer my.py:prior --reward brightness --method my.py:drawn --steps 3 --budget 6 --out a")
    ran("sample my.py:prior -n 1 --steps 3 --solver euler --each b")
    (one,) = (code / "b").iterdir()
    assert np.array_equal(np.asarray(Image.open("a.best.png")), np.asarray(Image.open(one)))


def test_bench_and_presets_and_calibrate(code, capsys):
    data = "--data . --images 1 --size 32"
    words = f"bench {data} --prior my.py:prior --task my.py:halved:factor=3,std=0.1 --method my.py:mine:rate=0.3,label=A".split()
    words = [w for w in words if w not in ("--size", "32")] + ["--method", "red", "--steps", "2", "--out", "rows.csv"]
    ran(*words)
    first = (code / "rows.csv").read_text()
    ran(*words)
    assert (code / "rows.csv").read_text() == first  # all was done
    assert "my.py:mine" in first
    assert "my.py:halved@" in first
    (code / "my.py").write_text(CODE + "\n# another version\n")
    ran(*words)
    assert (code / "rows.csv").read_text().startswith(first)  # rows of another version do not count
    assert len((code / "rows.csv").read_text()) > len(first)
    ran("table", "rows.csv", "--reference", "A")
    assert "\\n" not in capsys.readouterr().out
    ran(
        *f"presets search --method my.py:mine --operator my.py:halved --std 0.1 {data} --prior my.py:prior --trials 2 --steps 2".split()
    )
    (found,) = json.loads((code / "presets.json").read_text())["presets"]
    assert (found["method"], found["operator"]) == (f"{code / 'my.py'}:mine", f"{code / 'my.py'}:halved")
    ran("calibrate my.py:mine --rate 0.5 --operator my.py:halved --truths 20 --samples 4 --steps 2")
    assert "my.py:mine: " in capsys.readouterr().out
    assert "method code sha256" in json.loads((code / "calibration.json").read_text())["settings"]


def test_its_options_are_read_off_signature_and_docstring(code, capsys):
    ran("methods", "my.py:mine")
    said = capsys.readouterr().out
    assert said.startswith("Mine: a prox and fresh noise.")
    assert "--rate  (a number above 0; default 0.5)\n      trust in the prior." in said
    ran("operators", "my.py:halved")
    assert "--factor  (a whole number of at least 1; default 2)" in capsys.readouterr().out
    assert refused(
        capsys, "restore", "photo.png", "--operator", "deblur", "--method", "my.py:mine", "--rate", "-1"
    ) == ("flowhelm: mine: --rate: expected a number above 0, got '-1'")
    assert "did you mean --rate" in refused(
        capsys, "restore", "photo.png", "--operator", "deblur", "--method", "my.py:mine", "--rat", "1"
    )


def test_a_module_has_a_name_too(code, monkeypatch, capsys):
    package = code / "pack"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inside.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(code))
    ran("restore photo.png --operator pack.inside:halved --method pack.inside:mine --steps 2 --std 0.1")
    assert "there is no module 'pack.nothing' here" in refused(
        capsys, "restore photo.png --operator deblur --method pack.nothing:mine"
    )


# --- what is wrong with it ---


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("none.py:mine", "method: '{}/none.py' does not exist; check the path"),
        ("my.py:min", "method my.py:min: my.py has no 'min'; did you mean mine?"),
        ("my.py:value", "method my.py:value is no function but int; name a function"),
        ("my.py:few", "expected a function (flow, y, x, times, *, ..., noise), got (flow, y); give it 4 arguments"),
        ("my.py:silent", "add noise: Noise | None = None, which it may leave alone"),
        ("my.py:untyped", "its option rate has no type; write rate: float = 1.0"),
        ("bad.py:mine", "method: bad.py cannot be imported, line 3 (NameError: name 'torhc' is not defined); mend it"),
        ("worse.py:mine", "method: worse.py cannot be imported, line 2 (SyntaxError: "),
    ],
)
def test_what_is_wrong_is_one_sentence(code, capsys, words, message):
    (code / "bad.py").write_text("import torch\n\nx = torhc.zeros(1)\n")
    (code / "worse.py").write_text("x = 1\ndef mine(flow:\n")
    assert message.format(code) in refused(capsys, "restore", "photo.png", "--operator", "deblur", "--method", words)


def test_an_operator_that_changes_the_shape_says_so(code, capsys):
    words = ["restore", "photo.png", "--operator", "my.py:small", "--steps", "1", "--std", "0.1"]
    assert "small.clean_shape = lambda measured, **options: (channels, height, width)" in refused(capsys, *words)
    with open("my.py", "a") as file:
        file.write("small.clean_shape = lambda measured: (measured[0], 2 * measured[1], 2 * measured[2])\n")
    ran(*words)
    assert Image.open("photo.restored.png").size == (64, 64)


def test_a_file_called_like_a_module_takes_nothing_from_it(code):
    (code / "json.py").write_text(CODE)
    ran("restore photo.png --operator json.py:halved --method hqs --steps 1 --std 0.1")
    import sys

    assert sys.modules["json"] is json


# --- nowhere else ---


@pytest.mark.parametrize("part", ["method", "operator", "prior", "reward"])
def test_what_nobody_has_typed_is_not_even_imported(code, part):
    with pytest.raises(BadInput, match="code runs only where you type it yourself"):
        own.load(part, "my.py:mine")
    assert not (code / "ran").exists()


def test_neither_python_nor_a_description_nor_a_preset_names_code(code, capsys):
    for given in ({"method": "my.py:mine"}, {"operator": "my.py:halved"}):
        with pytest.raises(BadInput, match="code runs only where"):
            Restorer()("photo.png", **{"operator": "deblur", "std": 0.1} | given)
    (code / "many").mkdir()
    (code / "photo.png").rename(code / "many" / "photo.png")
    for given in ({"method": "my.py:mine"}, {"operator": "my.py:halved"}, {"prior": "my.py:prior"}):
        job = {"inputs": ["many"], "operator": "deblur", "std": 0.1, **given}
        (code / "job.json").write_text(json.dumps(job))
        assert "code runs only where" in refused(capsys, "batch", "job.json")
    for text in ("my.py:mine", "my.py:mine:rate=1"):
        with pytest.raises(BadInput, match="code runs only where"):
            worded("method", text, METHODS)
    with pytest.raises(BadInput, match="code runs only where"):
        term("my.py:bright").make(None)
    assert not (code / "ran").exists()


def test_what_is_typed_for_one_command_is_not_typed_for_the_next(code, capsys):
    ran("methods", "my.py:mine")
    (code / "many").mkdir()
    (code / "job.json").write_text(json.dumps({"inputs": ["many"], "operator": "deblur", "method": "my.py:mine"}))
    assert "code runs only where" in refused(capsys, "batch", "job.json")


def test_a_resume_file_needs_trust(code, capsys, monkeypatch):
    from flowhelm.app.restore import run as job

    words = "restore photo.png --operator my.py:halved --method my.py:mine --steps 4 --std 0.1"
    ran(words)
    whole = json.loads((code / "photo.run.json").read_text())["result"]["sha256"]
    real, seen = job.finite, []

    def stopped(steps):
        for step in real(steps):
            yield step
            seen.append(step.index)
            if step.index == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(job, "finite", stopped)
    assert main(words.split(" ")) == 130
    monkeypatch.setattr(job, "finite", real)
    assert "names code" in refused(capsys, "restore", "--resume", "photo.resume.safetensors")
    ran("restore", "--resume", "photo.resume.safetensors", "--trust")
    assert json.loads((code / "photo.run.json").read_text())["result"]["sha256"] == whole
    assert "--trust goes with --resume" in refused(capsys, f"{words} --trust")


def test_other_kinds_of_names_are_never_code(code):
    own.trust("my.py:mine")
    for what in ("guidance", "solver", "recipe", "protocol"):
        with pytest.raises(BadInput, match=f"there is no {what}"):
            pick(what, "my.py:mine", METHODS)


def test_words():
    assert own.split("hqs") is None
    assert own.split("hqs:weight=3") is None
    assert own.split("a/my.py:f:x=1,y=2")[1] == "x=1,y=2"
    assert own.split("pack.inside:f") == ("pack.inside:f", "")
    assert own.word("org/name") is None
    assert own.word("my.py:f:x=1") is None
    assert own.words_of({"method": "hqs", "reward": ["2*my.py:f"], "prior": None, "operator": 3}) == [
        own.word("my.py:f")
    ]
    assert own.words_of("nothing") == []


def test_the_page_and_http_refuse_code(code):
    pytest.importorskip("gradio")
    from flowhelm.interfaces.ui.requests import harmless

    with pytest.raises(BadInput, match="runs no code of this machine"):
        harmless("my.py:bright")
    assert set(options(pick("method", "hqs", METHODS))) == {"weight", "momentum", "sure", "looks", "ensemble", "inner"}
    assert torch.is_tensor(Noise(0, 1)(torch.zeros(1, 1)))
    assert "fashion" in priors.NAMES
    assert description.schema()["properties"]["method"]["enum"][-1] is None
