"""Weights of others: read from a folder or by a hub name, from safetensors only, complete or not at all, frozen."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")


def pretrained(
    who: str,
    kind: Any,
    name: str | Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    spare: tuple[str, ...] = (),
) -> Any:
    """A model of a class of transformers.

    Args:
        spare: beginnings of the names of weights that are not used and may be missing.

    Raises:
        ValueError: it cannot be had, is a pickle, or lacks weights (which transformers would fill with random numbers).
    """
    _no_pickle(who, name)
    try:
        model, told = kind.from_pretrained(
            str(name), dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{who}: cannot load '{name}' as {kind.__name__} ({_first(error)})") from error
    if missing := sorted(key for key in told["missing_keys"] if not key.startswith(spare)):
        raise ValueError(
            f"{who}: expected all weights of {kind.__name__} in '{name}', but {len(missing)} are missing, such as {missing[0]}"
        )
    return model.eval().requires_grad_(False).to(device)


def companion(who: str, kind: Any, name: str | Path) -> Any:
    """A tokenizer or processor of transformers."""
    try:
        return kind.from_pretrained(str(name), trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        raise ValueError(f"{who}: '{name}' has no usable {kind.__name__} ({_first(error)})") from error


def tensors(who: str, name: str | Path, file: str = "model.safetensors") -> dict[str, Tensor]:
    """All tensors of a .safetensors file, or of `file` in a folder or a hub repository."""
    from transformers.utils import cached_file

    _no_pickle(who, name)
    try:
        path = str(name) if Path(name).suffix == ".safetensors" else cached_file(str(name), file)
        return load_file(str(path))
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"{who}: cannot read '{name}' as safetensors ({_first(error)})") from error


def perceptron(who: str, weights: Mapping[str, Tensor], width: int) -> nn.Sequential:
    """The linear layers of a published head, in order, to one number: there is nothing between them.

    Args:
        weights: `weight` and `bias`, or `layers.0.weight`, `layers.2.weight`, ... (dropout has the numbers between).
        width: of the embedding that it reads.
    """
    stems = [key.removesuffix("weight") for key in weights if key.endswith("weight")]
    order = sorted(stems, key=lambda stem: [int(part) for part in stem.split(".") if part.isdigit()])
    sizes = [width, *(weights[f"{stem}weight"].shape[0] for stem in order)]
    shapes = [tuple(weights[f"{stem}weight"].shape) for stem in order]
    fits = shapes == [(after, before) for before, after in pairwise(sizes)] and sizes[-1] == 1
    whole = set(weights) == {f"{stem}{part}" for stem in order for part in ("weight", "bias")}
    if not order or not fits or not whole:
        raise ValueError(
            f"{who}: expected linear layers with biases from {width} to 1, got {sorted(weights)} of {shapes}"
        )
    layers = [nn.Linear(before, after) for before, after in pairwise(sizes)]
    for stem, layer in zip(order, layers, strict=True):
        layer.load_state_dict({part: weights[f"{stem}{part}"].float() for part in ("weight", "bias")})
    return nn.Sequential(*layers).eval().requires_grad_(False)


def _no_pickle(who: str, name: str | Path) -> None:
    if Path(name).suffix in PICKLES:
        raise ValueError(
            f"{who}: '{name}' is a pickle, and reading a pickle can run any code; "
            "expected safetensors, which scripts/convert_reward.py makes"
        )


def _first(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
