"""Bijections: priors that are no flow in time, but one map of pictures to noise, exact both ways.
Zhai et al. 2024 (TarFlow), arXiv:2412.06329.

A picture is cut into tokens x_1 ... x_n, and goes through blocks, each in an order of its own:

    to noise      z_i = (x_i - mean_i(x_<i)) exp(-log_scale_i(x_<i))          all tokens at once
    to picture    x_i = z_i exp(log_scale_i(x_<i)) + mean_i(x_<i)             token by token; `flowhelm.inverse` has quicker ways
    log |det|     - sum of all log_scale,   so   log p(x) = log N(z; 0, 1) - sum of all log_scale

A block's two outputs for token i depend on the tokens before it alone: its Jacobian is triangular, and this is all that is exact about it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from .grad import value_and_grad
from .rng import Noise


class Affine(NamedTuple):
    """Mean and logarithm of the scale of tokens, each `(b, m, d)`."""

    mean: Tensor
    log_scale: Tensor


class Keys:
    """Keys and values of the tokens of one block, written in place: `kept` is `(layers, 2, b, heads, n, width of a head)`."""

    def __init__(self, kept: Tensor):
        self.kept = kept


class Block(Protocol):
    """A causal affine block.

    Attributes:
        backwards: it takes the tokens in reversed order.
        span: tokens of a group; groups know nothing of one another (the frames of a video). None: all are one group.
        told: whether it is given the condition.
    """

    backwards: bool
    span: int | None
    told: bool

    def __call__(
        self,
        x: Tensor,
        condition: tuple[Tensor, ...] = (),
        first: int = 0,
        stop: int | None = None,
        keys: Keys | None = None,
    ) -> Affine:
        """Mean and log scale of tokens first ... stop - 1, of x `(b, n, d)`, arranged in the block's order.

        Args:
            keys: of what was computed before: tokens before `first` - 1 must not have changed since; what is computed here is added.
        """
        ...

    def keys(self, rows: int, length: int) -> Keys:
        """Empty ones, for so many rows and tokens."""
        ...

    def ends(self) -> tuple[Tensor, Tensor]:
        """The matrices of the last layer: of the mean and of the log scale."""
        ...


Rule = Callable[[Affine, Affine], Affine]
"""Guidance of a block: what it says with the condition, and without -> what is used."""


def linear(told: Affine, null: Affine, *, scale: float) -> Affine:
    """null + scale (told - null), of mean and log scale: TarFlow's guidance (its w is scale - 1). arXiv:2412.06329, section 3.4."""
    return Affine(*(torch.lerp(n, t, scale) for t, n in zip(told, null, strict=True)))


def gaussian(told: Affine, null: Affine, *, scale: float) -> Affine:
    """The law told^scale / null^(scale - 1), which is normal: STARFlow's guidance (its w is scale - 1). Gu et al. 2025, arXiv:2506.06276.

    With k = min(var_told / var_null, 1), w = scale - 1 and u = 1 + w - w k: its variance is var_told / u, its mean
    told + w k / u (told - null).
    """
    w = scale - 1
    k = (2 * (told.log_scale - null.log_scale)).exp().clamp(max=1)
    left = 1 + w - w * k
    return Affine(told.mean + w * k / left * (told.mean - null.mean), told.log_scale - 0.5 * left.log())


