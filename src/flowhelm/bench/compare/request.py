"""What may be set for a benchmark and for a search of presets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from ...app.models.request import DeviceRequest
from ...app.options.request import Flag, Request
from ...known import PHOTOS

Words = Annotated[tuple[str, ...], Flag(metavar="NAME[:option=value,...]")]
Tasks = Annotated[tuple[str, ...], Flag(metavar="TASK")]


class DataRequest(Request):
    """The clean pictures that are measured and restored."""

    data: Path = Field(description="The pictures: a zip archive, a folder, or an .npz of arrays.")
    folder: str = Field("", description="Take only this part of the archive or folder; of an .npz, this array.")
    images: int = Field(20, ge=1, description="How many pictures, in the order of their names.")
    size: int | None = Field(
        None, ge=8, description="Side of the centre crops, in pixels; default: the prior's own size."
    )
    skip: int = Field(0, description="Leave out so many pictures first; below 0: begin so many before the end.")
    spread: bool = Field(False, description="Take pictures evenly spaced by name, not the first ones.")
    protocol: str = Field("pnp_flow", description="The set of tasks: pnp_flow, photographs, defaults or nonlinear.")
    batch: int = Field(4, ge=1, description="How many pictures to restore at a time.")


class TableRequest(Request):
    """How the rows of a benchmark are shown."""

    reference: str | None = Field(
        None, description="Compare with this method, by its label; default: the best baseline."
    )
    by: Literal["psnr", "ssim", "lpips", "features"] = Field(
        "psnr", description="What margins and wins are counted in: psnr, ssim, or a distance, lpips or features."
    )
    decide: bool = Field(
        False,
        description="One line for each task: the default of restore beside the best of all others, with evaluations and seconds.",
    )
    report: Path | None = Field(None, description="Write an HTML report to this file, too.")


class BenchRequest(DataRequest, TableRequest, DeviceRequest):
    """Methods compared: prior x task x method x picture x seed."""

    prior: tuple[str, ...] = Field(
        (PHOTOS,), description="A bundled prior, a weights file or deepinv:NAME; may be given several times."
    )
    task: Tasks = Field(
        (),
        description="A task of the protocol, or OPERATOR:option=value,std=S; several may be given; default: all of the protocol.",
    )
    method: Words = Field((), description="A method; several may be given; default: all.")
    baselines: bool = Field(True, description="Also restore without a prior.")
    steps: int | None = Field(None, ge=1, description="Steps of every method; default: those of its preset, or 50.")
    evaluations: float | None = Field(
        None,
        ge=1,
        description="Give every method as many steps as cost nearest to so many evaluations (one with a gradient counts as three).",
    )
    seconds: float | None = Field(
        None, gt=0, description="Give every method as many steps as take about so long per picture."
    )
    seeds: int = Field(1, ge=1, description="How many seeds, from 0.")
    presets: tuple[Path, ...] = Field(
        (), description="A preset file to look into before those that ship; several may be given."
    )
    defaults: bool = Field(False, description="Use no presets: the methods' own defaults.")
    lpips: Path | None = Field(
        None, description="Measure LPIPS with these weights (flowhelm.bench.compare.perceptual says which)."
    )
    features: Path | None = Field(
        None,
        description="Measure the distance in a classifier's features, too: a file of python -m flowhelm.bench.quality.classifier.",
    )
    retry: bool = Field(False, description="Do again what has failed.")
    out: Path = Field(Path("bench.csv"), description="The rows: a .csv file, or .parquet (a folder).")

    @field_validator("out")
    @classmethod
    def _kept(cls, out: Path) -> Path:
        if out.suffix not in (".csv", ".parquet"):
            raise ValueError(f"{str(out)!r}: rows are .csv or .parquet; name it {out.with_suffix('.csv').name!r}")
        return out

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(each is not None for each in (self.steps, self.evaluations, self.seconds)) > 1:
            raise ValueError("--steps, --evaluations and --seconds exclude one another; give one of them")
        return self

    @property
    def budget(self) -> str:
        """What every method may spend per picture, as a row says it; "" where nothing was said."""
        if self.evaluations is not None:
            return f"evaluations={self.evaluations:g}"
        return f"seconds={self.seconds:g}" if self.seconds is not None else ""


class SearchRequest(DataRequest, DeviceRequest):
    """The few strengths of methods, searched for on pictures held apart."""

    method: Words = Field(min_length=1, description="A method; several may be given. Options that are given here stay.")
    operator: Annotated[str | None, Flag(metavar="NAME[:option=value,...]")] = Field(
        None, description="Search for this operator; default: for all tasks of the protocol."
    )
    std: float | None = Field(None, gt=0, description="With --operator: the noise, with pixel values in [-1, 1].")
    task: Tasks = Field((), description="Search for this task of the protocol; several may be given.")
    images: int = Field(8, ge=1, description="How many pictures, in the order of their names.")
    prior: str = Field(PHOTOS, description="A bundled prior by name, or a weights file.")
    vary: Annotated[tuple[str, ...], Flag(metavar="NAME=LOW:HIGH[:log]|NAME=A|B")] = Field(
        (), description="Search this option only; several may be given."
    )
    trials: int = Field(30, ge=1, description="How many trials in all, those of an interrupted search among them.")
    steps: int | None = Field(None, ge=1, description="Steps of the method; default: 50.")
    evaluations: float | None = Field(
        None, ge=1, description="Instead of --steps: as many steps as cost nearest to so many evaluations, as in bench."
    )
    score: Literal["psnr", "ssim"] = Field(
        "psnr", description="What is made large, on average over the pictures: psnr or ssim."
    )
    seed: int = Field(0, description="Seed of the noise and of the search.")
    out: Path = Field(Path("presets.json"), description="The preset file; other presets in it stay.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.steps is not None and self.evaluations is not None:
            raise ValueError("--steps and --evaluations exclude one another; give one of them")
        if self.operator is not None and self.task:
            raise ValueError("--operator and --task exclude one another; give one of them")
        return self
