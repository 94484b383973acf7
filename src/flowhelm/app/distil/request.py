"""What may be set for a distillation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from ..models.request import DeviceRequest


class DistilRequest(DeviceRequest):
    """A student of a prior, which draws in few calls."""

    prior: str = Field(description="The teacher: a bundled prior by name, or a .safetensors file of `flowhelm train`.")
    method: str = Field(
        "arc_flow",
        description="arc_flow, pi_flow, free_flow, mean_flow, mdt_dist, consistency, reflow, straighten or flow_turbo; default: arc_flow.",
    )
    method_options: dict[str, Any] = Field({}, description="Options of the method's loss.")
    steps: int = Field(2, ge=1, le=64, description="Calls of the student to a picture.")
    updates: int = Field(1000, ge=1, description="Updates of the student, in the last stage.")
    reflow_updates: int | None = Field(
        None,
        ge=0,
        description="Of reflow: updates that make the paths straight before the last stage; default: as many.",
    )
    rows: int = Field(32, ge=1, le=4096, description="Pictures of an update.")
    rate: float = Field(1e-3, gt=0, description="Highest learning rate.")
    rank: int = Field(32, ge=1, le=1024, description="Rank of the student's adapter.")
    way_up: bool = Field(
        True,
        description="Train the layers of the way up whole, where no adapter fits; without them, --rank 3 of arc_flow trains under 5 %.",
    )
    parts: int = Field(
        8, ge=2, le=256, description="Of arc_flow and pi_flow: velocities of a profile, means of a mixture."
    )
    average: float = Field(0.99, ge=0, lt=1, description="Decay of the moving average of the weights.")
    scale: float | None = Field(
        None, description="Guidance of the teacher, which the student has inside; default: the prior's."
    )
    data: Path | None = Field(
        None,
        description="Pictures for methods that read some, as the prior's recipe takes them; default: the teacher draws them.",
    )
    pairs: int = Field(2048, ge=1, description="Pictures that the teacher draws, where it has to draw some.")
    pair_steps: int = Field(12, ge=1, description="Steps of UniPC that draw each of them.")
    minutes: float = Field(3.0, ge=0, description="Minutes between two checkpoints.")
    seed: int = Field(0, description="Of every draw.")
    out: Path | None = Field(None, description="Folder of the run; default: runs/PRIOR-METHOD-STEPS.")
