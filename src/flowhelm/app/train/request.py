"""What may be set for a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from ..models.request import DeviceRequest


class TrainRequest(DeviceRequest):
    """A prior trained by a recipe, or trained on."""

    recipe: str = Field(
        description="What is trained on which pictures: photos, fashion, aerial, animals, digits, fashion-tarflow, moving-digits, "
        "fashion_codes, fashion_tokens, blind or codec."
    )
    recipe_options: dict[str, Any] = Field({}, description="Options of the recipe, the files of its data among them.")
    out: Path | None = Field(None, description="Folder of the run; default: runs/RECIPE.")
    steps: int | None = Field(None, ge=1, description="Steps of the optimiser; default: the recipe's.")
    rate: float | None = Field(None, gt=0, description="Highest learning rate; default: the recipe's.")
    minutes: float = Field(3.0, ge=0, description="Minutes between two checkpoints.")
    bf16: bool = Field(False, description="Compute in bfloat16, on a GPU or a processor that has it.")
    compiled: bool = Field(False, description="Compile the network with torch.compile.")
    tensorboard: bool = Field(False, description="Write a log for TensorBoard, too.")
    start: str | None = Field(
        None, description="Begin from these weights: a bundled prior's name or a .safetensors file."
    )
