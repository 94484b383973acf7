"""How long a restoration will take, and how much memory: said before it starts, if that is long."""

from __future__ import annotations

from functools import partial

import torch

from ...cost import cost
from ...flow import Flow, NetFlow
from ...guide.tiled import Tiled
from ...masked import Masked
from ..models import outlook as told
from ..models.fitting import Task
from .problem import Problem

MOST = 1e6
CROP = 512
"""Pixels of a side: a network that looks no further than its reach is timed on so much of a large picture, so that the time of a
restoration by one evaluation is not spent twice."""


@torch.no_grad()
def outlook(problem: Problem) -> str:
    """A sentence, or nothing. One evaluation of the network and one application of the operator are timed."""
    settings, measurement, times = problem.settings, problem.observed.measurement, problem.times
    method = problem.method.func if isinstance(problem.method, partial) else problem.method
    flow, rows = problem.flow, len(problem.noise)
    if isinstance(flow, Masked):  # whose methods the count of evaluations does not know
        return ""
    try:
        linear = measurement.linear and flow.pixels
        found = cost(method, settings.method_values, len(times) - 1, linear_=linear, most=MOST, path=flow.path)
    except ValueError:  # the method says it when it is its turn
        return ""
    x = torch.zeros(1, *flow.shape, device=measurement.y.device)
    often = found.evaluations + 2 * found.backward
    part = x[..., :CROP, :CROP] if local(flow) else x
    parts = x.numel() / part.numel()
    evaluation = told.seconds_of(lambda: flow.velocity(part, times[0]), x.device, often * parts) * parts
    picture = torch.zeros(1, *problem.observed.shape, device=x.device)
    application = told.seconds_of(lambda: measurement.operator.A(picture), x.device, found.applications)
    seconds = evaluation * often + application * found.applications
    if seconds >= told.LONG and found.evaluations >= MOST:
        return "this takes very long: a step of it has thousands of evaluations of the network"

    def task() -> Task:
        options = settings.method_options.stored(), settings.operator_options.stored()
        return Task.of(flow, settings.method, options[0], settings.operator, options[1], rows, len(times) - 1)

    return told.sentence(seconds, found.evaluations, task)


def local(flow: Flow) -> bool:
    """Whether a piece of a state is a state: of a network that looks no further than its reach."""
    return isinstance(flow, Tiled) or (isinstance(flow, NetFlow) and hasattr(flow.net, "reach"))
