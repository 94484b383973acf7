"""What real folders hold: masks for each picture, results of before, links, brackets, long names; folders that go away; records that are
damaged or changed by hand."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from batches import described, lines, made, numbers, pictures, results
from PIL import Image

from flowhelm.app.batch import manifest
from flowhelm.app.batch import worker as making
from flowhelm.app.batch.description import settled
from flowhelm.app.batch.items import found, settings_of
from flowhelm.app.batch.listing import listed
from flowhelm.app.batch.run import batch, outlook
from flowhelm.app.errors import BadInput
from flowhelm.app.files import atomic
from flowhelm.app.restore import run as job
from flowhelm.app.run import Done, Said, Warned
from flowhelm.interfaces.cli import main
from flowhelm.interfaces.cli.progress import carried_out

FEW = ["--operator", "denoise", "--std", "0.1", "--steps", "2", "--threads", "1"]


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 24, 3), np.uint8)).save(path)
    return path


def mask(path: Path, left: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    known = np.full((16, 24), 255, np.uint8)
    known[4:8, left : left + 4] = 0
    Image.fromarray(known).save(path)
    return path


def denoise(folder: Path, prior: str, **more):
    return described(folder, prior, **{"operator": "denoise", "std": 0.1} | more)


def told(request, kind=Said, **how) -> tuple[bool, list[str]]:
    """Whether all is done, and what was said."""
    events = []
    whole = made(request, events.append, **how)
    return whole, [each.text for each in events if isinstance(each, kind)]


# --- a mask for each picture ---


@pytest.fixture
def masked(tmp_path, prior):
    """Two pictures of one name in two folders, and what an `inpaint` of them is asked to take for masks."""
    for k, name in enumerate(("a/img1.png", "b/img1.png")):
        picture(tmp_path / "photos" / name, k)

    def request(pattern: str):
        return described(
            tmp_path / "photos", prior, inputs="photos/**/*.png", out="out", operator="inpaint",
            operator_options={"mask": pattern},
        )  # fmt: skip

    return request


def masks_of(request) -> list[str]:
    base = settled(request)
    paths = [settings_of(item, request, base).operator_options.mask for item in found(request)]
    return [path.relative_to(Path(request.out).parent).as_posix() for path in paths]


def test_one_mask_is_not_taken_for_two_pictures(masked, tmp_path):
    mask(tmp_path / "masks" / "img1.png")
    with pytest.raises(
        BadInput, match=r"would be that of 'a/img1.png' and of 'b/img1.png'; write \{path\} for \{stem\}"
    ):
        made(masked("masks/{stem}.png"))
    assert not (tmp_path / "out").exists()
    assert made(masked("masks/img1.png"))  # of all pictures, and said to be


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("masks/{path}.png", ("a/img1.png", "b/img1.png")),
        ("masks/{path}_mask.png", ("a/img1_mask.png", "b/img1_mask.png")),
        ("masks/{path}.*", ("a/img1.png", "b/img1.WEBP")),
        ("masks/{path}_mask.*", ("a/img1_mask.tif", "b/img1_mask.bmp")),
        ("masks", ("a/img1.png", "b/img1.png")),  # a folder that is arranged like that of the pictures
        ("masks", ("a/img1_mask.tiff", "b/img1.jpg")),
    ],
)
def test_masks_by_the_path(pattern, names, masked, tmp_path):
    for k, name in enumerate(names):
        mask(tmp_path / "masks" / name, 4 + 8 * k)
    (tmp_path / "masks" / "a" / "img1.txt").write_text("no mask")
    request = masked(pattern)
    assert masks_of(request) == [f"masks/{name}" for name in names]
    assert made(request)
    read = [line["inputs"]["mask sha256"] for line in lines(tmp_path / "out")]
    assert read == [atomic.sha256(tmp_path / "masks" / name) for name in names]


@pytest.mark.parametrize(
    "others", [("a/img1.png", "a/img1_mask.png"), ("a/img1.png", "a/img1.tif"), ("a/img1_mask.png", "a/img1_mask.jpg")]
)
def test_a_picture_with_two_masks_is_refused(others, masked, tmp_path):
    for name in (*others, "b/img1.png"):
        mask(tmp_path / "masks" / name)
    with pytest.raises(BadInput, match=r"may both be that of 'a/img1.png'; leave one of them there"):
        made(masked("masks"))
    (tmp_path / "masks" / others[0]).unlink()
    assert made(masked("masks"))


def test_a_mask_that_is_missing_costs_no_others(masked, tmp_path, capsys):
    mask(tmp_path / "masks" / "b" / "img1_mask.png")
    assert not carried_out(batch(masked("masks")))
    assert "failed: a/img1.restored.png: " in capsys.readouterr().out
    mask(tmp_path / "masks" / "a" / "img1.png")
    assert made(masked("masks"))  # tried without being asked
    assert set(results(tmp_path / "out")) == {"a/img1.restored.png", "b/img1.restored.png"}


def test_masks_of_slices(tmp_path, prior):
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "s.npy", np.zeros((2, 16, 24), np.uint8))
    for k in range(2):
        mask(tmp_path / "masks" / "s.npy" / f"000{k}.png", 4 + k)
    request = described(
        tmp_path / "in", prior, inputs="in/s.npy", out="out", operator="inpaint", operator_options={"mask": "masks"}
    )
    assert masks_of(request) == ["masks/s.npy/0000.png", "masks/s.npy/0001.png"]


# --- what was made before is not restored again ---


def names_of(request) -> list[str]:
    return [item.name for item in found(request)]


def test_results_of_single_runs_are_passed_over(tmp_path, prior):
    for name in ("p0.png", "p1.png"):
        picture(tmp_path / "in" / name)
    assert main(["restore", str(tmp_path / "in" / "p0.png"), *FEW, "--prior", prior]) == 0
    assert (
        main(
            [
                "restore", str(tmp_path / "in" / "p1.png"), *FEW, "--prior", prior, "--simulate", "--out",
                str(tmp_path / "in" / "clean.jpg"),
            ]
        )
        == 0
    )  # fmt: skip
    assert len(list((tmp_path / "in").iterdir())) == 9
    request = denoise(tmp_path / "in", prior)
    assert names_of(request) == ["p0.png", "p1.png"]
    whole, said = told(request)
    assert whole
    assert said[-1] == "passed over: 5 made by earlier runs"
    assert names_of(request.changed(inputs=[str(tmp_path / "in" / "p0.restored.png")])) == [
        "p0.restored.png"
    ]  # named is wanted


def test_results_of_batches_are_passed_over(tmp_path, prior):
    pictures(tmp_path / "in", 2)
    first = denoise(tmp_path / "in", prior, inputs="in/**/*.png", out="in/first", samples=2, simulate=True)
    assert made(first)
    second = first.changed(out=str(tmp_path / "in" / "second"), samples=1)
    assert names_of(second) == names_of(first.changed(samples=1)) == ["p00.png", "p01.png"]
    shutil.copytree(tmp_path, tmp_path.with_name("moved"))  # where the paths in the manifest are no more
    shutil.rmtree(tmp_path / "in")
    moved = tmp_path.with_name("moved")
    assert names_of(denoise(moved / "in", prior, inputs="in/**/*.png", out="third")) == ["p00.png", "p01.png"]


def test_results_beside_the_photographs(tmp_path, prior):
    pictures(tmp_path / "in", 2)
    request = denoise(tmp_path / "in", prior, out="in", names="{path}-clean.jpg")
    assert made(request)
    assert (tmp_path / "in" / "p00-clean.jpg").exists()
    assert names_of(request) == ["p00.png", "p01.png"]
    assert made(request)
    assert len(lines(tmp_path / "in")) == 2


def test_a_second_pass_over_results(tmp_path, prior):
    """Where the folder of the results is named and that of the photographs is not."""
    pictures(tmp_path / "in", 2)
    assert made(denoise(tmp_path / "in", prior))
    assert names_of(denoise(tmp_path / "in.restored", prior)) == ["p00.restored.png", "p01.restored.png"]


def test_names_alone_do_not_pass_a_picture_over(tmp_path, prior):
    for name in ("film.strip.png", "old.restored.png", "x.png", "x.strip.png", "y.jpg", "y.preview.png"):
        picture(tmp_path / "in" / name)
    request = denoise(tmp_path / "in", prior)
    assert names_of(request) == ["film.strip.png", "old.restored.png", "x.png", "y.jpg"]
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    (tmp_path / "in" / "raw.dng").write_text("no picture that is read")
    assert listed(request).passed_over == "passed over: 2 made by earlier runs, 1 .dng, 1 .txt"


def test_a_folder_is_read_whole_and_what_is_no_picture_is_said(tmp_path, prior):
    shown = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    (tmp_path / "in").mkdir()
    for name in ("a.bmp", "b.JFIF", "c.jpe", "d.gif", "e.avif", "f.webp", "g.png"):
        Image.fromarray(shown).save(tmp_path / "in" / name, {"JFIF": "JPEG", "jpe": "JPEG"}.get(name[2:]))
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    whole, said = told(denoise(tmp_path / "in", prior))
    assert whole
    assert "7 items: 7 done" in said[-2]
    assert said[-1] == "passed over: 1 .txt"
    assert {path.name for path in (tmp_path / "in.restored").glob("*.png")} == {
        f"{name}.restored.png" for name in "abcdefg"
    }
    first, found = (
        np.asarray(Image.open(tmp_path / "in.restored" / f"{name}.restored.png")).astype(float) for name in "ag"
    )
    assert np.corrcoef(first.ravel(), found.ravel())[0, 1] > 0.9


# --- names of folders, links, long names ---


@pytest.mark.parametrize("name", ["photos [2020]", "a*b", "what?", "[x]"])
def test_a_folder_with_the_letters_of_a_pattern(name, tmp_path, prior):
    for each in (name, "plain"):
        pictures(tmp_path / each, 2)
        pictures(tmp_path / each / "sub", 1)
    for inputs in ("{}", "{}/*.png", "{}/**/*.png", "{}/p01.png", "{}/sub/*.png"):
        here = denoise(tmp_path / name, prior, inputs=inputs.format(name), out="out")
        there = denoise(tmp_path / "plain", prior, inputs=inputs.format("plain"), out="out")
        assert [(i.name, i.own_seed, i.output) for i in found(here)] == [
            (i.name, i.own_seed, i.output) for i in found(there)
        ]
    assert names_of(denoise(tmp_path / name, prior, inputs="[ap]l*n/*.png", out="out")) == [
        "plain/p00.png",
        "plain/p01.png",
    ]


def test_links_are_followed_once(tmp_path, prior):
    pictures(tmp_path / "in" / "a", 2)
    pictures(tmp_path / "in" / "b", 1)
    pictures(tmp_path / "elsewhere", 1)
    for link, to in (
        ("a/up", ".."), ("b/self", "."), ("b/other", "../a"), ("c", "../elsewhere"), ("d", "c"), ("gone", "nowhere"),
    ):  # fmt: skip
        (tmp_path / "in" / link).symlink_to(to)
    request = denoise(tmp_path / "in", prior, inputs="in/**/*.png", out="out")
    assert names_of(request) == ["a/p00.png", "a/p01.png", "b/p00.png", "c/p00.png"]
    assert names_of(request.changed(inputs=[str(tmp_path / "in/**/**/*.png")])) == names_of(request)
    assert names_of(request.changed(inputs=[str(tmp_path / "in/*/*.png")])) == [*names_of(request), "d/p00.png"]


@pytest.mark.parametrize("name", ["n" * 243, "n" * 250, "ä" * 122])
def test_a_name_that_is_too_long_is_refused_before_the_work(name, tmp_path, prior, monkeypatch, capsys):
    picture(tmp_path / "in" / f"{name}.png")
    picture(tmp_path / "in" / "p.png")
    seen, loop = [], making.loop
    monkeypatch.setattr(making, "loop", lambda problem: seen.append(problem.settings.photo) or loop(problem))
    assert not carried_out(batch(denoise(tmp_path / "in", prior)))
    assert [Path(photo).name for photo in seen] == ["p.png"]
    assert "give the picture a shorter name" in capsys.readouterr().out


@pytest.mark.parametrize("length", [237, 243, 250])
def test_of_one_photograph_too(length, tmp_path, prior, monkeypatch, capsys):
    """At 237 the result has room for its name, and the file that a stopped run leaves has not."""
    picture(tmp_path / f"{'n' * length}.png")
    monkeypatch.setattr(job, "loop", lambda *_: pytest.fail("this name cannot be written"))
    monkeypatch.chdir(tmp_path)
    assert main(["restore", f"{'n' * length}.png", *FEW, "--prior", prior]) == 2
    said = capsys.readouterr().err
    assert "give the picture a shorter name" in said or "is too long for the name of a file" in said
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("names", "output"),
    [("{path}.jpg", "sub/p00.jpg"), ("{stem}-clean.tif", "p00-clean.tif"), ("flat/{stem}.webp", "flat/p00.webp")],
)
def test_names_and_formats_of_results(names, output, tmp_path, prior):
    pictures(tmp_path / "in" / "sub", 1)
    request = denoise(tmp_path / "in", prior, inputs="in/**/*.png", out="out", names=names)
    assert made(request)
    assert set(results(tmp_path / "out")) == {output}
    with Image.open(tmp_path / "out" / output) as image:
        assert image.format == {"jpg": "JPEG", "tif": "TIFF", "webp": "WEBP"}[output[-4:].lstrip(".")[-4:]]
    assert main(["rerun", str(tmp_path / "out" / "manifest.jsonl"), "--item", output]) == 0


def test_names_of_seeds_and_samples(tmp_path, prior):
    pictures(tmp_path / "in", 2)
    request = denoise(tmp_path / "in", prior, seeds=[3, 4], samples=2, names="{seed}/{stem}.{sample}.png")
    assert {i.output for i in found(request)} == {f"{s}/p0{k}.{n}.png" for s in (3, 4) for k in (0, 1) for n in (0, 1)}
    assert found(request.changed(names="{stem}.png"))[0].output == "p00.seed-3.sample-0.png"
    assert made(request.changed(seeds=[3]))
    assert {p.name for p in (tmp_path / "in.restored").iterdir()} >= {"p00.posterior", "p01.posterior"}
    pictures(tmp_path / "in" / "sub", 1)
    with pytest.raises(BadInput, match=r"would both become 'p00\.png'"):
        found(denoise(tmp_path / "in", prior, inputs="in/**/*.png", out="out", names="{stem}.png"))


@pytest.mark.parametrize(
    "names",
    [
        "{path}", "x.png", "{path}.gif", "../{path}.png", "/{path}.png", "{name}.png", "{path}.{x}.png",
        "{path}:..:x.png",
    ],
)  # fmt: skip
def test_names_that_cannot_be(names, tmp_path, prior, capsys):
    pictures(tmp_path / "in", 1)
    assert main(["restore", str(tmp_path / "in"), *FEW, "--prior", prior, "--names", names]) == 2
    assert "names" in capsys.readouterr().err
    assert not (tmp_path / "in.restored").exists()


# --- the folder of the results goes away ---


@pytest.mark.parametrize("how", ["renamed", "removed", "a file", "read-only", "stale"])
def test_an_output_folder_that_goes_away(how, tmp_path, prior, monkeypatch, capsys):
    """Stops with status 1, blames no item, and goes on when it is there again."""
    folder = pictures(tmp_path / "in", 4)
    request, out, kept = denoise(folder, prior), tmp_path / "in.restored", tmp_path / "kept"

    def goes(event) -> None:
        if not isinstance(event, Done) or event.name != "p01.restored.png":
            return
        if how in ("renamed", "a file"):
            out.rename(kept)
        if how == "a file":
            out.write_text("in its place")
        if how == "removed":
            shutil.copytree(out, kept)
            shutil.rmtree(out)
        if how in ("read-only", "stale"):
            number = errno.EROFS if how == "read-only" else errno.ESTALE
            touch, replace = Path.touch, os.replace

            def refused(path, *_, **__):
                if out in Path(path).parents:
                    raise OSError(number, os.strerror(number))

            monkeypatch.setattr(Path, "touch", lambda path, *a, **k: refused(path) or touch(path, *a, **k))
            monkeypatch.setattr(os, "replace", lambda a, b: refused(b) or replace(a, b))

    events = []
    whole = made(request, lambda event: (events.append(event), goes(event)))
    assert not whole
    said = [each.text for each in events if isinstance(each, Said)]
    assert said[0].startswith("4 items: 2 done, 0 failed")
    assert said[-1].startswith("stopped, since ")
    assert said[-1].endswith("mend that, and the same command goes on")
    monkeypatch.undo()
    if kept.exists():
        out.unlink() if out.is_file() else shutil.rmtree(out, ignore_errors=True)
        kept.rename(out)
    assert [line["status"] for line in lines(out)] == ["done", "done"]
    assert made(request)
    assert [line["name"] for line in lines(out)] == [f"p0{k}.png" for k in range(4)]


def test_one_name_that_is_taken_is_one_items_fault(tmp_path, prior):
    folder = pictures(tmp_path / "in", 3)
    (tmp_path / "in.restored" / "p01.restored.png" / "a folder").mkdir(parents=True)
    assert not made(denoise(folder, prior))
    assert [line["status"] for line in lines(tmp_path / "in.restored")] == ["done", "failed", "done"]


# --- records and results ---


@pytest.mark.parametrize("what", ["another picture", "cut", "a byte"])
def test_a_result_that_was_changed_is_said_and_kept(what, tmp_path, prior, capsys):
    request, out = denoise(pictures(tmp_path / "in", 3), prior), tmp_path / "in.restored"
    assert made(request)
    hashes, path = results(out), out / "p01.restored.png"
    data = path.read_bytes()
    path.write_bytes(
        {"another picture": (out / "p00.restored.png").read_bytes(), "cut": data[:-9], "a byte": data[:-1] + b"x"}[what]
    )
    changed = path.read_bytes()
    assert outlook(request) == "3 items: 2 done, 0 failed before, 1 changed since, 0 to do"
    whole, said = told(request)
    assert not whole
    assert any(each.startswith("changed since it was written: p01.restored.png; it is left as it is") for each in said)
    assert path.read_bytes() == changed  # it may be somebody's work
    assert made(request, retry=True)
    assert results(out) == hashes
    path.write_bytes(b"")  # what a loss of power may leave
    assert made(request)
    assert results(out) == hashes


def test_results_are_on_the_disk_before_their_line(tmp_path, prior, monkeypatch):
    """Every file before it gets its name, the folder before the line: what a loss of power may not turn round."""
    order, fsync, replace, write = [], os.fsync, os.replace, os.write

    def synced(handle):
        order.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda a, b: order.append("placed") or replace(a, b))
    monkeypatch.setattr(os, "write", lambda handle, text: order.append("line") or write(handle, text))
    assert made(denoise(pictures(tmp_path / "in", 1), prior))
    # into the stage: the file, then its name; into its place, then the folder; the line, then the manifest
    assert order[order.index("line") - 5 :] == ["file", "placed", "folder", "placed", "folder", "line", "file"]


BAD = {
    "nested": b"[" * 5000, "no status": None, "words": b"what is this", "another object": b'{"a": 1}', "bytes": b"\xff\xfe\0",
    "a number": b"1e999", "cut": None,
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("where", [0, 2])
def test_a_damaged_line_is_named_set_aside_and_its_item_made_again(what, where, tmp_path, prior):
    request, out = denoise(pictures(tmp_path / "in", 3), prior), tmp_path / "in.restored"
    assert made(request)
    hashes, path = results(out), out / "manifest.jsonl"
    kept = path.read_bytes().splitlines()
    bad = BAD[what]
    if what == "no status":
        bad = json.dumps({k: v for k, v in json.loads(kept[where]).items() if k != "status"}).encode()
    if what == "cut":
        bad = kept[where][:-30]
    path.write_bytes(b"\n".join([*kept[:where], bad, *kept[where + 1 :]]) + b"\n")
    whole, warned = told(request, Warned)
    assert whole
    assert [each.partition(" is damaged")[0] for each in warned] == [f"line {where + 1} of {path}"]
    assert (what in ("no status", "cut")) == (f"p0{where}.restored.png is made again" in warned[0])
    assert (out / manifest.ASIDE).read_bytes() == bad + b"\n"
    assert sorted(line["name"] for line in lines(out)) == ["p00.png", "p01.png", "p02.png"]
    assert {k: v for k, v in results(out).items() if k != manifest.ASIDE} == hashes
    assert told(request, Warned) == (True, [])  # once
    assert len(lines(out)) == 3
    assert set(numbers(out)) == {f"p0{k}.restored.png" for k in range(3)}


def test_a_damaged_line_hides_those_before_it(tmp_path, prior):
    """Else an item that had failed and was then made would count as failed."""
    request, path = denoise(pictures(tmp_path / "in", 2), prior), tmp_path / "in.restored" / "manifest.jsonl"
    assert made(request)
    line = lines(path.parent)[1]
    failed = {name: line[name] for name in manifest.Line.model_fields} | {"status": "failed", "reason": "no memory"}
    before = path.read_text()
    path.write_text(before.replace(json.dumps(line, sort_keys=True), json.dumps(failed)))
    assert not made(request)  # as long as nothing has changed
    path.write_text(json.dumps(failed) + "\n" + before.replace('"status": "done"', '"status": "don'))
    assert made(request)
    assert [line["status"] for line in lines(path.parent)] == ["failed", "done", "done"]


def test_a_manifest_that_cannot_be_opened(tmp_path, prior, capsys):
    (tmp_path / "in.restored" / "manifest.jsonl").mkdir(parents=True)
    pictures(tmp_path / "in", 1)
    assert main(["restore", str(tmp_path / "in"), *FEW, "--prior", prior]) == 2
    assert "cannot be written to" in capsys.readouterr().err
