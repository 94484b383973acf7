"""Makes the pictures of docs/ui.md: `python scripts/screenshots.py`, or only some: `... restore samples compare steer history`.

With Chromium and the extras `ui` and `test`.
"""

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from math import dist
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from flowhelm.interfaces import ui
from flowhelm.interfaces.ui.request import PageRequest

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "img" / "ui"
WIDE, HIGH = 1240, 860
LARGEST = 300_000  # bytes


def keep(page: Page, name: str, high: int = HIGH) -> None:
    """The upper `high` pixels."""
    page.set_viewport_size({"width": WIDE, "height": high})
    page.evaluate("() => window.scrollTo(0, 0)")
    page.wait_for_timeout(400)
    compressed(page.screenshot(), name)


def compressed(png: bytes, name: str, largest: int = LARGEST) -> None:
    """A screenshot in as many colours as fit into so many bytes."""
    shot = Image.open(BytesIO(png)).convert("RGB")
    for colours in (256, 192, 128, 96, 64, 48, 32):
        data = BytesIO()
        shot.quantize(colours, dither=Image.Dither.FLOYDSTEINBERG).save(data, "PNG", optimize=True)
        if len(data.getvalue()) < largest:
            break
    (OUT / f"{name}.png").write_bytes(data.getvalue())
    print(f"{name}.png  {shot.width} x {shot.height}  {len(data.getvalue()) / 1000:.0f} kB, {colours} colours")


def choose(page: Page, where: str, text: str) -> None:
    page.click(f"{where} input")
    page.get_by_role("option").filter(has_text=text).first.click()


def fill(page: Page, where: str, text: str) -> None:
    page.locator(f"{where} input, {where} textarea").first.fill(text)


