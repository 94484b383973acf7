"""The command line: options read off signatures, bad input, files written, and what must not be imported."""

import inspect
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from encoded import png
from PIL import Image
from toys import ramps

from flowhelm import edit, inner, operators, particles, recipes, sample, transition
from flowhelm.app.errors import BadInput, nearest
from flowhelm.app.files.pictures import read
from flowhelm.app.options.signature import bind, options, plain
from flowhelm.app.options.words import flags, sort_words
from flowhelm.app.restore import run as job
from flowhelm.app.restore.presets import NATURAL, TABLE, preset
from flowhelm.cards import METHODS, TOKENS, TUNERS
from flowhelm.control import flux2
from flowhelm.interfaces.cli import main
from flowhelm.metrics import psnr
from flowhelm.particles import residual, stratified, systematic
from flowhelm.restore import dps, hqs, tds
from flowhelm.steer import fk, mpc_flow, mpc_flow_dt

SRC = Path(__file__).parents[2] / "src"


@pytest.fixture
def photo(tmp_path) -> Path:
    return ramps(tmp_path / "photo.png", 48, 32, 5, 7, 3)


def here(photo: Path) -> set[str]:
    return {path.name for path in photo.parent.iterdir()}


# --- options ---


def test_options_are_those_of_the_signature():
    assert set(options(mpc_flow)) == {"strength", "horizon", "inner", "energy", "unit", "renoise", "recompute"}
    assert set(options(mpc_flow_dt)) == {"strength", "inner", "energy", "curvature", "renoise"}  # not `value`
    assert set(options(dps)) == {"step", "exact", "start", "transition"}
    assert options(mpc_flow)["strength"].default == 25.0
    assert options(operators.inpaint)["mask"].needed
    assert options(operators.deblur)["sigma"].help.startswith("standard deviation of the blur along its axis (pixels)")
    assert options(operators.motion)["kernel"].help.endswith("picks one; without, the first")


@pytest.mark.parametrize("function", [*METHODS, *operators.ALL, *inner.ALL, *recipes.ALL], ids=lambda f: f.__name__)
def test_every_option_reads_its_own_default(function):
    for name, option in options(function).items():
        assert option.help, name
        if not option.needed:
            needed = {o.name: "file" for o in options(function).values() if o.needed}
            default = inspect.signature(function).parameters[name].default
            assert bind(function, {**needed, name: option.default})[name] == default


@pytest.mark.parametrize(
    ("function", "given", "expected"),
    [
        (mpc_flow, {"horizon": "3"}, {"horizon": 3}),
        (mpc_flow, {"horizon": "none"}, {"horizon": None}),
        (mpc_flow, {"horizon": None}, {"horizon": None}),
        (mpc_flow, {"strength": "4e2"}, {"strength": 400.0}),
        (mpc_flow, {"inner": "lbfgs"}, {"inner": inner.lbfgs}),
        (mpc_flow, {"energy": "flux2"}, {"energy": flux2}),
        *((fk, {"resampler": each.__name__}, {"resampler": each}) for each in (systematic, stratified, residual)),
        *((each, {"moments": "ancestral_moments"}, {"moments": transition.ancestral_moments}) for each in (fk, tds)),
        (dps, {"transition": "heun", "exact": "yes"}, {"transition": transition.heun, "exact": True}),
        (operators.inpaint, {"mask": "a.png"}, {"mask": Path("a.png")}),
        (operators.demosaic, {"pattern": "GBRG"}, {"pattern": "GBRG"}),
    ],
)
def test_values(function, given, expected):
    assert bind(function, given) == expected


