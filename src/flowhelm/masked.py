"""Masked: a prior over tokens, by masked discrete diffusion. And an exact one, a table of all states, the reference of the tests.

    time      t is the share of places that are kept: all are masked at 0, none at 1 (alpha_t = t; a schedule is a grid of times)
    network   tokens, some of them masked -> the logits of what stands at each place
    a move    from s to t a masked place is unmasked with probability (t - s) / (1 - s), and keeps what was drawn for it

Sources: Sahoo et al. 2024 (MDLM), arXiv:2406.07524; the order by confidence is that of MaskGIT, Chang et al. 2022, arXiv:2202.04200.
Places that are unmasked together are drawn independently, which is not their law: a move is exact if it unmasks one place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NoReturn, Self

import torch
from torch import Tensor, nn

from .codec import Tokenizer
from .flow import Flow
from .path import Path, linear
from .rng import Noise

Order = Literal["chance", "random", "confidence"]
"""Which places are unmasked: each by chance, so many at random, or so many of which the network is surest."""


@dataclass(frozen=True, eq=False)
class Masked(Flow):
    """A prior whose state is tokens `(b, *shape)` int64: 0..K-1 for the codes, K where masked. flowhelm's own.

    Args:
        net: tokens -> logits `(b, *shape, K)`. What it says of places that are not masked is not looked at.
        shape: of the tokens of one picture, such as (7, 7).
        tokenizer: between tokens and pictures.
        name, about: what the weights' file says; see `priors.tokens`.
        channels: of a picture that the tokenizer's one channel is copied to; None leaves pictures as the tokenizer makes them.

    It has no velocity: methods that follow one refuse it, and those for tokens (`restore.aps` and others) refuse every other prior.
    """

    net: nn.Module
    shape: tuple[int, ...]
    tokenizer: Tokenizer
    name: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    channels: int | None = None

    pixels = False
    prior_kind = "tokens"

    @property
    def path(self) -> Path:  # type: ignore[override]
        """alpha is the share of places that are kept, sigma that of the masked."""
        return linear

    @property
    def mask(self) -> int:
        """The token that stands for none: K."""
        return len(self.tokenizer.codes)

    @property
    def places(self) -> int:
        """Tokens of a picture."""
        return math.prod(self.shape)

    def velocity(self, x: Tensor, t: Tensor) -> NoReturn:
        raise ValueError(
            f"prior '{self.name or 'of tokens'}' is over tokens and has no velocity; take a method for tokens, such as aps, or a "
            "prior that is a flow"
        )

    def source(self, noise: Noise) -> Tensor:
        """All masked: `(rows, *shape)` int64."""
        return torch.full((len(noise), *self.shape), self.mask)

    def logits(self, tokens: Tensor) -> Tensor:
        """log p(code | the tokens that are not masked) at every place: `(b, *shape, K)`. One evaluation of the network.

        Raises:
            ValueError: no tokens of this prior, or of another size.
        """
        self._check(tokens, self.mask)
        found: Tensor = self.net(tokens)
        return (found if found.dtype == torch.float64 else found.float()).log_softmax(-1)

    def believed(self, tokens: Tensor, doubt: float = 0.0) -> Tensor:
        """log p(code) at every place, masked or not: `(b, *shape, K)`. One evaluation.

        A place that is not masked keeps its token with probability 1 - doubt, and has any code else: so that what is seen later can still
        overturn it. No log is below -30.
        """
        log_p = self.logits(tokens)
        own = nn.functional.one_hot(tokens.clamp(max=self.mask - 1), self.mask).to(log_p)
        shown = ((1 - doubt) * own + doubt / self.mask).log()
        return torch.where((tokens == self.mask)[..., None], log_p, shown).clamp(min=-30)

    def embed(self, tokens: Tensor) -> Tensor:
        """The codes of tokens, none of them masked: `(b, d, *shape)`."""
        self._check(tokens, self.mask - 1)
        return self.tokenizer.codes[tokens].movedim(-1, 1)

    def expected(self, probabilities: Tensor) -> Tensor:
        """The mean code of each place `(b, d, *shape)`, of probabilities `(b, *shape, K)`; differentiable."""
        return (probabilities @ self.tokenizer.codes.to(probabilities)).movedim(-1, 1)

    def nearest(self, latent: Tensor) -> Tensor:
        """The tokens of the codes nearest to a latent `(b, d, *shape)`."""
        codes = self.tokenizer.codes.to(latent)
        # |z - e|^2 without |z|^2, which is the same for all codes
        return (codes.square().sum(1) - 2 * latent.movedim(1, -1) @ codes.T).argmin(-1)

    def draw(self, latent: Tensor) -> Tensor:
        """The pictures `(b, c, h, w)` of latents `(b, d, *shape)`, codes or between them; differentiable. Methods ask for it."""
        picture = self.tokenizer.decode(latent)
        return picture if self.channels is None else picture.expand(-1, self.channels, -1, -1)

    def decode(self, clean: Tensor) -> Tensor:
        """The pictures of tokens, none of them masked. Raises ValueError for masked ones and for numbers that are no tokens."""
        return self.draw(self.embed(clean))

    def encode(self, image: Tensor) -> Tensor:
        return self.tokenizer.encode(image if self.channels is None else image.mean(1, keepdim=True))

    def sized(self, height: int, width: int, channels: int | None = None) -> Self:
        """The same prior, asked for pictures of this size in pixels.

        Args:
            channels: None for the tokenizer's own; 3 for copies of its one.

        Raises:
            ValueError: another size than it was trained for.
        """
        size = self.about.get("size")
        if self.tokenizer.shape(height, width) != self.shape:
            own = f"{size} x {size} pixels" if size else f"{'x'.join(map(str, self.shape))} tokens"
            raise ValueError(
                f"prior '{self.name}': expected a picture of {own}, got {height} x {width}; scale it, or take another prior"
            )
        return replace(self, channels=channels)

    def _check(self, tokens: Tensor, most: int) -> None:
        if tokens.is_floating_point() or tokens.shape[1:] != self.shape:
            raise ValueError(
                f"tokens: expected whole numbers (b, {', '.join(map(str, self.shape))}), got {tokens.dtype} {tuple(tokens.shape)}"
            )
        low, high = (int(v) for v in tokens.aminmax()) if tokens.numel() else (0, 0)
        if low < 0 or high > most:
            what = f"0..{most}" if most < self.mask else f"0..{most - 1}, or {most} where masked"
            raise ValueError(f"tokens: expected {what}, got {low}..{high}")


def gumbel(noise: Noise, like: Tensor) -> Tensor:
    """Standard Gumbel draws shaped as `like` `(rows, ...)`, from the rows' own streams; argmax of logits + these is a draw."""
    uniform = torch.special.ndtr(noise(torch.empty_like(like, dtype=torch.float64)))
    return -(-uniform.clamp(1e-300, 1 - 1e-16).log()).log().to(like)


