"""Networks of other code bases as flows, one function per convention.

    flow = from_velocity(sit, (4, 32, 32))                                                   # 0 noise -> 1 clean
    flow = from_velocity(diffusers_net(sd3), (16, 64, 64), clean_at=0, time_scale=1000)      # label 1000 sigma, noise - clean
    flow = from_noise(diffusers_net(unet), (3, 32, 32), DDPMScheduler().alphas_cumprod)
    flow = from_edm(net, (3, 64, 64))
    flow = from_denoiser(deepinv.models.DRUNet(), (3, 256, 256), high=0.2)

The network keeps its clock, sign, range and path; the flow has ours: t = 0 source, t = 1 clean, pictures in [-1, 1], linear
path. A state of the linear path is the network's state of the same signal-to-noise ratio up to a factor, whose ends are the
same (Pokle et al. 2024, arXiv:2310.04432, section 3.1). What the network says is turned into `Ends` by `flowhelm.path` and the
velocity is read off the ends; nothing is converted in pairs. `priors.examine` and `flowhelm doctor` tell whether the
convention chosen is the right one.

Singular ends. A noise predictor says nothing of the clean end where alpha = 0, a clean predictor nothing of the source where
sigma = 0. Where the linear path is noisier or cleaner than any level that the network knows (`margin`, the first and last of
a discrete schedule, `Sigmas.low` and `high`) it is asked at its nearest level, with the noise (t < 1/2) or the picture
(t >= 1/2) of the state at the size they have there; its clean (t < 1/2) or source (t >= 1/2) is believed and the other end
solved for. So the ends always hold the state, the velocity is finite everywhere and E[clean] = x at t = 1.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ..flow import NetFlow
from ..grids import karras
from ..path import Coeffs, Ends, Path, at, ends_from_clean, ends_from_source, ends_from_velocity, linear, time_at_snr

Net = nn.Module | Callable[..., Tensor]


@dataclass(frozen=True)
class Sigmas:
    """A schedule without a clock: state = clean + sigma noise, and the network is told sigma, between `low` and `high`."""

    low: float = 0.002
    high: float = 80.0

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise ValueError(f"Sigmas: expected 0 < low < high, got {self.low} and {self.high}")


Schedule = Path | Tensor | Sigmas
"""A path; alphas_cumprod `(T,)` of a discrete variance-preserving schedule (label i = 0 ... T-1, 0 cleanest); or `Sigmas`."""


def _ends_from_v(path: Path, v: Tensor, x: Tensor, t: Tensor) -> Ends:
    """v = alpha source - sigma clean (Salimans & Ho 2022, arXiv:2202.00512, appendix D); alpha^2 + sigma^2 = 1."""
    a = at(path, t, x)
    return Ends(a.sigma * x + a.alpha * v, a.alpha * x - a.sigma * v)


def _ends_from_score(path: Path, score: Tensor, x: Tensor, t: Tensor) -> Ends:
    """E[source | x] = -sigma score: Tweedie."""
    return ends_from_source(path, -at(path, t, x).sigma * score, x, t)


_READ = {
    "velocity": ends_from_velocity,
    "noise": ends_from_source,
    "clean": ends_from_clean,
    "v": _ends_from_v,
    "score": _ends_from_score,
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Foreign(NetFlow):
    """A network of another convention as a flow on the linear path; made by the `from_...` functions, which say what is what.

    Attributes:
        kind: what the network returns: "velocity", "noise", "clean", "v" or "score".
        schedule: how its states are mixed.
        clean_at: its time, between 0 and 1, of clean pictures; time_scale: factor on its time; both for a schedule that is a path.
        sign: -1 if it returns minus the derivative along its own clock; velocities only.
        span: its values of black and white.
        margin: how far from 0 and 1 its time is kept; for a schedule that is a path.
        rounded: whether a discrete label is rounded to an integer (int64). If not, it is interpolated in log(alpha / sigma).
        learned_variance: whether it returns 2c channels, the first c of which count (Nichol & Dhariwal 2021, arXiv:2102.09672).
    """

    kind: str
    schedule: Schedule
    clean_at: int = 1
    time_scale: float = 1.0
    sign: int = 1
    span: tuple[float, float] = (-1.0, 1.0)
    margin: float = 0.0
    rounded: bool = False
    learned_variance: bool = False

    def __post_init__(self) -> None:
        if self.clean_at not in (0, 1) or self.sign not in (-1, 1):
            _wrong("clean_at 0 or 1 and sign -1 or 1", f"{self.clean_at} and {self.sign}")
        if not self.span[0] < self.span[1]:
            _wrong("a span (black, white) that rises", str(self.span))
        if not 0 <= self.margin < 0.5:
            _wrong("0 <= margin < 0.5", str(self.margin))
        if isinstance(self.schedule, Tensor):
            table = self.schedule
            if table.ndim != 1 or len(table) < 2 or not (table.diff() < 0).all() or table[0] >= 1 or table[-1] < 0:
                _wrong(
                    "alphas_cumprod (T,), falling, in [0, 1)", f"{tuple(table.shape)}; pass scheduler.alphas_cumprod"
                )
        if self.kind == "velocity" and not callable(self.schedule):
            _wrong("a path for a velocity", type(self.schedule).__name__)
        if self.kind == "v":
            c = self._level(torch.ones((), dtype=torch.float64))[1]
            if abs(float(c.alpha**2 + c.sigma**2) - 1) > 1e-6:
                _wrong("a variance-preserving schedule for v-prediction", "another; use from_velocity on a linear path")

    def times(self, steps: int) -> Tensor:
        """Evenly spaced on the network's own clock (discrete: the "trailing" spacing); Karras' grid for `Sigmas`."""
        even = super().times(steps)  # says what is wrong with the number
        gain = self._gain
        if isinstance(self.schedule, Sigmas):
            return karras(steps, linear, self.schedule.low / gain, self.schedule.high / gain)
        if isinstance(self.schedule, Tensor):
            table = self._table()
            index = ((1 - even[1:-1]) * len(table) - 1).clamp(0, len(table) - 1)
            low = index.floor().long().clamp(max=len(table) - 2)
            inner = torch.sigmoid(torch.lerp(table[low], table[low + 1], index - low) + torch.tensor(gain).log())
            return torch.cat([even[:1], inner, even[-1:]])
        c = self.schedule(even)
        inner = (gain * c.alpha / (gain * c.alpha + c.sigma))[1:-1]
        return torch.cat([even[:1], inner, even[-1:]])

    @property
    def levels(self) -> tuple[float, float]:
        if isinstance(self.schedule, Sigmas):
            return self.schedule.low / self._gain, self.schedule.high / self._gain
        return super().levels

    @property
    def _gain(self) -> float:
        return (self.span[1] - self.span[0]) / 2

    def _table(self) -> Tensor:
        """log(alpha / sigma) of every index, falling."""
        assert isinstance(self.schedule, Tensor)
        return torch.logit(self.schedule.detach().double().cpu().clamp(min=1e-12)) / 2  # rescaled schedules end at 0

    def _level(self, ratio: Tensor) -> tuple[Tensor, Coeffs]:
        """What the network is told where alpha / sigma = ratio, and its coefficients there; float64, shaped as ratio."""
        zero = torch.zeros_like(ratio)
        if isinstance(self.schedule, Sigmas):
            sigma = (1 / ratio).clamp(self.schedule.low, self.schedule.high)
            return self.time_scale * sigma, Coeffs(torch.ones_like(sigma), sigma, zero, zero)
        if isinstance(self.schedule, Tensor):
            rising = self._table().flip(0)
            log = ratio.log().clamp(float(rising[0]), float(rising[-1]))
            right = torch.searchsorted(rising, log).clamp(1, len(rising) - 1)
            index = len(rising) - right - (log - rising[right - 1]) / (rising[right] - rising[right - 1])
            level = Coeffs(torch.sigmoid(2 * log).sqrt(), torch.sigmoid(-2 * log).sqrt(), zero, zero)
            return index.round().long() if self.rounded else index, level
        time = torch.where(ratio.isinf(), 1.0, ratio / (1 + ratio)) if self.schedule is linear else None
        time = time_at_snr(self.schedule, ratio) if time is None else time
        time = time.clamp(self.margin, 1 - self.margin)
        return self._told_time(time), self.schedule(time)

    def knows(self, t: Tensor) -> Tensor:
        """Whether the network knows the level of these times, or is asked at its nearest: bool, shaped as t."""
        ratio = t.double().cpu() / (1 - t.double().cpu()) / self._gain
        c = self._level(ratio)[1]
        return ((c.alpha / c.sigma).log() - ratio.log()).abs() < 0.05

    def _told_time(self, t: Tensor) -> Tensor:
        return self.time_scale * (t if self.clean_at else 1 - t)

    def _ask(self, x: Tensor, t: Tensor, told: list[Tensor]) -> Tensor:
        return self.converted(x, t, lambda state, label: self._call(state, label, told))

    def converted(self, x: Tensor, t: Tensor, ask: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The velocity at the state x `(b, ...)` and time t, of a network that is asked `ask(its own state, its own label)`.

        The label is 0-dim or `(b,)`, float64 (int64 if `rounded`) on the CPU; the answer is of the kind that this flow says, shaped
        as x.
        """
        along = self.sign * (1 if self.clean_at else -1)
        middle, gain = sum(self.span) / 2, self._gain
        if self.kind == "velocity" and self.schedule is linear and (middle, gain) == (0, 1):  # nothing to convert
            return along * ask(x, self._told_time(t.double()))
        t = t.detach().double().cpu()
        label, level = self._level(t / (1 - t) / gain)

        def native(_: Tensor) -> Coeffs:
            return level

        noisy = t < 0.5
        # both are the same where the network knows the level; see "Singular ends"
        factor = _shaped(torch.where(noisy, level.sigma / (1 - t), gain * level.alpha / t), x)
        state = factor * x + middle * at(native, t, x).alpha
        said = ask(state, label)
        ends = _READ[self.kind](native, (along if self.kind == "velocity" else self.sign) * said, state, t)
        clean, where = (ends.clean - middle) / gain, _shaped(noisy, x).bool().to(x.device)
        rise = torch.where(where, clean, x) - torch.where(where, x, ends.source)
        return rise / _shaped(torch.where(noisy, 1 - t, t), x)

    def _call(self, x: Tensor, label: Tensor, told: list[Tensor]) -> Tensor:
        weight = next(self.net.parameters(), x)
        if label.is_floating_point():  # half precision cannot tell 999 from 1000
            label = label.to(torch.promote_types(weight.dtype, torch.float32))
        out = self.net(x.to(weight), label.to(weight.device).expand(len(x)), *told).to(x)
        if self.learned_variance and out.shape[1] == 2 * x.shape[1]:
            out = out[:, : x.shape[1]]
        if out.shape != x.shape:
            hint = (
                "pass learned_variance=True" if out.shape[1:2] == (2 * x.shape[1],) else "give the shape of its states"
            )
            _wrong(f"an output {tuple(x.shape)}", f"{tuple(out.shape)}; {hint}")
        return out