def test_a_function_may_have_options_of_its_own():
    for method, name, text, function, given in (
        (mpc_flow, "inner", "adam:iterations=50,rate=0.05", inner.adam, {"iterations": 50, "rate": 0.05}),
        (fk, "transition", "glass:inner=3", transition.glass, {"inner": 3}),
        (fk, "moments", "langevin_moments:eta=0.5", transition.langevin_moments, {"eta": 0.5}),
    ):
        chosen = bind(method, {name: text})[name]
        assert isinstance(chosen, partial)
        assert (chosen.func, chosen.keywords) == (function, given)
        assert plain(method, {name: text})[name] == text


def test_every_resampler_and_every_move_with_moments_has_a_name():
    found = [f for f in vars(particles).values() if inspect.isfunction(f)]
    takes = [f for f in found if list(inspect.signature(f).parameters) == ["log_w", "noise"] and f.__name__[0] != "_"]
    takes.remove(particles.categorical)  # one particle, not k
    for each in takes:
        assert bind(fk, {"resampler": each.__name__})["resampler"] is each
    for name in vars(transition):
        if name.endswith("_moments"):
            assert bind(fk, {"moments": name})["moments"] is getattr(transition, name)


@pytest.mark.parametrize(
    ("function", "given", "message"),
    [
        (mpc_flow, {"strenght": "1"}, "mpc_flow has no option 'strenght'; did you mean strength?"),
        (mpc_flow, {"strength": "much"}, "mpc_flow: --strength: expected a number above 0, got 'much'"),
        (mpc_flow, {"strength": "nan"}, "mpc_flow: --strength: expected a number above 0, got 'nan'"),
        (mpc_flow, {"horizon": "1.5"}, "mpc_flow: --horizon: expected a whole number of at least 1 or none, got '1.5'"),
        (mpc_flow, {"inner": "adm"}, "mpc_flow: --inner: there is no 'adm'; did you mean adam?"),
        (mpc_flow, {"inner": "adam:rat=1"}, "adam has no option 'rat'; did you mean rate?"),
        (operators.demosaic, {"pattern": "RGB"}, "--pattern: there is no 'RGB'; did you mean RGGB?"),
        (fk, {"resampler": "systemati"}, "did you mean systematic"),
        (fk, {"resampler": "xyz"}, "systematic, stratified, residual"),
        (fk, {"transition": "glass:iner=2"}, "glass has no option 'iner'; did you mean inner?"),
        (operators.inpaint, {}, "inpaint needs --mask: picture of the clean picture's size"),
    ],
)
def test_values_that_do_not_fit(function, given, message):
    with pytest.raises(BadInput) as error:
        bind(function, given)
    assert message in str(error.value)


def test_nearest():
    assert nearest("deblurr", ["denoise", "deblur"]) == "did you mean deblur?"
    assert nearest("xyz", ["denoise", "deblur"]) == "expected denoise, deblur"


def test_a_shared_name_belongs_to_the_first():
    def one(shape, *, rate: float = 1.0): ...

    def two(flow, *, rate: float = 2.0, seed: int = 0): ...

    table = flags({"operator": one, "method": two}, ["seed"])
    assert {name: part for name, (part, _) in table.items()} == {
        "rate": "operator",
        "operator-rate": "operator",
        "method-rate": "method",
        "method-seed": "method",  # --seed is the command's
    }
    words = ["--rate", "-1", "a.png", "--method-rate=3"]
    assert sort_words(words, table, ["seed"]) == (["a.png"], {"operator": {"rate": "-1"}, "method": {"rate": "3"}})


def test_switches_take_no_word_that_is_none_of_theirs():
    table = flags({"method": dps}, [])
    assert sort_words(["--exact", "a.png"], table, []) == (["a.png"], {"method": {"exact": "true"}})
    assert sort_words(["--exact", "false", "a.png"], table, []) == (["a.png"], {"method": {"exact": "false"}})


def test_presets_are_of_this_library():
    assert set(TABLE) == {builder.__name__ for builder in operators.ALL}
    known = {method.__name__: method for method in METHODS}
    for operator in TABLE:
        method, chosen, steps = preset(operator, 0.1)
        assert steps > 0
        bind(known[method], chosen)
    assert preset("deblur", 0.1, "natural")[1]["strength"] == pytest.approx(NATURAL["deblur"][1]["strength"] * 100)


