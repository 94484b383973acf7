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
.gradio-container main {padding: 12px 20px !important}
#title h1 {margin: 0; font-size: 1.35rem} #title p {margin: .1rem 0 0; opacity: .75}
.status {min-height: 2.6rem} .bar {height: .5rem; border-radius: .25rem; background: #e2e8f0; overflow: hidden}
.bar i {display: block; height: 100%; background: #6366f1}
.status p {margin: .2rem 0 0; font-variant-numeric: tabular-nums}
.card p {margin: 0; line-height: 1.35; font-size: .86rem; opacity: .85}
.grid-wrap {min-height: 0 !important; height: auto !important; max-height: none !important}
#costs table {width: 100%}
#estimate img, #view img, #best img, #old img {width: 100%; height: 100%; object-fit: contain}
#runs span {font-size: .76rem} #runs .selection-button {display: none}
footer {display: none !important}
:focus-visible {outline: 3px solid #4338ca !important; outline-offset: 2px !important}
[role=tab]:focus-visible {outline-offset: -3px !important}
@media (max-width: 760px) {
  .gradio-container main {padding: 8px !important}
  .both > .fields, .both > .outcome {display: contents !important}
  .both > .fields > * {order: 3} .both > .outcome > * {order: 2}
  .both > .fields > #photo, .both > .fields > #look, .both > .fields > #view, .both > .fields > #editor {order: 1}
  .both > .outcome > #estimate:not(:has(img)) {display: none !important}
}
"""


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
        demo.unload(leave)
    return cast("gr.Blocks", demo)