def kept(share: Tensor | float, places: int) -> int:
    """How many of the places are kept at that time: the nearest whole number, and all of them at 1."""
    return round(float(share) * places)


def unmask(
    prior: Masked, x: Tensor, s: Tensor, t: Tensor, noise: Noise, *, order: Order = "chance", temperature: float = 0.0
) -> tuple[Tensor, Tensor]:
    """One move from time s to t: `(state, what was drawn for every place)`; one evaluation.

    Args:
        x: tokens at s `(b, *shape)`.
        order: chance, MDLM's: each masked place with probability (t - s) / (1 - s). random, confidence: so many that `kept(t, places)`
            of them are unmasked then; at random, or those whose drawn token had the largest log p + temperature (1 - t) Gumbel.
    """
    log_p = prior.logits(x)
    drawn = torch.where(x == prior.mask, (log_p + gumbel(noise, log_p)).argmax(-1), x)
    hidden = (x == prior.mask).flatten(1)
    if order == "chance":
        new = torch.special.ndtr(noise(hidden.double())).to(x.device) < float((t - s) / (1 - s))
    else:
        sure = noise(hidden.float())
        if order == "confidence":
            sure = log_p.gather(-1, drawn[..., None])[..., 0].flatten(1)
            sure = sure + temperature * float(1 - t) * gumbel(noise, sure)
        new = best(sure.masked_fill(~hidden, math.inf), kept(t, prior.places))
    new = new | (torch.as_tensor(float(t) >= 1, device=x.device))
    return torch.where(((hidden & new) | ~hidden).view_as(x), drawn, prior.mask), drawn


