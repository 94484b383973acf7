"""Directions of a standard normal vector, given that they point along none of certain axes: drawn exactly, each coordinate truncated."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ..rng import Noise
from ..shapes import State


class Rates(NamedTuple):
    """Shares of candidates accepted: by this sampler (`drawn`), and by drawing normal starts until one passes (`plain`)."""

    drawn: float
    plain: float


@dataclass(frozen=True, eq=False)
class Directions:
    """u = z / |z| of normal z in d dimensions, given that its cosines with the empty directions are at most `limit`.

    Args:
        empty: bool `(2, d)`: whether the axes (first row) and their opposites are empty.
        limit: in (0, 1).
    """

    empty: Tensor
    limit: float
    _bound: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # any bound of the candidates is exact; of some around limit * sqrt(d), the one that accepts most
        radius = torch.linspace(-4, 4, 161, dtype=torch.float64) + math.sqrt(self.empty.shape[1])
        radius = radius[radius > 0]
        gain = self._below(radius).log() - torch.stack([self._log_mass(self.limit * r) for r in radius])
        object.__setattr__(self, "_bound", self.limit * float(radius[gain.argmax()]))

    def attempt(self, own: Noise) -> Tensor | None:
        """A candidate's direction, float64 `(d,)`, if it is accepted.

        A normal vector whose coordinates along empty directions are at most T has a direction u with a density that is
        Pr(chi <= T / m) times that of a normal's, m the greatest of u's coordinates along them. Accepting with
        Pr(chi <= T / limit) / Pr(chi <= T / m) undoes that for m <= limit.
        """
        z = own(torch.empty(1, self.empty.shape[1], dtype=torch.float64))[0]
        low, high = self._interval(self._bound)
        inside = torch.special.ndtri(low + (high - low) * torch.special.ndtr(z))
        toward = torch.where(self.empty.any(0), inside, z)
        toward = toward / toward.norm()
        reach = torch.where(self.empty, torch.stack([toward, -toward]), -1.0).max()
        if reach > self.limit:
            return None
        kept = self._below(self._bound / torch.stack([reach.new_tensor(self.limit), reach.clamp(min=1e-12)]))
        return toward if float(own.uniform()) < float(kept[0] / kept[1]) else None

    def rates(self, attempts: int, seed: int) -> Rates:
        """Both acceptance rates, from so many candidates; that of plain rejection however small it is."""
        noise = Noise(seed, 1)
        drawn = sum(self.attempt(noise) is not None for _ in range(attempts)) / attempts
        least = self._below(torch.tensor(self._bound / self.limit, dtype=torch.float64))
        return Rates(drawn, drawn * float(self._log_mass(self._bound).exp() / least))

    def _interval(self, bound: float) -> tuple[Tensor, Tensor]:
        """Normal probabilities of the ends of each coordinate's interval, `(d,)` each."""
        tail = torch.special.ndtr(torch.tensor(-bound, dtype=torch.float64))
        return torch.where(self.empty[1], tail, 0.0), torch.where(self.empty[0], 1 - tail, 1.0)

    def _log_mass(self, bound: float | Tensor) -> Tensor:
        """log of the probability that a normal vector lies in all the intervals."""
        low, high = self._interval(float(bound))
        return (high - low).log().sum()

    def _below(self, radius: Tensor) -> Tensor:
        """Pr(chi_d <= radius), shaped as radius."""
        return torch.special.gammainc(radius.new_tensor(self.empty.shape[1] / 2), radius**2 / 2)


def empty_axes(clean: State, tau: float) -> tuple[Tensor, Tensor]:
    """Principal axes of the directions of clean states, float64 columns `(d, d)`, and which of them are empty, bool `(2, d)`.

    An axis (first row) or its opposite (second) is empty where no state has a cosine above tau with it.

    Raises:
        ValueError: fewer states than they have elements; no empty direction.
    """
    flat = clean.detach().flatten(1).cpu()
    if len(flat) < flat.shape[1]:
        raise ValueError(
            f"PrunedSource.fit: expected at least as many clean states as they have elements, {flat.shape[1]}, "
            f"got {len(flat)}; directions that no datum shows would pass for empty"
        )
    basis, reach = reaches(flat)
    if not (reach <= tau).any():
        raise ValueError(
            f"PrunedSource.fit: no direction is empty at tau = {tau}: the least reach is {float(reach.min()):.4g}; "
            "raise tau above it, or sample without pruning"
        )
    return basis, reach <= tau


def reaches(clean: State) -> tuple[Tensor, Tensor]:
    """The axes of `empty_axes`, and the greatest cosine of any state with each (first row) and its opposite (second), `(2, d)`."""
    toward = torch.nn.functional.normalize(clean.flatten(1).double(), eps=1e-30)
    basis = torch.linalg.eigh(toward.T.cov()).eigenvectors
    return basis, torch.stack([(toward @ basis).amax(0), -(toward @ basis).amin(0)])
