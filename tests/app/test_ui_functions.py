"""The local page without a browser and without a server: uploads, masks, the run folder, and runs that are the command line's."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from encoded import png
from PIL import Image
from toys import ramps

from flowhelm import operators
from flowhelm.app.errors import BadInput
from flowhelm.app.options.signature import options
from flowhelm.app.restore import run as job
from flowhelm.app.restore.look import Seen
from flowhelm.app.restore.presets import usual_method
from flowhelm.app.restore.record import RestoreFile
from flowhelm.app.restore.request import RestoreSettings
from flowhelm.app.run import Planned, Stepped, drive
from flowhelm.cards import RESTORE_OR_STEER
from flowhelm.interfaces import ui
from flowhelm.interfaces.cli import main
from flowhelm.interfaces.guard import loopback
from flowhelm.interfaces.ui import folder, requests, restore_tab, results
from flowhelm.interfaces.ui.request import PageRequest
from flowhelm.interfaces.ui.running import Desk, Work, sentence


def picture(path: Path, size: tuple[int, int] = (20, 20)) -> Path:
    return ramps(path, *size, 9, 11, 5)


def bomb(path: Path, width: int = 20_000, height: int = 10_000) -> Path:
    """A PNG whose header promises 200 megapixels, and whose data is not even there."""
    path.write_bytes(png(width, height))
    return path


@pytest.fixture
def photo(tmp_path) -> Path:
    return picture(tmp_path / "photo.png")


@pytest.fixture
def page(tmp_path, prior) -> PageRequest:
    return ui.checked(PageRequest(runs=tmp_path / "runs", priors=[prior], threads=1))


def asked(photo: Path | None, prior: str, **more) -> requests.RestoreFields:
    """What the fields of the page say, as texts."""
    usual = {
        "photo": str(photo) if photo else None, "operator": "deblur", "prior": prior, "steps": "3", "std": 0.05,
        "seed": "0",
    }  # fmt: skip
    return requests.restore_fields(usual | more)


def ran(settings: RestoreSettings) -> RestoreFile:
    return drive(job.restore(settings))


def steps(total: int, each=lambda i: None):
    """A piece of work of so many steps."""
    yield Planned(total)
    for i in range(1, total + 1):
        each(i)
        yield Stepped(i, total, "a step", lambda: torch.zeros(1))


# --- where it listens ---


@pytest.mark.parametrize(
    ("host", "alone"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("localhost", True), ("::1", True), ("[::1]", True), ("0.0.0.0", False), ("::", False),
        ("192.168.0.7", False), ("example.org", False), ("localhost.evil.example", False), ("127.0.0.1.evil.example", False), ("", False),
    ],
)  # fmt: skip
def test_loopback(host, alone):
    assert loopback(host) is alone


@pytest.mark.parametrize("password", [None, ""])
def test_beyond_this_machine_a_password_is_needed(tmp_path, capsys, monkeypatch, password):
    with pytest.raises(BadInput, match="give a --password"):
        ui.checked(PageRequest(host="0.0.0.0", password=password, runs=tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()
    assert ui.checked(PageRequest(host="0.0.0.0", password="a", runs=tmp_path / "runs")).password == "a"
    monkeypatch.delenv("FLOWHELM_PASSWORD", raising=False)
    assert main(["ui", "--host", "0.0.0.0", "--runs", str(tmp_path / "runs"), "--no-browser"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "FLOWHELM_PASSWORD" in said[0]


def test_the_password_may_come_from_the_environment(tmp_path, monkeypatch):
    got = []
    monkeypatch.setattr(ui, "serve", lambda request, **_: got.append(request))
    monkeypatch.setenv("FLOWHELM_PASSWORD", "sesame")
    assert main(["ui", "--host", "0.0.0.0", "--runs", str(tmp_path / "runs"), "--max-megapixels", "2"]) == 0
    assert (got[0].host, got[0].password, got[0].max_megapixels) == ("0.0.0.0", "sesame", 2.0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"runs": Path.home()}, "your home"), ({"runs": Path("/")}, "your home"), ({"runs": Path(".")}, "this folder"),
        ({"port": 0}, "of at least 1 and of at most 65535"),
        ({"device": "abacus"}, "not there"),
        ({"priors": ["missing.safetensors"]}, "missing.safetensors"),
        ({"max_megapixels": 0.0}, "above 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_at_once(tmp_path, given, said):
    with pytest.raises(ValueError, match=said):
        ui.checked(PageRequest.of({"runs": tmp_path / "runs"} | given, "ui"))


# --- requests ---

OWN = {"host": "127.0.0.1:7860"}


@pytest.mark.parametrize(
    ("headers", "local", "path", "fine"),
    [
        (OWN, True, "/", True),
        ({"host": "localhost:7860"}, True, "/", True),
        ({"host": "[::1]:7860"}, True, "/", True),
        (OWN | {"origin": "http://127.0.0.1:7860"}, True, "/", True),
        (OWN | {"origin": "HTTP://127.0.0.1:7860"}, True, "/", True),
        (OWN | {"origin": "http://evil.example"}, True, "/", False),
        (OWN | {"origin": "http://127.0.0.1:3000"}, True, "/", False),  # another server of this machine
        (OWN | {"origin": "http://127.0.0.1:7860.evil.example"}, True, "/", False),
        (OWN | {"origin": "null"}, True, "/", False),
        (OWN | {"origin": ""}, True, "/", False),
        (OWN | {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, True, "/", False),
        (OWN | {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, True, "/", True),  # a link to the page
        (OWN | {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}, True, "/", True),
        ({"host": "evil.example:7860"}, True, "/", False),  # DNS rebinding
        ({"host": "127.0.0.1.evil.example"}, True, "/", False),
        ({"host": "[::1"}, True, "/", False),
        ({}, True, "/", False),
        ({"host": "box.lan:7860"}, False, "/", True),
        ({"host": "box.lan:7860", "origin": "http://box.lan:7860"}, False, "/", True),
        ({"host": "box.lan:7860", "origin": "http://evil.example"}, False, "/", False),
        (OWN, True, "/gradio_api/file=http://example.org/x.png", False),
        (OWN, True, "/gradio_api/file=%48TTPS://example.org/x.png", False),
        (OWN, True, "/gradio_api/proxy=https://example.org", False),
        (OWN, True, "/gradio_api/file=/tmp/http.png", True),
    ],
)
def test_requests_of_other_pages_are_refused(headers, local, path, fine):
    said = ui.page_refusal(path, headers, local)
    assert (said is None) is fine, said


# --- uploads ---


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("photo.png", "photo.png"), ("my cat (2).jpg", "my cat (2).jpg"), ("../../etc/passwd", "passwd"), ("..\\..\\boot.ini", "boot.ini"),
        ("/abs/x.png", "x.png"), ("..", "picture"), ("", "picture"), (".hidden", "hidden"), ("a\0b<script>.png", "a_b_script_.png"),
        ("Königsstuhl.png", "Königsstuhl.png"), ("x/", "picture"), ("-" * 300 + ".png", "-" * 76 + ".png"),
    ],
)  # fmt: skip
def test_names_stay_in_the_folder(tmp_path, name, kept):
    assert folder.safe(name) == kept
    assert (tmp_path / folder.safe(name)).resolve().parent == tmp_path.resolve()


def test_a_bomb_is_refused_by_its_header(tmp_path, monkeypatch):
    Image.init()  # one of its plugins decodes a picture of its own
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("it was decoded"))
    for width, height in ((20_000, 10_000), (5_000, 4_000), (2**31 - 1, 2**31 - 1)):
        with pytest.raises(BadInput, match=r"the limit here is 16.*; scale it down"):
            folder.checked(bomb(tmp_path / "bomb.png", width, height), 16)
    assert folder.checked(bomb(tmp_path / "small.png", 4_000, 4_000), 16) == (4000, 4000)


def test_what_is_no_picture_is_said_to_be_none(tmp_path):
    for data in (
        b"",
        b"hello",
        b"%PDF-1.4",
        b"GIF89a" + bytes(20),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    ):
        (tmp_path / "x.png").write_bytes(data)
        with pytest.raises(BadInput, match=r"'x.png' is not a picture that can be read"):
            folder.checked(tmp_path / "x.png", 16)
    with pytest.raises(BadInput, match="not a picture"):
        folder.checked(tmp_path, 16)


def test_paint_is_what_is_missing():
    layer = Image.new("RGBA", (8, 6))
    assert folder.mask_of({"layers": [layer]}, (8, 6)) is None
    assert folder.mask_of({"layers": []}, (8, 6)) is None
    assert folder.mask_of(None, (8, 6)) is None
    layer.putpixel((2, 3), (255, 0, 0, 1))  # the soft edge of a brush, too
    other = Image.new("RGBA", (8, 6))
    other.putpixel((7, 0), (0, 0, 0, 255))
    mask = np.asarray(folder.mask_of({"layers": [layer, other]}, (8, 6)))
    assert mask.shape == (6, 8)
    assert set(map(tuple, np.argwhere(mask == 0))) == {(3, 2), (0, 7)}
    assert set(np.unique(mask)) == {0, 255}
    # of a picture that was shown smaller: each painted pixel is a block
    large = np.asarray(folder.mask_of({"layers": [layer]}, (24, 18)))
    assert (large == 0).sum() == 9
    assert (large[9:12, 6:9] == 0).all()


# --- the run folder ---


def test_no_name_leads_out_of_the_run_folder(tmp_path):
    runs, secret = tmp_path / "runs", tmp_path / "secret.run.json"
    (runs / "a").mkdir(parents=True)
    secret.write_text("{}")
    (runs / "a" / "link.run.json").symlink_to(secret)
    (runs / "a" / "own.run.json").write_text("{}")
    assert folder.inside(runs, "a/own.run.json") == (runs / "a" / "own.run.json").resolve()
    for name in (
        "../secret.run.json", str(secret), "a/../../secret.run.json", "a/link.run.json", "a", "", "a/\0", "missing",
    ):  # fmt: skip
        with pytest.raises(BadInput, match="there is no run"):
            folder.inside(runs, name)


def test_two_runs_of_one_second_have_two_folders(tmp_path):
    made = {folder.new(tmp_path, {"a": 1}) for _ in range(3)}
    assert len(made) == 3
    assert all(path.parent == tmp_path and path.is_dir() for path in made)
    assert len({path.name[18:24] for path in made}) == 1
    assert folder.new(tmp_path, {"a": 2}).name[18:24] != next(iter(made)).name[18:24]


def test_the_history_passes_over_what_is_no_run(page, photo, prior):
    where, (settings,) = requests.restoration(asked(photo, prior), page)
    ran(settings)
    (page.runs / "other").mkdir()
    for name, text in (
        ("bad", "{"),
        ("empty", "{}"),
        ("half", json.dumps({"settings": {}, "inputs": {}, "environment": {}, "result": {}})),
    ):
        (page.runs / "other" / f"{name}.run.json").write_text(text)
    (found,) = folder.history(page.runs)
    assert found.path.parent == where
    assert found.picture.is_file()
    assert results.row(found)[1:4] == ["photo.png", "deblur", "hqs"]
    found.picture.unlink()
    assert folder.history(page.runs) == []


def test_runs_of_one_picture_are_told_by_its_bytes(page, photo, prior, tmp_path):
    again = picture(tmp_path / "same.png")
    other = picture(tmp_path / "other.png", (20, 22))
    for each in (photo, again, other):
        ran(requests.restoration(asked(each, prior, simulate=True), page)[1][0])
    found = {run.what: run for run in folder.history(page.runs)}
    folder.same_picture([found["photo.png"], found["same.png"]])
    with pytest.raises(BadInput, match="same picture"):
        folder.same_picture([found["photo.png"], found["other.png"]])
    head, lines = results.costs([found["photo.png"], found["same.png"]])
    column = head.index("PSNR")
    assert lines[0][column] == lines[1][column] == f"{found['photo.png'].result.psnr:.2f}"
    assert lines[0][head.index("evaluations")] == "3"


# --- runs are those of the command line ---


def words(prior: str) -> list[str]:
    return (
        f"--prior {prior} --steps 3 --std 0.05 --threads 1 --operator deblur --sigma 1.2 --method mpc_flow "
        "--strength 70"
    ).split()


def test_a_run_is_that_of_the_command_line(page, photo, prior, tmp_path, capsys):
    options_ = {
        "operator_options": {"sigma": "1.2", "border": ""},
        "method": "mpc_flow",
        "method_options": {"strength": "70"},
    }
    where, (settings,) = requests.restoration(asked(photo, prior, seed="5", **options_), page)
    made = ran(settings)
    out = tmp_path / "by.png"
    assert main(["restore", str(photo), *words(prior), "--seed", "5", "--out", str(out)]) == 0
    typed = json.loads((tmp_path / "by.run.json").read_text())
    assert made.result.sha256 == typed["result"]["sha256"]
    assert (where / "photo.restored.png").read_bytes() == out.read_bytes()
    assert (where / "photo.png").read_bytes() == photo.read_bytes()
    told = made.settings.stored()
    assert {**told, "photo": "", "out": ""} == {**typed["settings"], "photo": "", "out": ""}
    assert {path.parent for path in page.runs.rglob("*") if path.is_file()} == {where}
    capsys.readouterr()
    assert main(["rerun", str(where / "photo.run.json")]) == 0
    assert capsys.readouterr().out.strip() == "identical to the bit"


def test_samples_are_those_of_a_batch(page, photo, prior, tmp_path):
    more = {
        "operator_options": {"sigma": "1.2"}, "method": "mpc_flow", "method_options": {"strength": "70"},
        "samples": 3, "seed": "2",
    }  # fmt: skip
    where, many = requests.restoration(asked(photo, prior, **more), page)
    for settings in many:
        ran(settings)
    out = tmp_path / "batch"
    assert main(["restore", str(photo), *words(prior), "--seed", "2", "--samples", "3", "--out", str(out)]) == 0
    names = sorted(path.name for path in out.glob("*.restored.png"))
    assert names == sorted(path.name for path in where.glob("*.restored.png"))
    for name in names:
        assert (out / name).read_bytes() == (where / name).read_bytes()
    assert len({(out / name).read_bytes() for name in names}) == 3
    paths = [where / name for name in names]
    mean, deviation, top = results.spread(paths)
    stack = np.stack([np.asarray(Image.open(path), np.float64) for path in paths])
    assert np.abs(np.asarray(mean) - stack.mean(0)).max() <= 0.5
    assert top == pytest.approx(np.quantile(stack.std(0, ddof=1).mean(-1), 0.995))
    assert deviation.size == mean.size


def test_paint_is_the_command_lines_mask(page, photo, prior, tmp_path):
    layer = Image.new("RGBA", (20, 20))
    layer.paste((255, 45, 85, 255), (4, 4, 9, 7))
    where, (settings,) = requests.restoration(
        asked(photo, prior, operator="inpaint", painted={"layers": [layer]}), page
    )
    made = ran(settings)
    mask = where / "photo.mask.png"
    kept = np.asarray(Image.open(mask)) == 255
    assert (~kept).sum() == 15
    out = tmp_path / "by.png"
    typed = f"--operator inpaint --mask {mask} --prior {prior} --steps 3 --std 0.05 --threads 1".split()
    assert main(["restore", str(photo), *typed, "--out", str(out)]) == 0
    assert json.loads((tmp_path / "by.run.json").read_text())["result"]["sha256"] == made.result.sha256
    # a mask that is given counts, not the paint; and the copy is beside the picture
    other = tmp_path / "m.png"
    Image.fromarray(np.where(np.eye(20, dtype=bool), 0, 255).astype(np.uint8)).save(other)
    given = {"operator_options": {"mask": str(other)}, "painted": {"layers": [layer]}}
    where, (settings,) = requests.restoration(asked(photo, prior, operator="inpaint", **given), page)
    assert settings.operator_options.mask == where / "photo.mask.png"
    assert (where / "photo.mask.png").read_bytes() == other.read_bytes()


def test_settings_are_opened_again(page, photo, prior):
    layer = Image.new("RGBA", (20, 20))
    layer.paste((1, 2, 3, 4), (2, 2, 9, 7))
    more = {"operator": "inpaint", "painted": {"layers": [layer]}, "method": "flower", "seed": str(2**62 + 1)}
    _, (settings,) = requests.restoration(asked(photo, prior, **more), page)
    first = ran(settings)
    (old,) = folder.history(page.runs)
    fields = requests.reopened(old, page.runs)
    assert fields["method"].keys() == dict(settings.method_options).keys()
    again = asked(
        old.photo, prior, operator="inpaint", method="flower", seed=str(old.settings.seed), operator_options=fields["operator"],
        method_options=fields["method"],
    )  # fmt: skip
    assert ran(requests.restoration(again, page)[1][0]).result.sha256 == first.result.sha256


def test_a_steered_picture_is_that_of_the_command_line(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from flowhelm.app.steer.run import steer

    want = requests.steer_request(
        {"prior": "fashion", "reward": "2*brightness + compressibility", "label": "bag", "budget": "24", "seed": "3", "scale": "",
         "method": "fk", "method_options": {"strength": "40"}}
    )  # fmt: skip
    seen = []
    where, settings = requests.steering(want, page)
    made = drive(steer(settings), lambda event: seen.append(event) if isinstance(event, Stepped) else None)
    line = "--reward 2*brightness --reward compressibility --class bag --budget 24 --seed 3 --strength 40"
    typed = line.split()
    assert main(["steer", "fashion", *typed, "--threads", "1", "--out", "by"]) == 0
    assert (where / "fashion.steered.best.png").read_bytes() == (tmp_path / "by.best.png").read_bytes()
    trace = made.result.pictures[0].trace
    assert [step.index for step in seen] == list(range(1, len(trace) + 1))
    assert [step.figures for step in seen] == trace
    (old,) = folder.history(page.runs)
    assert old.steered
    assert results.row(old)[2] == "2.0*brightness + compressibility"
    with pytest.raises(BadInput, match="steered"):
        folder.same_picture([old, old])


# --- what is refused ---


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"photo": None}, "drop a picture first"), ({"prior": "/etc/passwd"}, "not started with the prior"),
        ({"operator": "inpaint"}, "paint over what is missing"), ({"operator": "nonsense"}, "no operator"),
        ({"std": "much"}, "std: expected one of auto or a number"), ({"std": -1.0}, "above 0"),
        ({"steps": "many"}, "steps: expected a whole number"),
        ({"steps": "0"}, "steps: expected"), ({"steps": "99999"}, "at most 2000"), ({"samples": 17}, "at most 16"),
        ({"seed": "1.5"}, "seed: expected"), ({"seed": ""}, "seed: expected"), ({"warm": "2"}, "warm: expected"),
        ({"method": "nonsense"}, "no method"), ({"operator_options": {"sigma": "x"}}, "expected one of auto or a number"),
        ({"method_options": {"unknown": "1"}}, "no option 'unknown'"), ({"operator": "motion"}, "motion needs a file"),
    ],
)  # fmt: skip
def test_a_refusal_is_a_sentence_and_leaves_nothing(page, photo, prior, given, said):
    with pytest.raises(BadInput, match=said) as found:
        requests.restoration(asked(**{"photo": photo, "prior": prior} | given), page)
    assert "\n" not in sentence(found.value)
    assert list(page.runs.iterdir()) == []


@pytest.mark.parametrize(
    "reward",
    [
        "mine.py:f", "2*/tmp/mine.py:f", "net.safetensors", "classifier:weights=net", "classifier:label=3, weights = net",
        "style:model=openai/x,picture=/etc/passwd", "clip:model=/tmp", "clip:model=./x", "clip:model=~/x", "clip:model=C:\\x",
        "clip:model=/tmp,prompt=a*brightness", "aesthetic:model=openai/x,head=/tmp", "clip:model=tests", "-clip:model=/tmp",
        "pickscore:model=openai/x,processor=/tmp", "clip:prompt=a, model=../x",
    ],
)  # fmt: skip
def test_rewards_of_the_page_read_no_files(page, reward, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(BadInput, match="runs no code of this machine"):
        requests.steering(requests.steer_request({"prior": "fashion", "reward": reward}), page)
    assert list(page.runs.iterdir()) == []


@pytest.mark.parametrize(
    "reward",
    [
        "brightness", "-brightness", "3*brightness", "clip:model=openai/x,prompt=cat / dog * 2",
        "palette:colours=ff0000+00ff00",
    ],
)  # fmt: skip
def test_rewards_without_files_are_fine(reward):
    requests.harmless(reward)


# --- a run in a thread ---


def test_a_cancelled_run_keeps_its_last_estimate(page, photo, prior):
    where, (settings,) = requests.restoration(asked(photo, prior, steps="40"), page)
    desk, seen, third = Desk(), [], threading.Event()

    def watched():
        events = job.restore(settings)
        try:
            for event in events:
                if isinstance(event, Stepped):
                    seen.append(event.index)
                    if event.index == 3:
                        desk.cancel("me")
                        third.set()
                yield event
        finally:
            events.close()

    work = desk.begin("me", watched())
    assert third.wait(60)
    work.wait()
    assert work.stopped
    assert seen == [1, 2, 3]
    assert {path.name for path in where.iterdir()} == {"photo.png", "photo.partial.png", "photo.resume.safetensors"}
    assert not desk.cancel("me")
    whole = drive(job.resume(where / "photo.resume.safetensors"))
    Path(settings.out).unlink()
    assert whole.result.sha256 == ran(settings).result.sha256


def test_one_run_at_a_time():
    desk, inside, most, go = Desk(), [], [], threading.Event()

    def do(step):
        inside.append(1)
        most.append(len(inside))
        go.wait(10)
        inside.pop()

    works = [desk.begin(str(i), steps(1, do)) for i in range(3)]
    go.set()
    for work in works:
        work.wait(10)
    assert most == [1, 1, 1]


def test_a_few_may_wait_and_one_more_is_refused():
    desk, go = Desk(waiting=1), threading.Event()
    assert desk.ask("a") == desk.ask("a") == 0
    assert desk.turn("a")
    first = desk.begin("a", steps(1, lambda i: go.wait(30)))
    with pytest.raises(BadInput, match="not finished yet"):
        desk.ask("a")
    assert desk.ask("b") == 1
    with pytest.raises(BadInput, match="1 more are waiting"):
        desk.ask("c")
    assert desk.cancel("b")  # still in the queue, where its turn is to nothing
    assert not desk.turn("b")
    assert desk.ask("c") == 1
    desk.leave("c")
    assert desk.ask("d") == 1
    go.set()
    first.wait(30)
    assert desk.turn("d")
    assert desk.ask("a") == 0


def test_who_leaves_ends_the_run():
    desk = Desk()
    work = desk.begin("me", steps(1_000_000), every=0.0)
    following = work.follow()
    assert isinstance(next(following), Stepped)
    following.close()  # what the server does when the page is closed
    work.wait(10)
    assert work.stopped
    assert work.step.index < 1_000_000


def test_a_run_that_was_stopped_while_it_waited_never_begins():
    turn = threading.Lock()
    with turn:
        work = Work(steps(1, lambda i: pytest.fail("it began")), turn)
        work.stop()
        work.wait(10)
    assert work.stopped


def test_failures_are_one_sentence(capsys):
    assert sentence(BadInput("a\nb")) == "a b"
    assert "memory" in sentence(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    said = sentence(KeyError("secret"))
    assert "terminal" in said
    assert "secret" not in said
    assert "secret" in capsys.readouterr().err


def test_steps_are_watched(photo, prior, tmp_path, page):
    _, (settings,) = requests.restoration(asked(photo, prior, method="flower"), page)
    work = Desk().begin("me", requests.restored([settings]), every=0.0)
    pictures = [(step.index, step.total, work.picture) for step in work.follow()]
    work.wait(60)
    assert work.error is None
    assert work.step.index == work.step.total == len(work.figures) == 3
    assert pictures[-1][2].shape == (1, 3, 20, 20)
    assert work.figures[-1]["misfit"] == pytest.approx(work.made[0].result.residual)
    assert "evaluations of the prior in" in work.lines[0]


@pytest.mark.parametrize(
    "options_", [{"inner": "adam:iterations=100000000"}, {"horizon": "2000000"}, {"inner": "lbfgs:iterations=9999999"}]
)
def test_a_run_that_costs_too_much_is_refused_before_it_starts(page, photo, prior, options_):
    with pytest.raises(BadInput, match="more than 1000000 evaluations"):
        requests.restoration(asked(photo, prior, method="mpc_flow", method_options=options_), page)
    assert list(page.runs.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("add --simulate to make them", "add Simulate to make them"),
        ("raise --std, or --codec-error", "raise Noise, or Codec error"),
        ("a smaller picture, or see what `flowhelm plan PRIOR METHOD --vram GIB` says", "a smaller picture"),
    ],
)
def test_the_page_speaks_no_command_line(text, said):
    pytest.importorskip("gradio")
    from flowhelm.interfaces.ui.tab import spoken

    assert spoken(text) == said


# --- fields ---


def test_defaults_are_those_that_a_run_takes(page, photo, prior):
    for task, method in (("deblur", None), ("superres", "flower"), ("jpeg", None)):
        found = requests.usual(task, method, prior, 0.1)
        _, (settings,) = requests.restoration(
            asked(photo, prior, operator=task, method=method, std=0.1, steps="", simulate=True), page
        )
        assert found.operator_options == settings.operator_options
        assert found.method_options == settings.method_options
        assert (found.times, found.method) == (settings.times, settings.method)
        assert (method or usual_method(task, prior)) == found.method


def test_every_option_has_a_field():
    gr = pytest.importorskip("gradio")
    from flowhelm.interfaces.ui import fields as made

    with gr.Blocks(analytics_enabled=False):
        every = {function: made.options_of(function, {}, {}) for function in (*operators.ALL, *RESTORE_OR_STEER)}
    for function, fields in every.items():
        assert list(fields) == list(options(function))
        for name, option in options(function).items():
            if Path in option.types:
                assert isinstance(fields[name], gr.File)
            else:
                assert fields[name].info == made.help_of(option)
                assert option.help in fields[name].info


def test_looking_fills_in_the_task_that_was_seen(monkeypatch):
    """Not the noise where a blur is seen, and all that the command's line says."""
    seen = Seen("a blur", "deblur", 0.01, {"kernel": "gaussian", "sigma": 1.39}, quiet=True)
    monkeypatch.setattr(restore_tab, "look", lambda _: seen)
    *_, (status, task, noise, std, _, unfade, told) = restore_tab._looked("soft.png")
    assert "take the blur back" in status
    assert (task, noise, std["value"], unfade) == ("deblur", "a number", "0.01", False)
    assert told["operator"] == {"kernel": "gaussian", "sigma": "1.39"}
    assert told["method"] == {"momentum": "0"}
    monkeypatch.setattr(restore_tab, "look", lambda _: Seen("noise", "denoise", 0.1))
    *_, (status, task, *_) = restore_tab._looked("noisy.png")
    assert "take the noise away" in status
    assert task == "denoise"
