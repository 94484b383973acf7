"""What comes from a file is data: names that it holds become paths below a folder or are refused, code that it names is not run, and
what it says of where to write does not count."""

import io
import json
import os
import re
import shutil
import sys
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from encoded import encoded
from rich.console import Console

from flowhelm.app.errors import BadInput
from flowhelm.app.files import names
from flowhelm.app.files.names import below, part
from flowhelm.app.restore import run as restoration
from flowhelm.app.run import Said, Stopped, drive, plain
from flowhelm.app.steer import run as steering
from flowhelm.interfaces.cli import main, progress

FEW = ["--operator", "denoise", "--std", "0.1", "--steps", "2", "--threads", "1"]
HOSTILE = [
    *("a:..:..:x.png", "..", "../x.png", "a/../../x.png", "a\\..\\..\\x.png", "/etc/x.png", "\\\\host\\share\\x.png", "C:x.png"),
    *("x\0.png", "x\x1b[31m.png", "x\n.png", "\u202egnp.x", "\ud800.png", "a//x.png", "./x.png", ".", "", "x. ", "x./y.png", "a:", ":a"),
    *("con.png", "NUL", "aux/x.png", "com1.tar/x.png", "LPT³", "n" * 256, "ä" * 128, "deep/" + "n" * 300 + "/x.png"),
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_are_refused(name):
    with pytest.raises(BadInput, match=r"names .*, which .*; expected a name below the folder") as caught:
        below(name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("lamps/0001.png", "lamps/0001.png"),
        ("raw:volume:0003", "raw/volume/0003"),
        ("a\\b\\c.png", "a/b/c.png"),
        ("12:30:05.png", "12/30/05.png"),
        ("日本/été ☃.png", "日本/été ☃.png"),
        (".hidden..png", ".hidden..png"),
        ("console/null.png", "console/null.png"),
        ("n" * 255, "n" * 255),
    ],
)
def test_names_that_are_paths(name, path):
    assert below(name).as_posix() == path


def test_whatever_it_is_called_it_stays_below(tmp_path):
    """Ten thousand names of the pieces that lead out: none is resolved to a place outside."""
    chance = np.random.default_rng(0)
    pieces = ["..", ".", "a", "b.png", "/", "\\", ":", "C:", "\0", "~", " ", "con", "\x1b", "é", "...", "x" * 100]
    taken = 0
    for _ in range(10_000):
        name = "".join(chance.choice(pieces, chance.integers(1, 7)))
        try:
            path = below(name)
        except BadInput:
            continue
        taken += 1
        assert (tmp_path / path).resolve().is_relative_to(tmp_path.resolve()), name
        assert (tmp_path / path).resolve() != tmp_path.resolve()
    assert taken > 500


@pytest.mark.parametrize("word", [*HOSTILE, "T-shirt/top", "a*b?", "dress", "x" * 5000])
def test_a_word_as_a_part_of_a_name(word, tmp_path):
    path = tmp_path / f"{part(word)}-000.png"
    path.write_bytes(b"")
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert part("dress") == "dress"


def picture() -> bytes:
    return encoded(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "name", [n for n in HOSTILE if n and n.isprintable() and "." in n and not n.endswith((".", " "))]
)
def test_members_of_an_archive(name, tmp_path, prior, capsys):
    here = tmp_path / "d1" / "d2" / "d3"
    here.mkdir(parents=True)
    with tarfile.open(here / "evil.tar", "w") as tar:
        for each in ("before.png", name, "after.png"):
            info = tarfile.TarInfo(each if each.endswith(".png") else f"{each}/y.png")
            info.size = len(picture())
            tar.addfile(info, io.BytesIO(picture()))
    assert main(["restore", str(here / "evil.tar"), *FEW, "--prior", prior, "--out", str(here / "out")]) in (0, 1)
    assert files_below(tmp_path) - {"d1", "d1/d2", "d1/d2/d3", "d1/d2/d3/evil.tar"} == {
        f"d1/d2/d3/out{each}"
        for each in (
            "", "/job.json", "/manifest.jsonl", "/evil.tar", "/evil.tar/before.restored.png", "/evil.tar/after.restored.png",
        )
    } | {each for each in files_below(tmp_path) if "/out/evil.tar/" in each}  # fmt: skip
    capsys.readouterr()
    main(["restore", f"{here}/evil.tar:{name}", *FEW, "--prior", prior, "--out", str(here / "out")])
    assert {each.name for each in tmp_path.iterdir()} == {"d1"}


