"""STSL's editing: inversion, held to the picture and led away from the old condition. Rout et al. 2024, arXiv:2312.00852.

    x <- the source of the picture under the old condition (`solve.inversion_start`)
    repeat: u <- N(0, 1);   D <- E[clean | x] under the new condition
        loss <- 1/2 |clean - D|^2 + weight / 2 (sigma^2 / alpha) <u, D(x + u) - D(x)>     the surrogate of `restore.stsl`
        x    <- x - step / repeats * grad_x loss / |clean - D|
    x <- x + (t - s) [ v_new + contrast (v_new - v_old) ]

Needs   two conditions of one prior, a network that can be differentiated
Cost    N steps: N + 1 evaluations of the old flow for the start and N for the contrast; N of the new one, and 2 `repeats` N with a backward
        each (half of them without the variance, none with step = 0; none at the source)
Paper   50 DDIM steps, 5 repeats, weight of the trace 0.02, contrast 2 towards the target prompt and away from the source's. Here that is
        the difference of the prior's own two velocities, which needs no other network.
        The step is for the small pictures of the bundled priors: 2 brings back the picture itself.
Limits  Contrast is guidance from the old condition: colours run over where it is strong.

Example

    from flowhelm import edit, load, run, solve
    prior, noise = load("fashion"), flowhelm.Noise(0, rows=1)
    old, new = prior.told(["coat"]), prior.told(["dress"])
    clean = run(solve.integrate(old, old.source(noise), old.times(6))).clean
    final = run(edit.stsl_edit(new, old, clean, new.times(6)[1:], noise=noise))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from ..entry import Count, NonNegative, checked
from ..flow import Flow
from ..grad import dot, per_row
from ..path import at, velocity
from ..rng import Noise
from ..solve import inversion_start
from ..step import Step


@checked
@torch.no_grad()
def stsl_edit(
    new: Flow,
    old: Flow,
    clean: Tensor,
    times: Tensor,
    *,
    contrast: NonNegative = 2.0,
    step: NonNegative = 0.5,
    variance_weight: NonNegative = 1.0,
    repeats: Count = 1,
    noise: Noise,
) -> Iterator[Step]:
    """STSL's editing: inversion, held to the picture and led away from the old condition. Rout et al. 2024, arXiv:2312.00852.

    Args:
        new, old: a prior under what the picture should show, and under what it shows.
        clean: the picture, as a state `(b, *shape)`.
        times: the grid; a later start keeps more of the picture.
        contrast: how far the move goes beyond the new condition, away from the old one.
        step: length of the step towards the picture; 0 for none, which with contrast = 0 is `inversion`.
        variance_weight: weight of the trace, 1 as in the bound.
        repeats: how many steps towards the picture each step of the grid makes, each 1 / repeats as long.
        noise: a stream per row, for the probe of the trace.

    Yields one Step per step of the grid; info["away"] `(b,)`, |clean - D| before the last step towards the picture.
    """
    x = inversion_start(old, clean, times)
    for k, (s, t) in enumerate(pairwise(times), 1):
        c, distance = at(new.path, s, x), x.new_zeros(len(x))
        for _ in range(repeats if step and c.alpha > 0 else 0):
            with torch.enable_grad():
                z = x.detach().requires_grad_()
                found = new.ends(z, s).clean
                loss = dot(clean - found, clean - found) / 2
                distance = (2 * loss.detach()).sqrt()
                if variance_weight:
                    u = noise(z)
                    trace = c.sigma**2 / c.alpha * dot(u, new.ends(z + u, s).clean - found)
                    loss = loss + variance_weight / 2 * trace
                (gradient,) = torch.autograd.grad(loss.sum(), z)
            x = x - step / repeats * gradient / per_row(distance.clamp(min=1e-12), x)
        ends = new.ends(x, s)
        v = velocity(new.path, ends, s)
        if contrast:
            v = v + contrast * (v - old.velocity(x, s))
        x = x + (t - s) * v
        yield Step(k, len(times) - 1, t, x, ends.clean, {"away": distance})
