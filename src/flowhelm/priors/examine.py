"""Is a flow what its wrapper says? Checks that find a wrong convention, and name the right one.

A wrong sign, clock, range or path raises no error: the network answers, and every method built on it is quietly wrong. But the
posterior mean has the least mean squared error of all estimates (Tweedie), so the convention under which the network
denoises best is the one it was trained in. The same noisy pictures are denoised under each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..flow import PURE, Flow
from ..path import VP, linear, mix, time_at_snr, trig
from ..rng import Noise
from ..solve import integrate
from .foreign import Foreign, Schedule, Sigmas, from_velocity

LEVELS = (0.05, 0.2, 0.4, 0.6, 0.8, 0.95)
"""Times of the linear path at which pictures are denoised."""
BETTER = 0.03
"""Another convention is the right one if it lowers the error by this part, in the geometric mean over levels."""
FEWER = 0.02
"""What each further change of the convention must lower the error by."""
HELPS = 1.1
"""The denoising error is at most so many times plain smoothing's, which knows the mean of the very pictures: a few of them can
favour it where there is most noise."""


class Finding(NamedTuple):
    """One check.

    name     evaluation, gradient, end, curve, convention or marginals
    value    what was measured; see `examine`
    verdict  "well", "odd" (look at it), "broken" or "skipped"
    words    for people, with the remedy if there is one
    """

    name: str
    value: float
    verdict: str
    words: str


def examine(flow: Flow, clean: Tensor | None, noise: Noise) -> list[Finding]:
    """What is wrong with a flow.

    Args:
        clean: states `(n, *shape)` of the kind the network was trained on (pictures in [-1, 1], or `flow.encode` of them); 4 do, more
            are surer. None: only what needs none of them is checked. With bound conditions, one or k each per picture, in order.
        noise: n streams.

    Returns:
        evaluation   largest |velocity| at 7 times from 0 to 1 (path `VP`: to 0.999): finite, and shaped as the state
        gradient     largest |d |v|^2 / dx| at the middle: finite, and there
        end          <v, x> / <x, x> as t -> 1, where v -> x, as nothing is left of the source: 1, or about -1 with a flipped sign or
                     clock; and E[clean] = x there
        curve        worst ratio over 6 noise levels of the one-step denoising error to that of the best number times the
                     picture (Wiener with the data's mean and variance): below 1, and odd where it is about 1 at all levels
        convention   how many per cent smaller the error is under the best other convention: the remedy, if over 3
        marginals    worst ratio of the spread of samples in the making to sqrt(alpha^2 var + sigma^2): between 1/2 and 2; not looked
                     at where the network was not made for noise alone

    Raises:
        ValueError: pictures of another shape or number.

    Cost: about 70 calls with 6 n rows or fewer; where the curve is broken and no single change mends it, up to 350 more.
    """
    if clean is None:
        clean, known = noise(torch.empty(len(noise), *flow.shape)), False
    else:
        known = True
    if clean.shape != (len(noise), *flow.shape):
        raise ValueError(
            f"examine: expected clean states {(len(noise), *flow.shape)}, as many as streams of noise, got {tuple(clean.shape)}"
        )
    found = [_evaluation(flow, noise(clean))]
    if math.isnan(found[0].value):  # nothing to measure
        return found
    found.append(_gradient(flow, noise(clean)))
    if not known:
        words = "give pictures of the kind the network was trained on"
        return [*found, *(Finding(n, math.nan, "skipped", words) for n in ("end", "curve", "convention", "marginals"))]
    with torch.no_grad():
        found += [_end(flow, clean, noise), *_curve(flow, clean, noise)]
        if flow.levels[1] < PURE:
            words = f"not looked at: it was trained for noise up to {flow.levels[1]:.2g} only, so that nothing is drawn from it"
            return [*found, Finding("marginals", math.nan, "well", words)]
        return [*found, _marginals(flow, clean, noise)]


def _evaluation(flow: Flow, x: Tensor) -> Finding:
    worst = 0.0
    last = 1.0 if math.isfinite(float(flow.path(torch.ones((), dtype=torch.float64)).d_sigma)) else 0.999
    for t in torch.linspace(0, last, 7, dtype=torch.float64):
        try:
            with torch.no_grad():
                v = flow.velocity(x, t)
        except Exception as error:  # whatever a stranger's network raises
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            return Finding("evaluation", math.nan, "broken", f"the network raises {type(error).__name__}: {reason}")
        if v.shape != x.shape:
            words = f"the velocity is shaped {tuple(v.shape)}, the state {tuple(x.shape)}"
            return Finding("evaluation", math.nan, "broken", words)
        worst = max(worst, float(v.abs().max()) if v.isfinite().all() else math.inf)
        if worst == math.inf:
            remedy = (
                "keep the network from that end with margin="
                if isinstance(flow, Foreign)
                else "look at that end of its path"
            )
            return Finding("evaluation", worst, "broken", f"the velocity is not finite at t = {float(t):.3g}; {remedy}")
    return Finding("evaluation", worst, "well", "finite from t = 0 to 1, and shaped as the state")


def _gradient(flow: Flow, x: Tensor) -> Finding:
    x = x.clone().requires_grad_()
    v = flow.velocity(x, torch.tensor(0.5, dtype=torch.float64))
    if not v.requires_grad:
        words = "no gradient reaches the state: methods that differentiate the network fail; look for no_grad inside it"
        return Finding("gradient", 0.0, "odd", words)
    try:
        largest = float(torch.autograd.grad(v.square().sum(), x)[0].abs().nan_to_num(math.inf).max())
    except RuntimeError as error:
        return Finding(
            "gradient", math.inf, "odd", f"the network cannot be differentiated ({str(error).splitlines()[0]})"
        )
    if not math.isfinite(largest):
        return Finding(
            "gradient", largest, "broken", "the gradient is not finite; look for a square root or norm at 0 in it"
        )
    return Finding("gradient", largest, "well", "finite")


def _end(flow: Flow, clean: Tensor, noise: Noise) -> Finding:
    x = mix(linear, noise(clean), clean, torch.tensor(0.98, dtype=torch.float64))
    v = _foreign(flow).velocity(x, torch.tensor(0.98, dtype=torch.float64))
    slope = float((v * clean).sum() / clean.square().sum())
    t = time_at_snr(flow.path, torch.tensor(999.0))
    last = mix(flow.path, noise(clean), clean, t)
    away = float(_rms(flow.ends(last, t).clean - last) / _rms(clean))
    if not slope > 0.5:  # also NaN
        words = f"at t -> 1 the velocity is {slope:.2f} x and should be x: it does not lead to the pictures"
        return Finding("end", slope, "broken", words)
    if not away < 0.1:
        return Finding("end", away, "broken", f"E[clean] is {away:.0%} off x at t -> 1, and should be x")
    return Finding("end", slope, "well", f"at t -> 1 the velocity is {slope:.2f} x and E[clean] is x to {away:.1%}")


def _curve(flow: Flow, clean: Tensor, noise: Noise) -> Iterator[Finding]:
    mean, var = clean.mean(), clean.var()
    t = torch.tensor(LEVELS, dtype=torch.float64)
    # pictures outside, levels inside: the rows of one picture stay together, as bound conditions ask
    many = clean.repeat_interleave(len(t), 0)
    source = torch.stack([noise(clean) for _ in LEVELS], 1).flatten(0, 1)
    when = t.repeat(len(clean))
    x = mix(linear, source, many, when)
    level = when.to(x).reshape(-1, *(1,) * (x.ndim - 1))
    best = mean + level * var / (level**2 * var + (1 - level) ** 2) * (x - level * mean)

    def errors(estimate: Tensor) -> Tensor:
        square = (estimate - many).double().square().flatten(1).mean(1)
        return square.view(len(clean), len(t)).mean(0).sqrt()

    plain = errors(best)

    def ratios(candidate: Flow) -> Tensor:
        try:
            return (errors(candidate.ends(x, when).clean) / plain).nan_to_num(math.inf, math.inf)
        except Exception:  # a network asked in a foreign way may raise anything
            return torch.full_like(plain, math.inf)

    now = _foreign(flow)
    ratio = ratios(now)
    counted = now.knows(t)
    counted = counted if counted.any() else torch.ones_like(counted)
    worst, at = ratio.where(counted, 0.0).max(0)
    well, score = bool((ratio[counted] < HELPS).all()), float(ratio.log().mean())
    shown = ", ".join(f"{r:.2f}" for r in ratio.tolist())
    words = (
        f"one-step denoising error at t = {', '.join(f'{s:g}' for s in LEVELS)}, as part of plain smoothing's: {shown}"
    )
    if not counted.all():
        beyond = ", ".join(f"{s:g}" for s, there in zip(LEVELS, counted.tolist(), strict=True) if not there)
        words += f"; its wrapping says that it does not know the level of t = {beyond}, which does not count"
    if not well:
        words += f"; at t = {LEVELS[int(at)]:g} the network is no help"
    elif useless := score > -BETTER:
        words += "; no better than plain smoothing: is the network trained?"
    yield Finding("curve", float(worst), "broken" if not well else "odd" if useless else "well", words)

    best_score, how, mended = math.inf, "", False
    for count in (1, 2, 3):
        for other, words in _others(now, count):
            tried = ratios(other)
            if (lower := float(tried.log().mean())) < best_score - FEWER * (count - 1) * (how != ""):
                best_score, how, mended = lower, words, bool((tried[counted] < HELPS).all())
        if well or mended:
            break
    gain = 1 - math.exp(best_score - score) if math.isfinite(score) else 1.0
    if best_score < min(score, 0.0) - BETTER:
        yield Finding(
            "convention", 100 * gain, "broken", f"it denoises best {how}; the error is {gain:.0%} smaller then"
        )
    elif well:
        yield Finding("convention", 100 * gain, "well", "no other convention denoises better")
    else:
        words = "no convention tried makes it denoise: is the network trained, and on pictures like these?"
        yield Finding("convention", 100 * gain, "broken", words)


def _marginals(flow: Flow, clean: Tensor, noise: Noise) -> Finding:
    worst, when = 1.0, 0.0
    for step in integrate(flow, noise(clean), flow.times(20)):
        alpha, sigma, *_ = flow.path(step.t)
        expected = (float(alpha) ** 2 * float(clean.var()) + float(sigma) ** 2) ** 0.5
        ratio = float(step.x.std()) / expected if step.x.isfinite().all() else math.inf
        if ratio <= 0 or abs(math.log(ratio)) > abs(math.log(worst)):
            worst, when = max(ratio, 1e-9), float(step.t)
    far = abs(math.log(worst))
    verdict = "well" if far < math.log(2.0) else "odd" if far < math.log(3.0) else "broken"
    words = f"the spread of samples in the making is up to {worst:.2f} times that of pictures and noise mixed (t = {when:.2f})"
    return Finding("marginals", worst, verdict, words)


def _foreign(flow: Flow) -> Foreign:
    return flow if isinstance(flow, Foreign) else from_velocity(flow.velocity, flow.shape, path=flow.path)


def _tables() -> dict[str, Schedule]:
    step = torch.linspace(0, 1, 1001, dtype=torch.float64)
    cosine = torch.cos((step + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = {
        "the DDPM schedule (betas from 1e-4 to 0.02: DDPMScheduler().alphas_cumprod)": torch.linspace(
            1e-4, 0.02, 1000
        ).double(),
        "Stable Diffusion's schedule (beta_schedule='scaled_linear', 0.00085 to 0.012)": torch.linspace(
            0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64
        )
        ** 2,
        "the cosine schedule (beta_schedule='squaredcos_cap_v2')": (1 - cosine[1:] / cosine[:-1]).clamp(max=0.999),
    }
    return {name: (1 - beta).cumprod(0) for name, beta in betas.items()}


def _others(flow: Foreign, count: int) -> Iterator[tuple[Foreign, str]]:
    """The flow with `count` parts of its convention changed, each with words for it."""
    paths: dict[str, Schedule] = {"linear": linear, "trig": trig, "VP()": VP()}
    diffusion = _tables() | {"VP()": paths["VP()"]}
    kinds: dict[str, dict[str, Schedule]] = {
        "velocity": paths,
        "noise": diffusion | {"linear": linear},
        "clean": diffusion | {"linear": linear, "Sigmas()": Sigmas()},
        "v": diffusion | {"trig": trig},
        "score": diffusion | {"linear": linear, "Sigmas()": Sigmas()},
    }
    turned = f"pass sign={-flow.sign}" if flow.kind == "velocity" else "pass lambda x, t, *c: -net(x, t, *c)"
    parts: dict[str, list[tuple[dict[str, Any], str, str]]] = {
        "clean_at": [({"clean_at": 1 - flow.clean_at}, "with time reversed", f"pass clean_at={1 - flow.clean_at}")],
        "sign": [({"sign": -flow.sign}, "with its sign turned", turned)],
        "time_scale": [
            ({"time_scale": 255.0}, "with its sigma in 255ths", "pass lambda x, sigma, *c: net(x, 255 * sigma, *c)")
        ]
        if isinstance(flow.schedule, Sigmas)
        else [
            ({"time_scale": s}, f"with its time from 0 to {s:g}", f"pass time_scale={s:g}")
            for s in (1.0, 1000.0)
            if not 0.9 < s / flow.time_scale < 1.1
        ],
        "span": [
            ({"span": s}, f"with pictures in [{s[0]:g}, {s[1]:g}]", f"pass span=({s[0]:g}, {s[1]:g})")
            for s in ((-1.0, 1.0), (0.0, 1.0), (-0.5, 0.5), (0.0, 255.0))
            if s != flow.span
        ],
        "kind": [
            (
                {"kind": kind, "schedule": schedule, "margin": flow.margin or 1e-4},
                f"as a network that predicts {_SAYS[kind]} on {name}",
                f"make it by from_{kind}",
            )
            for kind, schedules in kinds.items()
            for name, schedule in schedules.items()
            if (kind, _name(schedule)) != (flow.kind, _name(flow.schedule))
        ],
    }
    for chosen in combinations(parts, count):
        options: list[tuple[dict[str, Any], list[str], list[str]]] = [({}, [], [])]
        for part in chosen:
            options = [({**o, **c}, [*w, says], [*r, does]) for o, w, r in options for c, says, does in parts[part]]
        for changes, says, does in options:
            kind, schedule = changes.get("kind", flow.kind), changes.get("schedule", flow.schedule)
            # these have no clock, but that a sigma may be in 255ths
            without = (
                {"clean_at"}
                if isinstance(flow.schedule, Sigmas) and schedule is flow.schedule
                else {"clean_at", "time_scale"}
            )
            if not callable(schedule) and without & changes.keys():
                continue
            if kind == flow.kind and "kind" in changes:  # only the schedule is another
                on = "path" if kind == "velocity" else "schedule"
                says = [s.replace(f"as a network that predicts {_SAYS[kind]} ", "") for s in says]
                does = [f"pass that {on}" if d.startswith("make") else d for d in does]
            try:
                yield replace(flow, **changes), f"{' and '.join(says)}: {', '.join(does)}"
            except ValueError:  # parts that do not go together
                continue


_SAYS = {
    "velocity": "the velocity",
    "noise": "noise",
    "clean": "the clean picture",
    "v": "v = alpha noise - sigma clean",
    "score": "the score",
}


def _name(schedule: Schedule) -> str:
    """One word for a schedule, the same for the same one."""
    if isinstance(schedule, Tensor):
        return f"{len(schedule)} {float(schedule[len(schedule) // 2]):.3f}"
    return (
        "Sigmas()"
        if isinstance(schedule, Sigmas)
        else getattr(schedule, "__name__", None) or f"{type(schedule).__name__}()"
    )


def _rms(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()


__all__ = ["Finding", "examine"]
