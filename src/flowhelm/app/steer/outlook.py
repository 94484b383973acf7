"""How long a steered run will take, and how much memory: said before it starts, if that is long."""

from __future__ import annotations

import torch

from ..models import outlook as told
from ..models.fitting import Task
from .problem import Problem, along, bound
from .request import SteerSettings


@torch.no_grad()
def outlook(problem: Problem, settings: SteerSettings, pictures: int) -> str:
    """A sentence, or nothing. One evaluation of the network and one reward are timed; what the budget buys was counted before."""
    label = next(iter(settings.classes), None)
    flow = along(bound(problem.flow, settings, label), settings)
    rows = min(problem.rows, problem.batch)
    x = torch.zeros(rows, *flow.shape, device=settings.device)
    t = torch.tensor((settings.times or [0.0])[0], dtype=torch.float64)
    often = pictures * (problem.costs.evaluations + 2 * problem.costs.backward)
    looks = pictures * problem.costs.rewards
    each = told.seconds_of(lambda: flow.velocity(x, t), x.device, often / rows) / rows
    reward = problem.rewards(label).total
    look = told.seconds_of(lambda: reward(flow.decode(x[:1])), x.device, looks)

    def task() -> Task:  # what is not differentiated holds what a drawing of as many rows does
        steps = len(settings.times or [0, 1]) - 1
        if not problem.costs.backward:
            return Task.of(flow, "sample", {}, "denoise", {}, rows, steps)
        return Task.of(flow, settings.method, settings.method_options.stored(), "denoise", {}, problem.rows, steps)

    return told.sentence(each * often + look * looks, pictures * problem.costs.evaluations, task)
