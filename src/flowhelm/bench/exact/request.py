"""What may be set for a calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ...app.models.request import DeviceRequest
from ...app.options.request import Untyped


class CalibrateRequest(DeviceRequest):
    """A method held against truths that are drawn from the prior itself."""

    method: Annotated[str, Untyped()] = Field(description="A method that restores, or exact, a control.")
    method_options: Annotated[dict[str, Any], Untyped()] = Field({}, description="Options of the method.")
    operator_options: Annotated[dict[str, Any], Untyped()] = Field({}, description="Options of the operator.")
    operator: str = Field(
        "random_mask", description="The operator that the truths are measured with: see `flowhelm operators`."
    )
    prior: str = Field(
        "exact", description="The prior: exact (a known mixture), a bundled prior, or a .safetensors file."
    )
    truths: int = Field(
        64, ge=20, description="How many truths to draw from the prior; more of them see smaller faults."
    )
    samples: int = Field(
        19,
        ge=4,
        description="How many samples of each truth; with 19, 90 % of the truths lie between the extreme ones.",
    )
    steps: int = Field(20, ge=1, description="Steps of the method.")
    std: float = Field(0.1, gt=0, description="Noise of the measurements, with pixel values in [-1, 1].")
    size: int | None = Field(
        None, ge=4, description="Side of the pictures; default: 8 for exact, else the prior's own, at most 32."
    )
    seed: int = Field(0, description="Seed of everything that is drawn.")
    out: Path = Field(Path("calibration"), description="Name of the results, without suffix.")
