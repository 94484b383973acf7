"""The layers of the package: imports go down only, nothing goes round, names are those of the conventions."""

import ast
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import flowhelm

ROOT = Path(flowhelm.__file__).parent
FILES = [f for f in sorted(ROOT.rglob("*.py")) if f != ROOT / "__init__.py"]  # the top is a table of lazy imports
METHODS = ("restore", "steer", "sample", "inverse", "tune", "train", "distil", "edit")
"""Of the core: one file each, never importing one another."""
LAYERS = (
    ("shapes", "path", "rng", "grad", "entry", "known", "interpolant", "adapter", "affordable", "fade", "looks", "clipping"),
    ("flow", "flow_map", "momentum", "policy", "masked", "bijection", "codec", "paired", "measure", "particles"),
    (
        "step", "grids", "fixed_point", "toughness", "inner", "control", "prox", "risk", "likelihood", "adjoint",
        "horizon", "twist", "latent", "solve", "fixed_point", "transition", "guide", "velocity_error", "noise_level",
        "blur_kind", "budget", "cost", "memory", "learning", "multistep",
    ),
    METHODS,
    ("exif", "raster"),
    ("priors", "operators", "metrics", "rewards"),
    ("recipes", "cards", "start", "flaws", "compression"),
    ("app.errors",),
    ("app.run", "app.options", "app.files"),
    ("app.show",),
    ("app.models",),
    ("app.restore", "app.steer", "app.draw", "app.train", "app.tune", "app.distil", "app.edit"),
    ("app.batch",),
    ("bench",),
    ("interfaces",),
    ("__main__",),
)  # fmt: skip
"""From below to above. Within a layer one may import another, but for methods and catalogues, and never in a circle."""
APART = (LAYERS.index(METHODS), LAYERS.index(METHODS) + 2)
BASED = {("sample.hb", "sample.ab"), ("sample.dual_fast", "sample.ab")}
"""Solvers that change the slopes of another, which is this one unless another is given."""
MORE = {
    "adapter.py": {"peft"}, "known.py": {"huggingface_hub"}, "train/checkpoint.py": {"safetensors"},
    "train/fit.py": {"accelerate"}, "train/coupling.py": {"ot"},
}  # fmt: skip
"""What methods import beside torch."""


@cache
def tree(file):
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def module(file):
    """`app.files.atomic`; a package is named by its folder."""
    parts = list(file.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(name):
    """What a layer names: the first part of a module, inside app the first two."""
    return ".".join(name.split(".")[: 2 if name.startswith("app.") else 1])


@cache
def layer(name):
    return next((i for i, rooms in enumerate(LAYERS) if room(name) in rooms), None)


MODULES = {module(f): f for f in FILES}


@cache
def imports(file):
    """(modules of this package, other packages) that a file imports when it runs, anywhere in it; not what only types need."""
    inside, outside = set(), set()
    package = file.relative_to(ROOT).parent.parts
    typing = {n for node in ast.walk(tree(file)) if _only_types(node) for n in ast.walk(node)}
    for node in ast.walk(tree(file)):
        if node in typing:
            continue
        if isinstance(node, ast.Import):
            outside |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            outside.add(str(node.module).split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) + 1 - node.level], *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                name = ".".join([*base, alias.name])
                inside.add(name if name in MODULES else ".".join(base))
    return inside - {"", "__version__", module(file)}, outside


def _only_types(node):
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def told(faults):
    return "\n".join(sorted(set(faults)))


def test_every_file_has_its_layer():
    faults = [f"{name} has no layer" for name in MODULES if name != "app" and layer(name) is None]
    assert not faults, told(faults)


def test_imports_go_down():
    """Also inside app; methods and catalogues do not know one another."""
    faults = []
    for name, file in MODULES.items():
        for other in imports(file)[0]:
            if None in (layer(name), layer(other)) or room(name) == room(other):
                continue
            if layer(other) > layer(name):
                faults.append(f"{name} imports {other}, which is above it")
            elif layer(name) in APART and layer(other) in APART:
                faults.append(f"{name} imports {other}, which stands beside it")
    for name, file in MODULES.items():  # nor does a method know another of its own folder
        for other in imports(file)[0]:
            if (
                room(name) in METHODS
                and room(name) != "train"
                and room(other) == room(name)
                and name != room(name)
                and (name, other) not in BASED
            ):
                faults.append(f"{name} imports {other}, another method")
    assert not faults, told(faults)


def test_there_is_no_circle_of_modules():
    """What the __init__ of a package gathers of its own files does not count."""
    graph = {}
    for name, file in MODULES.items():
        own = f"{name}." if file.name == "__init__.py" else "no package"
        graph[name] = {other for other in imports(file)[0] & MODULES.keys() if not other.startswith(own)}
    faults = []
    while True:
        try:
            TopologicalSorter(graph).prepare()
            break
        except CycleError as error:
            circle = error.args[1][::-1]  # each imports the next one
            faults.append(" -> ".join(circle))
            graph[circle[0]].remove(circle[1])  # and look for the others
    assert not faults, told(faults)


def test_methods_and_what_is_below_them_need_torch_only():
    faults = []
    for name, file in MODULES.items():
        if layer(name) is not None and layer(name) <= LAYERS.index(METHODS):
            allowed = {"torch", "annotated_types"} | MORE.get(file.relative_to(ROOT).as_posix(), set())
            faults += [f"{name} imports {other}" for other in imports(file)[1] - sys.stdlib_module_names - allowed]
    assert not faults, told(faults)


def test_names():
    """No module named utils, no x0 and x1, and no function that hands on options which it does not name."""
    faults = [f"{name}: say what it is, not utils" for name in MODULES if "utils" in name]
    for name, file in MODULES.items():
        for node in ast.walk(tree(file)):
            if {"x0", "x1"} & set(names(node)):
                faults.append(f"{name}, line {node.lineno}: source or clean, not x0 or x1")
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and hands_on(node):
                faults.append(f"{name}, line {node.lineno}: {node.name} must name its options")
    assert not faults, told(faults)


def hands_on(function):
    """Whether it calls another with the **options that it was given. What stands for any function, taking *args, may."""
    given = function.args.kwarg and function.args.kwarg.arg
    calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
    passed = [
        word.value.id for call in calls for word in call.keywords if not word.arg and isinstance(word.value, ast.Name)
    ]
    return bool(given) and not function.args.vararg and given in passed


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
