"""The page at /docs: what the service takes and answers, made from its OpenAPI. It needs no script and fetches nothing from elsewhere,
so that it is there without a network, too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from ...app.options import cards
from .form import FILES, PARTS, body, schema_of

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
}
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
code, pre { font-family: ui-monospace, monospace; font-size: .875em; }
pre { overflow-x: auto; padding: .75rem; border: 1px solid #8885; border-radius: .4rem; white-space: pre-wrap; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; vertical-align: top; padding: .35rem .6rem .35rem 0; }
tr { border-bottom: 1px solid #8885; } td:first-child { white-space: nowrap; }
details { border-bottom: 1px solid #8885; padding: .35rem 0; } summary { cursor: pointer; }
form { display: grid; gap: .75rem; max-width: 30rem; } label { display: grid; gap: .25rem; }
input, select, textarea, button { font: inherit; padding: .35rem; }
"""


def page(openapi: Mapping[str, Any], address: str, token: bool) -> str:
    """HTML.

    Args:
        openapi: of the application. address: by which it was asked for. token: whether a request must bear one, which a form cannot.
    """
    form = body()["content"]["multipart/form-data"]["schema"]["properties"]
    several = {*FILES, "picture", "settings"}
    own = {name: each for name, each in form.items() if "default" in each and name not in several}
    bears = " -H 'Authorization: Bearer TOKEN'" if token else ""
    parts = [
        f"<h1>{_text(openapi['info']['title'])} {_text(openapi['info']['version'])}</h1>",
        f"<p>{_text(openapi['info'].get('summary', ''))}</p>",
        f"<pre>curl{bears} -F picture=@photo.jpg -F operator=deblur -F sigma=1.6 {_text(address)}/restore -o restored.png</pre>",
        "" if token else _form(form["operator"]["enum"]),
        "<h2>Requests</h2>", _requests(openapi["paths"]),
        "<h2>Fields of /restore</h2><p>Each is a field of the form, or a name in the JSON of <code>settings</code>.</p>",
        _table({name: form[name] for name in ("picture", *FILES)} | own, ("picture", "operator")),
        "<h2>Operators</h2><p>What was done to the picture. Their options are fields, too.</p>", *_parts("operator"),
        "<h2>Methods</h2><p>How it is restored. Their options are fields, too.</p>", *_parts("method"),
        "<h2>Refusals</h2><p>Each is <code>{\"detail\": \"one sentence\"}</code>.</p>", _refusals(openapi["paths"]["/restore"]["post"]),
        '<p>For programs: <a href="openapi.json">openapi.json</a>.</p>',
    ]  # fmt: skip
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>flowhelm over HTTP</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>{"".join(parts)}</body></html>'
    )


def _text(value: object) -> str:
    return escape(str(value))


def _form(operators: Iterable[str]) -> str:
    choices = "".join(f"<option>{_text(name)}</option>" for name in operators)
    return (
        '<h2>Try it</h2><form action="restore" method="post" enctype="multipart/form-data">'
        '<label>Picture <input type="file" name="picture" accept="image/*" required></label>'
        f'<label>What was done to it <select name="operator">{choices}</select></label>'
        '<label>Settings as JSON <textarea name="settings" rows="3">{"steps": 8}</textarea></label>'
        '<button type="submit">Restore</button></form>'
    )


def _requests(paths: Mapping[str, Any]) -> str:
    every = [(how, path, each) for path, ways in paths.items() for how, each in ways.items()]
    return _rows([[f"<code>{how.upper()} {_text(path)}</code>", _said(each)] for how, path, each in every])


def _rows(cells: Iterable[Iterable[str]], head: str = "") -> str:
    lines = ("".join(f"<td>{cell}</td>" for cell in line) for line in cells)
    return f"<table>{head}{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _said(each: Mapping[str, Any]) -> str:
    return _text(" ".join(each.get(name, "") for name in ("summary", "description")))


def _table(fields: Mapping[str, Mapping[str, Any]], needed: Iterable[str] = ()) -> str:
    rows = [
        [
            f"<code>{_text(name)}</code>", _text(_kind(each)), "needed" if name in needed else _default(each.get("default")),
            _text(each.get("description", "")),
        ]
        for name, each in fields.items()
    ]  # fmt: skip
    return _rows(rows, "<tr><th>Field</th><th>Takes</th><th>Default</th><th></th></tr>")


def _default(value: object) -> str:
    return "" if value is None else _text(str(value).lower() if isinstance(value, bool) else value)


_WORDS = {
    "integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "a text", "null": "none",
}  # fmt: skip
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


def _kind(schema: Mapping[str, Any]) -> str:
    """What a field takes, in words."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(each) for each in schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(str(value) for value in schema["enum"] if value is not None)
    if "const" in schema:
        return str(schema["const"])
    if schema.get("contentMediaType"):
        return "a file"
    bounds = " and ".join(f"{word} {schema[name]:g}" for name, word in _BOUNDS.items() if name in schema)
    return " ".join(filter(None, (_WORDS.get(str(schema.get("type")), "a value"), bounds)))


def _parts(part: str) -> Iterable[str]:
    for function in PARTS[part]:
        whole = schema_of(function)
        options = _table(whole["properties"], whole["required"]) if whole["properties"] else ""
        yield (
            f"<details><summary><code>{_text(function.__name__)}</code> {_text(cards.title(function))}</summary>"
            f"<pre>{_text(cards.text(part, function))}</pre>{options}</details>"
        )


def _refusals(post: Mapping[str, Any]) -> str:
    told = post["responses"].items()
    return _rows([[_text(status), _text(each["description"])] for status, each in told if status != "200"])
