"""What signatures say of shapes is true: every call of the core is looked at while every method runs."""

import importlib
import inspect
import pkgutil
import re
import sys
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

import flowhelm
from flowhelm import Noise, cards, guide, integrate, restore, run, sample, shapes, steer, transition
from flowhelm.bench.contract import laws
from flowhelm.bench.contract.world import IMAGE

NAMES = {"State", "Image", "PerSample", "Time", "Times"}
ROWS = {"State", "Image", "PerSample"}
CORE = tuple(
    f"flowhelm.{m.name}" for m in pkgutil.iter_modules(flowhelm.__path__) if not m.ispkg and m.name != "__main__"
)
FOLDERS = (restore, steer, sample, transition, guide)


def functions():
    """Every function and method of the core and of the methods, as it was written, by its code."""
    names = [*CORE]
    for folder in FOLDERS:
        names += [f"{folder.__name__}.{m.name}" for m in pkgutil.iter_modules(folder.__path__)]
    found = {}
    for name in names:
        module = importlib.import_module(name)
        for each in vars(module).values():
            members = vars(each).values() if inspect.isclass(each) and each.__module__ == name else (each,)
            for member in members:
                if inspect.isfunction(getattr(member, "__func__", member)):
                    plain = inspect.unwrap(getattr(member, "__func__", member))
                    if plain.__module__ == name:
                        found[plain.__code__] = plain
    return found


FUNCTIONS = functions()


def wrong(kind: str, value: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is not what its name says, for states of this shape."""
    if kind in ("State", "Image"):
        return value.shape[1:] != (shape if kind == "State" else IMAGE)
    if kind == "PerSample":
        return value.ndim != 1
    inside = bool(((value >= 0) & (value <= 1)).all())
    if kind == "Times":
        return value.ndim != 1 or value.dtype != torch.float64 or not inside
    return value.ndim > 1 or not inside or (value.ndim == 0 and value.dtype != torch.float64)


@contextmanager
def watched(shape: tuple[int, ...]):
    """Notes every call whose tensors are not what the signature says, and counts those that are."""
    faults, seen = set(), set()

    def look(function, values):
        said = {name: kind for name, kind in function.__annotations__.items() if kind in NAMES and name in values}
        rows = set()
        for name, kind in said.items():
            value = values[name]
            if not isinstance(value, Tensor):
                continue
            seen.add(kind)
            if wrong(kind, value, shape):
                faults.add(f"{function.__module__}.{function.__qualname__}: {name} is no {kind}: {tuple(value.shape)}")
            if kind in ROWS and value.ndim:
                rows.add(len(value))
        if len(rows) > 1:
            faults.add(f"{function.__module__}.{function.__qualname__}: rows {sorted(rows)}")

    def profile(frame, event, argument):
        function = FUNCTIONS.get(frame.f_code)
        if function is not None and event == "call":
            look(function, frame.f_locals)
        elif function is not None and event == "return" and isinstance(argument, Tensor):
            look(function, {"return": argument})

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield faults, seen
    finally:
        sys.setprofile(before)


def test_shapes_of_a_method(method, flows, y):
    # of a prior with a decoder a state is no picture
    flow = flows["pixels" if cards.pixels_only(getattr(method, "func", method)) else "latent"]
    with watched(flow.shape) as (faults, seen):
        laws.steps(method, flow, y)
    assert not faults
    assert {"State", "Time", "Times", "Image"} <= seen


@pytest.mark.parametrize("move", transition.ALL, ids=lambda move: move.__name__)
def test_shapes_of_a_move(flows, move):
    flow = flows["pixels"]
    with watched(flow.shape) as (faults, seen):
        run(integrate(flow, flow.source(Noise(0, 3)), flow.times(4)[1:], transition=move, noise=Noise(1, 3)))
    assert not faults
    assert seen >= {"State", "Time", "Times"}


def test_a_wrong_shape_is_seen(flows):
    flow = flows["pixels"]
    with watched(flow.shape) as (faults, _):
        flow.velocity(torch.zeros(3, 16), flow.times(2)[1])
        flow.times(2)
        flow.velocity(torch.zeros(3, *IMAGE), torch.tensor(0.5))
    assert any("x is no State" in fault for fault in faults)
    assert any("t is no Time" in fault for fault in faults)


@pytest.mark.parametrize(
    "function", [*restore.ALL, *steer.ALL, *sample.ALL, *transition.ALL], ids=lambda function: function.__name__
)
def test_help_names_the_shapes(function):
    said = {name: each.annotation for name, each in inspect.signature(function).parameters.items()}
    assert said["x"] == "State"
    assert said.get("times", "Times") == "Times"
    assert said.get("t", "Time") == "Time"


def test_names_are_plain_tensors_and_explained():
    assert all(getattr(shapes, name) is Tensor for name in NAMES)
    source = inspect.getsource(shapes)
    assert {*re.findall(r'^(\w+) = Tensor\n"""', source, re.M)} == NAMES
