"""What may be set for a paper's table."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from ...app.models.request import DeviceRequest, Dtype
from ..compare.request import Tasks


class ProtocolRequest(DeviceRequest):
    """A paper's table, with its tasks, noise, steps and settings."""

    paper: Literal["mpc_flow", "pnp_flow", "flower", "flair"] = Field(
        description="Whose table: mpc_flow, pnp_flow, flower or flair."
    )
    prior: str | None = Field(
        None,
        description="The network that the paper used: a converted file (of flair a pipeline). Without it, how to get it is shown.",
    )
    data: Path | None = Field(None, description="The pictures: a zip archive, a folder, or an .npz of arrays.")
    folder: str = Field("", description="Take only this part of the archive or folder; of an .npz, this array.")
    dataset: str | None = Field(
        None,
        description="Which pictures of the paper: celeba, afhq-cat, ffhq or div2k; default: those of the prior's size, or the first.",
    )
    row: tuple[str, ...] = Field((), description="A row of the table, by its name; several may be given; default: all.")
    task: Tasks = Field((), description="A task of the table; several may be given; default: all.")
    images: int | None = Field(
        None, ge=1, description="How many pictures, in the order of their names; default: as many as the paper."
    )
    crop: int | None = Field(
        None,
        ge=8,
        description="Cut out the middle square of so many pixels and scale it to the prior's size; default: as the paper.",
    )
    size: int | None = Field(
        None, ge=8, description="Side of the pictures that a pipeline restores, in pixels; default: the paper's."
    )
    steps: int | None = Field(
        None, ge=1, description="Steps of every row, for a quick look; default: those of the paper."
    )
    batch: int = Field(4, ge=1, description="How many pictures to restore at a time.")
    dtype: Dtype | None = Field(
        None, description="Type of a pipeline's weights: float32, bfloat16 or float16; default: bfloat16 on a GPU."
    )
    lpips: Path | None = Field(
        None, description="Measure LPIPS with these weights (flowhelm.bench.compare.perceptual says which)."
    )
    show: bool = Field(False, description="Only show the table's tasks, settings and published figures.")
    out: Path = Field(Path("protocol.csv"), description="The rows: a .csv file, or .parquet (a folder).")

    @field_validator("out")
    @classmethod
    def _kept(cls, out: Path) -> Path:
        if out.suffix not in (".csv", ".parquet"):
            raise ValueError(f"{str(out)!r}: rows are .csv or .parquet; name it {out.with_suffix('.csv').name!r}")
        return out