# --- what is printed ---


@pytest.mark.parametrize("kind", ["methods", "operators"])
def test_cards(kind, capsys, refusal):
    functions = (
        (*METHODS, *TOKENS, *edit.ALL, *sample.ALL, *sample.TOKENS, *TUNERS) if kind == "methods" else operators.ALL
    )
    assert main([kind]) == 0
    listed = capsys.readouterr().out
    for function in functions:
        assert function.__name__ in listed
        assert main([kind, function.__name__]) == 0
        whole = capsys.readouterr().out
        for name in options(function):
            assert f"-{name.replace('_', '-')} " in whole
    if kind == "methods":
        starts = [line.split()[0] for line in listed.splitlines()]
        assert starts.count("needs") == starts.count("cost") == len(functions)
    assert f"did you mean {functions[0].__name__}?" in refusal(kind, functions[0].__name__ + "x")


def test_version_and_help(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "flowhelm 0.2.0\n"
    assert main(["--help"]) == 0
    assert "flowhelm restore photo.jpg" in capsys.readouterr().out


def test_doctor(prior, capsys):
    assert main(["doctor", "--prior", prior]) == 0
    assert capsys.readouterr().out.endswith("all well\n")


def test_torchvision_that_does_not_fit(tmp_path, photo):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist\\nand more')"
    )
    code = (
        "from flowhelm.interfaces.cli import main\n"
        f"for words in (['doctor'], ['restore', {str(photo)!r}, '--operator', 'deblur']):\n"
        "    assert main(words) == 1"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{SRC}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == done.stderr.count("does not fit torch") == 2
    assert done.stderr.count("pip install --force-reinstall torch torchvision") == 2


@pytest.mark.parametrize("words", [[], ["--operator", "denoise", "--std", "0.1"]])
def test_denoising_needs_no_deepinv(words, tmp_path):
    """Nor torch's compiler; they take longer to import than a small picture to look at and to denoise."""
    photo, out = tmp_path / "photo.png", tmp_path / "denoised.png"
    levels = 128 + 25 * np.random.default_rng(0).standard_normal((64, 64, 3))
    Image.fromarray(levels.clip(0, 255).astype(np.uint8)).save(photo)
    code = (
        "import sys\nfrom flowhelm.interfaces.cli import main\n"
        f"assert main({['restore', str(photo), *words, '--out', str(out)]}) == 0\n"
        "found = [name for name in ('deepinv', 'torchvision', 'torch._dynamo') if name in sys.modules]\n"
        "assert not found, found"
    )
    environment = os.environ | {"PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert out.exists()


def test_help_imports_nothing_heavy():
    code = (
        "import sys, flowhelm, flowhelm.interfaces.cli as cli\n"
        "for words in ('', 'restore', 'steer', 'sample', 'train', 'priors', 'batch', 'bench', 'plan', 'doctor', 'serve', 'ui'):\n"
        "    assert cli.main([*words.split(), '--help']) == 0\n"
        "assert cli.main(['priors']) == cli.main(['priors', 'photos']) == 0\n"
        "bad = {'torch', 'torchvision', 'deepinv', 'diffusers', 'transformers', 'numpy', 'PIL', 'safetensors', 'ray', 'gradio',"
        " 'fastapi'}\n"
        "bad &= set(sys.modules)\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(SRC)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for example in (
        "train fashion --data fashion_mnist.npz",
        "sample fashion --class coat",
        "steer fashion --class bag",
    ):
        assert f"flowhelm {example}" in done.stdout


# --- bad input ---


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("missing.png --operator denoise", "does not exist"),
        ("truncated.png --operator denoise", "truncated"),
        ("text.png --operator denoise", "not a picture"),
        ("nan.tiff --operator denoise", "NaN"),
        ("empty.png --operator denoise", "empty (0 bytes)"),
        ("huge.png --operator denoise", "larger than the limit"),
        ("folder --operator denoise", "there is no picture in"),
        ("photo.png --operator inpaint --mask small.png", "expected a mask of the picture's height x width, 32 x 48"),
        ("photo.png --operator inpaint --mask text.png", "text.png"),
        ("photo.png --operator inpaint", "inpaint needs --mask"),
        ("photo.png --operator motion --kernel text.npz", "text.npz"),
        ("photo.png --operator deblur --sigma 5 --simulate", "at least the kernel's 51 x 51 pixels, got 32 x 48"),
        ("photo.png --operator deblur --border round", "--border: there is no 'round'; expected open, circular"),
        ("photo.png --operator denoise --out nowhere/a.png", "nowhere"),
        ("photo.png --operator denoise --out a.gif", "no known picture suffix"),
        ("photo.png --operator denoise --out photo.png", "would be overwritten"),
        ("photo.png --operator deblurr", "there is no operator 'deblurr'; did you mean deblur?"),
        ("photo.png --operator deblur --method mpcflow", "there is no method 'mpcflow'; did you mean mpc_flow?"),
        ("photo.png --operator deblur --sigam 2", "there is no option --sigam here; did you mean --sigma?"),
        ("photo.png --operator deblur --sigma", "--sigma needs a value"),
        ("photo.png --operator deblur --sigma 1 --sigma 2", "given twice"),
        (
            "photo.png --operator deblur --sigma wide",
            "--sigma: expected one of auto or a number above 0 and of at most 200, got 'wide'",
        ),
        ("photo.png --operator deblur --std 0", "--std"),
        ("photo.png --operator deblur --steps 0", "--steps"),
        ("photo.png --operator deblur --tile some", "--tile"),
        ("photo.png --operator deblur --device moon", "device 'moon' is not there"),
        ("photo.png --operator deblur --prior text.png", "text.png"),
        ("photo.png --operator jpeg --operator-quality 20 --method mpc_flow --inner exact", "inner solver 'exact'"),
        ("photo.png --operator phase", "--simulate"),
        ("photo.png other.png", "--operator is missing"),
        ("--operator denoise", "expected one photograph, or a folder of them, got none"),
        ("photo.png other.png --operator denoise", "out is missing"),
        ("--resume missing.safetensors", "does not exist"),
        ("--resume text.png", "not a resume file"),
        ("photo.png --resume text.png", "nothing beside it"),
    ],
)
def test_bad_input(words, message, photo, prior, monkeypatch, refusal):
    folder = photo.parent
    monkeypatch.chdir(folder)
    (folder / "truncated.png").write_bytes(photo.read_bytes()[:-200])
    (folder / "text.png").write_text("this is no picture")
    (folder / "text.npz").write_text("this is no archive")
    (folder / "empty.png").touch()
    (folder / "huge.png").write_bytes(png(60000, 60000))
    (folder / "folder").mkdir()
    Image.fromarray(np.full((32, 48), np.nan, np.float32)).save(folder / "nan.tiff")
    Image.new("L", (20, 20)).save(folder / "small.png")
    before = here(photo)
    given = words.split()
    if "--prior" not in given and "--resume" not in given:
        given += ["--prior", prior]
    assert message in refusal("restore", *given)
    assert here(photo) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder(photo, prior, refusal):
    folder = photo.parent / "locked"
    folder.mkdir(mode=0o500)
    assert "cannot be written to" in refusal(
        "restore", str(photo), "--operator", "denoise", "--prior", prior, "--out", str(folder / "a.png")
    )