def from_velocity(
    net: Net,
    shape: tuple[int, ...],
    *,
    path: Path = linear,
    clean_at: int = 1,
    time_scale: float = 1.0,
    sign: int = 1,
    span: tuple[float, float] = (-1.0, 1.0),
    margin: float = 0.0,
    learned_variance: bool = False,
    condition: tuple[Tensor, ...] = (),
    null: tuple[Tensor, ...] = (),
) -> Foreign:
    """A flow-matching network: the derivative of the state along the network's own clock.

    Args:
        net: `net(x, time, *condition)`, x `(b, *shape)`, time `(b,)`. Other orders and names: `by_name`, `diffusers_net`.
        shape: of one state.
        path: of its states, in our direction of time. `VP` has no velocity at t = 1: give it a margin.
        clean_at: 1 for clocks from noise 0 to clean 1 (torchcfm, flow_matching, SiT, rectified flow), 0 for the others (SD3, FLUX,
            all of diffusers, LFM, MeanFlow): there time is 1 - t and the velocity leads to noise.
        time_scale: factor on its time; 1000 for diffusers.
        sign: -1 if it returns minus the derivative along its clock (InstaFlow: labels 1000 (1 - t), velocity to clean).
        span: its values of black and white, (0, 1) for pictures in [0, 1].
        margin: see the module.
        learned_variance: it returns 2c channels, of which the first c count (SiT with learn_sigma).
        condition, null: see `NetFlow`.
    """
    return Foreign(
        _module(net), shape, condition=condition, null=null, kind="velocity", schedule=path, clean_at=clean_at,
        time_scale=time_scale, sign=sign, span=span, margin=margin, learned_variance=learned_variance,
    )  # fmt: skip


