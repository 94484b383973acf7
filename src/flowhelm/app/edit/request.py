"""What may be set for the editing of a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ..draw.request import Classes, Conditions
from ..options.request import Flag


class EditRequest(Conditions):
    """A photograph, drawn again as a prior draws it that is told something else."""

    photo: Path = Field(description="The picture. It is cropped and scaled to the size of the prior's pictures.")
    prior: str = Field(
        "aerial",
        description="The prior: a bundled one that knows classes (see `flowhelm priors`), a .safetensors file, or a diffusers pipeline.",
    )
    classes: Classes = Field([], description="The class that a bundled prior should show.")
    source_class: Annotated[str | None, Flag(("--from-class",))] = Field(
        None, description="The class that the picture shows; default: not said."
    )
    source_prompt: Annotated[str | None, Flag(("--from-prompt",))] = Field(
        None, description="What the picture shows, for a prior that takes a --prompt; default: not said."
    )
    method: Literal["flow_edit", "flow_opt_edit", "inversion", "sdedit", "stsl_edit"] = Field(
        "flow_edit",
        description="How: flow_edit moves the picture by the difference of two velocities; flow_opt_edit goes back to noise and moves that "
        "until the result is near the picture; inversion is its first result; sdedit adds noise and draws again; stsl_edit is "
        "inversion, held to the picture and led away from what it shows.",
    )
    method_options: dict[str, Any] = Field({}, description="Options of the method: see `flowhelm methods NAME`.")
    steps: int = Field(25, ge=2, le=10_000, description="Steps of the whole way from noise; part of them is left out.")
    keep: float = Field(
        0.3,
        ge=0,
        lt=1,
        description="Share of the steps that is left out at the start: the higher, the more of the picture is kept.",
    )
    out: Path | None = Field(None, description="The result; default: NAME.edited.png beside the picture.")