@pytest.mark.parametrize("name", ["a:..:..:..:v", "../../../v", "..\\..\\v"])
@pytest.mark.parametrize("kind", ["npz", "h5"])
def test_arrays_of_a_file(kind, name, tmp_path, prior, capsys):
    here = tmp_path / "d1" / "d2" / "d3"
    here.mkdir(parents=True)
    values = np.zeros((2, 8, 8), np.uint8)
    if kind == "npz":
        np.savez(here / "evil.npz", **{name: values})
    else:
        with h5py.File(here / "evil.h5", "w") as file:
            file.create_dataset(name, data=values)
    assert main(["restore", f"{here}/evil.{kind}", *FEW, "--prior", prior, "--out", str(here / "out")]) == 1
    assert "leads out of the folder" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.png"))


# --- a stranger's run file ---


@pytest.fixture
def steered(tmp_path, prior, monkeypatch) -> Path:
    """A run file that names code, in a folder of its own; the code leaves a trace."""
    there = tmp_path / "theirs"
    there.mkdir()
    monkeypatch.chdir(there)
    code = there / "score.py"
    code.write_text(
        "from pathlib import Path\nPath(__file__).with_name('ran').touch()\ndef score(image):\n    return image.mean((1, 2, 3))\n"
    )
    words = ["--particles", "2", "--steps", "2", "--threads", "1", "--out", "best"]
    assert main(["steer", prior, "--reward", f"{code}:score", "--method", "fk", *words]) == 0
    (there / "ran").unlink()
    return there / "best.run.json"


@pytest.mark.parametrize("where", ["reward", "held_out"])
@pytest.mark.parametrize("how", ["{}", "2*{}", "-{}", " {}"])
def test_code_that_a_run_file_names_is_not_run(how, where, steered, capsys):
    told = json.loads(steered.read_text())
    code = told["settings"]["reward"][0]
    told["settings"] |= {"reward": ["brightness"], where: [how.format(code)]}
    steered.write_text(json.dumps(told))
    before = files_below(steered.parent)
    assert main(["rerun", steered.name]) == 2
    said = capsys.readouterr().err
    assert "names code that would be run" in said
    assert "score.py:score; read that code first, and run it with --trust" in said
    assert files_below(steered.parent) == before


def test_code_that_is_trusted(steered, capsys, monkeypatch):
    for name in [name for name in sys.modules if name == "score"]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["rerun", steered.name, "--trust"]) == 0
    assert "identical to the bit" in capsys.readouterr().out
    assert (steered.parent / "ran").exists()


@pytest.mark.parametrize("out", ["/tmp/elsewhere", "../elsewhere", "sub/elsewhere"])
def test_a_run_file_does_not_say_where_to_write(out, steered, tmp_path, capsys):
    told = json.loads(steered.read_text())
    told["settings"] |= {"out": out, "reward": ["brightness"]}
    told["result"]["pictures"][0]["sha256"] = "0"  # so that something is written
    steered.write_text(json.dumps(told))
    assert main(["rerun", steered.name]) == 1
    assert {each.name for each in tmp_path.iterdir()} == {"theirs"}
    assert (steered.parent / "best.rerun.best.png").exists()
    assert not Path("/tmp/elsewhere.best.png").exists()
    (tmp_path / "mine").mkdir()
    kept = files_below(steered.parent)
    assert main(["rerun", steered.name, "--out", str(tmp_path / "mine")]) == 1
    assert files_below(steered.parent) == kept
    assert (tmp_path / "mine" / "best.rerun.best.png").exists()


@pytest.fixture
def restored(tmp_path, prior, monkeypatch) -> Path:
    """A folder with a run file, a resume file and a batch, whose numbers are not what comes out again."""
    there = tmp_path / "theirs"
    there.mkdir()
    monkeypatch.chdir(there)
    (there / "photo.png").write_bytes(picture())
    assert main(["restore", "photo.png", *FEW, "--prior", prior]) == 0
    settings = restoration.record.get_run(there / "photo.run.json").settings
    seen = []

    def stops(event) -> None:
        seen.append(event)
        if len(seen) == 2:
            raise Stopped(130)

    with pytest.raises(Stopped):
        drive(restoration.restore(settings.changed(out=str(there / "half.png"))), stops)
    assert main(["restore", "photo.png", *FEW, "--prior", prior, "--samples", "1", "--retry", "--out", "out"]) == 0
    for path in (there / "photo.run.json", there / "out" / "manifest.jsonl"):
        path.write_text(re.sub(r'("result": \{.*?"sha256": ")', r"\g<1>0", path.read_text(), flags=re.DOTALL))
    return there


WAYS = {
    "run": ["rerun", "photo.run.json"],
    "resume": ["restore", "--resume", "half.resume.safetensors"],
    "manifest": ["rerun", "out/manifest.jsonl", "--item", "photo.png"],
}


