"""A pipeline from its configs alone: every network on meta, with shapes and without weights. For plans, before anything is loaded."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...known import fetched, reachable
from .families import wrap
from .hub import named
from .pipeline import Pipeline

Configs = Mapping[str, Any]
"""`_class_name` of the pipeline, and the config of each of its parts under the part's name; each says its class, as the files do."""


def skeleton(
    model: str | Path | Configs, *, size: tuple[int, int] | None = None, dtype: torch.dtype = torch.bfloat16
) -> Pipeline:
    """A pipeline's flow without weights; of a hub name only the configs are fetched.

    Args:
        model: a hub name, a folder that `save_pretrained` wrote (weights may lack), or configs.
        size: see `wrap`.
        dtype: of the weights.

    Raises:
        ValueError: no configs there, or a family that there is none of.
    """
    configs = model if isinstance(model, Mapping) else _read(str(model))
    return wrap(made(configs, dtype, "meta"), size=size)


def made(configs: Configs, dtype: torch.dtype, device: str) -> Any:
    """The pipeline of these configs; on any other device than meta its weights are random."""
    kind = _class(configs["_class_name"])
    if kind is None:
        raise ValueError(f"skeleton: diffusers has no pipeline {configs['_class_name']!r}; update diffusers")
    parts: dict[str, Any] = {}
    for name, parameter in inspect.signature(kind.__init__).parameters.items():
        config = configs.get(name)
        if isinstance(config, Mapping):
            parts[name] = _part(config, dtype, device)
        elif config is not None:
            parts[name] = config  # a setting of the pipeline itself
        elif name != "self" and parameter.default is inspect.Parameter.empty:
            parts[name] = None
    try:
        return kind(**parts)
    except AttributeError:  # its constructor asks its tokenizer
        silent = [name for name, each in parts.items() if each is None]
        pipe = kind(**parts | dict.fromkeys(silent, Silent()))
        for name in silent:
            setattr(pipe, name, None)
        return pipe


def wordless(flow: Pipeline, words: int | None = None, scale: float | None = None) -> Pipeline:
    """The flow, bound to one row of what stands in for embeddings; see `Pipeline.stand_in` and `Pipeline.bind`."""
    return flow.bind(flow.stand_in(1, words), negative=flow.stand_in(1, words), scale=scale)


class Silent:
    """In the place of a tokenizer, which knows one word."""

    def __getattr__(self, name: str) -> Silent:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: Any, **__: Any) -> list[list[int]]:
        return [[0]]


def _read(model: str) -> dict[str, Any]:
    """The configs of a folder or of a hub name."""
    hub = named(model) and not Path(model).is_dir()
    if hub:
        fetched(model)  # or the sentence that loading it would say
    cache = hub and not reachable()
    from diffusers import DiffusionPipeline

    try:
        index = DiffusionPipeline.load_config(model, local_files_only=cache)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{model!r}: expected a bundled prior, a .safetensors file, or the name or the folder of a diffusers pipeline "
            f"(with model_index.json); got none ({str(error).splitlines()[0].rstrip('.')})"
        ) from error
    configs = dict(index)
    for name, entry in index.items():
        if isinstance(entry, (list, tuple)) and len(entry) == 2 and all(isinstance(each, str | None) for each in entry):
            configs[name] = None if entry[1] is None else _part_config(model, name, entry[0], entry[1], cache)
    return configs


def _part_config(model: str, name: str, library: str, kind: str, cache: bool) -> Any:
    known = _class(kind)
    if hasattr(known, "load_config"):
        return {**known.load_config(model, subfolder=name, local_files_only=cache), "_class_name": kind}
    if not hasattr(known, "config_class"):
        return None  # tokenizers and the like hold nothing
    from transformers import AutoConfig

    return {
        **AutoConfig.from_pretrained(model, subfolder=name, local_files_only=cache).to_dict(),
        "architectures": [kind],
    }


def _part(config: Mapping[str, Any], dtype: torch.dtype, device: str) -> Any:
    name = config.get("_class_name") or (config.get("architectures") or [""])[0]
    kind = _class(name)
    if kind is None:
        raise ValueError(f"skeleton: neither diffusers nor transformers has {name!r}; update them")
    if not issubclass(kind, torch.nn.Module):
        return kind.from_config(dict(config))
    with torch.device(device):
        if hasattr(kind, "from_config"):
            module = kind.from_config(dict(config))
        else:
            from transformers import AutoConfig

            plain = {key: value for key, value in config.items() if key not in ("model_type", "architectures")}
            chosen = AutoConfig.for_model(config["model_type"], **plain)
            module = kind(chosen if isinstance(chosen, kind.config_class) else kind.config_class(**plain))
    torch.nn.Module.to(
        module, device, dtype
    )  # past the warnings of diffusers about weights that would be kept in float32
    return module.eval().requires_grad_(False)


def _class(name: str) -> Any:
    import diffusers
    import transformers

    return getattr(diffusers, name, None) or getattr(transformers, name, None)