@dataclass(frozen=True, eq=False)
class Bijection:
    """A normalising flow over pictures or videos. flowhelm's own.

    Attributes:
        net: `net.blocks`, in the order from picture to noise; `net.tokens(image)` -> `(b, n, d)` and `net.image(tokens)` back.
        shape: of one picture.
        noise: standard deviation of the noise that it was trained with; its law is that of pictures with this noise.
        condition: what is known of each row; set by `bind`. null: a row `(1, ...)` of each that says nothing.
        rule: of guidance; None for none. It costs a second row for each in the blocks that are told the condition.
    """

    net: Any
    shape: tuple[int, ...]
    noise: float = 0.0
    condition: tuple[Tensor, ...] = ()
    null: tuple[Tensor, ...] = ()
    rule: Rule | None = None

    @property
    def blocks(self) -> Sequence[Block]:
        return self.net.blocks

    def bind(self, *condition: Tensor, rule: Rule | None = None) -> Self:
        """The same, told something about each row: each `(rows, ...)`. `rule`: such as `partial(bijection.linear, scale=2.0)`."""
        if len(condition) != len(self.null) or len({len(c) for c in condition}) > 1:
            raise ValueError(
                f"Bijection.bind: expected {len(self.null)} conditions of one number of rows, got {[tuple(c.shape) for c in condition]}"
            )
        return replace(self, condition=condition, rule=rule)

    def source(self, noise: Noise) -> Tensor:
        """Noise, one row per stream: tokens `(rows, n, d)` float32 on the CPU."""
        return self.net.tokens(noise(torch.empty(len(noise), *self.shape)))

    def affine(
        self, block: Block, x: Tensor, first: int = 0, stop: int | None = None, keys: Keys | None = None
    ) -> Affine:
        """What a block says of tokens first ... stop - 1 of x, arranged; guided, if there is a rule."""
        if not block.told:
            return block(x, (), first, stop, keys)
        told = self._told(len(x), x.device)
        if self.rule is None:
            return block(x, told, first, stop, keys)
        null = (n.to(c.device).expand(c.shape) for n, c in zip(self.null, told, strict=True))
        both = block(
            torch.cat([x, x]), tuple(torch.cat(pair) for pair in zip(told, null, strict=True)), first, stop, keys
        )
        half = len(x)
        return self.rule(
            Affine(both.mean[:half], both.log_scale[:half]), Affine(both.mean[half:], both.log_scale[half:])
        )

    def keys(self, block: Block, x: Tensor) -> Keys:
        """Empty keys and values of a block, for all tokens of x, arranged."""
        return block.keys(len(x) * (2 if block.told and self.rule is not None else 1), x.shape[1])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Picture `(b, *shape)` -> noise, tokens `(b, n, d)`, and log |det| of the map `(b,)`."""
        x = self.net.tokens(image)
        total = x.new_zeros(len(x))
        for block in self.blocks:
            rows = arranged(block, x)
            mean, log_scale = self.affine(block, rows)
            x = scattered(block, (rows - mean) * (-log_scale).exp(), len(x))
            total = total - log_scale.reshape(len(x), -1).sum(1)
        return x, total

    def log_prob(self, image: Tensor) -> Tensor:
        """Log density of each picture `(b,)`, in nats: of pictures with noise of standard deviation `noise`."""
        z, log_det = self.forward(image)
        return log_det - 0.5 * (z.square() + torch.log(z.new_tensor(2 * torch.pi))).flatten(1).sum(1)

    def cleaned(self, image: Tensor) -> Tensor:
        """Tweedie: E[clean | image] = image + noise^2 grad log p(image), if p is the law of noisy pictures. 1 forward, 1 backward."""
        return image + self.noise**2 * value_and_grad(self.log_prob, image)[1]

    def _told(self, rows: int, device: torch.device) -> tuple[Tensor, ...]:
        told = self.condition or self.null
        if any(rows % len(c) for c in told):
            raise ValueError(
                f"Bijection: expected a multiple of the {len(told[0])} bound rows, got a batch of {rows}; bind one per row"
            )
        return tuple(c.to(device).repeat_interleave(rows // len(c), dim=0) for c in told)


def arranged(block: Block, x: Tensor) -> Tensor:
    """Tokens `(b, n, d)` as a block takes them: in its order, its groups as rows."""
    rows = x if block.span is None else x.reshape(-1, block.span, x.shape[2])
    return rows.flip(1) if block.backwards else rows


def scattered(block: Block, rows: Tensor, count: int) -> Tensor:
    """Back from `arranged`, to `count` rows."""
    return (rows.flip(1) if block.backwards else rows).reshape(count, -1, rows.shape[2])


class Update:
    """A sweep of a block's inverse over tokens first ... stop - 1: what `fixed_point.jacobi` calls.

    Keys and values of tokens that are settled are kept; they are always of their final values.

    Args:
        z: noise, arranged. clamp: greatest absolute value of a token. keep: False computes all tokens in every sweep.

    Attributes:
        computed: tokens of a row that went through the block, of all sweeps together.
    """

    def __init__(self, flow: Bijection, block: Block, z: Tensor, clamp: float, *, keep: bool = True):
        self.flow, self.block, self.z, self.clamp = flow, block, z, clamp
        self.keys = flow.keys(block, z) if keep else None
        self.valid = self.computed = 0  # keys and values of tokens before `valid` - 1 are those of their final values

    def __call__(self, x: Tensor, first: int, stop: int) -> Tensor:
        begin = min(self.valid, first)
        mean, log_scale = (each[:, first - begin :] for each in self.flow.affine(self.block, x, begin, stop, self.keys))
        self.valid = 0 if self.keys is None else first + 1
        self.computed += stop - begin
        return (self.z[:, first:stop] * log_scale.exp() + mean).clamp(-self.clamp, self.clamp)


@dataclass(frozen=True, eq=False)
class Cleaner:
    """Takes the training's noise out of what a flow drew: noisy + noise net(noisy), one evaluation. `train.flow_score` trains it.

    Attributes:
        net: noisy pictures or videos -> noise times the slope of their log density, of the same shape. noise: standard deviation.
    """

    net: Any
    noise: float

    def __call__(self, noisy: Tensor) -> Tensor:
        return noisy + self.noise * self.net(noisy)