def from_noise(
    net: Net,
    shape: tuple[int, ...],
    schedule: Schedule,
    *,
    clean_at: int = 0,
    time_scale: float = 1.0,
    span: tuple[float, float] = (-1.0, 1.0),
    margin: float = 1e-3,
    rounded: bool = False,
    learned_variance: bool = False,
    condition: tuple[Tensor, ...] = (),
    null: tuple[Tensor, ...] = (),
) -> Foreign:
    """An epsilon-predicting diffusion network: E[source | state] (Ho et al. 2020, arXiv:2006.11239).

    Args:
        schedule: `scheduler.alphas_cumprod` of a discrete schedule, whose index the network is told, or a path such as `VP()`, of
            which it is told the time: from 0 clean to 1 noise (clean_at=0), times time_scale (999 for score_sde's VP).
        rounded: tell whole indices only, for networks with a table of times; else they are interpolated.
        Others: as `from_velocity`.
    """
    return Foreign(
        _module(net), shape, condition=condition, null=null, kind="noise", schedule=schedule, clean_at=clean_at,
        time_scale=time_scale, span=span, margin=margin, rounded=rounded, learned_variance=learned_variance,
    )  # fmt: skip


def from_clean(
    net: Net,
    shape: tuple[int, ...],
    schedule: Schedule = linear,
    *,
    clean_at: int = 1,
    time_scale: float = 1.0,
    span: tuple[float, float] = (-1.0, 1.0),
    margin: float = 1e-3,
    rounded: bool = False,
    learned_variance: bool = False,
    condition: tuple[Tensor, ...] = (),
    null: tuple[Tensor, ...] = (),
) -> Foreign:
    """A network that predicts the clean end, E[clean | state]: JiT (arXiv:2511.13720; linear path, margin=0.05 as it was trained) or,
    with `alphas_cumprod`, "sample" prediction of diffusers. Arguments as `from_noise`; on a path, time runs from noise 0 to clean 1.
    """
    return Foreign(
        _module(net), shape, condition=condition, null=null, kind="clean", schedule=schedule, clean_at=clean_at,
        time_scale=time_scale, span=span, margin=margin, rounded=rounded, learned_variance=learned_variance,
    )  # fmt: skip


