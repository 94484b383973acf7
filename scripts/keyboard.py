"""The page by keyboard alone, at 390 and 1280 pixels, in the light and in the dark: `python scripts/keyboard.py`.

A picture is brought, looked at and restored twice, the runs compared, one opened again from the history, and a picture steered; every
step is a key. Each state is kept as docs/img/ui/keyboard_*.png, and looked through for what shuts people out: text of low contrast,
what is wider than the screen, and controls without a name. Prints what it finds; exit status 1 if there is anything.
With Chromium and the extras `ui` and `test`.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, TimeoutError
from screenshots import ROOT, browsing, compressed

WIDTHS, SCHEMES = (390, 1280), ("light", "dark")
LEAST = 4.5
"""Contrast of text and background, WCAG 2.2 level AA; 3 for large text."""
LARGEST = 200_000  # bytes of a screenshot
BETWEEN = 60
"""Milliseconds between keys, as fast as a person is."""

PALE = """(least) => {
  const parse = (c) => { const m = c.match(/[\\d.]+/g).map(Number)
    return c.startsWith('color(srgb') ? [255 * m[0], 255 * m[1], 255 * m[2], m[3] ?? 1] : [m[0], m[1], m[2], m[3] ?? 1] }
  const over = (f, b) => [0, 1, 2].map((i) => f[i] * f[3] + b[i] * (1 - f[3])).concat([1])
  const light = (c) => { const l = c.slice(0, 3).map((v) => (v / 255 <= .03928 ? v / 255 / 12.92 : ((v / 255 + .055) / 1.055) ** 2.4))
    return .2126 * l[0] + .7152 * l[1] + .0722 * l[2] }
  const ratio = (a, b) => (Math.max(light(a), light(b)) + .05) / (Math.min(light(a), light(b)) + .05)
  const behind = (e) => { const stack = []
    for (let n = e; n; n = n.parentElement) { const b = parse(getComputedStyle(n).backgroundColor)
      if (b[3] > 0) { stack.push(b); if (b[3] === 1) break } }
    return stack.reverse().reduce((c, b) => over(b, c), [255, 255, 255, 1]) }
  const texts = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  for (let n; n = walk.nextNode();) if (/[\\p{L}\\p{N}]/u.test(n.textContent)) texts.push([n.parentElement, n.textContent])
  for (const i of document.querySelectorAll('input:not([type=checkbox]):not([type=file]), textarea'))
    if (i.value || i.placeholder) texts.push([i, i.value || i.placeholder])
  const found = new Set()
  for (const [e, text] of texts) {
    const style = getComputedStyle(e), box = e.getBoundingClientRect()
    if (!e.checkVisibility({checkOpacity: true, checkVisibilityCSS: true}) || !box.width || !box.height || e.closest(':disabled')) continue
    let opacity = 1
    for (let n = e; n; n = n.parentElement) opacity *= +getComputedStyle(n).opacity
    const back = behind(e), hollow = 'value' in e && e.value === '' && e.placeholder
    const colour = parse(hollow ? getComputedStyle(e, '::placeholder').color : style.color)
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && +style.fontWeight >= 700)
    const seen = ratio(over([...colour.slice(0, 3), colour[3] * opacity], back), back)
    if (seen < (large ? 3 : least)) found.add(`contrast ${seen.toFixed(2)}: ${text.trim().slice(0, 50)}`) }
  return [...found] }"""
WIDE = """() => { const room = document.documentElement.clientWidth, found = []
  if (document.documentElement.scrollWidth > room) found.push(`the page is ${document.documentElement.scrollWidth} wide`)
  for (const e of document.querySelectorAll('button, input, textarea, label, img, p, h1, span')) {
    const box = e.getBoundingClientRect(); let held = false
    for (let n = e.parentElement; n; n = n.parentElement) held ||= ['auto', 'scroll'].includes(getComputedStyle(n).overflowX)
    if (box.width && box.right > room + 1 && !held && e.checkVisibility()) found.push(`beyond the right: ${e.tagName} ${e.innerText}`) }
  return found }"""
NAMED = {"button", "textbox", "combobox", "checkbox", "slider", "tab", "link", "spinbutton", "switch"}


def faults(page: Page) -> list[str]:
    """What shuts people out, in words."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    nameless = [
        f"a {role} without a name"
        for node in nodes
        if not node.get("ignored")
        and (role := node.get("role", {}).get("value")) in NAMED
        and not node.get("name", {}).get("value", "").strip()
    ]
    unfolded = page.evaluate("() => [...document.querySelectorAll('ul.option-list')].map(() => 'a list is left open')")
    return [*page.evaluate(PALE, LEAST), *page.evaluate(WIDE), *nameless, *unfolded]