# --- whole runs ---


def test_a_run_writes_its_files(photo, prior, capsys):
    assert main(["restore", str(photo), "--operator", "deblur", "--sigma", "1", "--steps", "3", "--prior", prior]) == 0
    assert here(photo) == {"photo.png", "photo.restored.png", "photo.strip.png", "photo.run.json"}
    said = capsys.readouterr()
    assert 2 <= said.out.count("\n") <= 5
    assert "step 3/3" in said.err
    run = json.loads((photo.parent / "photo.run.json").read_text())
    assert set(run) == {"settings", "inputs", "environment", "result"}
    assert run["settings"]["operator_options"] == {"sigma": 1.0, "kernel": "gaussian", "angle": 0.0, "border": "open"}
    assert run["settings"]["method_options"].keys() == options(hqs).keys()
    assert len(run["settings"]["times"]) == 4
    assert run["settings"]["times"][-1] == 1
    assert run["result"]["evaluations"] == 3
    assert Image.open(photo.parent / "photo.restored.png").size == (48, 32)


def test_the_preview_is_gone_in_the_end(photo, prior, monkeypatch):
    monkeypatch.setattr(job, "PREVIEW_EVERY", 0.0)
    seen = []
    write = job.write
    monkeypatch.setattr(job, "write", lambda path, *rest: (seen.append(Path(path).name), write(path, *rest)))
    main(["restore", str(photo), "--operator", "denoise", "--steps", "3", "--prior", prior, "--preview"])
    assert seen == ["photo.preview.png"] * 3 + ["photo.restored.png"]
    assert "photo.preview.png" not in here(photo)


