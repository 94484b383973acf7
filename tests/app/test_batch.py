"""Batches: killed, full, damaged and gone on with; an item is what it would be alone; the description and its schema."""

import errno
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from batches import described, lines, made, numbers, pictures, results
from PIL import Image

from flowhelm import operators
from flowhelm.app.batch import description, manifest
from flowhelm.app.batch import worker as making
from flowhelm.app.batch.items import found
from flowhelm.app.batch.run import batch
from flowhelm.app.errors import BadInput
from flowhelm.app.files.atomic import sha256
from flowhelm.app.options.signature import complete, options, read
from flowhelm.app.restore import run as job
from flowhelm.app.run import Done, Planned, Stepped, Stopped
from flowhelm.cards import RESTORE_OR_STEER
from flowhelm.interfaces.cli import main
from flowhelm.interfaces.cli.progress import carried_out


@pytest.fixture
def folder(tmp_path) -> Path:
    return pictures(tmp_path / "in", 3)


def count(out: Path) -> int:
    path = out / "manifest.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


# --- survival ---


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_killed_at_random_moments(tmp_path):
    """Processes of a fork server: a new interpreter for each kill would take longer than the batch."""
    folder, chance = pictures(tmp_path / "in", 12), random.Random(0)
    whole, out = described(folder, "photos", out="whole"), tmp_path / "out"
    assert made(whole)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["flowhelm.app.batch.run", "deepinv.physics"])
    given = whole.changed(out=str(out))
    kills = 0
    for after in (1, 4, 6, 9):
        running = processes.Process(target=made, args=(given,))
        running.start()
        while running.is_alive() and count(out) < after:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.2))
        running.kill()
        running.join()
        kills += running.exitcode == -signal.SIGKILL
    assert kills >= 2
    before = count(out)
    assert made(given)
    assert results(out) == results(tmp_path / "whole")
    assert len(results(out)) == 12  # and nothing else: no temporary file
    assert not (out / ".batch").exists()
    assert numbers(out) == numbers(tmp_path / "whole")
    assert sorted(line["name"] for line in lines(out)) == sorted(p.name for p in folder.iterdir())  # each once
    assert 0 < before <= 12


def test_a_kill_between_the_picture_and_its_line_and_within_a_line(folder, prior, capsys):
    given, out = described(folder, prior), folder.with_name("in.restored")
    assert made(given)
    before, hashes = (out / "manifest.jsonl").read_bytes(), results(out)
    (out / "manifest.jsonl").write_bytes(before[:-40])
    (out / ".batch").mkdir()
    (out / ".batch" / ".0123456789abcdef").write_bytes(b"half a picture")
    assert carried_out(batch(given))
    assert "3 items: 3 done (2 of them before), 0 failed" in capsys.readouterr().out
    assert results(out) == hashes
    assert [line["name"] for line in lines(out)] == ["p00.png", "p01.png", "p02.png"]


def test_a_line_comes_after_its_picture(folder, prior, monkeypatch):
    given, out = described(folder, prior), folder.with_name("in.restored")

    def dies(*_):
        raise Stopped(143)

    with monkeypatch.context() as patched:
        patched.setattr(making, "_move", dies)
        with pytest.raises(Stopped):
            made(given)
    assert count(out) == 0
    assert results(out) == {}
    assert made(given)
    assert count(out) == len(results(out)) == 3


def test_nothing_is_done_twice(folder, prior, monkeypatch):
    given, out = described(folder, prior), folder.with_name("in.restored")
    assert made(given)
    times = {p: p.stat().st_mtime_ns for p in out.glob("*.restored.png")}
    monkeypatch.setattr(making, "loop", lambda *_, **__: pytest.fail("done before"))
    monkeypatch.setattr(making, "opened", lambda *_: pytest.fail("nothing is left to do"))
    assert made(given)
    assert made(given.changed(threads=2))  # which changes no more than the last bits
    assert {p: p.stat().st_mtime_ns for p in out.glob("*.restored.png")} == times
    assert len(lines(out)) == 3


def test_what_has_changed_is_done_again(folder, prior):
    given, out = described(folder, prior), folder.with_name("in.restored")
    assert made(given)
    first = numbers(out)
    shutil.copy(folder / "p00.png", folder / "p01.png")
    (out / "p02.restored.png").unlink()
    assert made(given)
    assert [line["name"] for line in lines(out)][3:] == ["p01.png", "p02.png"]
    assert numbers(out)["p02.restored.png"] == first["p02.restored.png"]
    assert numbers(out)["p01.restored.png"] != first["p01.restored.png"]
    assert made(given.changed(std=0.06))
    assert len(lines(out)) == 8


