"""The layers of the package: imports go down only, names are those of the conventions."""

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

import flowhelm

ROOT = Path(flowhelm.__file__).parent
LAYERS = (
    {"path", "rng", "grad", "entry", "interpolant"},
    {"flow", "codec", "measure", "particles"},
    {"step", "grids", "inner", "likelihood", "prox", "control", "latent", "solve", "adjoint", "horizon", "twist"}
    | {"transition", "guide", "calibration", "budget", "memory"},
    {"restore", "steer", "train"},
    {"priors", "operators", "metrics", "rewards"},
    {"cards"},
    {"app", "bench", "recipes", "__main__"},
)
FILES = [f for f in sorted(ROOT.rglob("*.py")) if f != ROOT / "__init__.py"]  # the top is a table of lazy imports
EACH = pytest.mark.parametrize("file", FILES, ids=[str(f.relative_to(ROOT)) for f in FILES])


@cache
def tree(file):
    return ast.parse(file.read_text(encoding="utf-8"))


def unit(file):
    """The module or folder just below the package that a file belongs to."""
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def layer(name):
    return next(i for i, names in enumerate(LAYERS) if name in names)


def imports(file):
    """(units of this package, other packages) that a file imports anywhere in it."""
    inside, outside = set(), set()
    package = ["flowhelm", *file.relative_to(ROOT).parent.parts]
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{origin}.{alias.name}" for alias in node.names] if origin == "flowhelm" else [origin]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            (inside if top == "flowhelm" else outside).add(rest.split(".")[0] if top == "flowhelm" else top)
    return inside - {"", "__version__"}, outside


def test_every_file_has_its_layer():
    assert {unit(f) for f in FILES} <= set().union(*LAYERS)


@EACH
def test_imports_go_down(file):
    mine = unit(file)
    here = layer(mine)
    for other in imports(file)[0] - {mine}:
        assert layer(other) <= here, f"{mine} must not import {other}, which is above it"
        if here in (3, 4):  # a method, an adapter: siblings do not know each other, nor the two layers
            assert layer(other) < 3, f"{mine} must not import {other}, which stands beside it"


def test_there_is_no_cycle():
    graph = {}
    for file in FILES:
        graph.setdefault(unit(file), set()).update(imports(file)[0] - {unit(file)})
    while graph:
        free = {name for name, below in graph.items() if not below & graph.keys()}
        assert free, f"a cycle among {sorted(graph)}"
        graph = {name: below for name, below in graph.items() if name not in free}


MORE = {"train/checkpoint.py": {"safetensors"}, "train/fit.py": {"accelerate"}, "train/coupling.py": {"ot"}}


@EACH
def test_methods_and_what_is_below_them_need_torch_only(file):
    if layer(unit(file)) <= 3:
        allowed = MORE.get(file.relative_to(ROOT).as_posix(), set())
        assert imports(file)[1] - sys.stdlib_module_names <= {"torch", "annotated_types"} | allowed


def names(node):
    """The names that a piece of syntax brings in."""
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, (ast.arg, ast.keyword)):
        yield node.arg
    elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        yield node.name


@EACH
def test_names(file):
    assert "utils" not in file.relative_to(ROOT).as_posix()
    for node in ast.walk(tree(file)):
        assert not {"x0", "x1"} & set(names(node)), f"line {node.lineno}: source or clean, not x0 or x1"
        # extras that a caller of another package passes and nobody reads are named _; entry hands on those of any function
        if (
            isinstance(node, ast.FunctionDef)
            and not node.name.startswith("_")
            and node.args.kwarg
            and file.name not in ("entry.py", "budget.py")
        ):
            assert node.args.kwarg.arg == "_", f"line {node.lineno}: {node.name} must name its options"
