"""The small priors that ship with the package."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import safe_open
from torch import Tensor

from ..flow import Guidance, NetFlow
from .unet import UNet

NAMES = ("photos", "fashion", "aerial", "animals")
_FILLING = {
    "a",
    "an",
    "the",
    "of",
    "and",
    "or",
    "with",
    "in",
    "from",
    "above",
    "aerial",
    "view",
    "scene",
    "picture",
    "photo",
}


@dataclass(frozen=True, eq=False)
class Prior(NetFlow):
    """A bundled prior: a flow that knows the names of its conditions.

    Attributes:
        name: of the prior, or of its file.
        about: what the weights' file says of itself: `classes` (names), `words` (of its prompts), `numbers` (name -> mean and
            standard deviation over the training data), `size` (pixels), `steps` of training; each where it applies.
    """

    name: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)

    def told(
        self,
        classes: Sequence[str | int] | None = None,
        *,
        prompts: Sequence[str] | None = None,
        numbers: Sequence[Mapping[str, float]] | None = None,
        guidance: Guidance | None = None,
    ) -> Self:
        """The same prior, told something about each row in words; `bind` takes tensors.

        Args:
            classes: a name of `about["classes"]` or its index, one per row.
            prompts: words of `about["words"]` in any order, one text per row. Commas and filling words are passed over.
            numbers: one mapping per row from names of `about["numbers"]` to values in the unit of the data; unnamed are unknown.
            guidance: for instance `partial(guide.cfg, scale=2.0)`.

        Raises:
            ValueError: a kind of condition that this prior does not take, a name it does not know, or unequal rows.
        """
        given = {"classes": classes, "words": prompts, "numbers": numbers}
        known = [kind for kind in given if self.about.get(kind)]
        for kind, value in given.items():
            if value is not None and kind not in known:
                raise ValueError(f"prior '{self.name}' takes no {kind}; it takes {', '.join(known) or 'no conditions'}")
        rows = {len(value) for value in given.values() if value is not None}
        if len(rows) != 1:
            raise ValueError(
                f"prior '{self.name}': expected conditions of one number of rows, got {sorted(rows) or 'none'}"
            )
        count = rows.pop()
        read = {"classes": self._classes, "words": self._words, "numbers": self._numbers}
        bound = [
            read[kind](given[kind]) if given[kind] is not None else null.expand(count, *null.shape[1:])
            for kind, null in zip(known, self.null, strict=True)
        ]
        return self.bind(*bound, guidance=guidance)

    def _classes(self, names: Sequence[str | int]) -> Tensor:
        table = {name: i for i, name in enumerate(self.about["classes"])}
        return torch.tensor([self._index(name, table, "class") for name in names])

    def _words(self, prompts: Sequence[str]) -> Tensor:
        table = {name: i + 1 for i, name in enumerate(self.about["words"])}
        rows = []
        for text in prompts:
            words = [w for w in text.lower().replace(",", " ").replace(".", " ").split() if w not in _FILLING]
            rows.append(torch.tensor([self._index(w, table, "word") for w in words] or [0]))
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    def _numbers(self, rows: Sequence[Mapping[str, float]]) -> Tensor:
        table = self.about["numbers"]
        out = torch.full((len(rows), len(table)), torch.nan)
        for row, given in enumerate(rows):
            for name, value in given.items():
                column = self._index(name, {n: i for i, n in enumerate(table)}, "number")
                mean, std = table[name]
                out[row, column] = (float(value) - mean) / std
        return out

    def _index(self, name: str | int, table: Mapping[str, int], what: str) -> int:
        if isinstance(name, int) and name in table.values():
            return name
        if isinstance(name, str) and name in table:
            return table[name]
        near = difflib.get_close_matches(str(name), table, 1, 0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"it knows {', '.join(table)}"
        raise ValueError(f"prior '{self.name}' knows no {what} '{name}'; {hint}")


def load(name: str | Path = "photos", device: str = "cpu") -> Prior:
    """A bundled prior by name, or one that `flowhelm train` has made, by the path of its safetensors file.

    Returns:
        A flow over pictures in [-1, 1]: `photos` of 256 x 256 pixels until `flow.sized(height, width)`, the others of the one
        size that they were trained for. Weights are float32 and frozen, laid out channels-last. `flow.net.reach` and
        `flow.net.stride` are what `guide.tiled` asks for; `flow.told(["coat"])` says what to draw.

    Raises:
        ValueError: unknown name, or a file that is no such prior.
    """
    path = weights(name)
    if not path.is_file():
        raise ValueError(f"prior: expected one of {', '.join(NAMES)} or a .safetensors file, got '{name}'")
    try:
        with safe_open(path, framework="pt") as f:
            about = f.metadata() or {}
            config = json.loads(about["config"])
            tensors = {key: f.get_tensor(key).float() for key in f.keys()}  # noqa: SIM118  (a handle, not a dict)
        net = UNet(tuple(config.pop("widths")), **config)
        net.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise ValueError(f"prior: expected weights written by flowhelm train, got '{path}' ({error})") from None
    except Exception as error:  # safetensors raises its own type for a file of another format
        raise ValueError(
            f"prior: '{path}' is not a readable safetensors file ({error}); pickles are refused: they can run code"
        ) from None
    net.eval().requires_grad_(False)
    described = json.loads(about.get("about", "{}"))
    size = described.get("size", 256)
    shape = (net.config["channels"], size, size)
    net = net.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Prior(net, shape, null=net.null, name=path.stem, about=described)


def weights(name: str | Path) -> Path:
    """Where the weights of a prior are: of a bundled one by name, else the path itself."""
    return Path(str(files(__package__) / "weights" / f"{name}.safetensors")) if name in NAMES else Path(name)


def save(net: UNet, path: Path, about: Mapping[str, Any]) -> None:
    """Writes weights in fp16 that `load` reads (beside, then renamed).

    Args:
        about: see `Prior.about`; JSON can hold it.
    """
    from safetensors.torch import save_file

    part = path.with_name(path.name + ".part")
    tensors = {name: value.detach().cpu().half().contiguous() for name, value in net.state_dict().items()}
    save_file(tensors, part, {"config": json.dumps(net.config), "about": json.dumps(about)})
    part.replace(path)
