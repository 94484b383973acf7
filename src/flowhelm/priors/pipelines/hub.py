"""Where a pipeline's files are, here or on the hub, and what it consists of. What can go wrong is said in one sentence."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...known import PICKLES, fetched, refuse
from ...known import pipeline as named
from ...known import reachable as reachable
from .families import named_family

NETWORK = re.compile(r"(unconditional_)?(transformer|unet)(_\d)?")
"""Names of a pipeline's networks."""


def folder_of(model: str | Path) -> Path | None:
    """The folder of a local pipeline; None for a name of the hub.

    Raises:
        ValueError: neither.
    """
    place = Path(model)
    if place.is_dir():
        if not (place / "model_index.json").is_file():
            raise ValueError(
                f"model {str(model)!r}: the folder has no model_index.json; expected a whole pipeline as diffusers' "
                "save_pretrained writes it, with transformer or unet, vae and text encoders beside that file"
            )
        return place
    if not named(model):
        raise ValueError(
            f"model {str(model)!r}: expected a folder with model_index.json, or a name of the hub such as 'org/name'"
        )
    return None


def index_of(model: str | Path, folder: Path | None) -> dict[str, Any]:
    """What the pipeline consists of; the family is known."""
    path = folder / "model_index.json" if folder else fetched(str(model))
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        name = index["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"model {str(model)!r}: its model_index.json cannot be read ({first_line(error)})") from None
    named_family(name if isinstance(name, str) else str(name))  # a list is code of the model's own
    return index


def cached(model: str) -> Path:
    """The folder of a pipeline that was loaded before: its own, or the hub's in the cache. ValueError if there is none."""
    folder = folder_of(model)
    if folder is not None:
        return folder
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(model, "model_index.json", local_files_only=True)).parent
    except Exception as error:
        refuse(model, error)


def downloaded(model: str, index: Mapping[str, Any], variant: str | None, quantize: str | None) -> Path:
    """Where a pipeline of the hub lies after everything that is needed of it was fetched."""
    from diffusers import DiffusionPipeline

    left: dict[str, Any] = {name: None for name in unused(index)}
    if quantize and quantize.endswith(".gguf"):
        left |= {networks(index)[0]: None}
    try:
        with quiet():
            return Path(DiffusionPipeline.download(model, use_safetensors=True, variant=variant, **left))
    except Exception as error:
        refuse(model, error)


def unused(index: Mapping[str, Any]) -> list[str]:
    """Parts that flowhelm never asks: the network is called, not the pipeline."""
    return [name for name in ("safety_checker", "feature_extractor", "image_encoder") if name in index]


def networks(index: Mapping[str, Any]) -> list[str]:
    """The first is the one that a .gguf file holds."""
    return sorted(name for name in index if NETWORK.fullmatch(name) and index[name][0])


def no_pickles(model: str | Path, folder: Path, index: Mapping[str, Any]) -> None:
    for name in index:
        files = [p for p in (folder / name).glob("*") if p.is_file()] if (folder / name).is_dir() else []
        held = [p.name for p in files if p.suffix.lower() in PICKLES]
        if held and name not in unused(index) and not any(p.suffix == ".safetensors" for p in files):
            raise ValueError(
                f"model {str(model)!r}: the weights of its {name} are a pickle ({held[0]}), which can run any code when it is read; "
                "expected .safetensors: get these from whom you trust, or have them write them with save_pretrained"
            )


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings and bars of diffusers and transformers; what goes wrong is raised. Downloads keep their bars."""
    from diffusers.utils import logging as one
    from transformers.utils import logging as other

    levels = [each.get_verbosity() for each in (one, other)]
    for each in (one, other):
        each.set_verbosity(each.CRITICAL)
        each.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for each, level in zip((one, other), levels, strict=True):
            each.set_verbosity(level)
            each.enable_progress_bar()


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
