"""The same prior along another path."""

from __future__ import annotations

from dataclasses import dataclass

from ..flow import Flow, Wrapped
from ..path import Ends, Path, at, time_at_snr, velocity
from ..shapes import State, Time


@dataclass(frozen=True, eq=False)
class OnPath(Wrapped):
    flow: Flow
    new: Path

    @property
    def path(self) -> Path:  # type: ignore[override]
        return self.new

    def ends(self, x: State, t: Time) -> Ends:
        new = at(self.path, t, x)
        device = t.device
        inner = time_at_snr(self.flow.path, self.path(t.double()).alpha / self.path(t.double()).sigma).to(device)
        old = at(self.flow.path, inner, x)
        # the two states have the same signal-to-noise ratio, so one is a multiple of the other
        scale = ((old.alpha**2 + old.sigma**2) / (new.alpha**2 + new.sigma**2)).sqrt()
        return self.flow.ends(scale * x, inner)

    def velocity(self, x: State, t: Time) -> State:
        return velocity(self.path, self.ends(x, t), t)


def on_path(flow: Flow, path: Path) -> Flow:
    """The same prior, seen along `path`: its clean law is unchanged, its states are mixed by the new coefficients.

    A state of the new path at t is rescaled to the state of the old path with the same alpha / sigma, whose ends are
    the same (Pokle et al. 2024, arXiv:2310.04432, section 3.1; Kim et al. 2025, arXiv:2503.19385, eq. 9). Needs a
    standard normal source. Cost: none. For instance `on_path(vp_flow, linear)` makes a diffusion model a rectified flow.
    """
    return OnPath(flow, path)
