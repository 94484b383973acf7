"""Weights of particles: k per prompt, batch-flattened `(b * k, ...)`, log-weights `(b, k)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .grad import per_row, where_rows
from .path import Path, linear
from .rng import Noise
from .shapes import State

Resampler = Callable[[Tensor, Noise], Tensor]
"""(log-weights `(b, k)`, noise) -> indices `(b * k,)` into the flattened batch, each particle k w times on average."""

Tempering = Literal["off", "das", "adaptive"] | Callable[[Tensor], float]
"""Share in [0, 1] of a likelihood or reward that counts at time t; see `share`, and `anneal` for "adaptive"."""


Potential = Literal["difference", "max", "sum"]
"""What the rewards on the way do to the weights; see `Weights`."""


def prompts(rows: int, k: int, who: str) -> int:
    """How many prompts a batch of k particles each has. Raises ValueError for a batch that is no multiple of k."""
    if k < 1 or rows % k:
        raise ValueError(f"{who}: expected a batch that is a multiple of particles = {k}, got {rows} rows")
    return rows // k


def ess(log_w: Tensor) -> Tensor:
    """Effective sample size (sum w)^2 / sum w^2, between 1 and k: `(b, k) -> (b,)`."""
    return (2 * log_w.logsumexp(1) - (2 * log_w).logsumexp(1)).exp()


def systematic(log_w: Tensor, noise: Noise) -> Tensor:
    """Systematic resampling: indices `(b * k,)` into the flattened batch, each row drawn within itself.

    One uniform number per row places k evenly spaced pointers on the cumulated weights, so that a particle of weight w
    is taken floor(k w) or ceil(k w) times, k w on average. `noise` has b * k streams, of which the first of each row is
    used (or b streams). Permute states, ends and rewards with the result; streams stay where they are.
    """
    b, k = log_w.shape
    start = noise.uniform().view(b, -1)[:, :1]
    pointers = (start + torch.arange(k, dtype=torch.float64)) / k
    edges = log_w.double().cpu().softmax(1).cumsum(1)
    pick = torch.searchsorted(edges / edges[:, -1:], pointers, right=True).clamp(max=k - 1)
    return (pick + k * torch.arange(b)[:, None]).flatten().to(log_w.device)


def stratified(log_w: Tensor, noise: Noise) -> Tensor:
    """Stratified resampling: as `systematic`, but each pointer is drawn in its own k-th of [0, 1), with b * k streams."""
    b, k = log_w.shape
    return _flat(_at(log_w, (_uniforms(noise, b, k) + torch.arange(k, dtype=torch.float64)) / k), log_w)


def residual(log_w: Tensor, noise: Noise) -> Tensor:
    """Residual resampling: floor(k w) copies of each particle for certain, the rest drawn from what the floors left over.

    Liu & Chen 1998. Needs b * k streams.
    """
    b, k = log_w.shape
    expected = k * log_w.double().cpu().softmax(1)
    certain = expected.floor()
    upto = certain.cumsum(1)
    place = torch.arange(k, dtype=torch.float64).expand(b, k).contiguous()
    first = torch.searchsorted(upto, place, right=True).clamp(max=k - 1)
    rest = _at((expected - certain).log(), _uniforms(noise, b, k))
    return _flat(torch.where(place < upto[:, -1:], first, rest), log_w)


def categorical(log_w: Tensor, noise: Noise) -> Tensor:
    """One particle per row, with the probability of its weight: indices `(b,)` into the flattened batch, of b streams."""
    b, k = log_w.shape
    return (_at(log_w, noise.uniform()[:, None])[:, 0] + k * torch.arange(b)).to(log_w.device)


def best(value: Tensor) -> Tensor:
    """The particle of the highest value of each row `(b, k)`: indices `(b,)` into the flattened batch."""
    return value.argmax(1) + value.shape[1] * torch.arange(len(value), device=value.device)


def log_mean(log_w: Tensor) -> Tensor:
    """log of the mean weight of each row: `(b, k) -> (b,)`. Where resampling keeps it, it estimates log Z."""
    return log_w.logsumexp(1) - torch.tensor(float(log_w.shape[1]), dtype=torch.float64).log()


def resampled(
    log_w: Tensor, noise: Noise, threshold: float, resampler: Resampler = systematic
) -> tuple[Tensor, Tensor]:
    """Resamples the rows whose effective sample size is below threshold * k, and leaves the others as they are.

    Returns:
        Indices `(b * k,)` into the flattened batch, and the weights after it `(b, k)`: the mean weight of a row that was
        resampled, so that logsumexp(log_w) - log k stays what it was. A row without any weight is not resampled.
    """
    b, k = log_w.shape
    pick = resampler(log_w, noise)  # drawn whether needed or not: a row must not see its neighbours
    low = ess(log_w) < threshold * k
    stay = torch.arange(b * k, device=log_w.device)
    mean = log_mean(log_w).to(log_w)[:, None]
    return torch.where(low.repeat_interleave(k), pick, stay), torch.where(low[:, None], mean, log_w)


def survivors(x: State, moved: Tensor, log_w: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
    """The particles `(b * k, ...)` after a move, and their weights `(b, k)` plus `change` `(b * k,)`.

    A particle that is not finite has weight 0 and stays where it was; if none of a row has weight, their state is NaN.
    """
    k = log_w.shape[1]
    bad = ~(moved.flatten(1).isfinite().all(1) & change.isfinite())
    log_w = (log_w + change.double().view(-1, k)).masked_fill(bad.view(-1, k), -torch.inf)
    lost = log_w.isneginf().all(1).repeat_interleave(k)  # told by what runs the method: the state is not finite
    return (where_rows(bad, x, moved) + per_row(torch.where(lost, torch.nan, 0.0), x)).detach(), log_w


def _uniforms(noise: Noise, b: int, k: int) -> Tensor:
    if len(noise) != b * k:
        raise ValueError(f"resampling: expected a stream per particle, {b * k}, got {len(noise)}; use noise.spawn({k})")
    return noise.uniform().view(b, k)


def _at(log_w: Tensor, pointers: Tensor) -> Tensor:
    """The particle on whose share of [0, 1) each pointer stands: `(b, k), (b, n) -> (b, n)`; n may be any."""
    edges = log_w.double().cpu().softmax(1).cumsum(1)
    return torch.searchsorted(edges / edges[:, -1:], pointers, right=True).clamp(max=log_w.shape[1] - 1)


def _flat(pick: Tensor, log_w: Tensor) -> Tensor:
    b, k = log_w.shape
    return (pick + k * torch.arange(b)[:, None]).flatten().to(log_w.device)


def share(tempering: Tempering, path: Path = linear) -> Callable[[Tensor], float]:
    """The share at each time: 1 ("off"), 1.008^(100 t) - 1 and at most 1 ("das", arXiv:2501.05803), or the function given.

    "adaptive" is given by `anneal`, and the mean weight is then not unbiased. It is at most alpha^2 / (alpha^2 + sigma^2): early
    estimates are nearly the same for all particles, so that their effective size alone would let all of the reward in at once,
    which no later share can take back.
    """
    if callable(tempering):
        return tempering
    shares: dict[str, Callable[[Tensor], float]] = {
        "off": lambda t: 1.0,
        "das": lambda t: min(1.008 ** (100 * float(t)) - 1, 1.0),
        "adaptive": lambda t: 1 - float(path(t.double()).variance),
    }
    return shares[tempering]


def tempered(
    who: str, tempering: Tempering | None, proposal: str, potential: Potential, path: Path
) -> tuple[bool, Callable[[Tensor], float]]:
    """Whether the share adapts, and the share at each time: None is "das" with a proposal, "off" without.

    Raises ValueError for adaptive tempering of another potential than difference, or of control.
    """
    if tempering == "adaptive" and (potential != "difference" or proposal == "control"):
        raise ValueError(f"{who}: expected potential='difference' and no control with adaptive tempering; take 'das'")
    return tempering == "adaptive", share(tempering or ("off" if proposal == "prior" else "das"), path)


def anneal(log_w: Tensor, log_likelihood: Tensor, spent: Tensor, target: float, most: float = 1.0) -> Tensor:
    """The next temperature of each row: the largest in (spent, most] that keeps the effective sample size at `target` * k.

    Args:
        log_w: weights so far, `(b, k)`; log_likelihood: `(b, k)`, still to be multiplied in with exponent 1 - spent.
        spent: exponent already used, `(b,)` in [0, 1]; where it is above `most` already, it stays.

    The effective size falls as the exponent grows, so bisection finds it (Del Moral et al. 2012, section 3.2).
    """
    k = log_w.shape[1]
    low, high = spent.clone(), spent.clamp(min=most)
    size = lambda e: ess(log_w + (e - spent)[:, None] * log_likelihood)  # noqa: E731
    whole, end = size(high) >= target * k, high
    for _ in range(50):
        middle = (low + high) / 2
        fits = size(middle) >= target * k
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return torch.where(whole, end, low)


class Weights(NamedTuple):
    """Weights of particles that are scored on the way by potentials, whose product is exp(full reward) at the end.

        r      <- level * full, at the end full itself, which makes up for whatever stood before
        log G  <- r                   "difference": all of it counts at once, and is taken back when it changes
               or log G + max r       "max": over the particle's past
               or log G + sum r       "sum"
        log w  <- log w + (new - old) log G

    Difference suits most rewards, max those that are bounded below; sum needs very many particles. The code of FK steering
    (arXiv:2501.06848) ends "max" and "sum" with the past instead of the reward: not so here.

    Attributes:
        log_w, log_g, past: `(b, k)` float64. A particle of weight 0 (a reward of -infinity) stays so.
        level: share of the reward that counts, `(b,)` float64; see `share`.
    """

    log_w: Tensor
    level: Tensor
    log_g: Tensor
    past: Tensor

    @classmethod
    def begin(cls, b: int, k: int, potential: Potential, level: float, carried: Mapping[str, Tensor] | None) -> Weights:
        """Equal ones, or those that `told` has told."""
        if carried is not None:
            return cls(carried["log_w"], carried["level"], *(carried[name].view(b, k) for name in ("log_g", "past")))
        log_w = torch.zeros(b, k, dtype=torch.float64)
        past = torch.full_like(log_w, -torch.inf if potential == "max" else 0)
        return cls(log_w, torch.full((b,), level, dtype=torch.float64), torch.zeros_like(log_w), past)

    def plus(self, ratio: Tensor | float) -> Weights:
        """Times a ratio, whose log is given, `(b * k,)`: what a proposal costs."""
        more = ratio.double().cpu().view_as(self.log_w) if isinstance(ratio, Tensor) else ratio
        return self._replace(log_w=self.log_w + more)

    def scored(self, full: Tensor, level: float, potential: Potential, target: float | None, last: bool) -> Weights:
        """After a look at rewards `full` `(b * k,)`, the last one or one on the way.

        Args:
            level: the share of them that counts, or with `target` at most counts: as much as keeps the effective size at `target` * k.
        """
        past, full = self.past, full.view_as(self.log_w)
        if last:
            share, new = torch.ones_like(self.level), full
        else:
            if target is not None:
                # a little below the threshold, so that whom it stops is resampled: at it, rounding would decide
                left = self.log_w + (self.level[:, None] * full - self.log_g)
                share = anneal(left, full, self.level, target * (1 - 1e-8), level)
            else:
                share = torch.full_like(self.level, level)
            r = torch.where(share[:, None] > 0, share[:, None] * full, 0.0)
            past = torch.maximum(past, r) if potential == "max" else past + r
            new = r if potential == "difference" else self.log_g + past
        log_w = self.log_w + (new - self.log_g)
        return Weights(log_w.masked_fill(log_w.isnan(), -torch.inf), share, new, past)

    def resampled(self, noise: Noise, threshold: float, resampler: Resampler) -> tuple[Tensor, Weights]:
        """As `resampled`: indices `(b * k,)`, and the weights after it."""
        pick, log_w = resampled(self.log_w, noise, threshold, resampler)
        log_g, past = (each.flatten()[pick].view_as(log_w) for each in (self.log_g, self.past))
        return pick, Weights(log_w, self.level, log_g, past)

    def told(self) -> dict[str, Tensor]:
        """For the `info` of a step, of which `begin` makes them again; `log_z` estimates the log of the mean weight."""
        info = {"log_w": self.log_w, "log_z": log_mean(self.log_w), "level": self.level}
        return info | {"log_g": self.log_g.flatten(), "past": self.past.flatten()}
