"""What is wrong with the words is said before anything heavy is imported; what is read off the sources is what the functions are."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flowhelm import edit, inner, known, operators, recipes, sample, steer, transition
from flowhelm.app.models.fitting import METHODS as PLANNED
from flowhelm.app.options import sources
from flowhelm.app.options.cards import card, listing
from flowhelm.app.options.named import CHOICES, named
from flowhelm.app.options.signature import model_of, options
from flowhelm.cards import METHODS, TOKENS, TUNERS, budget_option, field
from flowhelm.interfaces import cli

SRC = Path(__file__).parents[2] / "src"
REAL = {
    "method": (*METHODS, *TOKENS), "steering": steer.ALL, "operator": operators.ALL, "planned": PLANNED,
    "recipe": recipes.ALL,
}  # fmt: skip
LISTED = {"method": (*METHODS, *TOKENS, *edit.ALL, *sample.ALL, *sample.TOKENS, *TUNERS), "operator": operators.ALL}
PRIORS = set(known.NAMES)
HEAVY = ("torch", "numpy", "deepinv", "diffusers", "transformers", "PIL", "rich")

REFUSED = {
    "restore none.jpg --operator deblur": "'none.jpg' does not exist; check the path",
    "restore none.jpg": "--operator is missing: what was done to the photograph; one of denoise, inpaint",
    "restore a.png --operator deblr": "there is no operator 'deblr'; did you mean deblur?",
    "restore a.png --operator deblur --method hqss": "there is no method 'hqss'; did you mean hqs?",
    "restore a.png --operator deblur --sigm 3": "there is no option --sigm here; did you mean --sigma?",
    "restore a.png --operator deblur --sigma -3": "deblur: --sigma: expected one of auto or a number above 0 and of at most 200, got '-3'",
    "restore a.png --operator deblur --method mpc_flow --inner adam:rat=1": "adam has no option 'rat'; did you mean rate?",
    "restore a.png --operator deblur --steps 0": "restore: --steps: expected a whole number of at least 1",
    "restore a.png --operator deblur --std 0": "restore: --std: expected a number above 0, got 0",
    "restore a.png --operator deblur --prior foto": "got 'foto'; did you mean 'photos'?",
    "restore a.png --operator deblur --prior my.py:f": "my.py' does not exist; check the path",
    "restore a.png --operator inpaint": "inpaint needs --mask",
    "restore a.png --operator inpaint --mask none.png": "inpaint: 'none.png' does not exist; check the path",
    "steer fashion --reward brightness --method fkk": "there is no method 'fkk'; did you mean fk?",
    "steer fashion --reward brightness --method hqs": "there is no method 'hqs'",
    "steer fashion --reward brightness --method fk --partcles 3": "did you mean --particles?",
    "steer fashin --reward brightness": "got 'fashin'; did you mean 'fashion'?",
    "calibrate flowr": "there is no method 'flowr'; did you mean flower?",
    "calibrate flower --gamma 3 --operator random_mask --missing 2": "--missing: expected a number",
    "plan photos hqss --vram 3": "there is no method 'hqss'; did you mean hqs?",
    "plan photos hqs --vram 0": "plan: --vram: expected a number above 0, got 0",
    "bench --data none": "data: 'none' does not exist; check the path",
    "bench --data . --method hqs:wight=3": "hqs has no option 'wight'; did you mean weight?",
    "presets search --data . --method hqss": "there is no method 'hqss'; did you mean hqs?",
    "table none.csv": "'none.csv' does not exist; make it with flowhelm bench --out none.csv",
    "train fashon": "there is no recipe 'fashon'; did you mean fashion?",
    "sample fashon": "got 'fashon'; did you mean 'fashion'?",
    "rerun none.run.json": "'none.run.json' does not exist",
    "methods hqss": "there is no method 'hqss'; did you mean hqs?",
    "operators deblr": "there is no operator 'deblr'; did you mean deblur?",
    "nothing": "No such command 'nothing'",
}
SHOWN = ("methods", "operators", "methods dps", "methods unipc", "methods draft", "operators deblur")


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What each command says and what is imported by then, in one process without torch."""
    program = (
        "import contextlib, io, json, sys\n"
        "from flowhelm.interfaces.cli import main\n"
        "made = {}\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    out, err = io.StringIO(), io.StringIO()\n"
        "    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):\n"
        "        status = main(words.split())\n"
        f"    heavy = [name for name in {HEAVY} if name in sys.modules]\n"
        "    made[words] = (status, out.getvalue(), err.getvalue(), heavy)\n"
        "print(json.dumps(made))\n"
    )
    folder = tmp_path_factory.mktemp("quick")
    (folder / "a.png").write_bytes(b"no picture")
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    words = json.dumps([*REFUSED, *SHOWN])
    done = subprocess.run([sys.executable, "-c", program, words], capture_output=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


@pytest.mark.parametrize("words", REFUSED)
def test_it_is_refused_before_anything_heavy_is_imported(told, words):
    status, _, said, heavy = told[words]
    assert status == 2, said
    assert REFUSED[words] in said
    assert len(said.splitlines()) == 1
    assert not heavy


@pytest.mark.parametrize("words", SHOWN)
def test_lists_and_cards_need_nothing_either(told, words):
    status, shown, said, heavy = told[words]
    assert (status, said, heavy) == (0, "", [])
    part = words.split()[0].removesuffix("s")
    if " " not in words:
        assert shown == "".join(f"{line}\n" for line in listing(LISTED[part]))
    else:
        (function,) = [f for f in LISTED[part] if f.__name__ == words.split()[1]]
        from flowhelm.interfaces.cli.restore import restore
        from flowhelm.interfaces.cli.words import own

        assert shown == "".join(f"{line}\n" for line in card(part, function, own(restore)))


# --- stubs are what they stand for ---


@pytest.mark.parametrize("part", REAL)
def test_names_and_docstrings(part):
    assert sources.names(part) == [f.__name__ for f in REAL[part]]
    for stub, real in zip(sources.functions(part), REAL[part], strict=True):
        assert stub.__name__ == real.__name__
        assert inspect.getdoc(stub) == inspect.getdoc(real)
        for name in ("Needs", "Cost", "Start", "Budget", "Paper"):
            if part != "operator" and real in METHODS:
                assert field(stub, name) == field(real, name)
        if real in METHODS:
            assert budget_option(stub) == budget_option(real)


@pytest.mark.parametrize("part", REAL)
def test_options(part):
    for stub, real in zip(sources.functions(part), REAL[part], strict=True):
        found, expected = options(stub), options(real)
        assert list(found) == list(expected)
        for name, option in expected.items():
            mine = found[name]
            assert (mine.default, mine.help, mine.expected) == (option.default, option.help, option.expected), name
            assert [bounds for _, bounds in mine.kinds] == [bounds for _, bounds in option.kinds]
        assert model_of(stub).model_json_schema() == model_of(real).model_json_schema()


def test_every_choice_of_functions_is_known_to_both():
    assert named(inner.Inner) == inner.ALL
    assert named(transition.Transition) == transition.ALL
    for place, alias in CHOICES:
        stub = sources.resolve(f"flowhelm.{place}", alias)
        module = __import__(f"flowhelm.{place}", fromlist=["_"])
        assert [f.__name__ for f in named(stub)] == [f.__name__ for f in named(getattr(module, alias))]
        assert len(named(stub)) > 1


# --- the program ---


def test_every_command_stands_in_its_module():
    app = cli.loaded()
    found = {}
    for each in app.registered_commands:
        home = each.callback.__module__.rpartition(".")[2]
        found.setdefault(home, []).append(each.name or each.callback.__name__)
    for group in app.registered_groups:
        found["bench"].append(group.name or group.typer_instance.info.name)
    assert {home: set(names) for home, names in found.items()} == {h: set(names) for h, names in cli.HOMES.items()}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flowhelm restore a.png --method pnp", {"pnp_admm", "pnp_flow"}),
        ("flowhelm restore a.png --operator de", {"denoise", "deblur", "demosaic"}),
        ("flowhelm restore a.png --prior ", PRIORS),
        ("flowhelm steer fashion --method fl", {"flow_chef", "flow_grad", "flow_opt"}),
        ("flowhelm methods h", {"hqs"}),
        ("flowhelm priors f", {name for name in PRIORS if name[0] == "f"}),
    ],
)
def test_the_shell_completes_names(line, expected):
    words = line.split(" ")
    environment = {**os.environ, "PYTHONPATH": str(SRC), "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    environment["_FLOWHELM_COMPLETE"] = "complete_bash"
    done = subprocess.run([sys.executable, "-m", "flowhelm"], capture_output=True, text=True, env=environment)
    assert set(done.stdout.split()) == expected, done.stderr


@pytest.mark.parametrize(
    "words", ["plan org/name mpc_flow --vram 24", "restore a.png --operator deblur --prior org/name"]
)
def test_a_hub_that_does_not_answer_is_one_sentence(words, tmp_path):
    """Before torch is imported, and the same for each command; one that hangs is asked for two seconds, in a thread."""
    (tmp_path / "a.png").write_bytes(b"no picture")
    program = (
        "import sys, time\nimport huggingface_hub.utils as utils\n"
        "class Silent:\n"
        "    def head(self, *_, **__): time.sleep(60)\n"
        "utils.get_session = Silent\n"
        "from flowhelm.interfaces.cli import main\n"
        "status = main(sys.argv[1:])\n"
        "print(status, 'torch' in sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(SRC), "HF_HOME": str(tmp_path)} | {"HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program, *words.split()],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=50,
    )
    assert done.stdout.split() == ["2", "False"]
    assert "the hub cannot be reached" in done.stderr.splitlines()[-1]