def from_v(
    net: Net,
    shape: tuple[int, ...],
    schedule: Schedule,
    *,
    clean_at: int = 0,
    time_scale: float = 1.0,
    span: tuple[float, float] = (-1.0, 1.0),
    margin: float = 1e-3,
    rounded: bool = False,
    learned_variance: bool = False,
    condition: tuple[Tensor, ...] = (),
    null: tuple[Tensor, ...] = (),
) -> Foreign:
    """v-prediction, v = alpha source - sigma clean on a variance-preserving schedule (Salimans & Ho 2022, arXiv:2202.00512).

    Regular at both ends: a schedule rescaled to zero terminal SNR will do. Arguments as `from_noise`.
    """
    return Foreign(
        _module(net), shape, condition=condition, null=null, kind="v", schedule=schedule, clean_at=clean_at,
        time_scale=time_scale, span=span, margin=margin, rounded=rounded, learned_variance=learned_variance,
    )  # fmt: skip


def from_score(
    net: Net,
    shape: tuple[int, ...],
    schedule: Schedule,
    *,
    clean_at: int = 0,
    time_scale: float = 1.0,
    span: tuple[float, float] = (-1.0, 1.0),
    margin: float = 1e-3,
    rounded: bool = False,
    learned_variance: bool = False,
    condition: tuple[Tensor, ...] = (),
    null: tuple[Tensor, ...] = (),
) -> Foreign:
    """A score network, grad log p of its own state (Song et al. 2021, arXiv:2011.13456).

    Args:
        schedule: `VP()` for the continuous VP-SDE, `Sigmas(low, high)` for VE (it is told sigma), or alphas_cumprod.
        Others: as `from_noise`.
    """
    return Foreign(
        _module(net), shape, condition=condition, null=null, kind="score", schedule=schedule, clean_at=clean_at,
        time_scale=time_scale, span=span, margin=margin, rounded=rounded, learned_variance=learned_variance,
    )  # fmt: skip