@pytest.mark.parametrize(
    ("operator", "degraded", "restored"),
    [
        ("denoise", (47, 31), (47, 31)),
        ("superres --factor 4", (11, 7), (44, 28)),
        ("colorize", (47, 31), (47, 31)),
        ("jpeg", (47, 31), (47, 31)),
        ("random_mask --operator-seed 5", (47, 31), (47, 31)),
        ("phase", None, (47, 31)),
        ("deblur --sigma 1", (37, 21), (37, 21)),  # the border is only blurred into the rest
        ("deblur --sigma 1 --border circular", (47, 31), (47, 31)),
    ],
)
def test_simulated(operator, degraded, restored, photo, prior, capsys):
    Image.open(photo).crop((0, 0, 47, 31)).save(photo)
    words = f"{photo} --operator {operator} --simulate --steps 2 --prior {prior}".split()
    assert main(["restore", *words]) == 0
    assert Image.open(photo.with_name("photo.restored.png")).size == restored
    assert photo.with_name("photo.degraded.png").exists() == (degraded is not None)
    if degraded:
        assert Image.open(photo.with_name("photo.degraded.png")).size == degraded
    result = json.loads(photo.with_name("photo.run.json").read_text())["result"]
    assert ("degraded_psnr" in result) == (degraded is not None)
    assert "PSNR" in capsys.readouterr().out


def test_grey_alpha_and_sixteen_bits(photo, prior):
    Image.fromarray((np.arange(32 * 32).reshape(32, 32) * 60).astype(np.uint16)).save(photo)
    assert main(["restore", str(photo), "--operator", "denoise", "--steps", "2", "--prior", prior]) == 0
    assert Image.open(photo.with_name("photo.restored.png")).mode == "I;16"
    assert main(["restore", str(photo), "--operator", "colorize", "--steps", "2", "--prior", prior]) == 0
    assert Image.open(photo.with_name("photo.restored.png")).mode == "RGB"
    seen = np.tile(np.arange(32, dtype=np.uint8) * 8, (32, 1))
    Image.fromarray(np.dstack([seen, seen.T, seen, seen])).save(photo)
    assert main(["restore", str(photo), "--operator", "superres", "--steps", "2", "--prior", prior]) == 0
    assert Image.open(photo.with_name("photo.restored.png")).mode == "RGBA"
    alpha = read(photo.with_name("photo.restored.png")).alpha
    assert alpha is not None
    assert alpha.shape == (1, 1, 64, 64)


