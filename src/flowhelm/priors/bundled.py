"""The small priors that ship with the package."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Self, cast

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from safetensors import safe_open
from safetensors.torch import save as serialised
from torch import Tensor, nn

from ..codec import CodecPrior
from ..flow import Guidance, NetFlow
from ..known import BIJECTIONS, NAMES, PHOTOS, PICKLES, STUDENTS, check, nearest
from ..looks import Looks
from ..path import linear
from . import denoisers, published, tokens
from .foreign import Foreign, Sigmas
from .hyperprior import Hyperprior
from .pair import Pair
from .unet import UNet

_FILLING = {
    "a", "an", "the", "of", "and", "or", "with", "in", "from", "above", "aerial", "view", "scene", "picture", "photo",
}  # fmt: skip
_SCALES = {"fashion": 2.0, "aerial": 2.0}  # of the files that are older than their word for it
_LOOKS: dict[str, Looks] = {  # of these, too; from above no side is up
    "photos": "turned", "photos-2": "turned", "aerial": "turned", "animals": "mirrored",
}  # fmt: skip


Count = Annotated[int, Field(ge=0, le=1_000_000)]


class Config(BaseModel):
    """What a weights' file says of its network; see `UNet`."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    widths: tuple[Annotated[int, Field(ge=1, le=65536)], ...] = Field(min_length=1, max_length=12)
    blocks: int = Field(2, ge=0, le=64)
    channels: int = Field(3, ge=1, le=1024)
    data_std: float = Field(0.5, gt=0)
    classes: Count = 0
    words: Count = 0
    numbers: Count = 0
    spans: bool = False


Widths = Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(min_length=1, max_length=12)]


class PairConfig(BaseModel):
    """What the file of a paired flow says of its networks; see `Pair`."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    widths: Widths
    blocks: int = Field(2, ge=0, le=64)
    spread: float = Field(0.1, ge=0)
    unit: float = Field(0.2, gt=0)
    channels: int = Field(3, ge=1, le=1024)


class CodecConfig(BaseModel):
    """What the file of a compressor says of its network; see `Hyperprior`."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    widths: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(min_length=2, max_length=2)]
    latent: int = Field(96, ge=1, le=4096)
    hyper: int = Field(24, ge=1, le=4096)
    channels: int = Field(3, ge=1, le=1024)


class About(BaseModel):
    """What a weights' file says of itself; see `Prior.about`. More may stand there."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    classes: list[str] = []
    words: list[str] = []
    numbers: dict[str, list[float]] = {}
    size: int = Field(256, ge=1, le=16384)
    scale: float = 1.0
    looks: Looks = "upright"

    @field_validator("numbers")
    @classmethod
    def _pairs(cls, numbers: dict[str, list[float]]) -> dict[str, list[float]]:
        if not all(len(pair) == 2 and pair[1] > 0 for pair in numbers.values()):
            raise ValueError("expected a mean and a standard deviation above 0 for each")
        return numbers


@dataclass(frozen=True, eq=False)
class Prior(NetFlow):
    """A bundled prior: a flow that knows the names of its conditions.

    Attributes:
        name: of the prior, or of its file.
        about: what the weights' file says of itself: `classes` (names), `words` (of its prompts), `numbers` (name -> mean and
            standard deviation over the training data), `size` (pixels), `steps` of training, `scale` of the guidance that draws
            best, `looks` of `Flow.looks`; each where it applies.
    """

    name: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def scale(self) -> float:
        """Of the classifier-free guidance that draws best from it; 1 for none."""
        return float(self.about.get("scale", 1.0))

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
            classes: a name of `about["classes"]` (in any case) or its index, one per row.
            prompts: words of `about["words"]` in any order, one text per row. Commas and filling words are passed over.
            numbers: one mapping per row from names of `about["numbers"]` to values in the unit of the data; unnamed are unknown.
            guidance: for instance `partial(guide.cfg, scale=2.0)`.

        Raises:
            ValueError: a kind of condition that this prior does not take, a name it does not know, or unequal rows.
        """
        given: dict[str, Sequence[Any] | None] = {"classes": classes, "words": prompts, "numbers": numbers}
        known = [kind for kind in given if self.about.get(kind)]
        for kind, rows_of in given.items():
            if rows_of is not None and kind not in known:
                raise ValueError(f"prior '{self.name}' takes no {kind}; it takes {', '.join(known) or 'no conditions'}")
        rows = {len(rows_of) for rows_of in given.values() if rows_of is not None}
        if len(rows) != 1:
            raise ValueError(
                f"prior '{self.name}': expected conditions of one number of rows, got {sorted(rows) or 'none'}"
            )
        count = rows.pop()
        told = {
            "classes": None if classes is None else self._classes(classes),
            "words": None if prompts is None else self._words(prompts),
            "numbers": None if numbers is None else self._numbers(numbers),
        }
        bound: list[Tensor] = []
        for kind, null in zip(known, self.null or (None,) * len(known), strict=True):
            value = told[kind]
            bound.append(value if value is not None else null.expand(count, *null.shape[1:]))  # type: ignore[union-attr]
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
        return index_of(self.name, name, table, what)