def best(sure: Tensor, count: int) -> Tensor:
    """True at the `count` largest of each row `(b, n)`."""
    picked = sure.topk(count, dim=1).indices
    return torch.zeros_like(sure, dtype=torch.bool).scatter(1, picked, True)


@torch.no_grad()
def bound(prior: Masked, tokens: Tensor, noise: Noise, *, draws: int = 1) -> Tensor:
    """An upper bound of -log p(tokens) in nats, one for each row `(b,)`: L times the mean surprise of what is masked (the NELBO).

    n of 1..L is drawn and so many places are masked at random, `draws` times; the mean over all such draws is the bound, and it is tight
    if the network knows the conditionals. See `train.filler_loss`.
    """
    flat, total = tokens.flatten(1), torch.zeros(len(tokens), device=tokens.device)
    for _ in range(draws):
        count = 1 + (noise.uniform() * prior.places).long().clamp(max=prior.places - 1).to(flat.device)
        hidden = noise(flat.float()).argsort(1).argsort(1) < count[:, None]
        log_p = prior.logits(torch.where(hidden, prior.mask, flat).view_as(tokens)).flatten(1, -2)
        surprise = -log_p.gather(-1, flat[..., None])[..., 0]
        total += prior.places * (surprise * hidden).sum(1) / count / draws
    return total


class Table(nn.Module):
    """The exact network of a known law over few tokens: a table of the probabilities of all states. flowhelm's own.

    Args:
        law: `(K,) * L`, not negative (normalised here).

    Of a masked place it gives the conditional law, given the places that are not.
    """

    def __init__(self, law: Tensor):
        super().__init__()
        codes, places = law.shape[0], law.ndim
        self.register_buffer("law", (law / law.sum()).flatten(), persistent=False)
        states = torch.cartesian_prod(*[torch.arange(codes)] * places).view(-1, places)
        self.register_buffer("states", states, persistent=False)
        self.codes = codes

    def forward(self, tokens: Tensor) -> Tensor:
        states: Tensor = self.states  # type: ignore[assignment]
        seen = tokens.flatten(1)[:, None]
        law: Tensor = self.law  # type: ignore[assignment]
        fits = ((seen == states) | (seen == self.codes)).all(-1) * law  # (b, states)
        told = nn.functional.one_hot(states, self.codes).to(fits).flatten(1)
        return (fits @ told).log().view(*tokens.shape, self.codes)

    def posterior(self, prior: Masked, reward: Callable[[Tensor], Tensor]) -> Tensor:
        """p(state | y) of all states `(K ** L,)`, in the order of `states`: the law times exp(reward(picture)), normalised."""
        states: Tensor = self.states  # type: ignore[assignment]
        tilt = reward(prior.decode(states.view(-1, *prior.shape)))
        return (self.law.log() + tilt).softmax(0)  # type: ignore[operator]


@dataclass(frozen=True, eq=False)
class LinearTokens:
    """A tokenizer with one-hot codes and a linear decoder: what is exact in the tests is exact through it. flowhelm's own.

    Args:
        matrix: `(pixels, L K)`, from the one-hot tokens of L places, place by place, to a picture of 1 x 1 x pixels.
        codes: the identity `(K, K)`.
    """

    matrix: Tensor
    codes: Tensor

    def decode(self, latent: Tensor) -> Tensor:
        """`(b, K, L)` -> `(b, 1, 1, pixels)`."""
        return (latent.movedim(1, -1).flatten(1) @ self.matrix.T.to(latent))[:, None, None]

    def encode(self, image: Tensor) -> Tensor:
        """The tokens whose picture is nearest, by looking at all of them."""
        count = self.matrix.shape[1] // len(self.codes)
        states = torch.cartesian_prod(*[torch.arange(len(self.codes))] * count).view(-1, count)
        pictures = self.decode(self.codes[states].movedim(-1, 1)).flatten(1)
        return states[torch.cdist(image.flatten(1), pictures).argmin(1)]

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        if (height, width) != (1, len(self.matrix)):
            raise ValueError(f"tokens: expected a picture of 1 x {len(self.matrix)}, got {height} x {width}")
        return (self.matrix.shape[1] // len(self.codes),)


__all__ = ["LinearTokens", "Masked", "Order", "Table", "best", "bound", "gumbel", "kept", "unmask"]