def test_the_prior_is_opened_once(folder, prior, monkeypatch):
    calls, opened = [], making.opened
    monkeypatch.setattr(making, "opened", lambda *given: calls.append(1) or opened(*given))
    assert made(described(folder, prior))
    assert calls == [1]


def test_two_at_once(folder, prior):
    pytest.importorskip("fcntl")
    given, out = described(folder, prior), folder.with_name("in.restored")
    out.mkdir()
    with manifest.opened(out / "manifest.jsonl"), pytest.raises(BadInput, match="another batch is writing"):
        made(given)


# --- what goes wrong ---


def test_bad_items_cost_no_others(tmp_path, prior, monkeypatch, capsys):
    folder = pictures(tmp_path / "in", 6)
    (tmp_path / "masks").mkdir()
    for k in range(6):
        mask = np.full((16, 24), 255, np.uint8)
        mask[4:8, 4:8] = 0
        Image.fromarray(mask if k != 2 else mask[:-1]).save(tmp_path / "masks" / f"p{k:02}.png")
    (tmp_path / "masks" / "p05.png").unlink()
    (folder / "p01.png").write_bytes((folder / "p01.png").read_bytes()[:-300])
    write = making.write

    def vanishes(path, *given):
        (folder / "p03.png").unlink(missing_ok=True)
        write(path, *given)

    monkeypatch.setattr(making, "write", vanishes)
    words = ["restore", str(folder), "--operator", "inpaint", "--mask", str(tmp_path / "masks" / "{stem}.png")]
    words += ["--steps", "2", "--prior", prior]
    assert main(words) == 1
    said, out = capsys.readouterr().out, tmp_path / "in.restored"
    assert "6 items: 2 done, 4 failed" in said
    for name, reason in (
        ("p01", "truncated or damaged"),
        ("p02", "expected a mask of the picture's height x width"),
        ("p03", "No such file"),
        ("p05", "masks/p05.png"),
    ):
        (line,) = [line for line in said.splitlines() if line.startswith(f"failed: {name}.restored.png: ")]
        assert reason in line
    assert set(results(out)) == {"p00.restored.png", "p04.restored.png"}
    # what has not changed is not tried again, and is not forgotten; p03 is gone, and so no item of the folder any more
    assert main(words) == 1
    assert "5 items: 2 done (2 of them before), 3 failed" in capsys.readouterr().out
    assert len(lines(out)) == 6
    shutil.copy(tmp_path / "masks" / "p00.png", tmp_path / "masks" / "p02.png")  # mended: tried without being asked
    assert main(words) == 1
    assert "3 done (2 of them before), 2 failed" in capsys.readouterr().out
    assert main([*words, "--retry"]) == 1
    assert [line["name"] for line in lines(out)][7:] == ["p01.png", "p05.png"]


def test_a_failed_item_leaves_nothing_to_the_next(folder, prior, monkeypatch):
    write, calls = making.write, []

    def breaks(path, *given):
        write(path, *given)
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("after the degraded picture, before the restored one")

    monkeypatch.setattr(making, "write", breaks)
    out = folder.with_name("in.restored")
    assert not made(described(folder, prior, simulate=True))
    kinds = ("degraded", "restored")
    assert set(results(out)) == {f"p0{k}.{kind}.png" for k in (1, 2) for kind in kinds}
    assert lines(out)[0]["reason"].startswith("RuntimeError: after")
    assert set(lines(out)[1]["files"]) == {f"p01.{kind}.png" for kind in kinds}
    assert {"psnr", "ssim", "residual", "evaluations"} <= set(lines(out)[1]["result"])


