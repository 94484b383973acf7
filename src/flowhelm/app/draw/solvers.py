"""Which solver and which grid: by name with options, or `auto`, by what was measured.

    solver_of("unipc:order=3")        flowhelm.sample.unipc with order 3
    settled(flow, Way(8, "auto"))     the solver and the grid that erred least on that prior with 8 evaluations

`solvers.json` is what `python -m flowhelm.bench.quality.sampling table` writes from its measurements: prior -> evaluations -> solver and
grid that erred least; and "pictures", what drew the best pictures where so few evaluations leave all far from the solution.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from typing import Any, cast

from torch import Tensor

from ... import grids, sample
from ...flow import Flow
from ...masked import Masked
from ...path import linear
from ...priors.grids import stored
from ...priors.pipelines import Pipeline
from ...solve import Solver, integrate
from ...transition import Transition
from ..errors import BadInput
from ..options.signature import function_of
from .request import Drawing

CALLS = {"heun": 2, "midpoint": 2, "rk4": 4, "rk45": 6}
"""Evaluations of a step of the solvers that need more than one."""
GRIDS: tuple[Callable[..., Tensor], ...] = (grids.uniform, grids.shifted, grids.arc, grids.logit)


@dataclass(frozen=True)
class Way:
    """How pictures are drawn from the noise of a seed.

    Attributes:
        steps: of the solver; of `auto` evaluations, of which its solver may take two to a step.
        solver: `auto`, a name with or without options, or any solver or transition.
        grid: None for the prior's own (`auto`: for the one it was measured with).
        reuse: see `guide.reused`; 1 for always. seed: the same one draws the same pictures.
        prior: its name, by which `auto` and `grid="boss"` look up what was found for it; None for the flow's own.
    """

    steps: int = 25
    solver: str | Solver | Transition = "euler"
    grid: str | None = None
    reuse: int = 1
    seed: int = 0
    prior: str | None = None

    @classmethod
    def of(cls, request: Drawing, solver: Solver | Transition | None = None) -> Way:
        """That of a request; `solver`: another than it can name."""
        return cls(
            request.steps, solver or request.solver, request.grid, request.reuse, request.seed, request.prior or None
        )


def settled(flow: Flow, way: Way) -> tuple[str, Solver, Tensor]:
    """What to sample with: in words, the solver, and the times.

    Raises:
        BadInput: a name or an option that there is not, or grids that were not searched for.
    """
    prior, steps, solver, grid = way.prior or str(getattr(flow, "name", "")), way.steps, way.solver, way.grid
    if isinstance(flow, Masked):
        words = "unmasking" if solver == "auto" else solver
        if isinstance(words, str) and words.partition(":")[0] not in {each.__name__ for each in sample.TOKENS}:
            raise BadInput(
                f"--solver {words} follows a flow, and the prior {prior!r} is over tokens; take unmasking, or leave it out"
            )
        solver = words
    if callable(solver):
        words, made = getattr(solver, "__name__", "a solver of your own"), of_any(solver)
    else:
        if solver == "auto":
            words, grid = auto(flow, prior, steps, grid)
            steps //= CALLS.get(words.partition(":")[0], 1)
        else:
            words = solver
        made = solver_of(words)
        if not isinstance(flow, Masked) and words.partition(":")[0] in {each.__name__ for each in sample.TOKENS}:
            raise BadInput(f"--solver {words} is for priors over tokens, and {prior!r} is a flow; leave it out")
    return words, made, times_of(flow, prior, steps, grid, words.partition(":")[0])


def auto(flow: Flow, prior: str, steps: int, grid: str | None) -> tuple[str, str | None]:
    """The words of the solver and of the grid: those of the nearest number of evaluations that was measured for the prior.

    At 4 evaluations, if no grid is asked for, those that drew the best pictures: two steps of the midpoint rule on three priors of four.
    Beyond what was measured, and of another prior: UniPC on the velocity (up to 4 steps DPM-Solver++ over log(1 + alpha / sigma), best of
    all measured priors there); on paths that are not linear UniPC on the clean estimate over log(alpha / sigma). For pipelines Euler,
    the steps that they take themselves and that models of few steps were trained for. For a student what it was trained for.
    """
    if isinstance(flow, Pipeline):
        return "euler", grid
    if own := getattr(flow, "about", {}).get("solver"):  # of a student
        return own, grid
    known = measured().get(prior, {})
    drawn = known.get(str(steps), {}).get("pictures")
    if drawn and grid is None:
        return drawn["solver"], drawn["grid"]
    known = {n: row for n, row in known.items() if "solver" in row}
    if any(int(n) >= steps for n in known):
        best = known[min(known, key=lambda n: abs(math.log(int(n) / steps)))]
        return best["solver"], grid or best["grid"]
    if flow.path is not linear:
        return "unipc:variable=snr,rule=bh2", grid
    return ("unipc" if steps > 4 else "dpm:variable=log"), grid


@cache
def measured() -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    return json.loads((files(__package__) / "solvers.json").read_text("utf-8"))  # type: ignore[no-any-return]


def solver_of(words: str) -> Solver:
    """A solver by name, with options: `dpm:order=3`, `dual_fast:base=unipc,strength=0.2`."""
    try:
        return function_of((*sample.ALL, *sample.TOKENS), words)
    except ValueError as error:
        raise BadInput(f"--solver: {error}") from None


def of_any(solver: Solver | Transition) -> Solver:
    """A transition as a solver; a solver as it is."""
    whole = "times" in inspect.signature(solver).parameters
    return cast(Solver, solver) if whole else partial(integrate, transition=cast(Transition, solver))


def times_of(flow: Flow, prior: str, steps: int, grid: str | None, solver: str) -> Tensor:
    """The grid by name: own, uniform, shifted:shift=2, arc, logit, or boss, the one that was searched for the prior."""
    if grid is None or grid == "own":
        return flow.times(steps)
    if grid == "boss":
        try:
            return stored(prior, steps, solver)
        except ValueError as error:
            raise BadInput(f"--grid boss: {error}") from None
    try:
        return function_of(GRIDS, grid)(steps)  # type: ignore[no-any-return]
    except ValueError as error:
        raise BadInput(f"--grid: {error}") from None
