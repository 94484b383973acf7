"""The tabs that look back: runs side by side, and all there were."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from . import folder, results
from .fields import QUICK
from .request import PageRequest
from .tab import WHOLE, error_of, saved

Filled = tuple[list[Any], Callable[[folder.Run], list[Any]]]
"""The components of a tab, and what they say of an earlier run."""


def compare_tab(page: PageRequest, tab: gr.Tab) -> None:
    chosen = gr.Dropdown(
        [], multiselect=True, label="Runs of one picture", info="Choose two or more restorations of the same picture", elem_id="chosen",
    )  # fmt: skip
    pictures = gr.Gallery(
        label="Side by side", columns=3, object_fit="contain", height="auto", elem_id="pictures", **WHOLE
    )
    table = gr.Markdown(elem_id="costs")

    def listed() -> Any:
        return gr.update(choices=[(results.line(r), r.name) for r in folder.history(page.runs) if not r.steered])

    def show(names: list[str] | None) -> tuple[Any, str]:
        try:
            runs = [folder.run(page.runs, name) for name in names or ()]
            folder.same_picture(runs)
        except Exception as error:
            raise error_of(error) from None
        if len(runs) < 2:
            return None, "Choose two or more." if runs else ""
        head, lines = results.costs(runs)
        shown = []
        for letter, each in zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", runs, strict=False):
            path = folder.inside(page.runs, each.picture.relative_to(page.runs).as_posix())
            shown.append((str(path), f"{letter}: {each.settings.operator}, {each.settings.method}"))
        cells = [head, ["---"] * len(head), *([each.replace("|", "/") for each in line] for line in lines)]
        text = "\n".join("| " + " | ".join(row) + " |" for row in cells)
        return gr.update(value=shown, columns=min(len(shown), 3)), text

    tab.select(listed, None, [chosen], **QUICK)
    chosen.change(show, [chosen], [pictures, table], **QUICK)


def history_tab(page: PageRequest, tab: gr.Tab, tabs: gr.Tabs, restore: Filled, steer: Filled) -> None:
    which = gr.State(None)
    gr.Markdown(
        f"Runs of the page and of the command line in `{_near(str(page.runs), Path.cwd())}`. Click one, or press Enter on it, to see it."
    )
    table = gr.Dataframe(
        headers=results.ROW, interactive=False, wrap=False, max_height=330, elem_id="runs", show_label=False, buttons=[],
    )  # fmt: skip
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            picture = gr.Image(label="Result", height=360, elem_id="old", **WHOLE)
            again = gr.Button("Open these settings", interactive=False, elem_id="again")
            with gr.Row():
                take = gr.DownloadButton("Save the picture", interactive=False, elem_id="old-take")
                story = gr.DownloadButton("Save its settings", interactive=False, elem_id="old-story")
        with gr.Column(scale=3, min_width=400):
            settings = gr.Code(
                label="Settings and result", language="json", interactive=False, elem_id="settings", max_lines=24
            )

    def listed() -> list[list[str]]:
        return [results.row(run) for run in folder.history(page.runs)]

    def show(event: gr.SelectData) -> tuple[Any, ...]:
        try:
            # not by its place: a table can be sorted
            old = folder.run(page.runs, f"{event.row_value[-1]}{folder.END}")
            result = folder.inside(page.runs, old.picture.relative_to(page.runs).as_posix())
        except Exception as error:
            raise error_of(error) from None
        found = old.result.stored()
        told = {
            "settings": old.settings.stored(),
            "result": {name: value for name, value in found.items() if name not in ("trace", "particles")},
        }
        text = _near(json.dumps(told, indent=1, ensure_ascii=False), page.runs)
        return str(result), text, old.name, gr.update(interactive=True), *saved(result, old.path).values()

    def reopen(name: str) -> list[Any]:
        try:
            old = folder.run(page.runs, name)
            if old.steered:
                return [gr.update(selected="steer"), *(gr.skip() for _ in restore[0]), *steer[1](old)]
            return [gr.update(selected="restore"), *restore[1](old), *(gr.skip() for _ in steer[0])]
        except Exception as error:
            raise error_of(error) from None

    tab.select(listed, None, [table], **QUICK)
    table.select(show, None, [picture, settings, which, again, take, story], **QUICK)
    again.click(reopen, [which], [tabs, *restore[0], *steer[0]], **QUICK)


def _near(text: str, base: Path) -> str:
    """Paths below `base` without it."""
    return text.replace(f"{base}/", "")
