"""`flowhelm sample` and `flowhelm priors`: what is drawn does not depend on how, files, bad input, pickles."""

import io
import math
import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toys import randomised

import flowhelm
from flowhelm import Noise, grids, guide, integrate, priors, run, sample, transition
from flowhelm.app.draw import request, rows, solvers
from flowhelm.app.draw.solvers import Way
from flowhelm.app.errors import BadInput
from flowhelm.app.models import batches
from flowhelm.app.models import cards as shelf
from flowhelm.app.run import drive
from flowhelm.interfaces.cli import main
from flowhelm.path import VP
from flowhelm.priors.bundled import NAMES, save
from flowhelm.priors.unet import UNet

ABOUT = {
    "classes": ["dark", "light", "grey cat"],
    "words": ["round", "square"],
    "numbers": {"brightness": [0.5, 0.1], "detail": [0.05, 0.02]},
    "size": 8,
}


def written(path: Path, about: dict, channels: int = 1, std: float = 0.12) -> Path:
    torch.manual_seed(0)
    kinds = {k: len(about.get(k, ())) for k in ("classes", "words", "numbers")}
    net = randomised(UNet((8, 8), 1, channels=channels, **kinds), std)
    save(net, path, about)
    return path


@pytest.fixture(scope="module")
def known(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("prior") / "known.safetensors", ABOUT)


@pytest.fixture
def flow(known):
    return priors.load(known)


def drawn(flow, jobs, each=lambda event: None, *, guidance=None, numbers=None, **way):
    return drive(rows.draw_jobs(flow, jobs, Way(**way), guidance=guidance, numbers=numbers), each)


# --- what is drawn ---


