"""Grids that were searched for a prior, kept in a file beside its weights: `fashion.grids.json` beside `fashion.safetensors`.

times = stored("fashion", 8)          # the best grid of 8 steps that `flowhelm grids fashion` has found
final = run(integrate(flow, x, times))
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from .bundled import weights

MOST = 1 << 20
"""Bytes of a file that is read."""


class Candidate(BaseModel):
    """A grid and how far it ends from the fine solution: the mean over held-out noises of the root mean square over pixels.

    Attributes:
        times: from 0 to 1, rising. half: half of the error's 95 % interval.
        margin: over the shifted grid on the same noises, as a share of its error (below 0 is better); margin_half: half its interval.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    times: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(min_length=2, max_length=1001)
    error: float = Field(ge=0)
    half: float = Field(ge=0)
    margin: float
    margin_half: float = Field(ge=0)

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if (
            self.times[0] != 0
            or self.times[-1] != 1
            or any(a >= b for a, b in zip(self.times, self.times[1:], strict=False))
        ):
            raise ValueError("expected times that rise from 0 to 1")
        return self


class Kept(BaseModel):
    """The grid of one number of steps: the name of the best candidate, chosen on other noises than those that it was measured on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    best: str
    candidates: dict[str, Candidate]

    @model_validator(mode="after")
    def _there(self) -> Self:
        if self.best not in self.candidates or len({len(c.times) for c in self.candidates.values()}) != 1:
            raise ValueError("expected the best among the candidates, and as many times of each")
        return self


class Searched(BaseModel):
    """What was found for one solver: steps -> grids. `made` says how: size, guidance, seed, numbers of noises."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    made: dict[str, str | int | float | None]
    steps: dict[Annotated[int, Field(ge=1, le=1000)], Kept]

    @model_validator(mode="after")
    def _counted(self) -> Self:
        for count, kept in self.steps.items():
            if len(kept.candidates[kept.best].times) != count + 1:
                raise ValueError(f"expected {count + 1} times for {count} steps")
        return self


class Grids(BaseModel):
    """The file: of which weights, and what was found for each solver."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prior: str
    sha256: str
    solvers: dict[str, Searched]


def place(prior: str | Path) -> Path:
    """Where the grids of a prior are: beside its weights."""
    return weights(prior).with_suffix(".grids.json")


def read(file: Path) -> Grids:
    """A file of grids.

    Raises:
        ValueError: none there, or another kind of file.
    """
    remedy = "make it with flowhelm grids PRIOR --out FILE"
    try:
        with open(file, "rb") as handle:
            return Grids.model_validate_json(handle.read(MOST))
    except FileNotFoundError:
        raise ValueError(f"grids: {str(file)!r} does not exist; {remedy}") from None
    except OSError as error:
        raise ValueError(f"grids: {str(file)!r} cannot be read ({error.strerror}); {remedy}") from None
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        where = ".".join(map(str, wrong["loc"]))[:100]
        raise ValueError(
            f"grids: {str(file)!r} is no file of grids ({f'{where}: ' if where else ''}{wrong['msg']}); {remedy}"
        ) from None


def stored(prior: str | Path, steps: int, solver: str = "euler") -> Tensor:
    """The best grid of so many steps that was found for a prior: `(steps + 1,)` float64 on the CPU.

    Args:
        prior: a bundled one by name, or the path of its weights. solver: by which the grids were compared.

    Raises:
        ValueError: no grids beside the prior's weights, or none of this solver and number of steps.
    """
    file = place(prior)
    found = read(file).solvers
    if solver not in found or steps not in found[solver].steps:
        there = ", ".join(f"{name} {'/'.join(map(str, sorted(of.steps)))}" for name, of in found.items()) or "none"
        raise ValueError(
            f"grids: expected a solver and steps that were searched for {str(prior)!r} ({there}), got {solver} {steps}; choose one of "
            f"these, or search with flowhelm grids {prior} --solver {solver} --steps {steps}"
        )
    kept = found[solver].steps[steps]
    return torch.tensor(kept.candidates[kept.best].times, dtype=torch.float64)
