"""The local page in a real browser: a picture is dropped, painted on, restored, compared, taken home."""

import json
import re
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toys import ramps

from flowhelm.app.files.pictures import to_pil
from flowhelm.interfaces import ui
from flowhelm.interfaces.cli import main
from flowhelm.interfaces.ui import folder
from flowhelm.interfaces.ui.request import PageRequest
from flowhelm.operators.blur import kernel_of

pytest.importorskip("gradio")
api = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


@pytest.fixture(scope="module")
def chromium():
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], headless=True)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """(address, run folder): a page on which one run may wait."""
    runs = tmp_path_factory.mktemp("browser") / "runs"
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with ui.opened(ui.checked(PageRequest(port=port, runs=runs, threads=1, waiting=1))) as address:
        yield address, runs


@pytest.fixture
def opened(chromium, place):
    """Opens pages, and closes them afterwards."""
    pages = []

    def open_(wide: int = 1280):
        page = chromium.new_page(viewport={"width": wide, "height": 900})
        page.set_default_timeout(20_000)
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(place[0])
        page.wait_for_selector("#options")
        pages.append(page)
        return page

    yield open_
    for page in pages:
        page.close()


@pytest.fixture
def photo(tmp_path) -> Path:
    return ramps(tmp_path / "photo.png", 32, 32, 7, 6, 4)


def choose(page, where: str, text: str) -> None:
    page.click(f"{where} input")
    page.get_by_role("option").filter(has_text=re.compile(text)).first.click()


def fill(page, where: str, text: str) -> None:
    page.locator(f"{where} input, {where} textarea").first.fill(text)


def drop(page, photo: Path) -> None:
    page.set_input_files("#photo input[type=file]", str(photo))
    page.wait_for_selector("#editor canvas, #view img")


def paint(page) -> None:
    page.wait_for_timeout(700)  # until the canvas has been laid out
    box = page.locator("#editor canvas").first.bounding_box()
    x, y = box["x"] + box["width"] * 0.45, box["y"] + box["height"] * 0.45
    page.mouse.move(x, y)
    page.mouse.down()
    for i in range(6):
        page.mouse.move(x + 5 * i, y + 3 * i)
    page.mouse.up()


STEP = r"Step (\d+) of 400, .* left"
WATCH = """() => {
    window.seen = {words: new Set(), estimates: new Set()};
    const look = () => {
        const image = document.querySelector('#estimate img');
        seen.words.add(document.querySelector('#status').innerText);
        if (image && image.src) seen.estimates.add(image.src);
    };
    new MutationObserver(look).observe(document.body, {attributes: true, childList: true, characterData: true, subtree: true});
}"""
"""Has the page itself keep what it shows of a run: from here, an estimate may be gone between two questions."""


def finished(page) -> None:
    page.wait_for_function(
        "() => /evaluations? of the prior in/.test(document.querySelector('#status').innerText)", timeout=150_000
    )


def again(page) -> None:
    """Runs, where the status may still be that of the last run."""
    page.evaluate("() => { document.querySelector('#status p').innerText = '' }")
    page.click("#run")
    finished(page)


def downloaded(page, button: str) -> bytes:
    with page.expect_download() as got:
        page.click(button)
    return Path(got.value.path()).read_bytes()


def test_drop_paint_restore_and_take_home(opened, place, photo, tmp_path):
    address, runs = place
    page = opened()
    drop(page, photo)
    paint(page)
    fill(page, "#steps", "400")
    choose(page, "#noise", "a number")
    fill(page, "#std", "0.03")  # and at once
    page.evaluate(WATCH)
    page.click("#run")
    finished(page)
    steps = {found[1] for text in page.evaluate("() => [...seen.words]") if (found := re.search(STEP, text))}
    assert len(steps) > 1, steps
    assert page.evaluate("() => seen.estimates.size") > 1
    api.expect(page.locator("#slider img")).to_have_count(2)  # before and after
    picture, story = downloaded(page, "#take"), json.loads(downloaded(page, "#story"))
    (where,) = runs.iterdir()
    assert picture == (where / "photo.restored.png").read_bytes()
    assert story == json.loads((where / "photo.run.json").read_text())
    # the command line, of the same settings
    mask = where / "photo.mask.png"
    assert 0 < (np.asarray(Image.open(mask)) == 0).sum() < 600
    out = tmp_path / "by.png"
    typed = ["--operator", "inpaint", "--mask", str(mask), "--steps", "400", "--std", "0.03", "--threads", "1"]
    assert main(["restore", str(photo), *typed, "--out", str(out)]) == 0
    assert out.read_bytes() == picture
    assert json.loads((tmp_path / "by.run.json").read_text())["result"]["sha256"] == story["result"]["sha256"]
    # nothing came from elsewhere, and nothing went there
    assert {url for url in page.asked if not url.startswith((address, "data:", "blob:"))} == set()


