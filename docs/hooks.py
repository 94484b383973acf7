"""Pages made from docstrings: a line `<!-- cards: FOLDER_OR_MODULE [TUPLE] [if|unless WORDS] -->` becomes one card per function, and a
line `<!-- names: FOLDER_OR_MODULE [TUPLE] [if|unless WORDS] PAGE -->` a table of the same functions, each with a link to its card on that
page. With `if` these are the functions whose card has the words, with `unless` the others.

The functions are those of the tuple (default `ALL`) in that folder's `__init__.py` or that module; `public` stands for
every public function of the module. Sources are parsed, never imported, so the pages need neither torch nor weights.

Beside the pages, their Markdown is written for programs that read it: `llms.txt` (https://llmstxt.org) lists the pages of the nav
with a line each, and `llms-full.txt` is all of them.
"""

import ast
import html
import inspect
import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from mkdocs.structure.nav import Navigation, Section
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1] / "src" / "flowhelm"
CHOICE = r"(\S+)(?: (?!if |unless )(\w+))?(?: (if|unless) ([\w ]+?))?"
MARK = re.compile(rf"^<!-- cards: {CHOICE} -->$", re.MULTILINE)
NAMES = re.compile(rf"^<!-- names: {CHOICE} (\S+\.md) -->$", re.MULTILINE)
FIELD = re.compile(r"(Needs|Budget|Cost|Paper)\s+(.*)")
GIVEN = {"flow", "y", "reward", "x", "s", "t", "times", "noise", "ends", "shape", "cost", "start", "closed", "h"}
GIVEN |= {"given", "without", "z"}
"""Arguments of the call shape: not options, unless they have a default (`start` of a guide is a time)."""


class Found(NamedTuple):
    module: ast.Module
    function: ast.FunctionDef


class Parameter(NamedTuple):
    name: str
    annotation: str
    default: str | None


SNIPPET = re.compile(r"""^--8<-- "([^"\n]+)"$""", re.MULTILINE)
_nav: list[Navigation] = []
_texts: dict[str, str] = {}


def on_nav(nav: Navigation, **_: Any) -> None:
    _nav[:] = [nav]


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    whole = MARK.sub(lambda mark: "\n\n".join(map(card, chosen(*mark.groups()))), markdown)
    whole = NAMES.sub(lambda mark: names(chosen(*mark.groups()[:4]), mark[5]), whole)
    _texts[page.file.src_uri] = SNIPPET.sub(lambda mark: snippet(mark[1]), whole)
    return whole


def on_post_build(config: Any, **_: Any) -> None:
    site, (nav,) = Path(config.site_dir), _nav
    for name, text in _texts.items():
        (site / name).write_text(text, encoding="utf-8")
    head = f"# {config.site_name}\n\n> {config.site_description}\n"
    (site / "llms.txt").write_text("\n".join([head, *listing(nav)]) + "\n", encoding="utf-8")
    whole = [_texts[page.file.src_uri].strip() for page in nav.pages]
    (site / "llms-full.txt").write_text("\n\n".join([head.strip(), *whole]) + "\n", encoding="utf-8")


def snippet(name: str) -> str:
    """As pymdownx finds it, in docs or else in the repository."""
    docs = Path(__file__).parent
    return next(f for f in (docs / name, docs.parent / name) if f.is_file()).read_text(encoding="utf-8").rstrip()


def listing(nav: Navigation) -> Iterator[str]:
    """The sections of the nav, each page with its description, or else what it says first."""
    loose = [item for item in nav.items if isinstance(item, Page)]
    sections = [("Start", loose), *((s.title, s.children) for s in nav.items if isinstance(s, Section))]
    for title, children in sections:
        yield f"## {title}\n"
        lines = (
            (name, p, p.meta.get("description") or opening(_texts[p.file.src_uri])) for name, p in titled(children)
        )
        yield "\n".join(f"- [{name}]({p.file.src_uri}): {first}" for name, p, first in lines) + "\n"


