"""Students of the small priors: networks of two times, of curved profiles and of changes, that begin as their teacher."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from ..flow import NetFlow
from ..flow_map import NetMap
from ..momentum import ArcFlow
from ..policy import PiFlow
from .planes import Planes
from .unet import UNet


class TwoTimes(nn.Module):
    """A `UNet` or `Planes` with spans as a network of two times: `net(x, s, t, *condition)` -> average velocity from s to t."""

    def __init__(self, net: UNet | Planes):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, s: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
        return self.net(x, s, *condition, span=t - s)


class Headed(nn.Module):
    """A `UNet` with a head of `parts` velocities and their logits, and of `beside` more numbers, for each pixel.

    Args:
        net: the body, whose own head every part begins as.
        parts: how many. beside: what the other numbers are at first, `(n,)`.
        noise: standard deviation of what tells the parts' biases apart at first.
    """

    def __init__(self, net: UNet, parts: int, beside: Tensor, noise: float, seed: int):
        super().__init__()
        self.net, self.parts, self.channels = net, parts, int(net.config["channels"])
        wide = self.channels * parts
        self.head = nn.Conv2d(net.head.in_channels, 4 * (wide + parts + len(beside)), 3, padding=1)
        draws = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            # the channels of pixel_shuffle: four places of each channel, one channel after another
            self.head.weight.zero_()
            self.head.bias.zero_()  # type: ignore[union-attr]
            self.head.weight[: 4 * wide] = net.head.weight.repeat(parts, 1, 1, 1)
            own = noise * torch.randn(wide, generator=draws).repeat_interleave(4)
            self.head.bias[: 4 * wide] = net.head.bias.repeat(parts) + own  # type: ignore[index, union-attr]
            self.head.bias[4 * (wide + parts) :] = beside.repeat_interleave(4)  # type: ignore[index]

    def forward(self, x: Tensor, t: Tensor, *condition: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Velocities `(b, parts, c, h, w)`, logits `(b, parts, 1, h, w)`, and the others `(b, n, 1, h, w)`."""
        linear, rest, inward = (s.to(x.dtype) for s in self.net.scales(t))
        found = self.net.headed(self.head, inward * x, t, *condition)
        wide = self.channels * self.parts
        parts, logits, others = found.split([wide, self.parts, found.shape[1] - wide - self.parts], dim=1)
        velocities = linear[:, None] * x[:, None] + rest[:, None] * parts.unflatten(1, (self.parts, self.channels))
        return velocities, logits[:, :, None], others[:, :, None]


class Profile(Headed):
    """Velocities, logits and rates per pixel; see `momentum.Momentum`.

    Args:
        net, parts, noise: as for `Headed`.
        growth: least and largest exp(rate) at first, evenly spaced in the logarithm; the first part does not grow.
    """

    def __init__(
        self, net: UNet, parts: int = 16, growth: tuple[float, float] = (0.2, 4.0), noise: float = 0.05, seed: int = 0
    ):
        low, high = (math.log(g) for g in growth)
        super().__init__(net, parts, torch.linspace(low, high, parts - 1), noise, seed)

    def forward(self, x: Tensor, t: Tensor, *condition: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        velocities, logits, rates = super().forward(x, t, *condition)
        return velocities, logits, fn.pad(rates, (0, 0, 0, 0, 0, 0, 1, 0))


class Components(Headed):
    """Velocities, logits and the logarithm of a standard deviation per pixel; see `policy.Mixture`.

    Args:
        net, parts, noise: as for `Headed`.
        spread: the standard deviation at first, in units of sigma.
    """

    def __init__(self, net: UNet, parts: int = 8, spread: float = 0.1, noise: float = 0.05, seed: int = 0):
        super().__init__(net, parts, torch.tensor([math.log(spread)]), noise, seed)


class Half(nn.Module):
    """A network of the state and a velocity, joined along their channels, that gives what is added to the velocity; 0 at first."""

    def __init__(self, net: UNet):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
        return self.net.residual(x, t, *condition)[:, : x.shape[1] // 2]


def student(teacher: NetFlow) -> NetMap:
    """A flow map that begins as Euler steps of the teacher, whose conditions it takes; its guidance is to be learnt. A student over planes
    begins as its teacher but for the fast waves of the time; see `Planes`.

    Raises:
        ValueError: a teacher whose network is neither a `UNet` nor `Planes`.
    """
    config = dict(teacher.net.config) if isinstance(teacher.net, Planes) else _config(teacher)
    made = Planes if isinstance(teacher.net, Planes) else UNet
    net: UNet | Planes = made(**config | {"spans": True})
    net.load_state_dict(teacher.net.state_dict(), strict=False)
    return NetMap(TwoTimes(net), teacher.shape, teacher.path, teacher.condition, teacher.null)


def arc(teacher: NetFlow, parts: int = 16, growth: tuple[float, float] = (0.2, 4.0), noise: float = 0.05) -> ArcFlow:
    """ArcFlow's student: profiles of `parts` velocities, each the teacher's at first.

    With growth (1, 1) and no noise its moves are Euler's.

    Raises:
        ValueError: a teacher whose network is no `UNet`.
    """
    _config(teacher)
    net = Profile(copy.deepcopy(teacher.net), parts, growth, noise)  # type: ignore[arg-type]
    return ArcFlow(net, teacher.shape, teacher.path, teacher.condition, teacher.null)


def pi(teacher: NetFlow, parts: int = 8, spread: float = 0.1, noise: float = 0.05) -> PiFlow:
    """π-Flow's student: mixtures of `parts` means, each the teacher's at first.

    The smaller the spread, the nearer are its moves to Euler's at first; without noise they are no others.

    Raises:
        ValueError: a teacher whose network is no `UNet`.
    """
    _config(teacher)
    net = Components(copy.deepcopy(teacher.net), parts, spread, noise)  # type: ignore[arg-type]
    return PiFlow(net, teacher.shape, teacher.path, teacher.condition, teacher.null)


def refiner(teacher: NetFlow, widths: tuple[int, ...] = (16, 32)) -> NetFlow:
    """FlowTurbo's refiner for a teacher: a small `UNet` of twice the channels.

    Raises:
        ValueError: a teacher whose network is no `UNet`.
    """
    config = _config(teacher)
    net = UNet(**config | {"widths": widths, "channels": 2 * config["channels"], "blocks": 1})
    channels, *sides = teacher.shape
    return NetFlow(Half(net), (2 * channels, *sides), teacher.path, teacher.condition, teacher.null)


def _config(teacher: NetFlow) -> dict[str, Any]:
    if not isinstance(teacher.net, UNet):
        raise ValueError(
            f"student: expected a prior whose network is a UNet, got {type(teacher.net).__name__}; build the student by hand"
        )
    return dict(teacher.net.config)