class Keys:
    """One page, moved by keys only; what it finds."""

    def __init__(self, page: Page, mark: str):
        self.page, self.mark, self.found = page, mark, list[str]()

    def to(self, where: str, back: bool = False, most: int = 60) -> None:
        """Presses Tab until the focus is in an element; it must be seen there, on the screen."""
        for _ in range(most):
            self.page.keyboard.press("Shift+Tab" if back else "Tab")
            self.page.wait_for_timeout(BETWEEN)
            inside = "(where) => !!document.activeElement.closest(where)"
            if self.page.evaluate(inside, where):
                style, box, high = self.page.evaluate(
                    "() => [getComputedStyle(document.activeElement).outlineStyle,"
                    " document.activeElement.getBoundingClientRect().toJSON(), innerHeight]"
                )
                if style == "none" or box["bottom"] < 0 or box["top"] > high:
                    self.found.append(f"{where}: the focus is not seen")
                return
        raise SystemExit(f"{self.mark}: no Tab leads to {where}")

    def bring(self, photo: Path) -> None:
        """The key that opens the choice of a file; pressed again where the page was not ready."""
        for _ in range(5):
            self.to("#photo")
            try:
                with self.page.expect_file_chooser(timeout=15_000) as chooser:
                    self.page.keyboard.press("Enter")
            except TimeoutError:
                continue
            chooser.value.set_files(str(photo))
            return
        raise SystemExit(f"{self.mark}: no key opens the choice of a file")

    def type(self, where: str, text: str) -> None:
        self.to(where)
        self.page.keyboard.press("Control+a")
        self.page.keyboard.type(text)

    def wait(self, script: str, seconds: float = 240) -> None:
        self.page.wait_for_function(script, timeout=1000 * seconds)
        self.page.wait_for_timeout(700)

    def tab(self, name: str) -> None:
        """From wherever the focus is: back to the tabs, and along them."""
        for _ in range(80):
            self.page.keyboard.press("Shift+Tab")
            self.page.wait_for_timeout(BETWEEN)
            if self.page.evaluate(
                "(name) => document.activeElement.matches('[role=tab]') && document.activeElement.innerText.trim() === name",
                name,
            ):
                self.page.keyboard.press("Enter")
                self.page.wait_for_timeout(1200)
                return
        raise SystemExit(f"{self.mark}: no Tab leads to the tab {name}")

    def keep(self, name: str, high: int) -> None:
        """Looks through what is shown now, and keeps it."""
        self.found += [f"{name}: {fault}" for fault in dict.fromkeys(faults(self.page))]
        wide = self.page.viewport_size["width"]
        self.page.set_viewport_size({"width": wide, "height": high})
        self.page.evaluate("() => window.scrollTo(0, 0)")
        self.page.wait_for_timeout(500)
        compressed(self.page.screenshot(), f"keyboard_{name}_{self.mark}", LARGEST)
        self.page.set_viewport_size({"width": wide, "height": 900})


def driven(page: Page, mark: str, photo: Path) -> list[str]:
    keys, narrow = Keys(page, mark), page.viewport_size["width"] < 760
    keys.bring(photo)
    keys.wait("() => !document.querySelector('#look').disabled")
    keys.to("#look")
    page.keyboard.press("Enter")
    keys.wait("() => /Press Restore/.test(document.querySelector('#status').innerText)")
    for seed in ("0", "1"):
        keys.type("#seed", seed)
        keys.to("#run", back=True)
        page.evaluate("() => { document.querySelector('#status p').innerText = '' }")
        page.keyboard.press("Enter")
        keys.wait("() => /evaluations? of the prior in/.test(document.querySelector('#status').innerText)")
    keys.keep("restore", 1500 if narrow else 1100)

    keys.tab("Compare")
    keys.to("#chosen")
    for _ in range(2):
        page.keyboard.press("ArrowDown")
        page.wait_for_timeout(300)
        page.keyboard.press("Enter")
        page.wait_for_timeout(600)
    page.keyboard.press("Escape")
    keys.wait("() => !!document.querySelector('#costs table')", 30)
    keys.keep("compare", 900)

    keys.tab("History")
    keys.to("#runs")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    keys.wait("() => !document.querySelector('#again').disabled", 30)
    keys.keep("history", 1100 if narrow else 900)
    keys.to("#again")
    page.keyboard.press("Enter")
    keys.wait("() => /From the run of/.test(document.querySelector('#status').innerText)", 30)

    keys.tab("Steer")
    keys.type("#steer-budget", "100")
    keys.to("#steer-run", back=True)
    page.keyboard.press("Enter")
    keys.wait("() => !!document.querySelector('#sheet img')")
    keys.keep("steer", 1500 if narrow else 1000)
    return keys.found


def main(wanted: list[str]) -> int:
    found: list[str] = []
    with browsing() as (browser, address):
        photo = Path("grainy.png").absolute()
        clean = np.asarray(Image.open(ROOT / "examples" / "coffee.png").convert("RGB").resize((160, 160)), float)
        grain = 20 * np.random.default_rng(0).standard_normal(clean.shape)
        Image.fromarray((clean + grain).clip(0, 255).astype(np.uint8)).save(photo)
        for wide in WIDTHS:
            for scheme in SCHEMES:
                mark = f"{wide}_{scheme}"
                if wanted and mark not in wanted:
                    continue
                page = browser.new_page(viewport={"width": wide, "height": 900}, color_scheme=scheme)
                page.set_default_timeout(120_000)
                page.goto(address)
                page.wait_for_selector("#options")
                page.wait_for_timeout(1500)
                found += [f"{mark} {fault}" for fault in driven(page, mark, photo)]
                page.close()
                print(f"{mark}: {len(found)} found so far", flush=True)
    print(*found or ["nothing found that shuts people out"], sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
