"""The form of a request to restore, made from `PictureRequest` and the options of operators and methods: OpenAPI, and how it is read.

It is read here, and not by FastAPI, which reads a body of many megabytes before it looks at the token.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, cast

from ... import operators
from ...app.batch.description import parsed
from ...app.errors import BadInput, nearest
from ...app.options.request import fields
from ...app.options.signature import model_of, options, read
from ...app.options.words import flags
from ...app.restore.presets import usual_method
from ...app.restore.request import PictureRequest, RestoreRequest, function_of
from ...app.restore.restorer import plainly
from ...app.restore.settle import check_cost, settle
from ...cards import RESTORE_OR_STEER
from ...cost import Nothing
from ...known import kind
from ...path import linear

PARTS: Mapping[str, tuple[Callable[..., Any], ...]] = {"operator": tuple(operators.ALL), "method": RESTORE_OR_STEER}
FILES = {name: o.help for f in operators.ALL for name, o in options(f).items() if Path in o.types}
"""Options that are uploaded, and what they are; of another operator one of the name may be a word: see `uploaded`."""
OWN = {name: option for name, option in fields(PictureRequest).items() if not name.endswith("_options")}
STEPS = 1000


def uploaded(function: Callable[..., Any]) -> list[str]:
    """The options of an operator or a method that are files, which are uploaded."""
    return [name for name, option in options(function).items() if Path in option.types]


def request_of(prior: str, form: Mapping[str, str], uploads: Collection[str], most: int) -> PictureRequest:
    """What the fields of a form and the names of its files ask for. Raises BadInput; so it does if that costs more than `most`."""
    words = {name: text for name, text in form.items() if name != "settings"}
    try:
        given = parsed(form.get("settings") or "{}")
    except ValueError as error:
        raise BadInput(f"settings: expected JSON ({error})") from error
    told = PictureRequest.of_json(given, "settings").stored()
    if both := sorted(set(told) & set(words)):
        raise BadInput(f"{both[0]!r} stands in the settings and as a field; give it once")
    own = {name: _none(name, words.pop(name)) for name in OWN if name in words}
    if "operator" not in told | own:
        known = ", ".join(f.__name__ for f in PARTS["operator"])
        raise BadInput(f"operator is missing: what was done to the picture; one of {known}")
    asked = PictureRequest.of(told | own, "restore")
    if asked.steps is not None and asked.steps > STEPS:
        raise BadInput(f"steps: expected at most {STEPS}, got {asked.steps}")
    names = {"operator": asked.operator, "method": asked.method or usual_method(asked.operator, prior, asked.look)}
    parts = {part: function_of(part, name) for part, name in names.items()}
    chosen = {part: dict(getattr(asked, f"{part}_options")) for part in parts}
    for part, function in parts.items():
        files = uploaded(function)
        for name in files:
            if name in chosen[part]:
                raise _not_read(name, name)
        # to the letter: "3" is no number in JSON
        read(function, chosen[part] | dict.fromkeys(files, "upload"), strict=True)
    table = flags(parts, [*OWN, "settings"])
    for name, text in words.items():
        if (key := name.replace("_", "-")) not in table:
            raise BadInput(f"there is no field {name!r}; {nearest(name, [*OWN, *table])}")
        part, option = table[key]
        if Path in option.types:
            raise _not_read(name, option.name)
        if option.name in chosen[part]:
            raise BadInput(f"{name!r} is given twice; give it once")
        chosen[part][option.name] = text
    whole = asked.changed(**{f"{part}_options": values for part, values in chosen.items()})
    sent = {name: "upload" for name in uploaded(parts["operator"]) if name in uploads}
    request: dict[str, Any] = {"photo": "picture.png", "prior": prior, **whole.stored()}
    request["operator_options"] = {**whole.operator_options, **sent}
    with plainly():
        flow = cast("Any", Nothing(linear, kind(prior)))
        check_cost(settle(RestoreRequest.of(request, "restore"), flow=flow, picture="later"), most)
    return whole


def _none(name: str, text: str) -> str | None:
    return None if text.lower() == "none" and NoneType in OWN[name].types else text


def _not_read(name: str, option: str) -> BadInput:
    return BadInput(f"{name}: a file of the server is not read; upload it as the form file {option!r}")


# --- OpenAPI ---


@cache
def schema_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The options of an operator or a method, but for those that are uploaded."""
    whole, files = model_of(function).model_json_schema(), uploaded(function)
    known = {name: each for name, each in whole.get("properties", {}).items() if name not in files}
    needed = [name for name in whole.get("required", ()) if name not in files]
    return {**whole, "properties": known, "required": needed}


def settings_schema() -> dict[str, Any]:
    """The settings as JSON; words in the place of `flowhelm operators`, which a client does not have."""
    whole = PictureRequest.model_json_schema()
    properties = {name: dict(each) for name, each in whole["properties"].items()}
    for part, functions in PARTS.items():
        words = [f.__name__ for f in functions]
        properties[part].pop("anyOf", None)
        properties[part] |= {"enum": words if part == "operator" else [*words, None]}
        for name in (part, f"{part}_options"):
            text = properties[name]["description"].replace(f"`flowhelm {part}s NAME`", f"/{part}s")
            properties[name]["description"] = text.replace(f"`flowhelm {part}s`", f"/{part}s")
    return {**whole, "properties": properties}


_OF_ONE = ("title", "description", "default")  # the methods that have an option of this name differ in them


@cache
def body() -> dict[str, Any]:
    """The multipart form."""
    schema, binary = settings_schema(), {"type": "string", "contentMediaType": "application/octet-stream"}
    own = {name: each for name, each in schema["properties"].items() if name in OWN}
    uploads = {"picture": "The picture: JPEG, PNG, WebP or TIFF.", **FILES}
    several: dict[str, dict[str, Any]] = {}
    for functions in PARTS.values():
        for function in functions:
            for name, each in schema_of(function)["properties"].items():
                if name not in own:
                    field = several.setdefault(
                        name, {"title": each["title"], "description": _whose(name), "anyOf": [binary] * (name in FILES)}
                    )
                    kinds = each.get("anyOf") or [{k: v for k, v in each.items() if k not in _OF_ONE}]
                    field["anyOf"] += [kind for kind in kinds if kind not in field["anyOf"]]
    text = "All settings as JSON; each may be given as a field of the form instead."
    form = {
        "type": "object",
        "properties": {
            **{name: {**binary, "description": help_} for name, help_ in uploads.items()},
            "settings": {**schema, "description": text},
            **own,
            **several,
        },
        "required": ["picture"],
        "additionalProperties": {"type": "string", "description": "An option by its long name: method-steps, say."},
    }
    encoding = {"settings": {"contentType": "application/json"}}
    return {"required": True, "content": {"multipart/form-data": {"schema": form, "encoding": encoding}}}


def _whose(name: str) -> str:
    """Of a field that several operators and methods have: what it means for each."""
    helps: dict[str, list[str]] = {}
    for functions in PARTS.values():
        for function in functions:
            if name in (known := options(function)):
                helps.setdefault(known[name].help, []).append(function.__name__)
    return " ".join(f"{text.rstrip('.')} ({', '.join(names)})." for text, names in helps.items())
