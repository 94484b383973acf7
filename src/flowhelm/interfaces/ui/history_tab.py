"""The tabs that look back: runs side by side, and all there were."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from . import Wanted, folder, wanted
from .parts import QUICK, error_of, table_html


def compare_(given: Wanted, tab: gr.Tab) -> None:
    chosen = gr.Dropdown(
        [],
        multiselect=True,
        label="Runs of one picture",
        info="Two or more restorations of the history",
        elem_id="chosen",
    )
    pictures = gr.Gallery(
        label="Side by side", columns=3, object_fit="contain", height="auto", format="png", interactive=False, buttons=["fullscreen"],
        elem_id="pictures",
    )  # fmt: skip
    table = gr.Markdown(elem_id="costs")

    def listed() -> Any:
        return gr.update(choices=[(wanted.line(r), r.name) for r in folder.history(given.runs) if not r.steered])

    def show(names: list[str] | None) -> tuple[Any, str]:
        try:
            runs = [folder.run(given.runs, name) for name in names or ()]
            folder.same_picture(runs)
        except Exception as error:
            raise error_of(error) from None
        if len(runs) < 2:
            return None, "Choose two or more." if runs else ""
        head, lines = wanted.costs(runs)
        shown = []
        for letter, each in zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", runs, strict=False):
            path = folder.inside(given.runs, each.picture.relative_to(given.runs).as_posix())
            shown.append((str(path), f"{letter}: {each.settings['operator']}, {each.settings['method']}"))
        return gr.update(value=shown, columns=min(len(shown), 3)), table_html(head, lines)

    tab.select(listed, None, [chosen], **QUICK)
    chosen.change(show, [chosen], [pictures, table], **QUICK)


def history_(
    given: Wanted,
    tab: gr.Tab,
    tabs: gr.Tabs,
    restore: tuple[list[Any], Callable[[folder.Run], list[Any]]],
    steer_: tuple[list[Any], Callable[[folder.Run], list[Any]]],
) -> None:
    which = gr.State(None)
    gr.Markdown(
        f"Runs in `{_near(str(given.runs), Path.cwd())}`, of the page and of the command line. Choose one by a click."
    )
    table = gr.Dataframe(
        headers=wanted.ROW, interactive=False, wrap=False, max_height=330, elem_id="runs", show_label=False, buttons=[],
    )  # fmt: skip
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            picture = gr.Image(
                label="Result", format="png", interactive=False, height=360, buttons=["fullscreen"], elem_id="old"
            )
            again = gr.Button("Open these settings", interactive=False, elem_id="again")
            with gr.Row():
                take = gr.DownloadButton("Picture", interactive=False, elem_id="old-take")
                story = gr.DownloadButton(".run.json", interactive=False, elem_id="old-story")
        with gr.Column(scale=3, min_width=400):
            settings = gr.Code(
                label="Settings and result", language="json", interactive=False, elem_id="settings", max_lines=24
            )

    def listed() -> list[list[str]]:
        return [wanted.row(run) for run in folder.history(given.runs)]

    def show(event: gr.SelectData) -> tuple[Any, ...]:
        try:
            old = folder.run(
                given.runs, f"{event.row_value[-1]}{folder.END}"
            )  # not by its place: a table can be sorted
            result = folder.inside(given.runs, old.picture.relative_to(given.runs).as_posix())
        except Exception as error:
            raise error_of(error) from None
        told = {
            "settings": old.settings,
            "result": {k: v for k, v in old.result.items() if k != "pictures"} | _brief(old),
        }
        ready = gr.update(interactive=True)
        return (
            str(result), _near(json.dumps(told, indent=1, ensure_ascii=False), given.runs), old.name,
            ready, gr.update(value=str(result), interactive=True),
            gr.update(value=str(old.path), interactive=True),
        )  # fmt: skip

    def reopen(name: str) -> list[Any]:
        try:
            old = folder.run(given.runs, name)
            if old.steered:
                return [gr.update(selected="steer"), *(gr.skip() for _ in restore[0]), *steer_[1](old)]
            return [gr.update(selected="restore"), *restore[1](old), *(gr.skip() for _ in steer_[0])]
        except Exception as error:
            raise error_of(error) from None

    tab.select(listed, None, [table], **QUICK)
    table.select(show, None, [picture, settings, which, again, take, story], **QUICK)
    again.click(reopen, [which], [tabs, *restore[0], *steer_[0]], **QUICK)


def _near(text: str, base: Path) -> str:
    """Paths below `base` without it."""
    return text.replace(f"{base}/", "")


def _brief(old: folder.Run) -> dict[str, Any]:
    if not old.steered:
        return {}
    return {name: value for name, value in old.told.items() if name not in ("trace", "particles")}
