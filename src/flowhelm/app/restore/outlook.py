"""How long a run will take, and how much memory: said before it starts, if that is long."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial

import torch

from ..models.cost import cost
from ..models.fitting import GIB, Settings, Task
from .problem import Problem

LONG = 10.0
"""Seconds; of a shorter run nothing is said."""
MOST = 1e6


@torch.no_grad()
def outlook(problem: Problem) -> str:
    """A sentence, or nothing. One evaluation of the network and one application of the operator are timed."""
    settings, measurement, times = problem.settings, problem.observed.measurement, problem.times
    method = problem.method.func if isinstance(problem.method, partial) else problem.method
    flow, rows = problem.flow, len(problem.noise)
    try:
        linear = measurement.linear and flow.pixels
        found = cost(method, settings.method_values, len(times) - 1, linear_=linear, most=MOST, path=flow.path)
    except ValueError:  # the method says it when it is its turn
        return ""
    x = torch.zeros(rows, *flow.shape, device=measurement.y.device)
    evaluation = _seconds(lambda: flow.velocity(x, times[0]), x.device) / rows
    picture = torch.zeros(1, *problem.observed.shape, device=x.device)
    application = _seconds(lambda: measurement.operator.A(picture), x.device)
    seconds = evaluation * (found.evaluations + 2 * found.backward) + application * found.applications
    if seconds < LONG:
        return ""
    if found.evaluations >= MOST:
        return "this takes very long: a step of it has thousands of evaluations of the network"
    memory = ""
    with suppress(Exception):  # what cannot be walked without data
        options = settings.method_options.stored(), settings.operator_options.stored()
        task = Task.of(flow, settings.method, options[0], settings.operator, options[1], rows, len(times) - 1)
        memory = f" and {task.footprint(Settings()).peak / GIB:.1f} GiB of memory"
    return f"this takes about {_long(seconds)}{memory} ({found.evaluations:.0f} evaluations of the network)"


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """Of a call; of a second one where the first did not take long, since it may have set things up."""

    def once() -> float:
        began = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    first = once()
    return min(first, once()) if first < 1 else first


def _long(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return (
        f"{seconds / 60:.0f} minutes"
        if seconds < 7200
        else f"{timedelta(seconds=seconds) / timedelta(hours=1):.1f} hours"
    )