def test_a_picture_depends_on_its_number_alone(flow, monkeypatch):
    """Not on how many are drawn, in what batches, nor on the other classes."""
    many = drawn(flow, [(c, i) for c in ABOUT["classes"] for i in range(6)], steps=3, seed=4)
    monkeypatch.setattr(batches, "PIXELS", 3 * 64)  # three rows at a time
    few = drawn(flow, [("light", i) for i in range(5)], steps=3, seed=4)
    one = drawn(flow, [("light", 4)], steps=3, seed=4)
    torch.testing.assert_close(few, many[6:11], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one, many[10:11], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(many[:6], many[6:12], atol=1e-2)  # the classes differ
    other = drawn(flow, [("light", 4)], steps=3, seed=5)
    assert not torch.allclose(one, other, atol=1e-2)


@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun"])
def test_it_is_the_solver_on_the_bound_prior(flow, solver):
    move = getattr(transition, solver)
    got = drawn(flow, [("light", 2), ("dark", 3)], steps=4, solver=move, seed=7, numbers={"detail": 0.07})
    numbers = torch.tensor([[math.nan, 1.0]]).expand(2, 2)
    bound = flow.bind(torch.tensor([1, 0]), torch.zeros(2, 1, dtype=torch.int64), numbers)
    x = torch.cat([Noise(7, [key])(torch.empty(1, 1, 8, 8)) for key in (2, 3)])
    expected = run(integrate(bound, x, torch.linspace(0, 1, 5, dtype=torch.float64), transition=move)).x
    torch.testing.assert_close(got, expected)


def test_guidance(flow):
    jobs = [("light", i) for i in range(3)]
    plain = drawn(flow, jobs, steps=3)
    one = drawn(flow, jobs, steps=3, guidance=partial(guide.cfg, scale=1.0))
    torch.testing.assert_close(one, plain, atol=1e-5, rtol=1e-5)
    zero = drawn(flow, jobs, steps=3, guidance=partial(guide.cfg, scale=0.0))
    nothing = drawn(flow, [(None, i) for i in range(3)], steps=3)
    torch.testing.assert_close(zero, nothing, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(plain, nothing, atol=1e-2)
    with pytest.raises(ValueError, match="guidance of prior 'known': expected a class, a prompt or a number, got none"):
        drawn(flow, [(None, 0)], steps=1, guidance=guide.cfg)


def test_memory_is_bounded(flow, monkeypatch):
    assert batches.batches(flow, 10**6, False) == 2**18 // 64
    assert batches.batches(flow, 10**6, True) == 2**17 // 64
    assert batches.batches(flow.sized(4096, 4096), 5, False) == 1
    seen = []
    monkeypatch.setattr(batches, "PIXELS", 4 * 64)
    told = []
    flow.net.register_forward_pre_hook(lambda net, given: seen.append(len(given[0])))
    tell = lambda event: told.append((event.index, event.total))  # noqa: E731
    drawn(flow, [("dark", i) for i in range(6)], steps=2, guidance=guide.cfg, each=tell)
    assert set(seen) == {4}
    assert told == [(i, 6) for i in range(1, 7)]


# --- the command ---


def sizes(path: Path) -> tuple[int, int]:
    return Image.open(path).size


def test_a_row_for_each_class(known, here, capsys):
    assert main(["sample", str(known), "--steps", "2"]) == 0
    assert [p.name for p in here.iterdir()] == ["known.samples.png"]
    assert sizes(here / "known.samples.png")[1] == 3 * 68 - 4  # 8 x 8, shown as 64 x 64
    assert sizes(here / "known.samples.png")[0] > 8 * 68
    said = capsys.readouterr()
    assert said.out == "Solver dpm:variable=log, 2 steps, noise levels 1 0.5 0.\nwrote known.samples.png\n"
    assert "step 2/2, 24 pictures" in said.err


def test_each_picture_in_a_folder(known, here):
    words = ["sample", str(known), "--steps", "2", "--seed", "3"]
    assert main([*words, "--class", "light", "--class", "Grey Cat", "-n", "2", "--each", "a"]) == 0
    names = {"light-000.png", "light-001.png", "Grey_Cat-000.png", "Grey_Cat-001.png"}
    assert {p.name for p in (here / "a").iterdir()} == names
    assert {p.name for p in here.iterdir()} == {"a"}
    assert main([*words, "--class", "light", "-n", "3", "--each", "b", "--out", "b.png"]) == 0
    assert sizes(here / "b.png")[1] == 64
    for i in (0, 1):
        a, b = (np.asarray(Image.open(here / f / f"light-00{i}.png")).astype(int) for f in "ab")
        assert np.abs(a - b).max() <= 1
        assert a.shape == (8, 8)


def test_prompts_numbers_and_guidance(known, here):
    words = [
        "sample", str(known), "--prompt", "a round, square", "--number", "brightness=0.7", "--number", "detail=0.06",
    ]  # fmt: skip
    made = []
    for more in ("", "--scale 3", "--guidance raag", "--scale 3 --guidance cfg_zero", "--solver heun"):
        assert main([*words, "--steps", "2", "-n", "2", *more.split()]) == 0
        made.append((here / "known.samples.png").read_bytes())
    assert len(set(made)) == 5
    assert sizes(here / "known.samples.png") == (2 * 68 - 4, 64)


def test_a_prior_is_guided_by_its_own_scale_unless_told_otherwise(here):
    """Its file says the scale; nothing told, nothing guided; --scale 1 is what the velocity itself draws."""
    path = str(written(here / "known.safetensors", ABOUT | {"scale": 3.0}))
    flow = priors.load(path)
    assert flow.scale == 3.0
    words = ["sample", path, "--class", "light", "-n", "1", "--steps", "2"]
    made = {}
    for name, more in {
        "own": [],
        "same": ["--scale", "3"],
        "none": ["--scale", "1"],
        "raag": ["--guidance", "raag"],
    }.items():
        assert main([*words, *more]) == 0
        made[name] = (here / "known.samples.png").read_bytes()
    assert made["own"] == made["same"]
    assert len(set(made.values())) == 3
    plain = flowhelm.generate(path, classes=["light"], count=1, steps=2, scale=1.0)
    torch.testing.assert_close(plain, drawn(flow, [("light", 0)], steps=2, solver="auto"), atol=1e-5, rtol=1e-5)
    own = flowhelm.generate(path, classes=["light"], count=1, steps=2)
    torch.testing.assert_close(
        own, drawn(flow, [("light", 0)], steps=2, guidance=partial(guide.cfg, scale=3.0), solver="auto")
    )
    assert torch.equal(flowhelm.generate(path, count=1, steps=2), drawn(flow, [(None, 0)], steps=2, solver="auto"))
    assert not torch.allclose(own, plain, atol=1e-2)


def test_a_prior_without_conditions(here, refusal):
    written(here / "plain.safetensors", {"size": 8}, channels=3)
    assert main(["sample", "plain.safetensors", "--steps", "1", "-n", "5", "--out", "a.png"]) == 0
    assert sizes(here / "a.png") == (3 * 68 - 4, 2 * 68 - 4)
    assert "takes no classes; it takes no conditions" in refusal("sample", "plain.safetensors", "--class", "cat")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("foto", "got 'foto'; did you mean 'photos'?"),
        ("KNOWN --class ligth", "prior 'known' knows no class 'ligth'; did you mean 'light'?"),
        ("KNOWN --prompt roond", "knows no word 'roond'; did you mean 'round'?"),
        ("KNOWN --number detial=1", "knows no number 'detial'; did you mean 'detail'?"),
        ("KNOWN --number detail", "--number: expected NAME=VALUE such as brightness=0.4, got 'detail'"),
        ("KNOWN --number detail=nan", "got 'detail=nan'"),
        ("KNOWN --number detail=1 --number detail=2", "--number detail is given twice"),
        ("KNOWN --solver hoin", "--solver: there is no 'hoin'; did you mean"),
        ("KNOWN --grid unifrom", "--grid: there is no 'unifrom'; did you mean uniform"),
        ("KNOWN --guidance cgf", "--guidance: there is no 'cgf'; did you mean cfg?"),
        ("KNOWN --steps 0", "--steps"),
        ("KNOWN --out a.jpg", "a sheet is a PNG; name it 'a.png'"),
        ("KNOWN --out no/a.png", "folder 'no' cannot be written to"),
        ("KNOWN --each text.txt", "text.txt"),
        ("KNOWN --device moon", "device 'moon' is not there"),
        ("text.txt", "text.txt"),
        ("", "Missing argument 'prior'"),
    ],
)
def test_bad_input(words, message, known, here, monkeypatch, refusal):
    monkeypatch.setattr(batches, "PIXELS", 1)  # a picture at a time: the second is not found out on the way
    (here / "text.txt").write_text("no prior")
    assert message in refusal("sample", *words.replace("KNOWN", str(known)).split())
    assert {p.name for p in here.iterdir()} == {"text.txt"}


