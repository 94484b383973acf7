"""The settings of a batch, beside those of a restoration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le
from pydantic import Field, field_validator

from ..files.names import below
from ..models.request import ModelRequest
from ..options.request import Flag, Request
from ..restore.request import MOST_ROWS, FileRequest, Restoration


class Many(Request):
    """Settings that only several results have."""

    samples: int = Field(1, ge=1, description="How many results of each picture, each with a seed of its own.")
    rows: Literal["auto"] | Annotated[int, Ge(1), Le(MOST_ROWS)] = Field(
        1, description="How many pictures the network takes at a time: a number, or auto."
    )
    names: Annotated[str | None, Flag(metavar="PATTERN")] = Field(
        None,
        description="Pattern of the names of a batch's results, with {path}, {stem}, {seed} and {sample}; its suffix, such as "
        ".jpg, sets the format; default: {path}.restored.png.",
    )
    range: Annotated[tuple[float, float] | None, Flag(metavar="BLACK,WHITE")] = Field(
        None, description="The values of a stack (.npy, .npz, .h5) that mean black and white, such as 0,1."
    )

    @field_validator("names")
    @classmethod
    def _pattern(cls, names: str | None) -> str | None:
        if names is None:
            return None
        unknown = set(re.findall(r"\{(.*?)\}", names)) - {"path", "stem", "seed", "sample"}
        if unknown or not {"{path}", "{stem}"} & set(re.findall(r"\{.*?\}", names)):
            raise ValueError(f"expected {{path}} or {{stem}}, and perhaps {{seed}} and {{sample}}, got {names!r}")
        from ..files.atomic import FORMATS  # which needs torch

        if Path(names).suffix.lower() not in FORMATS:
            raise ValueError(f"{names!r} has no known picture suffix; end it with one of {' '.join(FORMATS)}")
        below(re.sub(r"\{(.*?)\}", r"\1", names))
        return names


class Spread(Request):
    """How a batch is spread over workers; its results do not depend on it."""

    ray: Annotated[str | None, Flag(metavar="WHERE")] = Field(
        None,
        description="Spread a batch over Ray workers: local (starts Ray for this batch), auto (a Ray that runs, else local) or an address.",
    )
    workers: int | None = Field(
        None, ge=1, description="Number of Ray workers; default: one for each GPU, or for each --cores-per-worker."
    )
    cores_per_worker: int = Field(1, ge=1, description="CPU cores, and threads, of each Ray worker.")
    retry: bool = Field(False, description="Try the failed pictures of a batch again, even if nothing has changed.")
    dry_run: bool = Field(
        False, description="Print the description of the batch and what is left to do; write nothing."
    )


class BatchRequest(Many, Restoration, FileRequest, ModelRequest):
    """Many pictures, each as if it were alone."""

    inputs: str | list[str] = Field(
        description="The pictures: a folder (those right in it), a file, a glob such as photos/**/*.png, or a list of these."
    )
    out: str | None = Field(
        None, description="Folder for the results; default, for one folder of inputs: its name with .restored."
    )
    seeds: int | list[int] = Field(
        [0],
        description="Seeds of the batch; a picture's own comes from one of these and its name. With several, each picture is "
        "restored once for each.",
    )
    schema_: str | None = Field(None, alias="$schema", exclude=True, description="For editors; not read.")

    @property
    def pictures(self) -> list[str]:
        return [self.inputs] if isinstance(self.inputs, str) else self.inputs

    @property
    def own_seeds(self) -> list[int]:
        return [self.seeds] if isinstance(self.seeds, int) else self.seeds