@pytest.mark.slow
def test_it_begins_with_one_button(opened, place, tmp_path):
    """Drop, look, restore: the fields are filled with what is believed."""
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.uniform(60, 190, (4, 4, 3)), np.ones((16, 16, 1)))
    Image.fromarray((smooth + 20 * rng.standard_normal(smooth.shape)).clip(0, 255).astype(np.uint8)).save(
        tmp_path / "noisy.png"
    )
    page = opened()
    api.expect(page.locator("#look")).to_be_disabled()
    drop(page, tmp_path / "noisy.png")
    page.click("#look")
    api.expect(page.locator("#status")).to_contain_text("noise 0.1", timeout=60_000)
    api.expect(page.locator("#status")).to_contain_text("Press Restore")
    api.expect(page.locator("#task input")).to_have_value("denoise")
    assert float(page.locator("#std input, #std textarea").first.input_value()) == pytest.approx(20 / 127.5, rel=0.15)
    page.click("#run")
    finished(page)


@pytest.mark.slow
def test_a_blur_that_is_seen_is_filled_in_and_taken_back(opened, place, tmp_path):
    """Task, kernel, size and noise, and no momentum, as the command line has it; not the noise instead."""
    white = torch.randn(3, 168, 168, generator=torch.Generator().manual_seed(2))
    radius = torch.hypot(torch.fft.fftfreq(168)[:, None], torch.fft.rfftfreq(168)).clamp(min=1 / 168)
    field = torch.fft.irfft2(torch.fft.rfft2(0.8 * white[:1] + 0.3 * white) * radius**-1.3, s=(168, 168))
    kernel = kernel_of(sigma=1.5)
    y = torch.nn.functional.conv2d((0.3 * field / field.std())[:, None], kernel[None, None])[:, 0, 10:138, 10:138]
    to_pil(y[None] + 0.003 * torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))).save(
        tmp_path / "soft.png"
    )
    page = opened()
    drop(page, tmp_path / "soft.png")
    page.click("#look")
    api.expect(page.locator("#status")).to_contain_text("Press Restore to take the blur back", timeout=60_000)
    api.expect(page.locator("#task input")).to_have_value("deblur")
    page.wait_for_selector("#option-deblur-sigma")
    page.click("#run")
    finished(page)
    made = folder.history(place[1])[0].settings
    assert made.operator == "deblur"
    assert made.operator_options.sigma == pytest.approx(1.5, rel=0.12)
    assert (made.method, made.method_options.momentum, made.estimated) == ("hqs", 0, False)


@pytest.mark.slow
def test_scratches_are_painted_over_where_they_are_seen(opened, place, tmp_path):
    address, runs = place
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.uniform(60, 150, (5, 5, 3)).astype(np.uint8)).resize(
        (120, 96), Image.Resampling.BICUBIC
    )
    pixels = np.asarray(smooth).copy()
    pixels[30:32, 8:110] = pixels[6:90, 70:72] = 250
    Image.fromarray(pixels).save(tmp_path / "scan.png")
    page = opened()
    drop(page, tmp_path / "scan.png")
    before = set(runs.iterdir())
    page.click("#look")
    api.expect(page.locator("#status")).to_contain_text("painted over", timeout=60_000)
    page.wait_for_timeout(1000)  # until the canvas has it
    fill(page, "#steps", "2")
    page.click("#run")
    finished(page)
    (where,) = set(runs.iterdir()) - before
    mask = np.asarray(Image.open(next(where.glob("*.mask.png"))))
    assert (mask[30:32, 8:110] == 0).mean() > 0.9
    assert (mask == 0).mean() < 0.15


@pytest.mark.slow
def test_the_slider_moves(opened, place, photo):
    page = opened()
    drop(page, photo)
    choose(page, "#task", "superres")
    page.wait_for_selector("#option-superres-factor")
    fill(page, "#steps", "2")
    fill(page, "#option-superres-factor", "3")  # typed, and clicked at once
    page.click("#run")
    finished(page)
    newest = folder.history(place[1])[0]
    assert newest.settings.operator_options.stored() == {"factor": 3, "filter": "average"}
    handle = page.locator("#slider [role=slider], #slider .handle, #slider .icon-wrap").first
    api.expect(page.locator("#slider img")).to_have_count(2)
    before = None
    while before != (before := handle.bounding_box()):  # until it lies where it stays
        page.wait_for_timeout(300)
    page.mouse.move(before["x"] + before["width"] / 2, before["y"] + before["height"] / 2)
    page.mouse.down()
    page.mouse.move(before["x"] - 150, before["y"] + 20, steps=5)
    page.mouse.up()
    assert handle.bounding_box()["x"] < before["x"] - 50


