"""A pipeline from its configs alone: every network on meta, with shapes and without weights. For plans, before anything is loaded."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .families import wrap
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
        elif config is not None and not isinstance(config, (list, tuple)):
            parts[name] = config  # a setting of the pipeline itself
        elif name != "self" and parameter.default is inspect.Parameter.empty:
            parts[name] = None
    return kind(**parts)


def wordless(flow: Pipeline, words: int | None = None) -> Pipeline:
    """The flow, bound to embeddings without data of one prompt of the greatest length, as its network takes them.

    Args:
        words: tokens of the prompt; None for as many as the pipeline pads to.
    """
    count = words or _words(flow)
    told = {name: _embedding(flow, name, count) for name in flow.needs}
    try:
        return flow.bind(told)
    except ValueError:  # it is guided, by a second prompt
        return flow.bind(told, negative={name: torch.empty_like(each) for name, each in told.items()})


def _read(model: str) -> dict[str, Any]:
    """The configs of a folder or of a hub name."""
    from diffusers import DiffusionPipeline

    try:
        index = DiffusionPipeline.load_config(model)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{model!r}: expected a bundled prior, a .safetensors file, or the name or the folder of a diffusers pipeline "
            f"(with model_index.json); got none ({str(error).splitlines()[0].rstrip('.')})"
        ) from error
    configs = dict(index)
    for name, entry in index.items():
        if isinstance(entry, (list, tuple)) and entry[0] is not None:
            configs[name] = _part_config(model, name, *entry)
    return configs


def _part_config(model: str, name: str, library: str, kind: str) -> Any:
    known = _class(kind)
    if hasattr(known, "load_config"):
        return {**known.load_config(model, subfolder=name), "_class_name": kind}
    if not hasattr(known, "config_class"):
        return None  # tokenizers and the like hold nothing
    from transformers import AutoConfig

    return {**AutoConfig.from_pretrained(model, subfolder=name).to_dict(), "architectures": [kind]}


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


def _words(flow: Pipeline) -> int:
    """Tokens that the pipeline pads a prompt to."""
    known = inspect.signature(type(flow.pipe).encode_prompt).parameters.get("max_sequence_length")
    count = 512 if known is None or not isinstance(known.default, int) else known.default
    return count + (77 if "text_encoder_3" in flow.pipe.components else 0)  # SD3 puts CLIP's words before T5's


def _embedding(flow: Pipeline, name: str, words: int) -> Tensor:
    config: Any = flow.net.config
    if "mask" in name:
        return torch.empty(1, words, dtype=torch.bool, device="meta")
    keys = ("pooled_projection_dim",) if "pooled" in name else _WIDTHS
    width = next((config[key] for key in keys if isinstance(config.get(key), int)), None)
    if width is None:
        raise ValueError(
            f"{flow.name}: expected the width of {name!r} in the network's config, under one of {', '.join(keys)}; bind embeddings "
            "yourself and plan with that flow"
        )
    shape = (1, width) if "pooled" in name else (1, words, width)
    return torch.empty(shape, dtype=flow.net.dtype, device="meta")


_WIDTHS = ("joint_attention_dim", "caption_channels", "cap_feat_dim", "cross_attention_dim", "text_embed_dim")
