"""`flowhelm align`: an adapter, curves, sheets and a card; the same adapter after any kill; and one sentence for what cannot be."""

import csv
import json
import os
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file
from toys import little_prior

import flowhelm
from flowhelm import tune
from flowhelm.app.draw.generate import generate
from flowhelm.app.options import own
from flowhelm.app.run import Stepped, drive
from flowhelm.app.tune import check
from flowhelm.app.tune.request import AlignRequest
from flowhelm.app.tune.run import align
from flowhelm.interfaces.cli import main
from flowhelm.priors import adapters

SMALL = {"classes": ["bag", "coat"], "rows": 4, "updates": 4, "checked": 6, "check_every": 2, "check_steps": 3}
SMALL |= {"threads": 1, "minutes": 0.0, "rank": 2}
FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
CODE = """
import os
calls = 0

def bright(image):
    global calls
    calls += 1
    if calls == int(os.environ.get("DIES", "0")):
        os._exit(9)
    return image.mean((1, 2, 3))

def bad(image):
    out = image.mean((1, 2, 3))
    return out if len(image) == 6 or len(image) == 2 else out / 0

def flat(image):
    return image.mean((1, 2, 3)).detach()
"""


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    return str(little_prior(tmp_path_factory.mktemp("prior")))


@pytest.fixture
def code(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    own.trust(*(f"{path}:{name}" for name in ("bright", "bad", "flat")))
    return str(path)


def asked(prior, out, reward, method="draft", **more):
    options = {"steps": 2} | more.pop("method_options", {})
    if method in ("vgg_flow", "adjoint_matching", "nabla_db"):
        options |= {"share": 0.5}
    return AlignRequest.of(
        SMALL | {"prior": prior, "reward": [reward], "method": method, "method_options": options, "out": out} | more,
        "align",
    )


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_what_a_run_leaves(prior, tmp_path, code):
    seen = []
    out = tmp_path / "run"
    request = asked(prior, out, "brightness", held_out=[f"{code}:flat"], rate=1e-2)
    made = drive(align(request), seen.append)
    assert made == out / "adapter.safetensors"
    assert [event.index for event in seen if isinstance(event, Stepped)] == [1, 2, 3, 4]
    assert sorted(path.name for path in (out / "samples").iterdir()) == ["0000000.png", "0000002.png", "0000004.png"]
    assert [row["update"] for row in rows(out / "log.csv")] == ["1", "2", "3", "4"]
    table = rows(out / "checks.csv")
    assert [row["update"] for row in table] == ["0", "2", "4"]
    assert float(table[0]["frechet"]) < 1e-9
    assert float(table[0]["diversity"]) == pytest.approx(1)
    assert float(table[-1]["brightness"]) > float(table[0]["brightness"])
    assert (out / "curves.png").stat().st_size > 5000
    about = adapters.read(made).about
    assert (about.base, about.rank, about.updates, about.method) == ("little", 2, 4, "draft")
    text = (out / "README.md").read_text()
    assert "DRaFT" in text
    assert re.search(r"flowhelm sample .* --scale 1 --solver euler --adapter", text)
    # what the check drew is what anyone draws with the adapter
    base = flowhelm.load(prior)
    with torch.no_grad():
        tuned = adapters.applied(base, made)
        assert not torch.equal(tuned.net.head.weight, base.net.head.weight)
    got = generate(prior, classes=["bag", "coat"], count=3, steps=3, scale=1.0, solver="euler", adapter=made, threads=1)
    assert float(got.clamp(-1, 1).mean()) == pytest.approx(float(table[-1]["brightness"]), abs=2e-3)


@FORKS
@pytest.mark.parametrize("method", ["vgg_flow", "diffusion_nft"])
@pytest.mark.parametrize("call", [9])
def test_a_kill_changes_nothing(prior, tmp_path, code, method, call):
    killed_and_whole(prior, tmp_path, code, method, [call])


@FORKS
@pytest.mark.slow
@pytest.mark.parametrize("method", [each.__name__ for each in tune.ALL])
def test_five_kills_change_nothing(prior, tmp_path, code, method):
    killed_and_whole(prior, tmp_path, code, method, [5, 6, 7, 9, 11])


def killed_and_whole(prior, tmp_path, code, method, calls):
    """The process ends at once in the midst of an update, at the n-th call of the reward; the same command then goes on."""
    reward = f"{code}:bright"
    drive(align(asked(prior, tmp_path / "whole", reward, method)))
    for call in calls:
        child = os.fork()
        if not child:
            os.environ["DIES"] = str(call)
            try:
                drive(align(asked(prior, tmp_path / "cut", reward, method)))
            finally:
                os._exit(0)
        os.waitpid(child, 0)
    drive(align(asked(prior, tmp_path / "cut", reward, method)))
    one, other = (load_file(tmp_path / name / "adapter.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    one, other = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "cut"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    one, other = (rows(tmp_path / name / "log.csv") for name in ("whole", "cut"))
    assert [each | {"seconds": 0} for each in one] == [each | {"seconds": 0} for each in other]
    assert (tmp_path / "whole" / "checks.csv").read_text() == (tmp_path / "cut" / "checks.csv").read_text()


def test_a_run_goes_on_to_more_updates_and_no_other_run_does(prior, tmp_path, code):
    out = tmp_path / "run"
    drive(align(asked(prior, out, f"{code}:bright", updates=2)))
    first = rows(out / "log.csv")
    drive(align(asked(prior, out, f"{code}:bright", updates=3)))
    assert rows(out / "log.csv")[:2] == first
    assert len(rows(out / "log.csv")) == 3
    with pytest.raises(ValueError, match=r"holds another run: rate was 0\.001, is 0\.1; use another --out"):
        drive(align(asked(prior, out, f"{code}:bright", rate=0.1)))
    shutil.copy(out / "checkpoint.safetensors", tmp_path / "c")
    (out / "checkpoint.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match="is no readable checkpoint"):
        drive(align(asked(prior, out, f"{code}:bright", updates=3)))
    (out / "run.json").write_text("[]")
    with pytest.raises(ValueError, match=r"run\.json cannot be read"):
        drive(align(asked(prior, out, f"{code}:bright", updates=3)))


def test_a_budget_ends_it(prior, tmp_path, code):
    out = tmp_path / "run"
    drive(align(asked(prior, out, f"{code}:bright", budget=20)))
    assert [row["evaluations"] for row in rows(out / "log.csv")] == ["8", "16", "24"]
    assert "the budget of 20 evaluations is spent" in (out / "README.md").read_text()


BAD = (
    ([], "--reward is missing"),
    (["--reward", "compressibility"], "vgg_flow follows the gradient of the reward, and compressibility has none; take --method"),
    (["--reward", "{code}:flat"], "vgg_flow follows the gradient of the reward, and .*flat does not depend on it"),
    (["--reward", "brightness", "--target", "to_q"], "'to_q', which matches none"),
    (["--reward", "brightness", "--held-out", "brightness"], "is what is trained on"),
    (["--reward", "brightness", "--method", "vgg"], "there is no method 'vgg'; did you mean vgg_"),
    (["--reward", "brightness", "--done", "3"], "--done is set by the run itself"),
    (["--reward", "brightness", "--beta", "-1"], "expected a number above 0, got '-1'"),
    (["--reward", "brightness", "--class", "cow"], "knows no class 'cow'"),
    (["--reward", "brightness", "--method", "flow_grpo", "--group", "5", "--rows", "12"], "in groups of --group 5, which must divide it"),
)  # fmt: skip


@pytest.mark.parametrize(("words", "sentence"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_bad_input_is_one_sentence(prior, tmp_path, code, capsys, words, sentence):
    given = [word.format(code=code) for word in words]
    assert main(["align", prior, *given, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err.strip()
    assert re.search(sentence, said), said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_reward_that_is_not_finite_loses_nothing(prior, tmp_path, code, capsys):
    out = tmp_path / "run"
    words = f"align fashion --class bag --reward {code}:bad --method draft --rows 4 --checked 6".split()
    assert (
        main([*words, "--updates", "2", "--steps", "2", "--check-steps", "2", "--threads", "1", "--out", str(out)]) == 1
    )
    assert "the reward is" in capsys.readouterr().err
    assert (out / "checkpoint.safetensors").exists()
    assert json.loads((out / "run.json").read_text())["settings"]["method"] == "draft"


def row(held, diversity=1.0, error=0.1):
    return {"held": held, "held error": error, "diversity": diversity}


def test_when_it_stops():
    assert check.verdict([row(1.0), row(0.9), row(0.95)], ["held"], 0.5, 2) == ""  # within two errors
    assert "fell from 1 to 0.4" in check.verdict([row(1.0), row(0.5), row(0.4)], ["held"], 0.5, 2)
    assert check.verdict([row(1.0), row(0.4)], ["held"], 0.5, 2) == ""  # once is not enough
    assert "less than --least-diversity 0.5" in check.verdict([row(1.0), row(1.0, 0.3)], [], 0.5, 2)
    assert check.healthy(row(0.95), row(1.0), ["held"], 0.5)
    assert not check.healthy(row(0.4), row(1.0), ["held"], 0.5)


def test_noise_is_pointed_at():
    draw = torch.Generator().manual_seed(0)
    smooth = torch.linspace(-1, 1, 16).expand(4, 1, 16, 16)
    edges = [check.looks(smooth + 0.5 * size * torch.rand(4, 1, 16, 16, generator=draw)) for size in (0, 0.1, 1)]
    assert check.strange(edges[1], edges[0]) == ""
    assert "times the edges of the prior's" in check.strange(edges[2], edges[0])
    assert "times" in check.strange(edges[0], edges[2])


def test_what_a_check_measures():
    black, white = -torch.ones(3, 3, 8, 8), torch.ones(3, 3, 8, 8)
    assert check.looks(black) == {"dark": 1.0, "edges": 0.0, "saturation": 0.0}
    red = white.clone()
    red[:, 1:] = -1
    assert check.looks(red)["saturation"] == 1
    assert check.spread(torch.cat([black[:1], white[:1]])) == pytest.approx(2)
    many = torch.randn(40, 1, 12, 12)
    assert check.distance(many, many) < 1e-9
    assert check.distance(many, many + 0.5) == pytest.approx(36 * 0.25, rel=1e-3)  # 6 x 6 numbers, each moved by 0.5


def test_tensorboard_has_what_the_files_have(prior, tmp_path, code):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    drive(align(asked(prior, tmp_path / "a", f"{code}:bright", updates=4, check_every=2, tensorboard=True)))
    events = EventAccumulator(str(tmp_path / "a" / "tensorboard")).Reload()
    log, checks = rows(tmp_path / "a" / "log.csv"), rows(tmp_path / "a" / "checks.csv")
    for name in ("reward", "loss"):
        found = events.Scalars(f"update/{name}")
        assert [e.step for e in found] == [1, 2, 3, 4]
        assert [e.value for e in found] == pytest.approx([float(r[name]) for r in log], rel=1e-5)
    assert [e.value for e in events.Scalars("check/frechet")] == pytest.approx(
        [float(r["frechet"]) for r in checks], rel=1e-5
    )
    assert len(events.Images("samples")) == 3
