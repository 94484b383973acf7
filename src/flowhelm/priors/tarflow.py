"""TarFlow: a normalising flow of causal transformers over patches. Zhai et al. 2024, arXiv:2412.06329; Gu et al. 2025, arXiv:2506.06276.

    tokens = patches of the picture, row by row;   block k takes them in order (k even) or in reverse (k odd)
    block:   h = in(x shifted by one, a learned token first) + position + class
             h = h + attention(norm h), h + mlp(norm h)     for each layer, causal
             mean, log_scale = out(norm h),   log_scale <- limit tanh(log_scale / limit);   out begins at 0, the block as the identity

`layers=(1, 1, 1, 5)` is STARFlow's deep-shallow layout: the last block, next to the noise, is deep and alone is told the class.

Deviations from TarFlow: its first token has mean 0 and scale 1, here a learned first token gives it both, as in STARFlow; the log scale is
soft-clipped, as there, the mean is not.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic import Field as Limits
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as fn

from ..bijection import Affine, Bijection, Keys, Rule
from ..toughness import Way
from .bundled import index_of, weights

LIMIT = 4.0  # of the log scale


class Layer(nn.Module):
    """Causal self-attention and an MLP, each added to what comes in."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inward, self.outward = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, h: Tensor, first: int = 0, kept: Tensor | None = None) -> Tensor:
        """h `(b, m, width)`, tokens first ... first + m - 1; kept `(2, b, heads, n, width / heads)`: keys and values, added to in place."""
        rows, m, width = h.shape
        q, k, v = self.inward(self.first(h)).view(rows, m, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if kept is not None:
            kept[0, :, :, first : first + m], kept[1, :, :, first : first + m] = k, v
            k, v = kept[0, :, :, : first + m], kept[1, :, :, : first + m]
        if first == 0 or m == 1:
            seen = fn.scaled_dot_product_attention(q, k, v, is_causal=m > 1)
        else:
            mask = torch.ones(m, first + m, dtype=torch.bool, device=h.device).tril(first)
            seen = fn.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        h = h + self.outward(seen.transpose(1, 2).reshape(rows, m, width))
        return h + self.mlp(self.second(h))


class Transformer(nn.Module):
    """A causal affine block: `bijection.Block`.

    Args:
        size: numbers in a token. length: tokens of a group. width, heads, layers: of the transformer.
        classes: it is told the class of each row; 0 for not. backwards: it takes the tokens in reverse. span: see `bijection.Block`.
        frames: that the tokens are of; a position is then that of the place in a frame plus that of the frame.
    """

    def __init__(
        self, size: int, length: int, width: int, heads: int, layers: int, classes: int = 0, backwards: bool = False,
        span: int | None = None, frames: int = 1,
    ):  # fmt: skip
        super().__init__()
        self.backwards, self.span, self.told, self.heads = backwards, span, classes > 0, heads
        self.start = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, length // frames, width))
        self.frame = nn.Parameter(0.02 * torch.randn(frames, 1, width)) if frames > 1 else None
        self.classes = nn.Embedding(classes, width) if classes else None
        if self.classes is not None:
            nn.init.normal_(self.classes.weight, std=0.02)
        self.inward = nn.Linear(size, width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.outward = nn.Linear(width, 2 * size)
        nn.init.zeros_(self.outward.weight)
        nn.init.zeros_(self.outward.bias)

    def forward(
        self,
        x: Tensor,
        condition: tuple[Tensor, ...] = (),
        first: int = 0,
        stop: int | None = None,
        keys: Keys | None = None,
    ) -> Affine:
        stop = x.shape[1] if stop is None else stop
        h = self.inward(x[:, max(first - 1, 0) : stop - 1])
        if first == 0:
            h = torch.cat([self.start.expand(len(x), 1, -1).to(h), h], 1)
        position = self.position if self.frame is None else (self.position + self.frame).reshape(1, -1, h.shape[2])
        h = h + position[:, first:stop]
        if self.classes is not None:
            table = self.classes.weight  # the null class, last, is the mean of all
            h = h + torch.cat([table, table.mean(0, keepdim=True)])[condition[0]][:, None]
        for i, layer in enumerate(self.layers):
            h = layer(h, first, None if keys is None else keys.kept[i])
        mean, log_scale = self.outward(self.norm(h)).chunk(2, dim=-1)
        return Affine(mean, LIMIT * torch.tanh(log_scale / LIMIT))

    def keys(self, rows: int, length: int) -> Keys:
        width = self.inward.out_features
        shape = (len(self.layers), 2, rows, self.heads, length, width // self.heads)
        return Keys(torch.empty(shape, dtype=self.inward.weight.dtype, device=self.inward.weight.device))

    def ends(self) -> tuple[Tensor, Tensor]:
        mean, log_scale = self.outward.weight.chunk(2)
        return mean, log_scale


class TarFlow(nn.Module):
    """Blocks over the patches of square pictures, or of the frames of videos.

    Args:
        size: pixels of a side. patch: of a token. channels: of a picture.
        layers: of each block, from picture to noise. width, heads: of the transformers.
        classes: class labels; 0 for none. deep: only the last block is told the class (STARFlow's layout); else all are.
        frames: of a video `(frames, channels, size, size)`, whose last block goes over all tokens in the order of time, and whose other
            blocks see one frame at a time (STARFlow-V); 0 for pictures.
    """

    def __init__(
        self,
        size: int = 28,
        patch: int = 4,
        channels: int = 1,
        layers: Sequence[int] = (1, 1, 1, 5),
        width: int = 128,
        heads: int = 4,
        classes: int = 0,
        deep: bool = True,
        frames: int = 0,
    ):
        super().__init__()
        if size % patch or width % heads or not layers:
            raise ValueError(
                f"TarFlow: expected a size of whole patches and a width of whole heads, got {size}, {patch}, {width}, {heads}"
            )
        self.config: dict[str, Any] = {
            "size": size, "patch": patch, "channels": channels, "layers": list(layers), "width": width, "heads": heads,
            "classes": classes, "deep": deep, "frames": frames,
        }  # fmt: skip
        self.size, self.patch, self.channels, self.frames = size, patch, channels, frames
        self.shape = ((frames,) if frames else ()) + (channels, size, size)
        self.null = (torch.full((1,), classes),) if classes else ()
        span, last = (size // patch) ** 2, len(layers) - 1
        self.blocks = nn.ModuleList(
            Transformer(
                channels * patch**2,
                span * (frames or 1) if k == last else span,
                width,
                heads,
                depth,
                classes=classes if k == last or not deep else 0,
                backwards=(last - k) % 2 == 1,
                span=span if frames and k != last else None,
                frames=max(frames, 1) if k == last else 1,
            )
            for k, depth in enumerate(layers)
        )

    def tokens(self, image: Tensor) -> Tensor:
        """`(b, c, h, w)`, or `(b, frames, c, h, w)` -> `(b, n, c patch^2)`, patches row by row, frame by frame."""
        if image.shape[1:] != self.shape:
            raise ValueError(f"TarFlow: expected a batch of {self.shape}, got {tuple(image.shape)}")
        flat = image.flatten(0, 1) if self.frames else image
        return (
            fn.pixel_unshuffle(flat, self.patch)
            .flatten(2)
            .transpose(1, 2)
            .reshape(len(image), -1, self.channels * self.patch**2)
        )

    def image(self, tokens: Tensor) -> Tensor:
        """Back from `tokens`."""
        side, rows = self.size // self.patch, len(tokens) * (self.frames or 1)
        flat = tokens.reshape(rows, side * side, -1).transpose(1, 2).reshape(rows, -1, side, side)
        image = fn.pixel_shuffle(flat, self.patch)
        return image.reshape(len(tokens), self.frames, *image.shape[1:]) if self.frames else image


@dataclass(frozen=True, eq=False)
class Normalising(Bijection):
    """A normalising flow that knows the names of its conditions: a bundled one, or of a file.

    Attributes:
        name: of the prior, or of its file. about: what the file says of itself: `classes` (names), `scale` of the guidance that draws best,
            `noise`, `steps` of training, `plan`.
    """

    name: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def plan(self) -> list[Way]:
        """A way to invert each block, chosen from what was measured (`toughness`) when it was trained; none of a file without one."""
        return [Way(*each) for each in self.about.get("plan", ())]

    def told(self, classes: Sequence[str | int], *, rule: Rule | None = None) -> Self:
        """The same, told the class of each row: a name of `about["classes"]`, in any case, or its number. Raises ValueError."""
        table = {name: i for i, name in enumerate(self.about.get("classes", ()))}
        if not table:
            raise ValueError(f"prior '{self.name}' takes no classes")
        return self.bind(torch.tensor([index_of(self.name, name, table, "class") for name in classes]), rule=rule)


class Config(BaseModel):
    """What a file says of its network; see `TarFlow`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    size: int = Limits(ge=1, le=4096)
    patch: int = Limits(ge=1, le=256)
    channels: int = Limits(ge=1, le=1024)
    layers: tuple[Annotated[int, Limits(ge=1, le=256)], ...] = Limits(min_length=1, max_length=64)
    width: int = Limits(ge=1, le=65536)
    heads: int = Limits(ge=1, le=1024)
    classes: int = Limits(ge=0, le=1_000_000)
    deep: bool
    frames: int = Limits(ge=0, le=4096)


class About(BaseModel):
    """What a file says of itself; more may stand there."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    classes: list[str] = []
    scale: float = 1.0
    noise: float = Limits(0.0, ge=0)
    plan: list[Way] = []


def load(name: str | Path = "fashion-tarflow", device: str = "cpu") -> Normalising:
    """A normalising flow by name, or of a file that `flowhelm train fashion-tarflow` has written; weights float32 and frozen.

    Raises:
        ValueError: a file that is no such prior.
    """
    path = weights(name)
    if not path.is_file():
        raise ValueError(f"prior: the weights of '{name}' are not in this installation; expected '{path}'")
    try:
        with safe_open(path, framework="pt") as f:
            said = f.metadata() or {}
            config = Config.model_validate_json(said["config"]).model_dump()
            about = About.model_validate_json(said.get("about", "{}")).model_dump()
            tensors = {key: f.get_tensor(key).float() for key in f.keys()}  # noqa: SIM118  (a handle, not a dict)
        with torch.device("meta"):  # takes no memory, however large the network is said to be
            shapes = {key: each.shape for key, each in TarFlow(**config).state_dict().items()}
        if {key: each.shape for key, each in tensors.items()} != shapes:
            raise ValueError("its tensors are not those of the network that it says it is")
        if about["classes"] and len(about["classes"]) != config["classes"]:
            raise ValueError(f"it names {len(about['classes'])} classes, and its network has {config['classes']}")
        if len(about["plan"]) not in (0, len(config["layers"])):
            raise ValueError(f"its plan is of {len(about['plan'])} blocks, and its network has {len(config['layers'])}")
        net = TarFlow(**config)
        net.load_state_dict(tensors)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        why = ".".join(map(str, [error.title.lower(), *wrong["loc"]]))[:100]
        raise ValueError(f"prior: expected weights of a TarFlow, got '{path}' (its {why}: {wrong['msg']})") from None
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise ValueError(f"prior: expected weights of a TarFlow, got '{path}' ({error})") from None
    except Exception as error:  # safetensors raises its own type for a file of another format
        raise ValueError(f"prior: '{path}' is not a readable safetensors file ({error})") from None
    net.eval().requires_grad_(False).to(device)
    return Normalising(net, net.shape, about["noise"], null=net.null, name=path.stem, about=about)


class Denoiser(nn.Module):
    """A small network for `bijection.Cleaner`: of pictures `(b, c, h, w)`, or of videos `(b, frames, c, h, w)`, whose frame k is made of
    frames up to k + 1 alone (STARFlow-V's one frame of look-ahead).

    Args:
        channels: of a picture. width, layers: of its convolutions.
    """

    def __init__(self, channels: int = 1, width: int = 32, layers: int = 4):
        super().__init__()
        widths = [channels, *[width] * layers, channels]
        self.layers = nn.ModuleList(
            nn.Conv3d(i, o, (3, 3, 3), padding=(0, 1, 1)) for i, o in itertools.pairwise(widths)
        )
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        h = (x[:, None] if x.ndim == 4 else x).transpose(1, 2)
        for k, layer in enumerate(self.layers):
            ahead = 1 if k == 0 else 0  # the first layer alone looks ahead
            out = layer(fn.pad(h, (0, 0, 0, 0, 2 - ahead, ahead)))
            h = out if k + 1 == len(self.layers) else fn.silu(out) + (h if k else 0)
        return h.transpose(1, 2).reshape(x.shape)
