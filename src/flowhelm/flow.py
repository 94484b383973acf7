"""Flow: what a prior is to every method. Two exact ones, Gaussian and mixture, are the reference of the tests."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from .adapter import Adaptable
from .entry import guarded
from .looks import Looks
from .path import Ends, Path, at, ends_from_velocity, linear, time_at_snr
from .rng import Noise
from .shapes import Image, PerSample, State, Time, Times

PURE = 10.0
"""The noise level sigma / alpha from which on a state counts as nothing but noise."""


class Flow(abc.ABC):
    """A prior: a velocity field whose flow carries a standard normal source (t = 0) to clean samples (t = 1). flowhelm's own.

    Attributes:
        path: how source and clean are mixed; see `flowhelm.path`.
        shape: of one state, without the batch.
        pixels: True if the state *is* the picture, so that a measurement's prox can act on it.
        looks: how its pictures may be shown to it: upright, as they are; mirrored left to right, too; turned by quarters as well.
        prior_kind: flow; paired (`flowhelm.paired`), codec (`codec.CodecPrior`) or tokens (`masked.Masked`) of priors with methods of their
            own.
    """

    path: Path
    shape: tuple[int, ...]
    pixels: bool
    looks: Looks = "upright"
    prior_kind: str = "flow"

    @abc.abstractmethod
    def velocity(self, x: State, t: Time) -> State:
        """E[d x_t / dt | x_t = x]: state `(b, *shape)` and time (0-dim float64 on the CPU, or `(b,)`) -> `(b, *shape)`."""

    # encode and decode have no default: an inherited identity lets a wrapper forget the decoder without a word.
    @abc.abstractmethod
    def encode(self, image: Image) -> State:
        """Picture `(b, c, h, w)` in [-1, 1] -> clean state."""

    @abc.abstractmethod
    def decode(self, clean: State) -> Image:
        """Clean state -> picture `(b, c, h, w)`, nominally in [-1, 1] (never clamped); differentiable."""

    def ends(self, x: State, t: Time) -> Ends:
        """E[source | x_t] and E[clean | x_t]: one evaluation of the network."""
        return ends_from_velocity(self.path, self.velocity(x, t), x, t)

    @property
    def levels(self) -> tuple[float, float]:
        """The noise levels sigma / alpha that it was made for, lowest and highest; all of them unless it says otherwise."""
        return 0.0, math.inf

    def times(self, steps: int) -> Times:
        """The grid that suits this prior: `(steps + 1,)` float64 on the CPU, from 0 to 1. Uniform unless it says otherwise."""
        if steps < 1:
            raise ValueError(f"times: expected at least 1 step, got {steps}")
        return torch.linspace(0, 1, steps + 1, dtype=torch.float64)

    def source(self, noise: Noise) -> State:
        """A state at t = 0, one row per stream: `(rows, *shape)` float32 on the CPU."""
        return noise(torch.empty(len(noise), *self.shape))

    def rows(self, index: Tensor, total: int) -> Flow:
        """This flow for the rows `index` `(n,)` of a batch of `total`: what is bound to a row goes with it."""
        return self

    def as_denoiser(self) -> nn.Module:
        """This prior as a deepinv denoiser: `denoiser(image in [0, 1], sigma in the same unit) -> image`. Pixel priors only."""
        if not self.pixels:
            raise ValueError(
                "as_denoiser: expected a prior over pixels, got one with a decoder; deepinv works on pictures"
            )
        return Denoiser(self)


@runtime_checkable
class FlowMap(Protocol):
    """A model of two times, such as a mean flow (Geng et al. 2025, arXiv:2505.13447): it goes from one to the other in one evaluation."""

    def map(self, x: State, s: Time, t: Time) -> State:
        """The state at time t on the path through x `(b, *shape)` at time s; s and t 0-dim float64 on the CPU."""
        ...


class Pixels(Flow, abc.ABC):
    """A flow whose state is the picture. flowhelm's own."""

    pixels = True

    def encode(self, image: Image) -> State:
        return image

    def decode(self, clean: State) -> Image:
        return clean