@pytest.mark.slow
def test_two_runs_are_compared_and_settings_opened_again(opened, place, photo):
    _, runs = place
    page = opened()
    drop(page, photo)
    choose(page, "#task", "denoise")
    page.wait_for_selector("#editor", state="hidden")
    page.locator("#simulate input").check()
    fill(page, "#steps", "3")
    seeds = ("1", str(2**62 + 1))
    for seed in seeds:
        fill(page, "#seed", seed)
        again(page)
        assert "PSNR" in page.locator("#status").inner_text()
    mine = [run for run in folder.history(runs) if run.settings.operator == "denoise"]
    assert {run.settings.seed for run in mine} == set(map(int, seeds))
    page.get_by_role("tab", name="Compare").click()
    for i in range(2):
        page.click("#chosen input")
        page.get_by_role("option").filter(has_text="denoise").nth(i).click()
    page.keyboard.press("Escape")
    page.wait_for_selector("#costs table")
    api.expect(page.locator("#pictures img")).to_have_count(2)
    table = page.locator("#costs").inner_text()
    for run in mine:
        assert f"{run.result.psnr:.2f}" in table
    # the newest of them again, from the history
    page.get_by_role("tab", name="History").click()
    page.get_by_role("gridcell").filter(has_text="denoise").first.click()
    page.wait_for_function("() => !document.querySelector('#again').disabled")
    page.click("#again")
    page.wait_for_function(f"() => document.querySelector('#seed input').value === '{mine[0].settings.seed}'")
    page.wait_for_timeout(1500)  # fields of the options are made anew
    again(page)
    newest = folder.history(runs)[0]
    assert newest.name != mine[0].name
    assert newest.result.sha256 == mine[0].result.sha256


@pytest.mark.slow
def test_cancel_keeps_the_last_estimate(opened, place, photo):
    _, runs = place
    page = opened()
    drop(page, photo)
    choose(page, "#task", "denoise")
    fill(page, "#steps", "1000")
    page.click("#run")
    page.wait_for_selector("#status .bar", timeout=90_000)
    page.click("#cancel")
    page.wait_for_function("() => /Stopped after step/.test(document.querySelector('#status').innerText)")
    api.expect(page.locator("#estimate img")).to_have_count(1)
    partial = max(runs.glob("*/photo.partial.png"), key=lambda path: path.stat().st_mtime)
    assert downloaded(page, "#take") == partial.read_bytes()
    assert not partial.with_name("photo.run.json").exists()
    assert partial.with_name("photo.resume.safetensors").is_file()


@pytest.mark.slow
def test_a_run_beyond_the_queue_is_refused(opened, place, photo):
    pages = [opened() for _ in range(3)]
    for page in pages:
        drop(page, photo)
        choose(page, "#task", "denoise")
        fill(page, "#steps", "1000")
        page.wait_for_timeout(300)
    first, second, third = pages
    first.click("#run")
    first.wait_for_selector("#status .bar", timeout=90_000)
    second.click("#run")
    second.wait_for_timeout(1000)
    assert second.locator("#status .bar").count() == 0  # it waits
    third.click("#run")
    third.wait_for_function("() => /try again when/i.test(document.body.innerText)")
    said = third.locator("[data-testid=toast-body], .toast-body").first.inner_text()
    assert "the device is busy, and 1 more are waiting for it" in said
    assert "runs before this one: 1" in second.locator("#status").inner_text()
    first.click("#cancel")
    second.wait_for_selector("#status .bar", timeout=90_000)  # its turn
    second.click("#cancel")
    second.wait_for_function("() => /Stopped after step/.test(document.querySelector('#status').innerText)")


def test_what_is_refused_is_said_in_a_sentence(opened, place, photo, tmp_path):
    page = opened()
    page.click("#run")
    toast = page.locator("[data-testid=toast-body], .toast-body").first
    toast.wait_for()
    assert "drop a picture first" in toast.inner_text()
    damaged = tmp_path / "<b>damaged.png"
    damaged.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    page.set_input_files("#photo input[type=file]", str(damaged))
    page.wait_for_function("() => /is not a picture that can be read/.test(document.body.innerText)")
    assert "Traceback" not in page.locator("body").inner_text()
    assert page.locator(".toast-body b, [data-testid=toast-body] b").count() == 0


def test_steering_shows_its_curve(opened, place):
    _, runs = place
    page = opened()
    page.get_by_role("tab", name="Steer").click()
    choose(page, "#steer-class", "bag")
    fill(page, "#steer-budget", "60")
    page.click("#steer-run")
    page.wait_for_selector("#sheet img", timeout=60_000)
    api.expect(page.locator("#curve img")).to_have_count(1)
    api.expect(page.locator("#best img")).to_have_count(1)
    (where,) = {path.parent for path in runs.glob("*/fashion.steered.run.json")}
    assert downloaded(page, "#steer-take") == (where / "fashion.steered.best.png").read_bytes()
    fill(page, "#steer-reward", "mine.py:function")
    page.click("#steer-run")
    page.wait_for_function("() => /runs no code of this machine/.test(document.body.innerText)")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["inpaint", "superres", "motion", "denoise"])
