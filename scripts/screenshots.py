"""Makes the pictures of docs/ui.md: `python scripts/screenshots.py`, with Chromium and the extras `ui` and `test`."""

import os
import shutil
import socket
import sys
import tempfile
from io import BytesIO
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from flowhelm.app import ui

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "img" / "ui"
WIDE, HIGH = 1240, 860
LARGEST = 300_000  # bytes


def keep(page: Page, name: str, high: int = HIGH) -> None:
    """The upper `high` pixels, in as many colours as fit into the size."""
    page.set_viewport_size({"width": WIDE, "height": high})
    page.wait_for_timeout(400)
    shot = Image.open(BytesIO(page.screenshot())).convert("RGB")
    for colours in (256, 192, 128, 96, 64):
        data = BytesIO()
        shot.quantize(colours, dither=Image.Dither.FLOYDSTEINBERG).save(data, "PNG", optimize=True)
        if len(data.getvalue()) < LARGEST:
            break
    (OUT / f"{name}.png").write_bytes(data.getvalue())
    print(f"{name}.png  {shot.width} x {shot.height}  {len(data.getvalue()) / 1000:.0f} kB, {colours} colours")


def choose(page: Page, where: str, text: str) -> None:
    page.click(f"{where} input")
    page.get_by_role("option").filter(has_text=text).first.click()


def fill(page: Page, where: str, text: str) -> None:
    page.locator(f"{where} input, {where} textarea").first.fill(text)


def paint(page: Page) -> None:
    """Along the scratches of the example."""
    page.wait_for_timeout(1000)
    box = page.locator("#editor canvas").first.bounding_box()
    side = 256 * 1.59  # as large as the editor shows it
    left, top = box["x"] + (box["width"] - side) / 2, box["y"] + (box["height"] - side) / 2
    ways = (
        [(0.06, 0.07), (0.98, 0.65)], [(0.86, 0.05), (0.50, 0.39), (0.24, 0.88)], [(0.44, 0.22), (0.31, 0.45), (0.30, 0.62), (0.33, 0.79)],
        [(0.52, 0.30), (0.62, 0.41), (0.75, 0.58), (0.79, 0.79)], [(0.795, 0.245), (0.74, 0.35), (0.695, 0.47)],
        [(0.86, 0.09), (0.78, 0.22), (0.67, 0.28), (0.55, 0.28)], [(0.83, 0.40), (0.81, 0.55), (0.88, 0.75), (0.96, 0.88)],
        [(0.68, 0.65), (0.74, 0.65), (0.68, 0.68), (0.75, 0.68), (0.69, 0.71), (0.74, 0.71), (0.71, 0.64), (0.715, 0.73)],
    )  # fmt: skip
    for way in ways:
        (x, y), *rest = [(left + side * x, top + side * y) for x, y in way]
        page.mouse.move(x, y)
        page.mouse.down()
        for x, y in rest:
            page.mouse.move(x, y, steps=5)
        page.mouse.up()


def run(page: Page) -> None:
    page.evaluate("() => { document.querySelector('#status p').innerText = '' }")
    page.click("#run")
    page.wait_for_function("() => /evaluations in/.test(document.querySelector('#status').innerText)", timeout=300_000)
    page.mouse.move(5, 5)
    page.wait_for_timeout(1500)


def main() -> int:
    chromium = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    if chromium is None:
        print("there is no Chromium", file=sys.stderr)
        return 2
    OUT.mkdir(parents=True, exist_ok=True)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        os.chdir(folder)
        with ui.opened(
            ui.checked(port=port, runs=Path("flowhelm-runs"), threads=int(os.environ["OMP_NUM_THREADS"]))
        ) as address:
            browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"], headless=True)
            page = browser.new_page(viewport={"width": WIDE, "height": HIGH})
            page.goto(address)
            page.wait_for_selector("#options")
            page.wait_for_timeout(500)
            keep(page, "drop")

            page.set_input_files("#photo input[type=file]", str(ROOT / "examples" / "chelsea_scratched.png"))
            page.wait_for_selector("#editor canvas")
            paint(page)
            page.mouse.move(5, 5)
            keep(page, "paint", 1160)
            fill(page, "#std", "0.005")
            page.click("#run")
            page.wait_for_function(
                "() => /Step [1-9][0-9]+ of/.test(document.querySelector('#status').innerText)", timeout=120_000
            )
            page.mouse.move(5, 5)
            keep(page, "running")
            page.wait_for_selector("#slider img", timeout=300_000)
            page.wait_for_timeout(1500)
            keep(page, "result", 980)

            page.reload()
            page.wait_for_selector("#options")
            choose(page, "#task", "superres")
            page.set_input_files("#photo input[type=file]", str(ROOT / "examples" / "coffee_small.png"))
            page.wait_for_selector("#view img")
            fill(page, "#samples", "4")
            fill(page, "#steps", "25")
            page.wait_for_selector("#option-superres-factor")
            run(page)
            page.locator("#gallery").scroll_into_view_if_needed()
            keep(page, "samples", 1330)

            page.reload()
            page.wait_for_selector("#options")
            choose(page, "#task", "deblur")
            page.set_input_files("#photo input[type=file]", str(ROOT / "examples" / "coffee.png"))
            page.wait_for_selector("#view img")
            page.locator("#simulate input").check()
            fill(page, "#std", "0.05")
            page.locator("#std input").blur()
            fill(page, "#steps", "25")
            for method in ("mpc_flow", "pnp_flow", "flower"):
                choose(page, "#method", method)
                page.wait_for_timeout(1500)
                if method == "flower":
                    page.click("#options button")
                    page.wait_for_timeout(700)
                    keep(page, "options", 1400)
                run(page)
            page.get_by_role("tab", name="Compare").click()
            page.wait_for_timeout(500)
            for _ in range(3):
                page.click("#chosen input")
                page.get_by_role("option").filter(has_text="deblur").first.click()
                page.keyboard.press("Escape")
                page.wait_for_timeout(300)
            page.get_by_role("heading").first.click()
            page.wait_for_selector("#costs table")
            page.wait_for_timeout(1000)
            keep(page, "compare", 900)

            page.get_by_role("tab", name="Steer").click()
            choose(page, "#steer-class", "bag")
            fill(page, "#steer-reward", "10*brightness")
            fill(page, "#steer-budget", "600")
            page.click("#steer-run")
            page.wait_for_selector("#sheet img", timeout=120_000)
            page.mouse.move(5, 5)
            page.wait_for_timeout(1000)
            keep(page, "steer", 1240)

            page.get_by_role("tab", name="History").click()
            page.wait_for_timeout(1000)
            page.get_by_role("gridcell").filter(has_text="inpaint").first.click()
            page.wait_for_timeout(1500)
            keep(page, "history", 1080)
            with page.expect_download() as got:
                page.click("#old-take")
            print("downloaded", got.value.suggested_filename)
            browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
