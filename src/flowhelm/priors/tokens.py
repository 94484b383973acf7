"""Priors over tokens, and their files: a tokenizer and a transformer that fills masked tokens in, in one safetensors file.

The metadata holds `tokens`, as JSON: the arguments of both networks, and `about`. It is one entry, since several are written in any order,
and a training knows its tokenizer by the bytes of its file. A file of a tokenizer alone is what
`flowhelm train fashion_codes` writes, and `flowhelm train fashion_tokens --codes` reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import safe_open
from safetensors.torch import save as serialised
from torch import Tensor, nn

from ..masked import Masked
from .token_nets import Filler, Patches

METADATA = "tokens"
"""Of the metadata: what tells these files from those of flows."""
_Width = Annotated[int, Field(ge=8, le=4096, multiple_of=8)]


class _PatchesConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    codes: int = Field(ge=2, le=65536)
    side: int = Field(ge=1, le=64)
    width: _Width
    blocks: int = Field(ge=0, le=64)
    channels: int = Field(ge=1, le=16)
    border: int = Field(ge=0, le=1024)


class _FillerConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    codes: int = Field(ge=2, le=65536)
    places: int = Field(ge=1, le=65536)
    width: int = Field(ge=1, le=4096)
    depth: int = Field(ge=1, le=64)
    heads: int = Field(ge=1, le=256)
    dropout: float = Field(ge=0, lt=1)


class _About(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    size: int = Field(ge=1, le=16384)


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    tokenizer: _PatchesConfig
    filler: _FillerConfig | None = None
    about: _About


@dataclass(frozen=True, eq=False)
class TokenPrior(Masked):
    """A bundled prior over tokens. It has no conditions."""

    def told(
        self,
        classes: Sequence[str | int] | None = None,
        *,
        prompts: Sequence[str] | None = None,
        numbers: Sequence[Mapping[str, float]] | None = None,
        guidance: object = None,
    ) -> NoReturn:
        """Raises ValueError: it takes none."""
        kind = "classes" if classes is not None else "words" if prompts is not None else "numbers"
        raise ValueError(f"prior '{self.name}' takes no {kind}; it takes no conditions")

    @property
    def scale(self) -> float:
        """Of guidance: none."""
        return 1.0


def tokenizer(path: Path) -> Patches:
    """The tokenizer of a file, float32 and frozen. Raises ValueError for any other file."""
    if not path.is_file():
        raise ValueError(
            f"codes: '{path}' does not exist; name the weights that flowhelm train fashion_codes has written"
        )
    return _read(path)[0]


def load(path: Path, name: str, device: str = "cpu") -> TokenPrior:
    """A prior over tokens from its file, float32 and frozen. Raises ValueError for any other file."""
    codec, filler, about = _read(path)
    if filler is None:
        raise ValueError(
            f"prior: '{path}' holds a tokenizer alone; train the prior over its tokens: flowhelm train fashion_tokens --codes {path.name}"
        )
    shape = codec.shape(about["size"], about["size"])
    return TokenPrior(filler.to(device), shape, codec.to(device), name, about)


def save(net: nn.Module, path: Path, about: Mapping[str, Any], codec: Patches | None = None) -> None:
    """Writes a `Patches`, or a `Filler` with its tokenizer `codec`, in fp16 (beside, then renamed)."""
    parts = {"tokenizer": net} if codec is None else {"tokenizer": codec, "filler": net}
    config = {part: module.config for part, module in parts.items()} | {"about": dict(about)}
    tensors = {
        f"{part}.{name}": value.detach().to("cpu", torch.half).contiguous()
        for part, module in parts.items() for name, value in module.state_dict().items()
    }  # fmt: skip
    written = path.with_name(path.name + ".part")
    written.write_bytes(serialised(tensors, {METADATA: json.dumps(config)}))
    written.replace(path)


def _read(path: Path) -> tuple[Patches, Filler | None, dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as f:
            metadata = f.metadata() or {}
            config = _Config.model_validate_json(metadata[METADATA])
            about = config.about.model_dump()
            tensors: dict[str, Tensor] = {key: f.get_tensor(key).float() for key in f.keys()}  # noqa: SIM118
        codec = _filled(Patches, config.tokenizer.model_dump(), "tokenizer", tensors)
        filler = None if config.filler is None else _filled(Filler, config.filler.model_dump(), "filler", tensors)
        if tensors:
            raise ValueError(f"it also holds '{next(iter(tensors))}'")
        places = codec.shape(about["size"], about["size"])
        if config.filler and (config.filler.codes != len(codec.codes) or config.filler.places != places[0] * places[1]):
            raise ValueError("its transformer is not of its tokenizer's tokens")
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        why = f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}"[:100]
        raise ValueError(f"prior: expected tokens that flowhelm train has written, got '{path}' ({why})") from None
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise ValueError(f"prior: expected tokens that flowhelm train has written, got '{path}' ({error})") from None
    except Exception as error:  # safetensors raises its own type for a file of another format
        raise ValueError(f"prior: '{path}' is not a readable safetensors file ({error})") from None
    return codec, filler, about


def _filled(kind: Any, config: dict[str, Any], part: str, tensors: dict[str, Tensor]) -> Any:
    """A network with its tensors, which are taken out of `tensors`."""
    mine = {name.removeprefix(f"{part}."): tensors.pop(name) for name in list(tensors) if name.startswith(f"{part}.")}
    with torch.device("meta"):  # takes no memory, however large the network is said to be
        shapes = {name: each.shape for name, each in kind(**config).state_dict().items()}
    if {name: each.shape for name, each in mine.items()} != shapes:
        raise ValueError(f"its tensors are not those of the {part} that it says it has")
    net = kind(**config)
    net.load_state_dict(mine)
    return net.eval().requires_grad_(False)