def test_scores_of_an_open_blur_are_of_what_it_shows(photo, prior, capsys):
    words = ["restore", str(photo), "--operator", "deblur", "--sigma", "1", "--steps", "2", "--prior", prior]
    assert main([*words, "--simulate"]) == 0
    assert "22 x 38 of 32 x 48 pixels" in capsys.readouterr().out
    run = json.loads(photo.with_name("photo.run.json").read_text())
    assert run["result"]["scored"].startswith("22 x 38")
    restored, clean = (read(photo.with_name(name)).pixels for name in ("photo.restored.png", "photo.png"))
    assert run["result"]["psnr"] == pytest.approx(float(psnr(restored, clean[..., 5:-5, 5:-5])), abs=0.05)
    degraded = read(photo.with_name("photo.degraded.png")).pixels
    assert run["result"]["degraded_psnr"] == pytest.approx(float(psnr(degraded, clean[..., 5:-5, 5:-5])), abs=0.2)


def test_an_open_blur_keeps_alpha_grey_and_a_kernel_file(photo, prior):
    np.savez(photo.with_name("kernels.npz"), a=np.ones((1, 4)), b=np.ones((6, 3)))
    seen = np.tile(np.arange(32, dtype=np.uint8) * 8, (24, 1))
    Image.fromarray(np.dstack([seen, seen])).save(photo)  # grey, with alpha
    words = ["restore", str(photo), "--operator", "motion", "--steps", "2", "--prior", prior]
    words += ["--kernel", f"{photo.with_name('kernels.npz')}:b"]
    assert main(words) == 0
    result = Image.open(photo.with_name("photo.restored.png"))
    assert (result.mode, result.size) == ("LA", (32, 24))
    assert main(["rerun", str(photo.with_name("photo.run.json"))]) == 0
    assert main([*words, "--simulate"]) == 0
    result = read(photo.with_name("photo.restored.png"))
    assert result.pixels.shape[2:] == (19, 30)
    assert result.alpha.equal(read(photo).alpha[..., 2:-3, 1:-1])


@pytest.mark.parametrize("operator", ["denoise", "deblur"])
def test_rerun(operator, photo, prior, capsys):
    words = ["restore", str(photo), "--operator", operator, "--steps", "3", "--simulate", "--prior", prior]
    assert main(words) == 0
    run, before = photo.with_name("photo.run.json"), here(photo)
    assert main(["rerun", str(run)]) == 0
    assert "identical" in capsys.readouterr().out
    assert here(photo) == before
    Image.open(photo).rotate(180).save(photo)
    assert main(["rerun", str(run)]) == 1
    said = capsys.readouterr().out
    assert "not identical" in said
    assert "photo sha256 was" in said
    assert "torch" not in said
    assert here(photo) == before | {"photo.rerun.png"}
    assert main(["rerun", str(photo)]) == 2


def test_divergence_leaves_the_last_good_estimate(photo, prior, monkeypatch, capsys):
    whole = job.steps_of

    def breaks(*words, **more):
        for step in whole(*words, **more):
            yield step._replace(x=step.x * float("nan")) if step.index == 3 else step

    monkeypatch.setattr(job, "steps_of", breaks)
    assert main(["restore", str(photo), "--operator", "denoise", "--steps", "4", "--prior", prior]) == 1
    said = capsys.readouterr()
    assert "not finite after step 3 of 4" in said.err.splitlines()[-1]
    assert here(photo) == {"photo.png", "photo.partial.png"}


@pytest.mark.parametrize(
    ("set_before", "expected"),
    [({}, "5000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_threads_sleep_soon_unless_somebody_says_how_they_wait(set_before, expected, monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that what the command sets is taken back
        monkeypatch.delenv(name)
    for name, value in set_before.items():
        monkeypatch.setenv(name, value)
    assert main(["--version"]) == 0
    assert os.environ.get("GOMP_SPINCOUNT") == expected
