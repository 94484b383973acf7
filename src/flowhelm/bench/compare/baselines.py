"""Restorations without a prior, by name: what a method has to beat."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ... import operators
from ...operators import baseline
from .protocols import Problem, Task

NAMES = ("degraded", "Wiener", "bicubic", "nearest", "biharmonic", "rescaled")


def baselines(task: Task, problem: Problem) -> dict[str, Callable[[], Tensor]]:
    """Those that fit the task, each a function without arguments that computes it."""
    y, shape = problem.y, problem.shown(problem.clean).shape
    found: dict[str, Callable[[], Tensor]] = {}
    if y.y.shape == shape:
        found["degraded"] = lambda: y.y
    if task.builder in (operators.denoise, operators.deblur, operators.motion) and shape == problem.clean.shape:
        found["Wiener"] = lambda: baseline.wiener(y.y, y.operator, y.std)
    if task.builder is operators.superres and task.options.get("filter") != "decimate":
        found["bicubic"] = lambda: baseline.bicubic(y.y, task.options.get("factor", 2))
    if task.builder is operators.saturate:
        found["rescaled"] = lambda: y.y / task.options.get("gain", 2.0)
    known = _known(task, problem)
    if known is not None:
        spread, mask = known
        found["nearest"] = lambda: baseline.nearest(spread, mask)
        found["biharmonic"] = lambda: baseline.biharmonic(spread, mask)
    return found


def _known(task: Task, problem: Problem) -> tuple[Tensor, Tensor] | None:
    """The measured pixels in their places, and where these are, for operators that only keep some."""
    y = problem.y
    if task.builder in (operators.inpaint, operators.box, operators.random_mask, operators.demosaic):
        return y.y, y.operator.mask[0]  # type: ignore[attr-defined]  # deepinv's inpainting physics
    if task.builder is operators.superres and task.options.get("filter") == "decimate":
        factor = task.options.get("factor", 2)
        spread, mask = problem.clean.new_zeros(problem.clean.shape), problem.clean.new_zeros(problem.clean.shape[1:])
        spread[..., ::factor, ::factor], mask[..., ::factor, ::factor] = y.y, 1
        return spread, mask
    return None