def titled(items: list[Any], above: str = "") -> Iterator[tuple[str, Page]]:
    """Every page below, `Methods: Restore` where it stands in a section of its own."""
    for item in items:
        if isinstance(item, Section):
            yield from titled(item.children, f"{above}{item.title}: ")
        elif isinstance(item, Page):
            yield f"{above}{item.title}", item


def opening(markdown: str) -> str:
    """The first sentence of a page's first paragraph, as plain text."""
    blocks = (block.strip() for block in re.split(r"\n\s*\n", markdown))
    first = next((b for b in blocks if re.match(r"[A-Z`*\[]", b) and not b.startswith("[!")), "")
    plain = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", " ".join(first.split())).replace("**", "").replace("*", "")
    return re.split(r"(?<=[.:])\s", plain)[0].rstrip(":")


def chosen(place: str, names: str | None, word: str | None, words: str | None) -> Iterator[Found]:
    """The functions that a mark is of."""
    for found in find(place, names or "ALL"):
        if word is None or (words in " ".join(described(found)[0].split())) == (word == "if"):
            yield found


def find(place: str, names: str) -> Iterator[Found]:
    """The functions a tuple lists, each with the module that defines it, in the tuple's order."""
    file = ROOT / place / "__init__.py" if (ROOT / place).is_dir() else ROOT / f"{place}.py"
    module = parse(file)
    here = {node.name: node for node in module.body if isinstance(node, ast.FunctionDef)}
    origin = {
        alias.asname or alias.name: file.parent / f"{node.module}.py"
        for node in module.body
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module
        for alias in node.names
    }
    for name in [n for n in here if n[0] != "_"] if names == "public" else listed(module, names, file):
        if name in here:
            yield Found(module, here[name])
            continue
        source = parse(origin[name])
        yield Found(source, next(n for n in source.body if isinstance(n, ast.FunctionDef) and n.name == name))


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def listed(module: ast.Module, names: str, file: Path) -> list[str]:
    for node in module.body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Tuple)
            and [t.id for t in node.targets if isinstance(t, ast.Name)] == [names]
        ):
            return [item.id for item in node.value.elts if isinstance(item, ast.Name)]
    raise ValueError(f"hooks: expected a tuple {names} in {file}, found none")


def card(found: Found) -> str:
    """A heading, the text, a table of what it needs and costs, a table of the options."""
    name, doc = found.function.name, ast.get_docstring(found.function) or ""
    body, method = described(found)
    parts = [f"### `{name}`", call(found.function), *blocks(body), options(found.function, doc)]
    if method and "Yields" in doc:
        parts.append(prose("Yields" + doc.partition("Yields")[2].partition("\n\n")[0]))
    if method and "Raises:" in doc:
        parts.append(prose("Raises " + doc.partition("Raises:")[2]))
    if found.function.returns is not None and "Operator" in (kind := ast.unparse(found.function.returns)):
        parts.append("Linear: the prox has a closed form." if kind == "LinearOperator" else "Not linear: no prox.")
    return "\n\n".join(part for part in parts if part)


def described(found: Found) -> tuple[str, bool]:
    """The text of a card, and whether it is that of the whole module, as a method's is."""
    doc, told = ast.get_docstring(found.function) or "", ast.get_docstring(found.module) or ""
    if doc.startswith("Args:") or told.startswith(doc.partition("\n")[0].rstrip(".")):
        return told, True
    return re.sub(r"\n*^(Args|Options):.*?(?=^\S|\Z)", "\n\n", doc, flags=re.MULTILINE | re.DOTALL), False


def names(functions: Iterator[Found], page: str) -> str:
    """What each is, in a line."""
    rows = []
    for found in functions:
        name, (text, _) = found.function.name, described(found)
        first = " ".join(text.partition("\n\n")[0].split())
        rows.append((f"[`{name}`]({page}#{name})", prose(first.removeprefix(f"{name}: "))))
    return table(("", ""), rows)


