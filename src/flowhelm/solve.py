"""Many moves: a transition made a sampler, a differentiable rollout, the way back, and stochastic interpolants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .entry import Count, Positive, checked, guarded
from .flow import Flow, FlowMap
from .grad import differentiable, dot, per_row
from .interpolant import Field, Interpolant, score
from .path import Ends
from .rng import Noise
from .shapes import Image, PerSample, State, Time, Times
from .step import Step, run
from .transition import Transition, euler
from .transition.diffusion import Diffusion

Solver = Callable[..., Iterator[Step]]
"""`solver(flow, x, times, *, noise=None)`: any of `flowhelm.sample`, its options fixed by functools.partial, or `integrate`."""


@checked
@torch.no_grad()
def integrate(
    flow: Flow, x: State, times: Times, *, transition: Transition = euler, noise: Noise | None = None
) -> Iterator[Step]:
    """Samples the prior: one transition after another along the grid. flowhelm's own.

    Args:
        x: state `(b, *shape)` at times[0]; times: increasing, float64 on the CPU.
        transition: `euler`, `midpoint`, `heun`, `ancestral`, ... (fix its options with functools.partial).

    Evaluations: those of the transition, per step. The ends at the start of a step are computed once and handed on.
    """
    total = len(times) - 1
    for i, (s, t) in enumerate(pairwise(times), 1):
        ends: Ends = flow.ends(x, s)
        x = transition(flow, x, s, t, noise, ends)
        yield Step(i, total, t, x, ends.clean, {})


def look(flow: Flow, x: State, t: Time) -> Ends:
    """The ends at x: what a reward looks ahead with. Where sigma = 0, as at t = 1, the state is clean and no network is asked."""
    if (flow.path(t.double()).sigma == 0).all():
        return Ends(torch.zeros_like(x), x)
    return flow.ends(x, t)


def valued(flow: Flow, value: Callable[[Image], PerSample], x: State, t: Time) -> tuple[Ends, PerSample, State]:
    """`look`, the value `(b,)` of the picture in sight, and its gradient in x through the network; all detached.

    1 evaluation and its backward; neither where sigma = 0, and the gradient is 0 there: no move is left that it could guide.

    Raises:
        ValueError: a value that is not differentiable.
    """
    if (flow.path(t.double()).sigma == 0).all():
        ends = look(flow, x, t)
        return ends, value(flow.decode(ends.clean)), torch.zeros_like(x)
    with torch.enable_grad():
        z = x.detach().requires_grad_()
        ends = flow.ends(z, t)
        found = differentiable(value(flow.decode(ends.clean)), z)
        (pull,) = torch.autograd.grad(found.sum(), z)
    return ends.detach(), found.detach(), pull


def refined(refiner: Flow, x: State, v: State, t: Time) -> State:
    """The velocity at (x, t), from that at an earlier point of the path, `v`; one evaluation of the refiner (`priors.refiner`)."""
    return v + refiner.velocity(torch.cat([x, v], 1), t)


@torch.no_grad()
def jumps(flow: FlowMap, x: State, times: Times) -> Iterator[Step]:
    """Samples a model of two times: one evaluation per step of the grid, however long.

    Its steps have the state in place of a clean estimate, which would cost an evaluation more: `flow.map(x, t, 1)`.

    Raises:
        ValueError: a flow that has no map; take `integrate`.
    """
    if not isinstance(flow, FlowMap):
        raise ValueError(
            f"jumps: expected a flow map (a model of two times), got {type(flow).__name__}; use solve.integrate"
        )
    total = len(times) - 1
    for i, (s, t) in enumerate(pairwise(times), 1):
        x = flow.map(x, s, t)
        yield Step(i, total, t, x, x, {})


def rollout(
    flow: Flow,
    x: State,
    times: Times,
    controls: Tensor | None = None,
    *,
    first: Tensor | None = None,
    checkpointed: bool = False,
) -> State:
    """The end of a controlled Euler path, differentiable in x and in the controls. flowhelm's own.

        x <- x + (t_{k+1} - t_k) (v(x, t_k) + u_k)

    Args:
        controls: `(b, k, *shape)`, one per step of the grid, added to the velocity; None for none.
        first: v(x, times[0]) if it is known already; it is taken as a constant, and one evaluation is saved.
        checkpointed: recompute each evaluation in the backward pass, so that memory holds the states of all steps but
            the activations of one evaluation only (twice the forward evaluations, the same gradient to the bit).

    Returns:
        The state at times[-1], `(b, *shape)`. This is the gradient of the discrete sampler itself, not of a continuous adjoint.
    """
    for k, (s, t) in enumerate(pairwise(times)):
        if k == 0 and first is not None:
            v = first
        elif checkpointed and torch.is_grad_enabled() and k + 2 < len(times):  # the last evaluation is used at once
            v = checkpoint(flow.velocity, x, s, use_reentrant=False, preserve_rng_state=False)
        else:
            v = flow.velocity(x, s)
        x = x + (t - s) * (v if controls is None else v + controls[:, k])
    return x


@checked
@torch.no_grad()
def invert(
    flow: Flow, x: State, times: Times, *, iterations: Count = 5, transition: Transition = euler
) -> Iterator[Step]:
    """The way back: the state at times[0] from which `integrate` with that transition reaches x at times[-1].

    Each step solves x_t = move(x_s) by fixed-point iterations from x_s = x_t: x_s <- x_s + x_t - move(x_s); for Euler's rule
    x_s <- x_t - h v(x_s, s) (Pan et al. 2023, arXiv:2309.10727; Garibi et al. 2024, arXiv:2403.14602). iterations = 1 is the plain
    reversed step; the fixed point is the exact inverse of the numerical solution where h |dv/dx| < 1, of whatever order the
    transition is. The grid is given as for sampling.

    Args:
        iterations: of each step; each costs what the transition costs.
        transition: any that draws no noise: `euler`, `midpoint`, `heun`. One that asks for noise raises ValueError.
    """
    total = len(times) - 1
    for i, (t, s) in enumerate(pairwise(times.flip(0)), 1):
        guess = x
        for _ in range(iterations):
            ends = flow.ends(guess, s)
            guess = guess + (x - transition(flow, guess, s, t, None, ends))
        x = guess
        yield Step(i, total, s, x, ends.clean, {})


@torch.no_grad()
def inversion_start(flow: Flow, clean: State, times: Times) -> State:
    """The state at times[0] whose end is about `clean` `(b, *shape)`; the grid as for sampling. N + 1 evaluations.

    Uni-Inv (Jiao et al. 2025, arXiv:2504.13109): backwards, each step's velocity is taken where the last one's leads, near to
    where sampling will take it. It holds where the iterations of `solve.invert` run away (few steps, a steep end).
    The first velocity is taken at times[-2], not at 1, where some paths have none.
    """
    x = clean
    v = flow.velocity(x, times[-2])
    for t, s in pairwise(times.flip(0)):
        v = flow.velocity(x + (s - t) * v, s)
        x = x + (s - t) * v
    return x


@guarded
@torch.no_grad()
def inversion_rate(
    flow: Flow, times: Times, z: Tensor, *, rounds: Annotated[int, Ge(0)] = 3, safety: Positive = 0.25
) -> float:
    """A rate at which inversion converges: safety * min 2 <dz, df> / |df|^2 over pairs of sources.

    |dz - rate df| < |dz| where rate is below that. Random pairs alone miss the few directions that a flow of pictures
    stretches most, so that in each round every row is paired with itself moved as its last pair's ends differ (power
    iterations): (1 + rounds) N evaluations per row. It holds for every reward whose second derivative is at most 1.

    Args:
        z: sources at times[0], `(n, *shape)`, at least 2; each is paired with each first.
        safety: the flow is known where it was sampled only. Of the prior `fashion` half of what pairs allow runs away, and a quarter
            converges (`python -m flowhelm.bench.quality.editing inversion fashion`).

    Raises:
        ValueError: fewer than 2 rows, or a pair that the flow turns round: no rate is safe for it.
    """
    if len(z) < 2:
        raise ValueError(f"inversion_rate: expected at least 2 rows, got {len(z)}; draw more sources")

    def ends(source: State) -> Tensor:
        return run(integrate(flow, source, times)).x

    def safe(dz: Tensor, df: Tensor) -> Tensor:
        return 2 * dot(dz, df) / dot(df, df)

    f = ends(z)
    a, b = torch.triu_indices(len(z), len(z), 1)
    found = [safe(z[a] - z[b], f[a] - f[b])]
    dz, df = z - z.roll(1, 0), f - f.roll(1, 0)
    for _ in range(rounds):
        dz = per_row((dot(dz, dz) / dot(df, df)).sqrt(), z) * df
        df = ends(z + dz) - f
        found.append(safe(dz, df))
    rate = float(torch.cat(found).min())
    if not rate > 0:
        raise ValueError(
            "inversion_rate: expected a flow that keeps the direction of differences, got a pair that it turns round; "
            "weaken the guidance, or start later"
        )
    return safety * rate


@torch.no_grad()
def interpolate(
    interpolant: Interpolant, velocity: Field, x: State, times: Times, *, denoiser: Field | None = None,
    diffusion: Diffusion | None = None, noise: Noise | None = None,
) -> Iterator[Step]:  # fmt: skip
    """Carries samples of the law at times[0] to the law at times[-1]: Euler-Maruyama, or Euler where eps = 0.

        x <- x + (t-s) b + |t-s| eps score + sqrt(2 eps |t-s|) noise          (forward or backward)

    1 evaluation per step, 2 where eps > 0. Albergo, Boffi & Vanden-Eijnden 2023, arXiv:2303.08797; see `interpolant`.

    Args:
        times: float64 on the CPU; increasing from start to end, or decreasing for the way back (the backward SDE).
        diffusion: eps(t), any of `transition.diffusion`; every one has the same marginals. It needs the denoiser and the noise.

    Yields steps whose clean is the straight extrapolation of x along b to times[-1].

    Raises:
        ValueError: eps > 0 without denoiser or noise, or where gamma = 0 (the score is then not to be had from eta).
    """
    total = len(times) - 1
    for i, (s, t) in enumerate(pairwise(times), 1):
        b = velocity(x, s)
        clean, moved = x + (times[-1] - s) * b, x + (t - s) * b
        eps, step = torch.zeros(()) if diffusion is None else diffusion(s), (t - s).abs()
        if eps > 0:
            if denoiser is None or noise is None or interpolant(s).gamma == 0:
                raise ValueError(
                    f"interpolate: expected a denoiser, a Noise and gamma > 0 where the diffusion is not 0, at t = {float(s):g}; "
                    "give them, or bound it with diffusion.within(..., 1e-3, 1 - 1e-3)"
                )
            moved = moved + step * eps * score(interpolant, denoiser(x, s), s) + (2 * eps * step).sqrt() * noise(x)
        x = moved
        yield Step(i, total, t, x, clean, {})


@torch.no_grad()
def straightness(flow: Flow, x: State, times: Times) -> Tensor:
    """int |(x_1 - x_0) - v(x_t, t)|^2 dt of each path from the sources x `(b, *shape)`, by the rule of the grid, per number of the state.

    0 exactly where one Euler step is exact. Liu, Gong & Liu 2023, arXiv:2209.03003, section 2.2.

    Returns:
        `(b,)`.
    """
    slopes, start = [], x
    for s, t in pairwise(times):
        v = flow.velocity(x, s)
        slopes.append((v, t - s))
        x = x + (t - s).to(x) * v
    whole = (x - start) / (times[-1] - times[0]).to(x)
    return sum((h.to(x) * (whole - v).square().flatten(1).mean(1) for v, h in slopes), torch.zeros(len(x)).to(x))