@pytest.mark.parametrize("way", WAYS)
def test_by_no_link_either(way, restored, tmp_path, capsys):
    target = tmp_path / "mine.txt"
    target.write_text("mine")
    link = {"run": "photo.rerun.png", "resume": "half.png", "manifest": "out/photo.rerun.png"}[way]
    (restored / link).symlink_to(target)
    assert main(WAYS[way]) == 2
    assert "leads out of" in capsys.readouterr().err
    assert target.read_text() == "mine"
    (restored / link).unlink()
    assert main(WAYS[way]) == (0 if way == "resume" else 1)
    assert (restored / link).is_file()


@pytest.mark.parametrize("way", WAYS)
def test_to_the_folder_that_is_asked_for(way, restored, tmp_path):
    (tmp_path / "mine").mkdir()
    name = {"run": "photo.rerun.png", "resume": "half.png", "manifest": "photo.rerun.png"}[way]
    out = tmp_path / "mine" / (name if way == "resume" else "")
    before = files_below(restored)
    assert main([*WAYS[way], "--out", str(out)]) == (0 if way == "resume" else 1)
    assert (tmp_path / "mine" / name).is_file()
    assert files_below(restored) - before == set()


@pytest.mark.parametrize("out", ["/tmp/elsewhere.png", "../../up.png", "photo.png", "other.png", "..", "/", ""])
def test_a_resume_file_does_not_say_where_to_write(out, restored, tmp_path):
    """Nor that the result takes the place of another file."""
    place, story = restoration.record.get_resume(restored / "half.resume.safetensors")
    story = restoration.RestoreStory.model_construct(
        settings=story.settings.changed(out=out), inputs=story.inputs, environment=story.environment
    )
    restoration.record.put_resume(restored / "half.resume.safetensors", place, story)
    photo = (restored / "photo.png").read_bytes()
    assert main(WAYS["resume"]) == 0
    assert (restored / "photo.png").read_bytes() == photo
    assert (restored / "half.restored.png").is_file()
    assert {each.name for each in tmp_path.iterdir()} == {"theirs"}
    assert not Path("/tmp/elsewhere.png").exists()


@pytest.mark.parametrize("name", ["photo", "mask"])
def test_a_file_that_names_a_pipe_does_not_wait_for_it(name, restored, capsys):
    os.mkfifo(restored / "pipe")
    place, story = restoration.record.get_resume(restored / "half.resume.safetensors")
    named = {"photo": str(restored / "pipe")}
    if name == "mask":
        named = {"operator": "inpaint", "operator_options": {"mask": str(restored / "pipe")}}
    settings = restoration.RestoreSettings.of(story.settings.stored() | named, "test")
    story = restoration.RestoreStory.model_construct(
        settings=settings, inputs=story.inputs, environment=story.environment
    )
    restoration.record.put_resume(restored / "half.resume.safetensors", place, story)
    assert main(WAYS["resume"]) == 2
    assert "is not a regular file" in capsys.readouterr().err


def test_a_file_that_was_moved_goes_on_where_it_is(restored, tmp_path):
    (tmp_path / "moved").mkdir()
    shutil.move(restored / "half.resume.safetensors", tmp_path / "moved")
    assert main(["restore", "--resume", str(tmp_path / "moved" / "half.resume.safetensors")]) == 0
    assert (tmp_path / "moved" / "half.png").is_file()
    assert not (restored / "half.png").exists()


# --- names on a terminal ---


@pytest.mark.parametrize(
    "name", [":smile:", "\x1b[31mred", "[bold]x[/bold]", "a\rb", "\u202egnp", "\x07\x9b2J", "two\nlines", "\ud8ff"]
)
def test_names_are_shown_as_text(name, tmp_path, prior, capfd):
    try:
        folder = tmp_path / "in"
        folder.mkdir()
        (folder / f"{name}.png").write_bytes(picture())
    except (OSError, UnicodeEncodeError):
        pytest.skip("no name of a file here")
    (folder / f"{name} bad.png").write_bytes(b"no picture")
    main(["restore", str(folder), *FEW, "--prior", prior])
    main(["restore", str(folder / f"{name} bad.png"), *FEW, "--prior", prior])
    main(["restore", str(folder / f"{name}.png"), *FEW, "--prior", prior])
    said = capfd.readouterr()
    text = said.out + said.err
    assert all(line.isprintable() for line in text.split("\n"))
    assert any(plain(" ".join(name.split())) in line for line in text.split("\n") if line.startswith("step "))


def test_names_in_the_bar(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(
        "rich.console.Console",
        lambda **given: Console(file=written, force_terminal=True, width=100, **given | {"stderr": False}),
    )
    with progress.bar(2) as say:
        say(1, ":smile: [red]x[/red] \x1b[2Jend")
    assert ":smile: [red]x[/red] \\x1b[2Jend" in written.getvalue()


def test_events_are_shown_as_text(capsys):
    with progress.terminal() as show:
        show(Said("a\x1b[31mb :smile:"))
    assert capsys.readouterr().out == "a\\x1b[31mb :smile:\n"
    assert names.LONGEST == 255
    assert steering.rerun