def index_of(prior: str, name: str | int, table: Mapping[str, int], what: str) -> int:
    """Where a name, in any case, or a number stands among those that a prior knows. Raises ValueError."""
    if isinstance(name, int) and name in table.values():
        return name
    lower = {known.lower(): index for known, index in table.items()}
    if isinstance(name, str) and name.lower() in lower:
        return lower[name.lower()]
    raise ValueError(f"prior '{prior}' knows no {what} '{name}'; {nearest(str(name).lower(), lower)}")


@dataclass(frozen=True, eq=False)
class PairedPrior(Prior):
    """A paired flow that `flowhelm train blind` has made, for `restore.pmrf`; it has no conditions."""

    prior_kind = "paired"

    @property
    def spread(self) -> float:
        """Of the noise between mean and source."""
        return float(self.net.spread)  # type: ignore[arg-type]

    def mean(self, picture: Tensor) -> Tensor:
        """The regressor's: see `paired.Paired`."""
        return self.net.mean(picture.to(next(self.net.parameters()))).to(picture)  # type: ignore[operator]


KINDS: Mapping[str, tuple[type[nn.Module], type[BaseModel]]] = {
    "flow": (UNet, Config), "paired": (Pair, PairConfig), "codec": (Hyperprior, CodecConfig),
}  # fmt: skip
"""Network and settings of each kind of prior that a file may hold."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Pretrained(Foreign, Prior):
    """One of deepinv's pretrained denoisers as a prior: see `priors.denoisers`. It has no conditions."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Published(Foreign, Prior):
    """A published network as a prior: see `priors.published`.

    Attributes:
        latent: whether its states are latents; it draws and restores pictures inside a `codec.LatentFlow` then.
    """

    latent: bool = False

    @property
    def pixels(self) -> bool:  # type: ignore[override]
        return not self.latent

    def encode(self, image: Tensor) -> Tensor:
        return self._own(image)

    def decode(self, clean: Tensor) -> Tensor:
        return self._own(clean)

    def _own(self, state: Tensor) -> Tensor:
        if self.latent:
            raise ValueError(
                f"prior '{self.name}' is over latents; give it the auto-encoder that it was trained with: codec.LatentFlow(flow, "
                "priors.autoencoder(AutoencoderKL.from_pretrained('stabilityai/sd-vae-ft-ema')))"
            )
        return state

    def _told(self, rows: int, device: torch.device) -> list[Tensor]:
        if not self.condition and self.about.get("classes"):
            if not self.null:
                count = len(self.about["classes"])
                raise ValueError(
                    f"prior '{self.name}' draws by class alone; name one of its {count} classes: --class 207, or `flow.told([207])`"
                )
            return [each.to(device).expand(rows) for each in self.null]
        return super()._told(rows, device)


def levels(name: str | Path) -> tuple[float, float]:
    """`Flow.levels` of a prior by name, which is not opened for it."""
    return _sigmas(name)[1] if denoisers.named(name) else (0.0, math.inf)