@pytest.mark.parametrize("what", ["picture", "manifest", "short"])
def test_a_full_disk(what, folder, prior, monkeypatch, capsys):
    given, out = described(folder, prior), folder.with_name("in.restored")
    calls = []

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        if what == "picture":
            # the second of two: in the text of the picture's writer, which wraps it in a BadInput
            put = os.replace
            patched.setattr(os, "replace", lambda a, b: full() if "p01" in str(b) else put(a, b))
        else:
            write = os.write

            def writes(handle, text):
                calls.append(1)
                if len(calls) < 2:
                    return write(handle, text)
                return write(handle, text[:20]) if what == "short" else full()

            patched.setattr(os, "write", writes)
        assert not carried_out(batch(given))
    said = capsys.readouterr().out
    assert "the disk is full" in said
    assert "3 items: 1 done, 0 failed" in said  # no picture's fault
    assert [line["name"] for line in lines(out)] == ["p00.png"]
    assert not (out / ".batch").exists()
    assert made(given)
    assert [line["name"] for line in lines(out)] == ["p00.png", "p01.png", "p02.png"]
    assert len(results(out)) == 3


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c(folder, prior, monkeypatch, capsys):
    given = ["restore", str(folder), "--operator", "denoise", "--steps", "3", "--prior", prior]
    calls, misfit, before = [], job.misfit, signal.getsignal(signal.SIGINT)

    def stops(*told):
        calls.append(1)
        if len(calls) == 5:  # three for a picture
            os.kill(os.getpid(), signal.SIGINT)
        return misfit(*told)

    with monkeypatch.context() as patched:
        patched.setattr(job, "misfit", stops)
        assert main(given) == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert "stopped: 1 of 3 are done; the same command goes on" in capsys.readouterr().out
    out = folder.with_name("in.restored")
    assert set(results(out)) == {"p00.restored.png"}
    assert main(given) == 0
    assert len(results(out)) == len(lines(out)) == 3


# --- an item is what it would be alone ---


def test_order_and_company_do_not_matter(folder, prior):
    whole = described(folder, prior, out="whole", simulate=True)
    some = described(folder, prior, out="some", simulate=True, inputs=[str(folder / f"p0{k}.png") for k in (2, 1)])
    assert made(whole)
    assert made(some)
    one, other = results(folder.with_name("whole")), results(folder.with_name("some"))
    assert other == {name: one[name] for name in one if not name.startswith("p00")}
    assert numbers(folder.with_name("some")).items() <= numbers(folder.with_name("whole")).items()


def test_an_item_is_a_run_with_its_seed(folder, prior, tmp_path):
    assert made(described(folder, prior))
    line = lines(folder.with_name("in.restored"))[1]
    words = ["--operator", "deblur", "--sigma", "1", "--std", "0.05", "--steps", "2", "--prior", prior]
    out = tmp_path / "alone.png"
    assert (
        main(
            [
                "restore", line["photo"], *words, "--seed", str(line["settings"]["seed"]), "--out", str(out),
                "--threads", "1",
            ]
        )
        == 0
    )  # fmt: skip
    assert json.loads((tmp_path / "alone.run.json").read_text())["result"]["sha256"] == line["result"]["sha256"]
    assert sha256(out) == line["files"]["p01.restored.png"]


def test_seeds_come_from_the_name_the_seed_and_the_sample(folder, prior):
    shutil.copy(folder / "p00.png", folder / "copy.png")
    given = described(folder, prior, seeds=[0, 1], samples=2, inputs=["in/p00.png", "in/copy.png"], out="out")
    items = found(given)
    assert len({item.own_seed for item in items}) == len({item.output for item in items}) == 8
    assert "p00.seed-1.sample-0.restored.png" in {item.output for item in items}
    alone = {(i.name, i.seed, i.sample): i.own_seed for i in found(given.changed(seeds=[1], samples=1))}
    assert alone.items() <= {(i.name, i.seed, i.sample): i.own_seed for i in items}.items()
    assert made(given)
    assert len(set(numbers(Path(given.out)).values())) == 8


def test_rerun(folder, prior, capsys):
    (folder / "p03.png").write_text("no picture")
    assert not made(described(folder, prior))
    out = folder.with_name("in.restored")
    for name in ("p01.png", "p01.restored.png"):
        assert main(["rerun", str(out / "manifest.jsonl"), "--item", name]) == 0
        assert "identical to the bit" in capsys.readouterr().out
    assert len(results(out)) == 3
    shutil.copy(folder / "p00.png", folder / "p01.png")
    assert main(["rerun", str(out / "manifest.jsonl"), "--item", "p01.png"]) == 1
    said = capsys.readouterr().out
    assert "not identical" in said
    assert "photo sha256 was" in said
    assert (out / "p01.rerun.png").exists()
    for name in ("p09.png", "p03.png"):  # not there; failed
        assert main(["rerun", str(out / "manifest.jsonl"), "--item", name]) == 2
        said = capsys.readouterr().err
        assert "expected one of the items that are done, p00.restored.png, p01.restored.png, p02.restored.png" in said


# --- which pictures ---


