"""What the tabs share: fields of options, buttons, words."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import gradio as gr

from ...app.errors import BadInput
from ...app.options.request import Option
from ...app.options.signature import named, options
from ...app.options.signature import shown as typed
from . import Wanted
from .work import Desk, Seen, sentence

QUICK: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private"}
"""Events beside the runs."""


Written = dict[tuple[str, ...], dict[str, Any]]
"""What was typed as options, by (mark of the reopened run, part, task, method)."""


EVERY = 1.0
"""Seconds between estimates that are shown."""


def values_of(written: Written, told: Mapping[str, Any], part: str, *names: str) -> dict[str, Any]:
    """What stands in the fields of an operator or a method: as reopened from the history, until something is typed.

    It is kept beside the fields, for these are made anew with every choice, and a click may come before they are.
    """
    return written.setdefault((str(told.get("mark", "")), part, *names), dict(told.get(part, {})))


def fields_of(function: Callable[..., Any], defaults: Mapping[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A field for each option of `function`, by its name: empty means the default, which shows through.

    Args:
        values: of the fields; what is typed goes there.
    """
    found: dict[str, Any] = {}
    known = list(options(function).values())
    for i in range(0, len(known), 2):
        with gr.Row():
            for option in known[i : i + 2]:
                field = field_of(function, option, defaults, values.get(option.name) or "")
                field.change(keeps(values, option.name), [field], None, **QUICK)
                found[option.name] = field
    return found


def keeps(values: dict[str, Any], name: str) -> Callable[[Any], None]:
    def keep(value: Any) -> None:
        values[name] = value

    return keep


def field_of(function: Callable[..., Any], option: Option, defaults: Mapping[str, Any], value: str) -> Any:
    default = str(typed(defaults.get(option.name)))
    common: dict[str, Any] = {
        "label": option.name, "info": option.help, "min_width": 170, "elem_id": f"option-{function.__name__}-{option.name}",
    }  # fmt: skip
    if Path in option.types:
        said = "mask, instead of paint" if option.name == "mask" else option.name
        return gr.File(value or None, label=said, height=140, elem_id=common["elem_id"])
    choices = choices_of(option)
    if choices:
        return gr.Dropdown(
            [(f"default ({default})", ""), *((c, c) for c in choices)], value=value, allow_custom_value=True, **common
        )
    return gr.Textbox(value, placeholder=default, max_lines=1, **common)


def choices_of(option: Option) -> list[str]:
    """What may be chosen; a function of the library may be given options of its own, as text."""
    found: list[str] = []
    for kind in option.types:
        if kind is bool:
            found += ["true", "false"]
        elif get_origin(kind) is Literal:
            found += [str(each) for each in get_args(kind)]
        else:
            found += [f.__name__ for f in named(kind)]
    return found


def methods_of(functions: Any) -> list[tuple[str, str]]:
    return [("default of the task", ""), *((f.__name__, f.__name__) for f in functions)]


def text_of(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def offered(prior: str, given: Wanted) -> str:
    found = next((name for name in given.priors if prior in (name, str(Path(name).absolute()))), None)
    if found is None:
        raise BadInput(
            f"that run was made with the prior {Path(prior).name!r}; start the page with --prior to have it here"
        )
    return found


def asking(desk: Desk) -> Callable[..., Any]:
    def ask(request: gr.Request) -> tuple[Any, Any]:
        try:
            before = desk.ask(str(request.session_hash))
        except Exception as error:
            raise error_of(error) from None
        said = f"Waiting for the device; runs before this one: {before}." if before else "Starting ..."
        return status_html(said), gr.update(interactive=True)

    return ask


def leaving(desk: Desk) -> Callable[..., None]:
    def leave(request: gr.Request) -> None:
        desk.leave(str(request.session_hash))

    return leave


def cancelling(desk: Desk) -> Callable[..., Any]:
    def cancel(request: gr.Request) -> Any:
        desk.cancel(str(request.session_hash))
        return gr.update(interactive=False)  # not the status: that may come after the run's own last word

    return cancel


def error_of(error: BaseException) -> gr.Error:
    """For the page: one sentence, and no markup that a name might bring."""
    return gr.Error(html.escape(sentence(error), quote=False), print_exception=False)


def status_html(text: str, kind: str = "") -> str:
    lines = "".join(f"<p>{html.escape(line)}</p>" for line in text.splitlines() if line)
    return f'<div class="status {kind}">{lines}</div>'


def progress_html(which: str, seen: Seen, said: str) -> str:
    text = f"{which}step {seen.step} of {seen.total}, {said}, {seen.left} left"
    text = text[0].upper() + text[1:]
    share = 100 * seen.step / max(seen.total, 1)
    bar = f'<div class="bar" role="progressbar" aria-valuenow="{share:.0f}"><i style="width: {share:.1f}%"></i></div>'
    return f'<div class="status">{bar}<p>{html.escape(text)}</p></div>'


def table_html(head: list[str], lines: list[list[str]]) -> str:
    cells = [head, ["---"] * len(head), *([each.replace("|", "/") for each in line] for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def ended(text: str, kind: str = "") -> dict[str, Any]:
    """No run any more, and why."""
    return {
        "run": gr.update(interactive=True), "cancel": gr.update(interactive=False), "status": status_html(text, kind),
    }  # fmt: skip