def from_edm(
    net: Net,
    shape: tuple[int, ...],
    *,
    low: float = 0.002,
    high: float = 80.0,
    span: tuple[float, float] = (-1.0, 1.0),
    condition: tuple[Tensor, ...] = (),
    null: tuple[Tensor, ...] = (),
) -> Foreign:
    """A preconditioned denoiser D(clean + sigma noise, sigma) = E[clean] (Karras et al. 2022, arXiv:2206.00364, eq. 7).

    Args:
        net: the whole D with its c_skip, c_out, c_in and c_noise, not the raw network F.
        low, high: the noise levels that it knows.
        Others: as `from_velocity`.
    """
    return from_clean(net, shape, Sigmas(low, high), span=span, condition=condition, null=null)


def from_denoiser(denoiser: Net, shape: tuple[int, int, int], *, low: float = 1e-3, high: float = 40.0) -> Foreign:
    """A deepinv denoiser, `denoiser(picture in [0, 1], sigma in the same unit)`: the inverse of `Flow.as_denoiser`.

    Args:
        shape: (c, h, w).
        low, high: the noise levels that it is good for, in [0, 1] units; DRUNet was trained up to 50/255, say high=0.2. Noisier
            states are shown to it at `high` with their contrast lowered, and cleaner ones at `low`.
    """
    return from_clean(denoiser, shape, Sigmas(low, high), span=(0.0, 1.0))


class ByName(nn.Module):
    """See `by_name`."""

    def __init__(self, net: Net, conditions: tuple[str, ...], x: str, time: str):
        super().__init__()
        self.net, self.conditions, self.x, self.time = net, conditions, x, time

    def forward(self, x: Tensor, time: Tensor, *conditions: Tensor) -> Tensor:
        if len(conditions) > len(self.conditions):
            raise ValueError(
                f"by_name: expected at most {len(self.conditions)} conditions ({', '.join(self.conditions)}), got {len(conditions)}"
            )
        told = dict(zip(self.conditions, conditions, strict=False))
        out: Any = self.net(**{self.x: x, self.time: time}, **told)
        return out if isinstance(out, Tensor) else out[0]


def by_name(net: Net, *conditions: str, x: str = "x", time: str = "t") -> nn.Module:
    """A network that takes its arguments by name, or in another order, as `net(x, time, *conditions)`.

    Args:
        conditions: names of its conditions, in the order in which `bind` will be given them. Fewer may be given.
        x, time: names of the state and the time. torchcfm's UNet is `by_name(unet, "y")`.

    If it returns a tuple or an output of diffusers, the first entry is taken.
    """
    return ByName(net, conditions, x, time)


def diffusers_net(model: nn.Module) -> nn.Module:
    """A model of diffusers as `net(x, time, *conditions)`: UNet2DModel, UNet2DConditionModel, DiTTransformer2DModel,
    SD3Transformer2DModel, ...

    The conditions, each where the model has it, in this order: encoder_hidden_states, pooled_projections, class_labels. DiT and
    SD3 need all of theirs. diffusers itself is not imported. A discrete schedule is `scheduler.alphas_cumprod`; flow-matching
    transformers are `from_velocity(..., clean_at=0, time_scale=1000)`.
    """
    names = list(inspect.signature(model.forward).parameters)
    if "timestep" not in names:
        _wrong("a model of diffusers with a timestep", f"{type(model).__name__}; use by_name")
    known = ("encoder_hidden_states", "pooled_projections", "class_labels")
    return by_name(model, *(c for c in known if c in names), x=names[0], time="timestep")


class _Plain(nn.Module):
    """A function where a module is wanted."""

    def __init__(self, function: Callable[..., Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, time: Tensor, *conditions: Tensor) -> Tensor:
        return self.function(x, time, *conditions)


def _module(net: Net) -> nn.Module:
    return net if isinstance(net, nn.Module) else _Plain(net)


def _shaped(c: Tensor, like: Tensor) -> Tensor:
    """0-dim as it is, `(b,)` ready to multiply `like`."""
    return c if c.ndim == 0 else c.to(like).reshape(-1, *(1,) * (like.ndim - 1))


def _wrong(expected: str, got: str) -> NoReturn:
    raise ValueError(f"foreign network: expected {expected}, got {got}")
