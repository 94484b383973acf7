"""Components made from options: kind, range, default and help are those of the option."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import gradio as gr
from annotated_types import Ge, Le

from ...app.errors import BadInput
from ...app.options import cards
from ...app.options.named import named
from ...app.options.request import Option
from ...app.options.signature import options, shown
from ...entry import described
from .request import PageRequest

QUICK: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private"}
"""Events beside the runs."""
WORDS = {"true": "yes", "false": "no", "True": "yes", "False": "no"}
Written = dict[tuple[str, ...], dict[str, Any]]
"""What was typed as options, by (mark of the reopened run, part, operator or method)."""


# --- fields of a request ---


def field(option: Option, where: str, **more: Any) -> Any:
    """The component for a field of a request.

    Args:
        where: its id in the page. more: of the component, instead of what the option says.
    """
    common: dict[str, Any] = {"label": label_of(option), "info": help_of(option), "elem_id": where, "interactive": True}
    common |= {"min_width": 150} | more
    if option.types == (bool,):
        return gr.Checkbox(option.default, **common)
    if option.types in ((int,), (float,)) and "placeholder" not in more:
        bounds = option.kinds[0][1]
        least = next((b.ge for b in bounds if isinstance(b, Ge)), None)
        most = next((b.le for b in bounds if isinstance(b, Le)), None)
        number: dict[str, Any] = {"minimum": least, "maximum": most, "precision": 0 if option.types == (int,) else None}
        return gr.Number(option.default, **number | common)
    default = "" if option.needed or option.default is None else str(option.default)
    return gr.Textbox(common.pop("value", default), max_lines=1, **common)


def label_of(option: Option) -> str:
    return option.name.replace("_", " ").capitalize()


def help_of(option: Option) -> str:
    """Its help, without the command that a page does not have, and with its range."""
    text = re.sub(r":? see `flowhelm [^`]*`", "", option.help).replace("--", "")
    ranges = [described(bounds) for _, bounds in option.kinds if bounds]
    return text + f" Allowed: {' or '.join(ranges)}." * bool(ranges)


def functions_of(label: str, functions: Any, value: str, where: str, info: str, first: str = "") -> gr.Dropdown:
    """A choice of methods or operators; "" is the default, where it is offered, called `first`."""
    choices = [(first, "")] * bool(first) + [(f.__name__, f.__name__) for f in functions]
    return gr.Dropdown(choices, value=value, label=label, info=info, interactive=True, elem_id=where, min_width=150)


def priors_of(priors: Sequence[str], value: str, where: str) -> gr.Dropdown:
    return gr.Dropdown(
        list(priors), value=value, label="Prior", info="The model of what pictures look like", interactive=True, elem_id=where,
        min_width=150,
    )  # fmt: skip


def offered(prior: str, page: PageRequest) -> str:
    """The prior of an earlier run, as the page calls it. Raises BadInput if it is not there."""
    found = next((name for name in page.priors if prior in (name, str(Path(name).absolute()))), None)
    if found is None:
        raise BadInput(
            f"that run was made with the prior {Path(prior).name!r}; start the page with --prior to have it here"
        )
    return found


def text_of(value: Any) -> str:
    """A value as it is typed into a field; nothing for None."""
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


# --- options of operators and methods ---


def values_of(written: Written, told: Mapping[str, Any], part: str, *names: str) -> dict[str, Any]:
    """What stands in the fields of an operator or a method: as reopened from the history, until something is typed.

    It is kept beside the fields, for these are made anew with every choice, and a click may come before they are.
    """
    return written.setdefault((str(told.get("mark", "")), part, *names), dict(told.get(part, {})))


def options_of(function: Callable[..., Any], defaults: Mapping[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A field for each option of `function`, by its name: empty means the default, which shows through.

    Args:
        values: of the fields; what is typed goes there.
    """
    found: dict[str, Any] = {}
    known = list(options(function).values())
    for i in range(0, len(known), 2):
        with gr.Row():
            for option in known[i : i + 2]:
                made = _option(function, option, defaults, values.get(option.name) or "")
                # not `change`, which comes for what was filled in, too, when the fields may be others already
                heard = [made.upload, made.clear, made.delete] if isinstance(made, gr.File) else [made.input]
                gr.on(heard, _keeps(values, option.name), [made], None, **QUICK)
                found[option.name] = made
    return found


def about(function: Callable[..., Any]) -> str:
    """What a method or an operator is, needs and costs, from its card."""
    head, *rest = cards.listing([function])
    title = head.partition(" ")[2].strip()
    return "  \n".join([f"**{title}**", *(f"{word[0].upper()}{word[1:]}" for line in rest if (word := line.strip()))])


def _keeps(values: dict[str, Any], name: str) -> Callable[[Any], None]:
    def keep(value: Any) -> None:
        values[name] = value

    return keep


def _option(function: Callable[..., Any], option: Option, defaults: Mapping[str, Any], value: str) -> Any:
    where = f"option-{function.__name__}-{option.name}"
    if Path in option.types:
        label = "Mask, instead of paint" if option.name == "mask" else label_of(option)
        return gr.File(value or None, label=label, height=140, elem_id=where)
    default = "" if option.needed else str(shown(defaults.get(option.name, option.default)))
    common: dict[str, Any] = {"label": label_of(option), "info": help_of(option), "min_width": 170, "elem_id": where}
    if choices := _choices(option):
        # a function of the library may be given options of its own, as text
        listed = [
            (f"default ({WORDS.get(default, default)})", ""),
            *((WORDS.get(each, each), each) for each in choices),
        ]
        return gr.Dropdown(listed, value=value, allow_custom_value=True, **common)
    return gr.Textbox(value, placeholder=default, max_lines=1, **common)


def _choices(option: Option) -> list[str]:
    found: list[str] = []
    for kind in option.types:
        if kind is bool:
            found += ["true", "false"]
        elif get_origin(kind) is Literal:
            found += [str(each) for each in get_args(kind)]
        elif kind is not NoneType:
            found += [f.__name__ for f in named(kind)]
    return found