class Wrapped(Flow, abc.ABC):
    """A flow that edits another one, `self.flow`; it forwards everything but the velocity. flowhelm's own."""

    flow: Flow

    @property
    def path(self) -> Path:  # type: ignore[override]
        return self.flow.path

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.flow.shape

    @property
    def pixels(self) -> bool:  # type: ignore[override]
        return self.flow.pixels

    @property
    def looks(self) -> Looks:  # type: ignore[override]
        return self.flow.looks

    @property
    def prior_kind(self) -> str:  # type: ignore[override]
        return self.flow.prior_kind

    @property
    def levels(self) -> tuple[float, float]:
        return self.flow.levels

    def encode(self, image: Image) -> State:
        return self.flow.encode(image)

    def decode(self, clean: State) -> Image:
        return self.flow.decode(clean)

    def times(self, steps: int) -> Times:
        return self.flow.times(steps)

    def source(self, noise: Noise) -> State:
        return self.flow.source(noise)

    def rows(self, index: Tensor, total: int) -> Flow:
        inner = self.flow.rows(index, total)
        if inner is self.flow:
            return self
        same = copy(self)
        object.__setattr__(same, "flow", inner)  # a wrapper may be frozen
        return same


Guidance = Callable[[State, State, Time], State]
"""(velocity given the condition, velocity given none, t) -> velocity; see `guide.cfg`, `guide.raag`, `guide.cfg_zero`."""