def strokes(mask: Path, cell: int = 4, reach: float = 8.0) -> list[list[tuple[float, float]]]:
    """Ways over all that is black in a mask, in shares of its side: from each place to the nearest one, if that is near."""
    missing = np.asarray(Image.open(mask).convert("L")) < 128
    side = len(missing)
    cells = {(y // cell, x // cell) for y, x in np.argwhere(missing)}
    parts = [
        (y, x, np.argwhere(missing[y * cell : y * cell + cell, x * cell : x * cell + cell])) for y, x in sorted(cells)
    ]
    left = [(x * cell + float(found[:, 1].mean()), y * cell + float(found[:, 0].mean())) for y, x, found in parts]
    ways = [[left.pop(0)]]
    while left:
        at = ways[-1][-1]
        near = min(left, key=lambda place: dist(place, at))
        left.remove(near)
        if dist(near, at) > reach:
            ways.append([])
        ways[-1].append(near)
    return [[(x / side, y / side) for x, y in way] for way in ways]


def paint(page: Page) -> None:
    """Along the scratches of the example."""
    page.wait_for_timeout(1000)
    box = page.locator("#editor canvas").first.bounding_box()
    side = 256 * 1.59  # as large as the editor shows it
    left, top = box["x"] + (box["width"] - side) / 2, box["y"] + (box["height"] - side) / 2
    for way in strokes(ROOT / "examples" / "chelsea_mask.png"):
        (x, y), *rest = [(left + side * x, top + side * y) for x, y in way]
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 1, y + 1)
        for x, y in rest:
            page.mouse.move(x, y)
        page.mouse.up()


def run(page: Page) -> None:
    page.evaluate("() => { document.querySelector('#status p').innerText = '' }")
    page.click("#run")
    page.wait_for_function(
        "() => /evaluations? .*in [0-9.]+ s/.test(document.querySelector('#status').innerText)", timeout=300_000
    )
    page.mouse.move(5, 5)
    page.wait_for_timeout(1500)


def restore(page: Page) -> None:
    """Drop, paint, a run on its way, its result."""
    keep(page, "drop")

    page.set_input_files("#photo input[type=file]", str(ROOT / "examples" / "chelsea_scratched.png"))
    page.wait_for_selector("#editor canvas")
    paint(page)
    page.mouse.move(5, 5)
    keep(page, "paint", 1160)
    choose(page, "#noise", "none")
    page.click("#run")
    page.wait_for_function(
        "() => /Step [1-9][0-9]+ of/.test(document.querySelector('#status').innerText)", timeout=120_000
    )
    page.mouse.move(5, 5)
    keep(page, "running")
    page.wait_for_selector("#slider img", timeout=300_000)
    page.wait_for_timeout(1500)
    keep(page, "result", 1030)


def samples(page: Page) -> None:
    """Several samples of one picture."""
    choose(page, "#task", "superres")
    page.set_input_files("#photo input[type=file]", str(ROOT / "examples" / "coffee_small.png"))
    page.wait_for_selector("#view img")
    fill(page, "#samples", "4")
    fill(page, "#steps", "25")
    page.wait_for_selector("#option-superres-factor")
    run(page)
    keep(page, "samples", 1350)


def compare(page: Page) -> None:
    """Three methods on one picture."""
    choose(page, "#task", "deblur")
    page.set_input_files("#photo input[type=file]", str(ROOT / "examples" / "coffee.png"))
    page.wait_for_selector("#view img")
    page.locator("#simulate input").check()
    choose(page, "#noise", "a number")
    fill(page, "#std", "0.05")
    page.locator("#std input").blur()
    fill(page, "#steps", "25")
    for method in ("mpc_flow", "pnp_flow", "flower"):
        choose(page, "#method", method)
        page.wait_for_timeout(1500)
        if method == "flower":
            page.click("#options button")
            page.wait_for_timeout(700)
            keep(page, "options", 1800)
        run(page)
    page.get_by_role("tab", name="Compare").click()
    page.wait_for_timeout(2500)
    for i in range(3):
        page.click("#chosen input")
        page.get_by_role("option").filter(has_text="deblur").nth(i).click()
        page.wait_for_timeout(300)
    page.get_by_role("heading").first.click()
    page.wait_for_selector("#costs table")
    page.wait_for_timeout(1000)
    keep(page, "compare", 900)


def steer(page: Page) -> None:
    """A picture that a reward likes."""
    page.get_by_role("tab", name="Steer").click()
    choose(page, "#steer-class", "bag")
    fill(page, "#steer-reward", "10*brightness")
    fill(page, "#steer-budget", "600")
    page.click("#steer-run")
    page.wait_for_selector("#sheet img", timeout=120_000)
    page.mouse.move(5, 5)
    page.wait_for_timeout(1000)
    keep(page, "steer", 1400)


def history(page: Page) -> None:
    """What was done before."""
    page.get_by_role("tab", name="History").click()
    page.wait_for_timeout(1000)
    page.get_by_role("gridcell").filter(has_text="mpc_flow").first.click()
    page.wait_for_timeout(1500)
    keep(page, "history", 1080)
    with page.expect_download() as got:
        page.click("#old-take")
    print("downloaded", got.value.suggested_filename)


PARTS = (restore, samples, compare, steer, history)


@contextmanager
def browsing() -> Iterator[tuple[Browser, str]]:
    """A browser, and the address of a page that keeps its runs in a folder of its own."""
    chromium = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    if chromium is None:
        sys.exit("there is no Chromium; install it, or put one called chromium on the PATH")
    OUT.mkdir(parents=True, exist_ok=True)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        os.chdir(folder)
        with ui.opened(
            ui.checked(PageRequest(port=port, runs=Path("flowhelm-runs"), threads=int(os.environ["OMP_NUM_THREADS"])))
        ) as address:
            browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"], headless=True)
            yield browser, address
            browser.close()


def main(wanted: Sequence[str]) -> int:
    with browsing() as (browser, address):
        for part in PARTS:
            if wanted and part.__name__ not in wanted:
                continue
            page = browser.new_page(viewport={"width": WIDE, "height": HIGH})
            page.goto(address)
            page.wait_for_selector("#options")
            page.wait_for_timeout(500)
            part(page)
            page.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