def blocks(text: str) -> Iterator[str]:
    """Paragraphs; indented ones become code; Needs, Cost and Paper a table."""
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        if not block.strip():
            continue
        if FIELD.match(block):
            yield table(("", ""), [(f"**{field}**", prose(words)) for field, words in fields(block)])
        elif all(line.startswith("    ") for line in block.splitlines()):
            yield f"```text\n{inspect.cleandoc(block)}\n```"
        elif block.startswith("Raises:"):
            yield prose("Raises " + block.removeprefix("Raises:"))
        else:
            yield prose(block)


def fields(text: str) -> Iterator[tuple[str, str]]:
    """Needs, Budget, Cost and Paper of a card, with what follows each."""
    for row in re.split(r"\n(?=\S)", text):
        if m := FIELD.match(" ".join(row.split())):
            yield m[1], m[2]


def call(function: ast.FunctionDef) -> str:
    """What stands in the brackets: plain arguments, then the keyword-only ones that have no default."""
    given = function.args
    needed = [a.arg for a, default in zip(given.kwonlyargs, given.kw_defaults, strict=True) if default is None]
    rest = ["..."] * (len(needed) < len(given.kwonlyargs))
    words = [a.arg for a in given.args] + [f"{name}={name}" for name in needed] + rest
    return f"```python\n{function.name}({', '.join(words)})\n```"


def options(function: ast.FunctionDef, doc: str) -> str:
    found = [p for p in parameters(function) if p.name not in GIVEN or p.default not in (None, "None")]
    if not found:
        return ""
    helps = explained(doc, {p.name for p in parameters(function)})
    rows = [
        (
            code(p.name),
            code(p.annotation),
            code(p.default) if p.default else "must be given",
            prose(helps.get(p.name, "")),
        )
        for p in found
    ]
    head = ("Option", "Type", "Default", "What it is")
    width = 4 if helps else 3
    return table(head[:width], [row[:width] for row in rows])


def parameters(function: ast.FunctionDef) -> Iterator[Parameter]:
    given = function.args
    plain = [*given.posonlyargs, *given.args]
    for argument, default in zip(plain, [None] * (len(plain) - len(given.defaults)) + given.defaults, strict=True):
        yield parameter(argument, default)
    for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        yield parameter(argument, default)


def parameter(argument: ast.arg, default: ast.expr | None) -> Parameter:
    kind = ast.unparse(argument.annotation) if argument.annotation else ""
    return Parameter(argument.arg, kind, ast.unparse(default) if default is not None else None)


def explained(doc: str, names: set[str]) -> dict[str, str]:
    """What the lines below `Args:` or `Options:` say of each name. `a, b: text` is of both; `a: text; b: text` too."""
    lines = iter(doc.splitlines())
    for line in lines:
        if line.strip() in ("Args:", "Options:"):
            break
    below = []
    for line in lines:
        if not line.strip():
            break
        below.append(line.strip())
    # a name begins a line, or follows a semicolon or a full stop
    text = "\n".join(below)
    head = re.compile(r"(?:^|[;.] )((?:\w+, )*\w+): ", re.MULTILINE)
    heads = [m for m in head.finditer(text) if set(m[1].split(", ")) <= names]
    found = {}
    for m, after in zip_longest(heads, heads[1:]):
        said = " ".join(text[m.end() : after.start() if after else None].split())
        found |= dict.fromkeys(m[1].split(", "), said.rstrip(".;") if ". " not in said else said)
    return found


def prose(text: str) -> str:
    """Plain text with `code` and arXiv numbers, safe in Markdown and in tables."""
    pieces = re.split(r"(`[^`]+`)", " ".join(text.split()))
    return "".join(code(p[1:-1]) if i % 2 else linked(p) for i, p in enumerate(pieces))


def linked(text: str) -> str:
    safe = re.sub(r"[*_\[\]|~^#\\`]", lambda m: f"&#{ord(m[0])};", html.escape(text, quote=False))
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", safe)


def code(text: str) -> str:
    return f"<code>{re.sub(r'[*_|~`]', lambda m: f'&#{ord(m[0])};', html.escape(text, quote=False))}</code>"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