@dataclass(frozen=True, eq=False)
class NetFlow(Adaptable, Pixels):
    """A velocity network over pictures. flowhelm's own.

    Args:
        net: `net(x, t, *condition)` with x `(b, *shape)` and t `(b,)`, both in the network's dtype and on its device -> velocity.
        shape: of one picture.
        condition: what the network is told about each row, each `(rows, ...)`; set by `bind`. A state of k * rows rows
            (k particles each) repeats every row k times.
        null: a row `(1, ...)` of each that says nothing; what training drops conditions to and guidance compares with.
        guidance: how the velocities with and without the condition are joined; None for the conditional one alone.
        autocast: what `torch.autocast` computes the network's convolutions and products of matrices in, `torch.bfloat16` say; None
            for the type of its weights.
        looks: `Flow.looks`; mirrored or turned for a network that was trained on such pictures.

    The state keeps its own dtype (float32); it is cast for the network and back. Time reaches the network as a tensor,
    so a compiled network is compiled once for all times. Cost with guidance: two rows per row, in one call.
    """

    net: nn.Module
    shape: tuple[int, ...]
    path: Path = linear
    condition: tuple[Tensor, ...] = ()
    null: tuple[Tensor, ...] = ()
    guidance: Guidance | None = None
    autocast: torch.dtype | None = None
    looks: Looks = "upright"

    def velocity(self, x: State, t: Time) -> State:
        device = next(self.net.parameters(), x).device
        told = self._told(len(x), device)
        with nullcontext() if self.autocast is None else torch.autocast(device.type, self.autocast):
            return self._guided(x, t, told)

    def _guided(self, x: State, t: Time, told: list[Tensor]) -> State:
        if self.guidance is None:
            return self._ask(x, t, told)
        null = [n.to(c.device).expand(c.shape) for n, c in zip(self.null, told, strict=True)]
        both = [torch.cat(pair) for pair in zip(told, null, strict=True)]
        given, without = self._ask(torch.cat([x, x]), t if t.ndim == 0 else torch.cat([t, t]), both).chunk(2)
        return self.guidance(given, without, t)

    def _ask(self, x: State, t: Time, told: list[Tensor]) -> State:
        """The network's velocity, in the dtype and on the device of x; what a network of another convention overrides."""
        weight = next(self.net.parameters(), x)
        return self.net(x.to(weight), t.to(weight).expand(len(x)), *told).to(x)

    def _told(self, rows: int, device: torch.device) -> list[Tensor]:
        if any(rows % len(c) for c in self.condition):
            raise ValueError(
                f"NetFlow: expected a multiple of the {len(self.condition[0])} bound rows, got a batch of {rows}; "
                "bind one condition per row"
            )
        return [c.to(device).repeat_interleave(rows // len(c), dim=0) for c in self.condition]

    def with_net(self, net: nn.Module) -> Self:
        return replace(self, net=net)

    def rows(self, index: Tensor, total: int) -> Self:
        if not self.condition:
            return self
        told = self._told(total, self.condition[0].device)
        return replace(self, condition=tuple(c[index.to(c.device)] for c in told))

    @guarded
    def bind(self, *condition: Tensor, guidance: Guidance | None = None) -> Self:
        """The same prior, told something about each row.

        Args:
            condition: what the network takes after x and t, each `(rows, ...)`.
            guidance: for instance `partial(guide.cfg, scale=2.0)`; needs `null`.
        """
        if len({len(c) for c in condition}) > 1:
            raise ValueError(f"bind: expected as many rows of every condition, got {[len(c) for c in condition]}")
        if guidance is not None and len(self.null) != len(condition):
            raise ValueError("bind: guidance compares with an empty condition; give the flow one as `null`")
        return replace(self, condition=condition, guidance=guidance)

    def sized(self, height: int, width: int) -> Self:
        """The same prior for pictures of another size; for networks that take any."""
        return replace(self, shape=(*self.shape[:-2], height, width))


class Denoiser(nn.Module):
    """A pixel prior seen as deepinv sees a denoiser. Range [0, 1] <-> [-1, 1] and noise level <-> time are converted here."""

    def __init__(self, flow: Flow):
        super().__init__()
        self.flow = flow

    def forward(self, x: Image, sigma: float | Tensor, **_: object) -> Image:  # deepinv passes solver-specific extras
        std = 2 * torch.as_tensor(sigma, dtype=torch.float64).flatten().expand(len(x))
        t = time_at_snr(self.flow.path, 1 / std).to(x.device)
        state = at(self.flow.path, t, x).alpha * (2 * x - 1)
        return (self.flow.ends(state, t).clean + 1) / 2


@dataclass(frozen=True, eq=False)
class GaussianFlow(Pixels):
    """The exact flow of N(mean, covariance): velocity, flow map, posterior, all in closed form. flowhelm's own.

    Args:
        mean: `(d,)`; covariance: `(d, d)` symmetric, positive semi-definite. Their dtype (use float64 for tests) is kept.
        shape: of one state, with d elements; `(d,)` if not given.

    With C_t = alpha^2 S + sigma^2 I and e = x - alpha mean:
    v = alpha' mean + (alpha alpha' S + sigma sigma' I) C_t^{-1} e.
    """

    mean: Tensor
    covariance: Tensor
    path: Path = linear
    shape: tuple[int, ...] = ()
    _values: Tensor = field(init=False, repr=False)
    _vectors: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check_normal("GaussianFlow", self.mean, self.covariance)
        object.__setattr__(self, "shape", tuple(self.shape) or (len(self.mean),))
        values, vectors = torch.linalg.eigh(self.covariance)
        object.__setattr__(self, "_values", values.clamp(min=0))  # eigh of a singular covariance may dip below 0
        object.__setattr__(self, "_vectors", vectors)

    def _apply(self, spectrum: Tensor, e: Tensor) -> Tensor:
        """U diag(spectrum) U^T e for rows e `(b, d)`; spectrum `(d,)` or `(b, d)`."""
        return ((e @ self._vectors) * spectrum) @ self._vectors.T

    def _coeffs(self, x: State, t: Time) -> tuple[Tensor, ...]:
        flat = x.flatten(1)
        a = at(self.path, t, flat)
        return flat, *a, a.alpha**2 * self._values + a.sigma**2  # the last is the spectrum of C_t

    def velocity(self, x: State, t: Time) -> State:
        flat, alpha, sigma, d_alpha, d_sigma, c = self._coeffs(x, t)
        gain = (alpha * d_alpha * self._values + sigma * d_sigma) / c
        return (d_alpha * self.mean + self._apply(gain, flat - alpha * self.mean)).view_as(x)

    def map(self, x: State, s: Time, t: Time) -> State:
        """The exact flow map from time s to time t, as a `FlowMap` has it: alpha_t mean + C_t^{1/2} C_s^{-1/2} (x - alpha_s mean)."""
        flat, alpha, *_, start = self._coeffs(x, s)
        _, alpha_t, *_, stop = self._coeffs(x, t)
        moved = self._apply((stop / start).sqrt(), flat - alpha * self.mean)
        return (alpha_t * self.mean + moved).view_as(x)

    def log_density(self, x: State, t: Time) -> PerSample:
        """log p_t(x): `(b,)`."""
        flat, alpha, *_, c = self._coeffs(x, t)
        e = (flat - alpha * self.mean) @ self._vectors
        return -0.5 * ((e**2 / c).sum(1) + c.log().sum(-1) + len(self.mean) * math.log(2 * math.pi))

    def posterior(self, matrix: Tensor, y: Tensor, covariance: Tensor) -> GaussianFlow:
        """The flow of p(clean | y), y = matrix clean + N(0, covariance): matrix `(m, d)`, y `(m,)`, covariance `(m, m)`."""
        mean, cov, _ = _condition(self.mean, self.covariance, matrix, y, covariance)
        return GaussianFlow(mean, cov, self.path, self.shape)

    def sample(self, noise: Noise) -> State:
        """Exact samples of the clean law: `(rows, *shape)`."""
        z = noise(self.mean.new_empty(len(noise), len(self.mean)))
        return (self.mean + self._apply(self._values.sqrt(), z)).view(-1, *self.shape)


@dataclass(frozen=True, eq=False)
class MixtureFlow(Pixels):
    """The exact flow of a Gaussian mixture, and its exact posterior under a linear-Gaussian measurement. flowhelm's own.

    Args:
        weights: `(k,)`, positive (normalised here); means: `(k, d)`; covariances: `(k, d, d)`.

    With C_k = alpha^2 S_k + sigma^2 I, e_k = x - alpha mu_k and responsibilities r_k of x:
    clean_k = mu_k + alpha S_k C_k^{-1} e_k,  score_k = -C_k^{-1} e_k,
    v_k = alpha' mu_k + (alpha alpha' S_k + sigma sigma' I) C_k^{-1} e_k.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    path: Path = linear
    shape: tuple[int, ...] = ()
    _values: Tensor = field(init=False, repr=False)
    _vectors: Tensor = field(init=False, repr=False)
    _centres: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not (self.weights > 0).all():
            raise ValueError("MixtureFlow: expected positive weights; leave out components of weight 0")
        for mean, covariance in zip(self.means, self.covariances, strict=True):
            _check_normal("MixtureFlow", mean, covariance)
        object.__setattr__(self, "weights", self.weights / self.weights.sum())
        object.__setattr__(self, "shape", tuple(self.shape) or (self.means.shape[1],))
        values, vectors = torch.linalg.eigh(self.covariances)
        object.__setattr__(self, "_values", values.clamp(min=0))  # as in GaussianFlow
        object.__setattr__(self, "_vectors", vectors)
        object.__setattr__(self, "_centres", (self.means[:, None] @ vectors)[:, 0])

    def _parts(self, x: State, t: Time) -> tuple[Tensor, ...]:
        """log r_k; e_k along the eigenvectors of S_k, and the eigenvalues of C_k: `(b, k)`, `(b, k, d)`, `(b | 1, k, d)`."""
        flat = x.flatten(1).to(self.means)
        a = at(self.path, t, flat[..., None])  # (b, 1, 1), or 0-dim
        # a product for each row, and not one of the batch, whose rounding would depend on the number of rows
        e = (flat[:, None, None] @ self._vectors)[..., 0, :] - a.alpha * self._centres
        c = (a.alpha**2 * self._values + a.sigma**2).view(-1, *self.means.shape)
        log_p = -0.5 * ((e**2 / c + c.log()).sum(-1) + self.means.shape[1] * math.log(2 * math.pi))
        return self.weights.log() + log_p, e, c

    def _turned(self, e: Tensor) -> Tensor:
        """U_k e_k: `(b, k, d)`."""
        return (e[..., None, :] @ self._vectors.mT)[..., 0, :]

    def _matrices(self, spectrum: Tensor) -> Tensor:
        """U_k diag(spectrum) U_k^T: `(1, k, d) -> (1, k, d, d)`."""
        return (self._vectors * spectrum[..., None, :]) @ self._vectors.mT

    def _given(self, x: State, t: Time) -> tuple[Tensor, ...]:
        """Of p(clean | x_t = x), 0-dim t: log r_k, means `(b, k, d)` and covariances `(1, k, d, d)` of the components."""
        log_r, e, c = self._parts(x, t)
        a = self.path(t)
        clean = self.means + self._turned(a.alpha * self._values / c * e)
        return log_r, clean, self._matrices(a.sigma**2 * self._values / c)

    def log_density(self, x: State, t: Time) -> PerSample:
        """log p_t(x): `(b,)`."""
        return self._parts(x, t)[0].logsumexp(1)

    def responsibilities(self, x: State, t: Time) -> Tensor:
        """p(component | x_t = x): `(b, k)`."""
        return self._parts(x, t)[0].softmax(1)

    def velocity(self, x: State, t: Time) -> State:
        log_r, e, c = self._parts(x, t)
        a, r = at(self.path, t, e), log_r.softmax(1)
        gain = (a.alpha * a.d_alpha * self._values + a.sigma * a.d_sigma) / c
        return self._turned(r[..., None] * (a.d_alpha * self._centres + gain * e)).sum(1).view_as(x)

    def score(self, x: State, t: Time) -> State:
        """grad log p_t(x), shaped as x."""
        log_r, e, c = self._parts(x, t)
        return -self._turned(log_r.softmax(1)[..., None] * e / c).sum(1).view_as(x)

    def jacobian(self, x: State, t: Time) -> Tensor:
        """Jacobian of the denoiser E[clean | x_t] with respect to x: `(b, d, d)`, symmetric; 0-dim t."""
        log_r, e, c = self._parts(x, t)
        r, gain = log_r.softmax(1), self.path(t).alpha * self._values / c
        clean, score = self.means + self._turned(gain * e), -self._turned(e / c)
        centred = clean - (r[..., None] * clean).sum(1, keepdim=True)
        within = (r[..., None, None] * self._matrices(gain)).sum(1)
        return within + torch.einsum("bk,bki,bkj->bij", r, centred, score - (r[..., None] * score).sum(1, keepdim=True))

    def covariance(self, x: State, t: Time) -> Tensor:
        """Cov[clean | x_t = x] = (sigma^2 / alpha) jacobian, written without the division: `(b, d, d)`; 0-dim t."""
        log_r, clean, within = self._given(x, t)
        r = log_r.softmax(1)
        centred = clean - (r[..., None] * clean).sum(1, keepdim=True)
        between = torch.einsum("bk,bki,bkj->bij", r, centred, centred)
        return (r[..., None, None] * within).sum(1) + between

    def posterior(self, matrix: Tensor, y: Tensor, covariance: Tensor) -> MixtureFlow:
        """The flow of p(clean | y), y = matrix clean + N(0, covariance): again a mixture, with new weights."""
        rows = [_condition(m, s, matrix, y, covariance) for m, s in zip(self.means, self.covariances, strict=True)]
        means, covariances, evidence = (torch.stack(part) for part in zip(*rows, strict=True))
        weights = (self.weights.log() + evidence).softmax(0)
        keep = weights > 0  # a component may underflow: it then has no part in the posterior
        return MixtureFlow(weights[keep], means[keep], covariances[keep], self.path, self.shape)

    def log_likelihood(self, x: State, t: Time, matrix: Tensor, y: Tensor, covariance: Tensor) -> PerSample:
        """log p(y | x_t = x) for y = matrix clean + N(0, covariance): `(b,)`; 0-dim t."""
        log_r, clean, within = self._given(x, t)
        law = torch.distributions.MultivariateNormal(clean @ matrix.T, matrix @ within @ matrix.T + covariance)
        return (log_r.log_softmax(1) + law.log_prob(y)).logsumexp(1)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean `(d,)` and covariance `(d, d)` of the clean law."""
        mean = self.weights @ self.means
        centred = self.means - mean
        return mean, torch.einsum("k,kij->ij", self.weights, self.covariances) + torch.einsum(
            "k,ki,kj->ij", self.weights, centred, centred
        )

    def sample(self, noise: Noise) -> State:
        """Exact samples of the clean law: `(rows, *shape)`."""
        pick = torch.searchsorted(self.weights.cumsum(0).cpu(), noise.uniform().to(self.weights.dtype)).clamp(
            max=len(self.weights) - 1
        )
        z = noise(self.means.new_empty(len(noise), self.means.shape[1]))
        root = torch.linalg.cholesky(self.covariances)
        return (self.means[pick] + (root[pick] @ z[..., None])[..., 0]).view(-1, *self.shape)


def _check_normal(who: str, mean: Tensor, covariance: Tensor) -> None:
    d = len(mean)
    if mean.ndim != 1 or covariance.shape != (d, d):
        raise ValueError(
            f"{who}: expected a mean (d,) and a covariance (d, d), got {tuple(mean.shape)} and {tuple(covariance.shape)}"
        )


def _condition(
    mean: Tensor, covariance: Tensor, matrix: Tensor, y: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and covariance of N(mean, covariance) given y = matrix clean + N(0, noise), and log N(y; ...)."""
    q = matrix @ covariance @ matrix.T + noise
    gain = torch.linalg.solve(q, matrix @ covariance).T
    evidence = torch.distributions.MultivariateNormal(matrix @ mean, q).log_prob(y)
    updated = covariance - gain @ matrix @ covariance
    return mean + gain @ (y - matrix @ mean), (updated + updated.T) / 2, evidence


__all__ = ["Denoiser", "Flow", "FlowMap", "GaussianFlow", "MixtureFlow", "NetFlow", "Pixels", "Wrapped"]