def test_a_run_of_any_kind_is_opened_again(opened, place, photo, tmp_path, task, caplog):
    """From the history, twice, and the result is the same."""
    _, runs = place
    page = opened()
    broken = []
    page.on("response", lambda answer: broken.append(answer.url) if answer.status >= 500 else None)
    page.on("pageerror", lambda error: broken.append(str(error)))
    drop(page, photo)
    if task != "inpaint":
        choose(page, "#task", task)
    if task == "motion":
        np.save(tmp_path / "kernel.npy", np.ones((3, 3)))
        page.set_input_files("#option-motion-kernel input[type=file]", str(tmp_path / "kernel.npy"))
        page.wait_for_timeout(700)
    if task == "inpaint":
        paint(page)
    if task == "superres":
        page.wait_for_selector("#option-superres-factor")
        fill(page, "#option-superres-factor", "2")
    fill(page, "#steps", "2")
    again(page)
    first = folder.history(runs)[0]
    assert first.settings.operator == task
    fresh = opened()
    fresh.on("response", lambda answer: broken.append(answer.url) if answer.status >= 500 else None)
    for _ in range(2):
        fresh.get_by_role("tab", name="History").click()
        fresh.get_by_role("gridcell").filter(has_text=task).first.click()
        fresh.wait_for_function("() => !document.querySelector('#again').disabled")
        fresh.click("#again")
        fresh.wait_for_function("() => /From the run of/.test(document.querySelector('#status').innerText)")
        fresh.wait_for_timeout(1500)
        assert fresh.locator(".toast-body, [data-testid=toast-body]").count() == 0
        again(fresh)
        newest = folder.history(runs)[0]
        assert newest.name != first.name
        assert newest.settings.operator_options.stored().keys() == first.settings.operator_options.stored().keys()
        assert newest.result.sha256 == first.result.sha256
    assert broken == []


def test_noise_is_said_in_words(opened, place, photo):
    """And the page has no word of the command line."""
    page = opened()
    for tab in ("Steer", "Compare", "History", "Restore"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(300)
        text = page.locator("body").inner_text()
        assert "--" not in text
        assert "flowhelm r" not in text
    assert page.locator("#std input").count() == 0 or not page.locator("#std input").is_visible()
    drop(page, photo)
    choose(page, "#task", "denoise")
    fill(page, "#steps", "2")
    choose(page, "#noise", "strong")
    again(page)
    assert folder.history(place[1])[0].settings.std == 0.2
    choose(page, "#noise", "a number")
    fill(page, "#std", "-1")
    page.click("#run")
    page.wait_for_function("() => /expected a number above 0/.test(document.querySelector('#status').innerText)")
    assert "--" not in page.locator("body").inner_text()


@pytest.mark.parametrize(("wide", "above"), [(390, True), (1280, False)])
def test_on_a_phone_the_button_is_above_the_fields(opened, wide, above):
    page = opened(wide)
    for tab in ("Restore", "Steer"):
        mark = "steer-" if tab == "Steer" else ""
        page.get_by_role("tab", name=tab).click()
        page.wait_for_selector(f"#{mark}run")
        button = page.locator(f"#{mark}run").bounding_box()
        field = page.locator("#steer-method" if mark else "#task").bounding_box()
        assert (button["y"] < field["y"] and button["x"] <= field["x"] + 20) == above
        assert page.evaluate("() => document.documentElement.scrollWidth") <= wide
        if above:  # and so is the order of the keyboard
            page.evaluate("(where) => document.querySelector(where).focus()", f"#{mark}run")
            page.keyboard.press("Tab")
            assert page.evaluate("() => !!document.activeElement.closest('.fields')")
            assert page.get_by_role("tab").count() == 4, "a tab is behind a menu"
        if not mark:
            assert page.locator("#photo").bounding_box()["y"] < button["y"] + 1


def test_keyboard_focus_is_seen_and_tab_leaves_a_drop_down_closed(opened):
    page = opened()
    for _ in range(4):
        page.keyboard.press("Tab")
        style = page.evaluate(
            "() => { const s = getComputedStyle(document.activeElement); return [s.outlineStyle, s.outlineWidth] }"
        )
        assert style == ["solid", "3px"]
    page.wait_for_timeout(1000)
    page.locator("#method input").focus()
    page.wait_for_selector("ul.option-list")
    page.keyboard.press("Tab")
    assert page.evaluate("() => !!document.activeElement.closest('#steps')")
    page.wait_for_selector("ul.option-list", state="detached")
