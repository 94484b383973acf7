"""The settings of a steered run, and of the file that it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, model_validator

from ..draw.request import Conditions
from ..models.request import MOST_THREADS, Dtype
from ..options.request import Flag, Request

MOST_STEPS = 100_000


class SteerRequest(Conditions):
    """Pictures that a reward likes."""

    reward: Annotated[list[str], Flag(metavar="[WEIGHT*]NAME[:option=value,...]")] = Field(
        [], description="The reward that the pictures should raise; several are added up."
    )
    held_out: Annotated[list[str], Flag(metavar="[WEIGHT*]NAME[...]")] = Field(
        [], description="A reward that is only reported, never optimised: it shows whether the first one is fooled."
    )
    method: str = Field("fk", description="A method that needs a reward only: see `flowhelm methods`.")
    method_options: dict[str, Any] = Field({}, description="Options of the method: see `flowhelm methods NAME`.")
    budget: int | None = Field(
        None,
        ge=1,
        description="Evaluations of the network per picture; default: 200, or no limit if particles, draws ... are given.",
    )
    steps: int | None = Field(
        None, ge=1, le=MOST_STEPS, description="Steps of the grid; default: what the budget buys."
    )
    path: Literal["linear", "trig", "vp"] | None = Field(
        None,
        description="Path from noise to picture: linear, trig or vp (variance preserving); default: the prior's own.",
    )
    grid: Literal["uniform", "arc"] | None = Field(
        None, description="Times of the steps: uniform, or arc (small first steps); default: the prior's own."
    )
    chains: int | None = Field(
        None, ge=1, description="Independent runs per picture, of which the best is kept; they share the budget."
    )
    count: Annotated[int, Flag(("-n",))] = Field(1, ge=1, description="Pictures (of each class), each steered alone.")
    out: Path | None = Field(None, description="Beginning of the files' names; default: PRIOR.steered.")
    batch: int | None = Field(
        None,
        ge=1,
        description="How many pictures network, decoder and reward take at a time; default: 1 for pipelines.",
    )
    reward_device: str | None = Field(None, description="Device of the rewards; default: that of the prior.")


class SteerSettings(SteerRequest):
    """What a run's file holds: the request, and what the budget has chosen. The same settings on the same machine give the same numbers.

    Of the options of the method, before the allotment those that were given, afterwards all.
    """

    method_options: SerializeAsAny[Request]  # type: ignore[assignment]
    out: str  # type: ignore[assignment]
    threads: int = Field(ge=1, le=MOST_THREADS)
    dtype: Dtype
    reward_device: str
    times: list[Annotated[float, Field(ge=0, le=1)]] | None = None

    @model_validator(mode="before")
    @classmethod
    def _typed(cls, given: Any) -> Any:
        """The options of the method that is named, checked by its own model."""
        if not isinstance(given, dict) or not isinstance(given.get("method"), str):
            return given
        from ... import steer
        from ..options.signature import pick, read

        options = given.get("method_options", {})
        if isinstance(options, Request):
            return given
        if not isinstance(options, dict):
            raise ValueError(f"expected an object of options of {given['method']}, got {options!r}")
        return given | {"method_options": read(pick("method", given["method"], steer.ALL), options)}
