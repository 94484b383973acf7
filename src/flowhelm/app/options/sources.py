"""Signatures and docstrings of the methods, operators and the rest, read off their source: nothing is imported, so nothing waits for torch.

A `Stub` of a function has its name, its signature and its docstring, and is never called. `options`, `model_of`, `flags` and
the cards take it for the function. What a command line gets wrong is found with these, before the real functions are needed.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import BadInput, nearest
from . import own

_PACKAGE = __name__.split(".")[0]
_ROOT = Path(__file__).parents[2]
_LIGHT = ("typing", "collections", "functools", "pathlib", "annotated_types", "math", "types", f"{_PACKAGE}.entry")
"""Modules that are imported as they are."""

_STEER, _RESTORE = ("steer", "ALL"), (("restore", "ALL"), ("restore", "TOKENS"))
PARTS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "method": (_STEER, *_RESTORE),
    "steering": (_STEER,),
    "shown": (_STEER, *_RESTORE, ("edit", "ALL"), ("sample", "ALL"), ("sample", "TOKENS"), ("tune", "ALL")),
    "operator": (("operators", "ALL"),),
    "planned": (("app.models.fitting", "sample"), _STEER, ("restore", "ALL"), ("tune", "ALL")),
    "recipe": (("recipes", "ALL"),),
}
"""Where the functions of each kind are listed: tuples of them, or one by its name."""


def functions(part: str) -> tuple[Callable[..., Any], ...]:
    """Stubs of all methods, operators, ... in their order."""
    return tuple(resolve(module, name) for module, name in _places(part))


def pick(part: str, name: str) -> Callable[..., Any]:
    """The stub of that name; your own code, FILE.py:NAME, as it is. Raises BadInput that names the nearest."""
    what = "method" if part in ("steering", "planned", "shown") else part
    names = {each: module for module, each in _places(part)}
    if name in names:
        stub: Callable[..., Any] = resolve(names[name], name)
        return stub
    if what in ("method", "operator") and own.word(name):
        return own.load(what, name)
    raise BadInput(f"there is no {what} {name!r}; {nearest(name, names)}")


def names(part: str) -> list[str]:
    """Of all methods, operators, ... in their order."""
    return [name for _, name in _places(part)]


@cache
def _read(module: str) -> str:
    path = _ROOT.joinpath(*module.split(".")[1:])
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")


def listed(module: str, name: str) -> tuple[Callable[..., Any], ...]:
    """Stubs of the functions in a tuple of the package: `listed("restore", "ALL")`."""
    return tuple(resolve(place, each) for place, each in _entries(module, name))


def _places(part: str) -> list[tuple[str, str]]:
    return [each for module, name in PARTS[part] for each in _entries(module, name)]


@cache
def _entries(module: str, name: str) -> tuple[tuple[str, str], ...]:
    source = _source(f"{_PACKAGE}.{module}")
    if name in source.functions:
        return ((source.name, name),)
    found = source.values[name]
    assert isinstance(found, ast.Tuple)
    return tuple((source.name, each.id) for each in found.elts if isinstance(each, ast.Name))


@cache
def resolve(module: str, name: str) -> Any:
    """What a name of a module of the package stands for: a stub of a function, an alias or a class as an empty class, else its value."""
    source = _source(module)
    if name in source.functions:
        return _stub(source, source.functions[name])
    if name in source.values:
        value = source.values[name]
        if isinstance(value, ast.Subscript) and isinstance(value.value, ast.Name) and value.value.id == "Callable":
            return type(name, (), {})  # told by identity, as the alias itself is
        return eval(compile(ast.Expression(value), source.name, "eval"), _names(source, value))
    if name in source.imports:
        return _imported(*source.imports[name])
    return type(name, (), {})


@dataclass(frozen=True)
class _Source:
    """A module that was parsed: its functions, its assignments, and what its names are imported from."""

    name: str
    doc: str
    functions: Mapping[str, ast.FunctionDef]
    values: Mapping[str, ast.expr]
    imports: Mapping[str, tuple[str, str]]


@cache
def _source(module: str) -> _Source:
    package = _ROOT.joinpath(*module.split(".")[1:]).is_dir()
    tree = ast.parse(_read(module))
    functions: dict[str, ast.FunctionDef] = {}
    values: dict[str, ast.expr] = {}
    imports: dict[str, tuple[str, str]] = {}
    checking = [n for node in tree.body if isinstance(node, ast.If) for n in node.body]
    for node in (*tree.body, *checking):
        if isinstance(node, ast.FunctionDef):
            functions[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            values[node.targets[0].id] = node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            values[node.target.id] = node.value
        elif isinstance(node, ast.Import):
            imports |= {(each.asname or each.name): (each.name, "") for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            parts = parts[: len(parts) - node.level + package] if node.level else []
            home = ".".join([*parts, *([node.module] if node.module else [])])
            imports |= {(each.asname or each.name): (home, each.name) for each in node.names}
    return _Source(module, ast.get_docstring(tree) or "", functions, values, imports)


def _imported(home: str, name: str) -> Any:
    if home.startswith(_LIGHT):
        module = importlib.import_module(home)
        return getattr(module, name) if name else module
    if home.split(".")[0] == _PACKAGE:
        path = _ROOT.joinpath(*home.split(".")[1:], name)
        if path.is_dir() or path.with_suffix(".py").is_file():  # a module: its functions are asked by name
            return _Lazy(f"{home}.{name}")
        return resolve(home, name)
    return type(name, (), {}) if name else _Absent()


class _Absent:
    """A module that is not imported: whatever is asked of it is a type of that name, and such a module, too (`torch.optim.Optimizer`)."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {}) if name[0].isupper() else _Absent()


class _Lazy:
    def __init__(self, module: str):
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return resolve(self._module, name)


def _stub(source: _Source, node: ast.FunctionDef) -> Callable[..., Any]:
    """The function without its decorators and its body, which must never run."""
    text = ast.get_docstring(node, clean=False) or ""
    bare = ast.copy_location(
        ast.FunctionDef(
            node.name, node.args, [ast.copy_location(ast.Expr(ast.Constant(text)), node)], [], node.returns
        ),
        node,
    )
    names = _names(source, node.args, *([node.returns] if node.returns else []))
    names["__name__"] = source.name
    module = ast.fix_missing_locations(ast.Module([bare], []))
    exec(compile(module, source.name, "exec"), names)
    made: Callable[..., Any] = names[node.name]
    made.__card__ = source.doc  # type: ignore[attr-defined]
    return made


def _names(source: _Source, *nodes: ast.AST) -> dict[str, Any]:
    """What stands behind the names in some code."""
    used = {each.id for node in nodes for each in ast.walk(node) if isinstance(each, ast.Name)}
    here = {*source.functions, *source.values, *source.imports}
    return {name: resolve(source.name, name) for name in used & here}
