"""What may be set for a prior's fine-tuning towards a reward."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ..draw.request import Conditions
from ..options.request import Flag


class AlignRequest(Conditions):
    """An adapter of a prior, trained so that a reward likes its pictures."""

    reward: Annotated[list[str], Flag(metavar="[WEIGHT*]NAME[:option=value,...]")] = Field(
        [], description="What the pictures are trained towards; several are added up."
    )
    held_out: Annotated[list[str], Flag(metavar="[WEIGHT*]NAME[...]")] = Field(
        [], description="A reward that is watched and never trained on; the run stops when it falls."
    )
    method: str = Field("vgg_flow", description="How: see `flowhelm methods`; default: vgg_flow.")
    method_options: dict[str, Any] = Field({}, description="Options of the method: see `flowhelm methods NAME`.")
    rank: int = Field(8, ge=1, le=1024, description="Rank of the adapter.")
    targets: Annotated[list[str], Flag(("--target",))] = Field(
        [],
        description="End of the names of layers to adapt, such as to_q; may be given several times; default: attention, else all.",
    )
    rate: float = Field(1e-3, gt=0, description="Learning rate of AdamW.")
    rows: int = Field(32, ge=1, le=4096, description="Pictures of an update.")
    updates: int = Field(200, ge=1, description="Updates of the adapter.")
    budget: int | None = Field(
        None,
        ge=1,
        description="Evaluations of the network, after which the run ends, checks not counted; default: no limit.",
    )
    average: float = Field(
        0.9,
        ge=0,
        lt=1,
        description="Decay of the moving average of the weights, which is what is drawn from and written.",
    )
    check_every: int = Field(
        20,
        ge=1,
        description="Updates between two checks, which draw the same pictures again, measure them and write the adapter.",
    )
    checked: int = Field(64, ge=2, le=4096, description="Pictures of a check.")
    check_steps: int = Field(20, ge=1, description="Steps of the solver that draws them.")
    least_diversity: float = Field(
        0.5, ge=0, le=1, description="Stop when the pictures differ by less than this share of what the prior's do."
    )
    patience: int = Field(
        2, ge=1, description="Stop when the held-out reward is worse than it was at first in so many checks running."
    )
    minutes: float = Field(3.0, ge=0, description="Minutes between two checkpoints.")
    tensorboard: bool = Field(False, description="Write a log for TensorBoard, too.")
    reward_device: str | None = Field(None, description="Where the rewards compute; default: where the prior does.")
    out: Path | None = Field(None, description="Folder of the run; default: runs/PRIOR-METHOD.")