def _sigmas(name: str | Path) -> tuple[Sigmas, tuple[float, float]]:
    """The levels of one of deepinv's, for pictures in [0, 1] and in [-1, 1]."""
    low, high = denoisers.of(name).levels
    low, high = (0.98 * low, 1.02 * high) if low == high else (max(low, denoisers.LEAST), high)
    return Sigmas(low, high), (2 * low, 2 * high)


def pretrained(name: str, device: str = "cpu", *, random: bool = False) -> Pretrained:
    """`deepinv:NAME` as a flow over pictures in [-1, 1], of 256 x 256 pixels until `flow.sized(height, width)`.

    `flow.ends(x, t).clean` is the network's own answer at the levels it was trained for, `flow.levels`; beyond them it is asked at
    its nearest (`priors.foreign`).

    Args:
        random: with random weights, which need not be fetched.
    """
    schedule, _ = _sigmas(name)
    net = denoisers.network(name, random=random).to(device)
    return Pretrained(
        net, (3, 256, 256), kind="clean", schedule=schedule, span=(0.0, 1.0), name=name, about={"size": 256},
        looks=denoisers.of(name).looks,
    )  # fmt: skip


@lru_cache(16)
def _stated(held: str, config: str) -> tuple[dict[str, Any], dict[str, torch.Size]]:
    """Of a network, its settings and the shapes of its tensors; takes no memory, however large the network is said to be."""
    network, settings = KINDS[held]
    read = settings.model_validate_json(config).model_dump(exclude_unset=True)
    with torch.device("meta"):
        return read, {name: each.shape for name, each in network(**read).state_dict().items()}


def load(name: str | Path = PHOTOS, device: str = "cpu") -> Prior:
    """A bundled prior by name, one that `flowhelm train` has made, by the path of its safetensors file, or `deepinv:DRUNet` and others.

    Returns:
        A flow over pictures in [-1, 1]: `photos` of 256 x 256 pixels until `flow.sized(height, width)`, the others of the one
        size that they were trained for; `blind` is a `PairedPrior` and `codec` a `CodecPrior`, of any size. Weights are float32 and
        frozen, laid out channels-last. `flow.net.reach` and `flow.net.stride` are what `guide.tiled` asks for; `flow.told(["coat"])`
        says what to draw. Of tokens (`fashion-tokens`) it is a `Masked`, which is no flow.

    Raises:
        ValueError: unknown name, or a file that is no such prior; pickles are never read.
    """
    if denoisers.named(name):
        return pretrained(str(name), device)
    path = weights(name)
    if kind(name) == "tarflow":
        raise ValueError(
            f"prior: '{name}' is a normalising flow, which draws (flowhelm sample {name}) and has no velocity; "
            f"for this take one of {', '.join(NAMES)}"
        )
    if path.suffix.lower() in PICKLES or _is_pickle(path):
        raise ValueError(
            f"prior: '{path}' is a pickle, and reading a pickle can run any code; expected a .safetensors file: "
            "get one from whom you trust, or have them write one"
        )
    if not path.is_file():
        if name in NAMES:
            raise ValueError(f"prior: the weights of '{name}' are not in this installation; expected '{path}'")
        check(name)
    try:
        with safe_open(path, framework="pt") as f:
            about = f.metadata() or {}
            if tokens.METADATA in about:
                return cast(Prior, tokens.load(path, path.stem, device))
            if "student" in about:
                raise ValueError("it holds a student, which draws and restores but is not trained on; take its prior")
            held = about.get("kind") or "flow"
            if held == published.KIND:
                return _published(about, {key: f.get_tensor(key) for key in f.keys()}, path.stem, device)  # noqa: SIM118
            if held not in KINDS:
                raise ValueError(f"it holds a prior of kind {held[:40]!r}, which this version does not know")
            config, shapes = _stated(held, about["config"])
            described = About.model_validate_json(about.get("about", "{}")).model_dump(exclude_unset=True)
            tensors = {key: f.get_tensor(key).float() for key in f.keys()}  # noqa: SIM118  (a handle, not a dict)
        if {name: each.shape for name, each in tensors.items()} != shapes:
            raise ValueError("its tensors are not those of the network that it says it is")
        net: Any = KINDS[held][0](**config)
        net.load_state_dict(tensors)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        why = ".".join(map(str, [error.title.lower(), *wrong["loc"]]))[:100]
        raise ValueError(
            f"prior: expected weights written by flowhelm train, got '{path}' (its {why}: {wrong['msg']})"
        ) from None
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise ValueError(f"prior: expected weights written by flowhelm train, got '{path}' ({error})") from None
    except Exception as error:  # safetensors raises its own type for a file of another format
        raise ValueError(f"prior: '{path}' is not a readable safetensors file ({error})") from None
    net.eval().requires_grad_(False)
    if name in _SCALES:
        described.setdefault("scale", _SCALES[str(name)])
    size = described.get("size", 256)
    shape = (net.config["channels"], size, size)
    net = net.to(device).to(memory_format=torch.channels_last)
    if held == "codec":
        return CodecPrior(net, shape, net.stride, path.stem, described)  # type: ignore[return-value]  # few ask for it
    if name in _LOOKS:
        described.setdefault("looks", _LOOKS[str(name)])
    made = PairedPrior if held == "paired" else Prior
    return made(net, shape, null=net.null, name=path.stem, about=described, looks=described.get("looks", "upright"))


