"""The page: its tabs, of gradio's components. What they say becomes requests in `requests`."""

from __future__ import annotations

from typing import cast

import gradio as gr

from ... import __version__
from .history_tab import compare_tab, history_tab
from .request import PageRequest
from .restore_tab import restore_tab
from .running import Desk
from .steer_tab import steer_tab

CSS = """
.gradio-container, .gradio-container main {max-width: 1360px !important; width: 100% !important; margin: 0 auto !important}
.gradio-container .main {padding: 16px clamp(8px, 2.5vw, 40px) !important} .gradio-container main {padding: 0 !important}
#title h1 {margin: 0; font-size: 1.35rem} #title p {margin: .1rem 0 0; opacity: .75}
.status {min-height: 2.6rem} .bar {height: .5rem; border-radius: .25rem; background: #e2e8f0; overflow: hidden}
.bar i {display: block; height: 100%; background: #6366f1}
.status p {margin: .2rem 0 0; font-variant-numeric: tabular-nums}
.card p {margin: 0; line-height: 1.35; font-size: .86rem; opacity: .85}
.grid-wrap {min-height: 0 !important; height: auto !important; max-height: none !important}
#costs .prose {overflow-x: auto} #costs table {width: max-content; min-width: 100%} #costs th, #costs td {white-space: nowrap}
#estimate img, #view img, #best img, #old img {width: 100%; height: 100%; object-fit: contain}
#settings .cm-line, #settings .cm-line span {color: var(--body-text-color) !important}
#runs span {font-size: .76rem} #runs .selection-button {display: none}
footer {display: none !important}
:focus-visible {outline: 3px solid var(--link-text-color) !important; outline-offset: 2px !important}
[role=tab]:focus-visible {outline-offset: -3px !important}
[role=tab][aria-selected=true] {color: var(--link-text-color) !important}
.both {display: grid !important; grid-template: auto 1fr / minmax(0, 4fr) minmax(0, 5fr); gap: 16px 20px}
.both > .first {grid-area: 1 / 1} .both > .outcome {grid-area: 1 / 2 / span 2} .both > .fields {grid-area: 2 / 1}
@media (max-width: 760px) {
  .both {display: flex !important; flex-direction: column; flex-wrap: nowrap}
  .both > .column {min-width: 0 !important; flex-grow: 0 !important}
  .outcome #estimate:not(:has(img)), .outcome #best:not(:has(img)), .outcome #curve:not(:has(img)) {display: none !important}
  .outcome button[disabled] {display: none !important}
}
"""
"""The order of the keyboard is that of the page on a phone: first fields, the button, the result, the other fields. On a wide page the
result stands beside both."""
MENDED = """() => {
  // gradio opens the list of a drop-down again after these keys have left it
  window.addEventListener('keydown', (event) => {
    if (['Tab', 'Shift'].includes(event.key) && event.target.matches?.('[role=combobox]')) event.stopPropagation()
  }, true)
  new MutationObserver(() => {
    // the list scrolls, so browsers make it a stop of the Tab key, on which it vanishes and the focus with it
    for (const list of document.querySelectorAll('ul.option-list:not([tabindex])')) list.tabIndex = -1
    // a picture that can be pressed has the name of its block
    for (const button of document.querySelectorAll('button:not([aria-label]):has(> .image-frame)'))
      button.setAttribute('aria-label', button.closest('.block')?.querySelector('label')?.innerText.trim() || 'Picture')
  }).observe(document.body, {childList: true, subtree: true})
}"""
"""What gradio leaves undone for the keyboard and for screen readers."""


def page(request: PageRequest, desk: Desk) -> gr.Blocks:
    """The page for one folder of runs; its runs are those of `desk`."""

    def leave(who: gr.Request) -> None:
        desk.leave(str(who.session_hash))

    with gr.Blocks(title="flowhelm", analytics_enabled=False, fill_width=True) as demo:
        gr.Markdown(
            f"# flowhelm {__version__}\nRestore and steer pictures with pre-trained flow models, on this machine.",
            elem_id="title",
        )
        with gr.Tabs() as tabs:
            with gr.Tab("Restore", id="restore"):
                restore = restore_tab(demo, request, desk)
            with gr.Tab("Steer", id="steer"):
                steer = steer_tab(demo, request, desk)
            with gr.Tab("Compare", id="compare") as compare:
                compare_tab(request, compare)
            with gr.Tab("History", id="history") as history:
                history_tab(request, history, tabs, restore, steer)
        demo.load(None, js=MENDED)
        demo.unload(leave)
    return cast("gr.Blocks", demo)
