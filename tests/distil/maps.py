"""Flow maps that are exact: of a normal law, whose average velocities are known, with one weight that spoils them."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from toys import double

from flowhelm import Flow, GaussianFlow, Noise
from flowhelm.flow_map import NetMap
from flowhelm.grad import per_row

LAW = GaussianFlow(double([0.6, -0.4]), double([[0.9, 0.5], [0.5, 0.6]]))


class Weight(nn.Module):
    """One number, 0 at first."""

    def __init__(self, value: float = 0.0):
        super().__init__()
        self.off = nn.Parameter(torch.tensor(value, dtype=torch.float64))


@dataclass(frozen=True, eq=False)
class Exact(NetMap):
    """Average velocities of a law, and `net.off` times a drift of their own beside them."""

    law: Flow = LAW
    net: nn.Module = field(default_factory=Weight)
    shape: tuple[int, ...] = (2,)

    def average(self, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        s, t = (torch.as_tensor(time).to(x).expand(len(x)) for time in (s, t))
        close = (t - s).abs() < 1e-9
        apart = torch.where(close, 1.0, t - s)
        found = (self.law.map(x, s, torch.where(close, s, t)) - x) / per_row(apart, x)
        found = torch.where(per_row(close, x).bool(), self.law.velocity(x, s), found)
        return found + self.net.off * torch.sin(3 * x + per_row(1 + s + 2 * t, x))

    def source(self, noise: Noise) -> Tensor:
        return noise(torch.empty(len(noise), *self.shape, dtype=torch.float64))


def samples(rows: int, seed: int = 5) -> Tensor:
    return LAW.sample(Noise(seed, rows))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