def test_inputs(tmp_path, prior):
    folder = pictures(tmp_path / "in", 2)
    pictures(folder / "sub", 1)
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").touch()

    def names(*inputs):
        return [i.output for i in found(described(folder, prior, inputs=list(inputs), out="in/out"))]

    assert names("in") == ["p00.restored.png", "p01.restored.png"]
    assert names("in/p01.png", "in") == ["p01.restored.png", "p00.restored.png"]  # each once
    assert names("in/**/*.png") == ["p00.restored.png", "p01.restored.png", "sub/p00.restored.png"]
    assert names("in/gone.png") == ["gone.restored.png"]  # an item that will fail, not one that is passed over
    assert made(described(folder, prior, inputs="in/**/*.png", out="in/out"))
    assert (folder / "out" / "sub" / "p00.restored.png").exists()
    assert len(names("in/**/*.png")) == 3  # what was written is not read
    with pytest.raises(BadInput, match="would both become"):
        names("in", "in/sub")
    with pytest.raises(BadInput, match="there is no picture"):
        names("in/*.tiff")
    Image.new("RGB", (24, 16)).save(tmp_path / "p00.restored.png")
    with pytest.raises(BadInput, match="would be overwritten"):
        found(described(folder, prior, inputs=["in/p00.png", "p00.restored.png"], out="."))


# --- the description ---


def test_the_command_and_the_file_are_one(folder, prior, tmp_path, capsys):
    words = ["restore", str(folder), "--operator", "superres", "--factor", "2", "--steps", "2", "--seed", "3"]
    words += ["--prior", prior, "--method", "mpc_flow", "--strength", "50", "--tile", "16", "--samples", "2"]
    assert main([*words, "--dry-run"]) == 0
    printed = capsys.readouterr()
    assert "6 items: 0 done, 0 failed before, 6 to do" in printed.err
    assert not folder.with_name("in.restored").exists()
    file = tmp_path / "job.json"
    file.write_text(printed.out)
    given = json.loads(printed.out)
    assert given["operator_options"] == {"factor": 2}
    assert (given["seeds"], given["samples"], given["tile"]) == ([3], 2, 16)
    assert description.read_file(file).model_dump(mode="json") == given
    assert main(["batch", str(file)]) == 0
    out = folder.with_name("in.restored")
    assert json.loads((out / "job.json").read_text()) == given
    assert main(words) == 0
    assert main(["batch", str(out / "job.json"), "--dry-run"]) == 0
    assert "6 items: 6 done, 0 failed before, 0 to do" in capsys.readouterr().err
    assert len(lines(out)) == 6


def test_paths_are_relative_to_the_file(folder, prior, tmp_path, monkeypatch):
    given = {"inputs": "in", "operator": "inpaint", "operator_options": {"mask": "{stem}.png"}, "out": "there"}
    (tmp_path / "job.json").write_text(json.dumps(given))
    monkeypatch.chdir("/")
    read = description.read_file(tmp_path / "job.json")
    assert (read.inputs, read.out) == ([str(folder)], str(tmp_path / "there"))
    assert read.operator_options == {"mask": str(tmp_path / "{stem}.png")}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"operator": "deblurr"}, "there is no operator 'deblurr'; did you mean deblur?"),
        ({"operator": None}, "operator: expected a text, got None"),
        ({"method": "mpcflow"}, "there is no method 'mpcflow'; did you mean mpc_flow?"),
        ({"sdt": 0.1}, "job.json has no 'sdt'; did you mean std?"),
        ({"std": "0.1"}, "job.json: std: expected one of auto or a number, got '0.1'"),
        ({"std": True}, "std: expected one of auto or a number, got True"),
        ({"std": -1}, "std: expected a number above 0, got -1"),
        ({"steps": 0}, "steps: expected a whole number of at least 1 and of at most 100000 or none, got 0"),
        ({"samples": 1.5}, "samples: expected a whole number of at least 1, got 1.5"),
        ({"simulate": 1}, "simulate: expected true or false, got 1"),
        ({"seeds": []}, "job.json: seeds: expected at least one"),
        ({"seeds": [1, 1]}, "each of them once"),
        ({"seeds": ["a"]}, "seeds: expected a whole number or a list of whole numbers, got ['a']"),
        ({"inputs": 3}, "inputs: expected a text or a list of texts, got 3"),
        ({"tile": "some"}, "tile: expected one of auto or a whole number of at least 0, got 'some'"),
        ({"operator_options": {"sigam": 1}}, "operator_options: deblur has no option 'sigam'; did you mean sigma?"),
        (
            {"operator_options": {"sigma": "wide"}},
            "deblur: sigma: expected one of auto or a number above 0 and of at most 200, got 'wide'",
        ),
        ({"operator_options": {"border": "round"}}, "border: there is no 'round'; expected open, circular"),
        ({"operator": "inpaint", "operator_options": {}}, "operator_options: inpaint needs mask: picture of the clean"),
        ({"method_options": {"inner": "adam:rounds=2"}}, "adam has no option 'rounds'"),
        ({"method_options": {"inner": "Adam"}}, "inner: there is no 'Adam'; did you mean adam?"),
        ({"prompt": "a lamp"}, "--prompt is for pipelines"),
        ({"inputs": ["in/p00.png"]}, "job.json: out is missing"),
    ],
)
def test_descriptions_that_do_not_fit(more, message, folder, tmp_path):
    usual = {"inputs": str(folder), "operator": "deblur", "operator_options": {"sigma": 1.0}}
    (tmp_path / "job.json").write_text(json.dumps(usual | more))
    with pytest.raises(BadInput, match=re.escape(message)) as caught:
        description.read_file(tmp_path / "job.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a description of a batch in JSON"),
        ('{"std": NaN}', "NaN is no number of JSON"),
        ('{"std": 1, "std": 2}', "'std' is given twice"),
        ("[]", "expected an object"),
        ("{}", "job.json needs operator: The kind of damage"),
    ],
)
def test_files_that_are_no_description(text, message, tmp_path, capsys):
    (tmp_path / "job.json").write_text(text)
    assert main(["batch", str(tmp_path / "job.json")]) == 2
    assert message in capsys.readouterr().err