def _published(header: Mapping[str, str], tensors: Mapping[str, Tensor], name: str, device: str) -> Published:
    """A converted network; raises as `load` expects."""
    made = published.network(header, tensors)
    about = About.model_validate_json(header.get("about", "{}")).model_dump(exclude_unset=True)
    net = made.net.to(device)
    if not made.latent:
        net = net.to(memory_format=torch.channels_last)
    return Published(
        net,
        made.shape,
        null=made.null,
        name=name,
        about=about,
        latent=made.latent,
        **{"schedule": linear, **made.convention},
    )


def _is_pickle(path: Path) -> bool:
    """By its first bytes: what torch.save writes is a zip archive of a pickle, or a bare one (protocol 2 or later)."""
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError:
        return False
    # safetensors begins with its header's length in 8 bytes, which may look like a pickle's first two, and then a brace
    return head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and 2 <= head[1] <= 5 and head[8:] != b"{")


def weights(name: str | Path) -> Path:
    """Where the weights of a prior are: of a bundled one by name, of deepinv's where they were fetched to, else the path itself."""
    if denoisers.named(name):
        return denoisers.weights(name)
    ships = name in NAMES or name in STUDENTS or name in BIJECTIONS
    return Path(str(files(__package__) / "weights" / f"{name}.safetensors")) if ships else Path(name)


def kind(name: str | Path) -> str:
    """What kind of network a bundled prior, or a file of weights, says that it holds: `tarflow`, or nothing (a `UNet`, or no such file)."""
    path = Path() if denoisers.named(name) else weights(name)
    if path.suffix != ".safetensors" or not path.is_file():
        return "tarflow" if name in BIJECTIONS else ""
    try:
        with safe_open(path, framework="pt") as f:
            return str((f.metadata() or {}).get("kind", ""))
    except Exception:  # of a damaged file `load` says what is wrong
        return ""


def save(net: nn.Module, path: Path, about: Mapping[str, Any], kind: str = "") -> None:
    """Writes weights in fp16 that `load` reads (beside, then renamed).

    Args:
        net: a `UNet`; a `TarFlow` and kind "tarflow"; or one that says its `kind` itself.
        about: see `Prior.about`; JSON can hold it.
    """
    part, kind = path.with_name(path.name + ".part"), kind or str(getattr(net, "kind", ""))
    tensors = {name: value.detach().to("cpu", torch.half).contiguous() for name, value in net.state_dict().items()}
    # by its bytes: save_file would make the file unreadable for others, whatever the umask
    part.write_bytes(
        serialised(
            tensors, {"config": json.dumps(net.config), "about": json.dumps(about)} | ({"kind": kind} if kind else {})
        )
    )
    part.replace(path)