class Evil:
    def __reduce__(self):
        return (open, ("executed", "w"))


def pickles() -> dict[str, bytes]:
    new, old = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.ones(2), "b": Evil()}, new)
    torch.save({"a": torch.ones(2), "b": Evil()}, old, _use_new_zipfile_serialization=False)
    bare = {f"protocol {p}": pickle.dumps([Evil()] * 50, p) for p in range(6)}
    return {"new": new.getvalue(), "old": old.getvalue(), **bare}


@pytest.mark.parametrize("kind", pickles())
@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.ckpt", "a.bin", "a.pkl", "a.safetensors", "a"])
def test_pickles_are_refused_unread(kind, name, here, capsys):
    (here / name).write_bytes(pickles()[kind])
    assert main(["sample", name]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    if name not in ("a.safetensors", "a") or kind not in ("protocol 0", "protocol 1"):
        assert f"'{name}' is a pickle, and reading a pickle can run any code" in said
    else:  # text: no safetensors, and never given to a reader of pickles
        assert "is not a readable safetensors file" in said
    assert [p.name for p in here.iterdir()] == [name]


# --- flowhelm priors ---


def test_the_list_says_what_is_missing(monkeypatch, tmp_path, capsys):
    assert tuple(shelf.PRIORS) == NAMES
    assert main(["priors"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[: len(NAMES)]] == list(NAMES)
    assert lines[len(NAMES)] == ""  # and those of deepinv
    assert "8.2 MB" in lines[0]
    monkeypatch.setattr(shelf, "FOLDER", tmp_path)
    (tmp_path / "aerial.md").write_text("# aerial")
    (tmp_path / "animals.safetensors").write_bytes(bytes(1_500_000))
    assert main(["priors"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("photos.safetensors is missing, photos.md is missing")
    assert lines[3].endswith("aerial.safetensors is missing")
    assert lines[4].endswith("1.5 MB, animals.md is missing")


def test_a_card_and_its_terms(monkeypatch, tmp_path, capsys, refusal):
    assert main(["priors", "photos"]) == 0
    card = capsys.readouterr().out
    assert card.startswith("# photos")
    assert "## Training" in card
    assert main(["priors", "photos", "--terms"]) == 0
    terms = capsys.readouterr().out
    assert "research" in terms
    assert "licence of the weights: Apache-2.0" in terms
    assert "Training" not in terms
    refusal("priors", "--terms")
    assert "did you mean photos?" in refusal("priors", "foto")
    monkeypatch.setattr(shelf, "FOLDER", tmp_path)
    assert "the card of 'fashion' is not in this installation" in refusal("priors", "fashion")
    (tmp_path / "fashion.md").write_text(
        "# fashion\n\n## Terms\n\nMIT.\n\n### Terms of use\n\nAny.\n\n## Training\n\nLong.\n"
    )
    assert main(["priors", "fashion", "--terms"]) == 0
    assert capsys.readouterr().out == "MIT.\n\nAny.\n"


# --- solvers and grids -------------------------------------------------------------------------------------------------


def test_the_request_knows_all_solvers_and_grids():
    assert set(request.SOLVERS) == {"auto", *(each.__name__ for each in (*sample.ALL, *sample.TOKENS))}
    assert set(request.GRIDS) == {"own", "boss", *(each.__name__ for each in solvers.GRIDS)}


@pytest.mark.parametrize(
    "words", ["ab:order=3", "unipc:variable=snr,rule=bh2", "dual_fast:base=unipc:order=3,strength=0.2", "hb:base=dpm"]
)
def test_a_solver_with_options_is_that_of_the_library(flow, words):
    name, _, rest = words.partition(":")
    made = {
        "ab": partial(sample.ab, order=3), "unipc": partial(sample.unipc, variable="snr", rule="bh2"),
        "dual_fast": partial(sample.dual_fast, base=partial(sample.unipc, order=3), strength=0.2),
        "hb": partial(sample.hb, base=sample.dpm),
    }[name]  # fmt: skip
    one, other = (drawn(flow, [("light", 2)], steps=5, solver=each, grid="shifted:shift=2") for each in (words, made))
    assert torch.equal(one, other)
    bound = flow.told(["light"])
    x = bound.source(Noise(0, [2]))
    torch.testing.assert_close(one, run(made(bound, x, grids.shifted(5, 2.0))).x)


def test_random_solvers_draw_from_a_stream_of_the_picture(flow):
    one = drawn(flow, [("light", 1), ("dark", 1)], steps=4, solver="er_sde")
    torch.testing.assert_close(one[1:], drawn(flow, [("dark", 1)], steps=4, solver="er_sde"))
    assert not torch.allclose(one, drawn(flow, [("light", 1), ("dark", 1)], steps=4, solver="er_sde", seed=1))


def test_auto_takes_what_was_measured(flow, monkeypatch):
    table = {"known": {"4": {"solver": "ab", "grid": "own"}, "16": {"solver": "heun", "grid": "arc"}}}
    monkeypatch.setattr(solvers, "measured", lambda: table)
    assert solvers.auto(flow, "known", 5, None) == ("ab", "own")
    assert solvers.auto(flow, "known", 9, None) == ("heun", "arc")  # the nearest in its logarithm
    assert solvers.auto(flow, "known", 9, "uniform") == ("heun", "uniform")
    assert solvers.auto(flow, "known", 17, None) == ("unipc", None)  # beyond what was measured
    assert solvers.auto(flow, "another", 4, None) == ("dpm:variable=log", None)
    assert solvers.auto(flow, "another", 9, None) == ("unipc", None)
    diffusion = replace(flow, path=VP())
    assert solvers.auto(diffusion, "another", 9, None) == ("unipc:variable=snr,rule=bh2", None)


def test_auto_takes_what_drew_best_where_evaluations_are_few(flow, monkeypatch):
    """At that number alone, if no grid is asked for, and in half as many steps where each takes two evaluations."""
    drew = {"solver": "midpoint", "grid": "own", "frechet": 1.0}
    table = {"known": {"4": {"solver": "ab", "grid": "own", "pictures": drew}}, "other": {"4": {"pictures": drew}}}
    monkeypatch.setattr(solvers, "measured", lambda: table)
    assert solvers.auto(flow, "known", 4, None) == ("midpoint", "own")
    assert solvers.auto(flow, "known", 3, None) == ("ab", "own")
    assert solvers.auto(flow, "known", 4, "uniform") == ("ab", "uniform")
    assert solvers.auto(flow, "other", 4, None) == ("midpoint", "own")
    assert solvers.auto(flow, "other", 3, None) == ("dpm:variable=log", None)
    words, _, times = solvers.settled(flow, Way(4, "auto", prior="known"))
    assert (words, len(times)) == ("midpoint", 3)
    assert (
        len(solvers.settled(flow, Way(4, "midpoint", prior="known"))[2]) == 5
    )  # steps are steps where a solver is named
    seen, asked = [], []
    flow.net.register_forward_pre_hook(lambda net, given: asked.append(1))
    one = drawn(flow, [("dark", 1)], steps=4, solver="auto", prior="known", each=seen.append)
    assert len(asked) == 4
    assert torch.equal(one, drawn(flow, [("dark", 1)], steps=2, solver="midpoint"))
    assert [(each.index, each.total) for each in seen] == [(1, 2), (2, 2)]


def test_the_table_that_ships_can_be_taken(flow):
    for name, table in solvers.measured().items():
        for steps, row in table.items():
            words, _, times = solvers.settled(flow, Way(int(steps), "auto", prior=name))
            assert words == row.get("pictures", row)["solver"]
            assert (len(times) - 1) * solvers.CALLS.get(words, 1) == int(steps)
        assert all(int(steps) == 4 for steps, row in table.items() if "pictures" in row)


def test_reuse_asks_for_fewer_rows(flow):
    seen = []
    flow.net.register_forward_pre_hook(lambda net, given: seen.append(len(given[0])))
    jobs = [("dark", i) for i in range(3)]
    drawn(flow, jobs, steps=4, guidance=partial(guide.cfg, scale=2.0), reuse=2)
    assert seen == [6, 3, 6, 3]
    seen.clear()
    always = drawn(flow, jobs, steps=4, guidance=partial(guide.cfg, scale=2.0))
    assert seen == [6, 6, 6, 6]
    # what the condition changes is constant for scale 1: nothing is lost
    one = partial(guide.cfg, scale=1.0)
    torch.testing.assert_close(
        drawn(flow, jobs, steps=4, guidance=one, reuse=3), drawn(flow, jobs, steps=4, guidance=one)
    )
    assert always.isfinite().all()
    with pytest.raises(BadInput, match="no guidance whose unguided half"):
        drawn(flow, jobs, steps=4, reuse=2)


@pytest.mark.parametrize(
    "asked", [{"reuse": 2}, {"seed": 7}, {"grid": "shifted:shift=3"}, {"solver": "ab"}, {"steps": 3, "solver": "euler"}]
)
def test_what_a_call_asks_for_reaches_the_drawing(known, flow, asked):
    told = {"steps": 6, "solver": "euler"} | asked
    made = flowhelm.generate(known, classes=["light"], count=1, scale=2.0, **told)
    by_hand = drawn(flow, [("light", 0)], guidance=partial(guide.cfg, scale=2.0), **told)
    assert torch.equal(made, by_hand)
    other = drawn(flow, [("light", 0)], guidance=partial(guide.cfg, scale=2.0), steps=6)
    assert not torch.equal(made, other)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"solver": "dpm:order=7"}, "--solver: dpm: --order: expected a whole number"),
        ({"solver": "hb:base=unknown"}, "--solver: .*there is no 'unknown'"),
        ({"grid": "shifted:shift=big"}, "--grid: shifted"),
        ({"grid": "boss"}, "--grid boss: .*flowhelm grids"),
        ({"solver": "hb:base=ghvb"}, "extrapolated or damped twice"),
    ],
)
def test_what_there_is_not_is_said(flow, more, says):
    with pytest.raises(ValueError, match=says):
        drawn(flow, [("light", 0)], steps=3, **more)