def test_the_schema_is_that_of_the_signatures(capsys):
    assert main(["batch", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    own = schema["properties"]
    assert {"inputs", "out", "seeds", "samples", "std", "steps", "method_options", "prior", "warm"} <= set(own)
    assert not {"seed", "resume", "retry", "dry_run", "words", "context"} & set(own)
    assert all("description" in part for name, part in own.items() if name != "$schema")
    assert own["steps"]["anyOf"] == [{"type": "integer", "minimum": 1, "maximum": 100000}, {"type": "null"}]
    conditions = {
        (part, rule["if"]["properties"][part]["const"]): rule["then"]
        for rule in schema["allOf"]
        for part in rule["if"]["properties"]
    }
    assert {name for part, name in conditions if part == "method"} == {f.__name__ for f in RESTORE_OR_STEER}
    assert conditions["operator", "inpaint"]["required"] == ["operator_options"]
    assert conditions["operator", "deblur"]["properties"]["operator_options"]["properties"]["border"]["enum"] == [
        "open",
        "circular",
    ]


@pytest.mark.parametrize("function", [*operators.ALL, *RESTORE_OR_STEER], ids=lambda f: f.__name__)
def test_every_default_fits_its_schema(function):
    given = {name: "a" for name, option in options(function).items() if option.needed}
    chosen = complete(function, given)
    assert read(function, chosen.stored(), strict=True).stored() == chosen.stored()


# --- stopped by whoever listens ---


@pytest.mark.parametrize("how", ["thrown", "closed"])
@pytest.mark.parametrize("moment", [Planned, Stepped, Done])
def test_stopped_or_closed_the_manifest_is_right(how, moment, folder, prior):
    """In the second item, in a step or right behind its line: what has a line has its picture, nothing is left half, and it goes on."""
    request, out = described(folder, prior), folder.with_name("in.restored")
    events, told = batch(request), []
    for event in events:
        told.append(event)
        done = sum(isinstance(each, Done) for each in told)
        if isinstance(event, moment) and done == (0 if moment is Planned else 2 if moment is Done else 1):
            break
    if how == "closed":
        events.close()  # which would raise RuntimeError, if it went on
    else:
        said = []
        with pytest.raises(Stopped):
            drive_on(events, said)
        assert [f"stopped: {done} of 3 are done" in each.text for each in said] == [True]
    assert [line["status"] for line in lines(out)] == ["done"] * done
    assert set(results(out)) == {line["output"] for line in lines(out)}
    assert not (out / ".batch").exists()
    assert made(request)
    assert [line["name"] for line in lines(out)] == ["p00.png", "p01.png", "p02.png"]
    whole = described(folder, prior, out="whole")
    assert made(whole)
    assert results(out) == results(folder.with_name("whole"))


def drive_on(events, said):
    """As `drive` does when `Stopped` is raised while an event is shown."""
    said.append(events.throw(Stopped(130)))
    said.extend(events)
