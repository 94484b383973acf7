"""SITCOM: step-wise triple-consistent sampling. Alkhouri, Liang, Huang, Dai, Qu, Ravishankar & Wang 2025, arXiv:2410.04479, Alg. 1.

At each noise level the network's *input* is moved until its estimate explains the measurement; then that estimate is noised to
the next level:

    z     <- x;   repeat:  z <- Adam(grad_z 1/2 |A decode(E[clean | z]) - y|^2 + anchor/2 |z - x|^2)
                  until    |A decode(E[clean | z]) - y| < (std + margin) sqrt(m),     m entries of y that see something
    x     <- alpha_t E[clean | z] + sigma_t noise

Needs   differentiable operator
Cost    up to 1 + `inner` evaluations and `inner` backwards through the network per step; rows that are done wait for the others
Paper   20 levels of a diffusion model, 20 to 30 Adam steps at rate 0.02, margin 0.001. A row that has met the discrepancy is not
        moved again at this level, whatever the others do.

Example

    from flowhelm import Noise, integrate, load, operators, restore, run, simulate
    flow, noise = load("fashion"), Noise(0, rows=1)
    picture = run(integrate(flow, flow.source(noise), flow.times(20))).x
    y = simulate(operators.saturate(flow.shape), picture, 0.05, noise)
    final = run(restore.sitcom(flow, y, flow.source(noise), flow.times(20), noise=noise))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch

from ..entry import NonNegative, Positive, Whole, checked
from ..flow import Flow
from ..grad import dot, where_rows
from ..measure import Measurement
from ..path import mix
from ..rng import Noise
from ..shapes import State, Times
from ..step import Step


@checked
@torch.no_grad()
def sitcom(
    flow: Flow,
    y: Measurement,
    x: State,
    times: Times,
    *,
    inner: Whole = 20,
    rate: Positive = 0.02,
    anchor: NonNegative = 0.0,
    margin: float = 0.001,
    noise: Noise,
) -> Iterator[Step]:
    """SITCOM: step-wise triple-consistent sampling. Alkhouri, Liang, Huang, Dai, Qu, Ravishankar & Wang 2025, arXiv:2410.04479.

    Args:
        x: state `(b, *shape)` at times[0]; times: the grid of noise levels.
        inner: how many Adam steps each level makes at most.
        rate: learning rate of Adam, in units of the state.
        anchor: weight of |z - x|^2 / 2, in the unit of |A clean - y|^2 / 2.
        margin: what is added to std in the discrepancy that ends a level, in the unit of y; at -std or less no level ends early.

    Yields steps with info["misfit"], 1/2 |A clean - y|^2 of the estimate taken, and info["moves"], Adam steps made, `(b,)`.
    """
    total, seen = len(times) - 1, y.seen(len(x))
    goal = (max(y.std + margin, 0.0) * y.count(len(x)).double().sqrt()).to(x)
    for i, (s, t) in enumerate(pairwise(times), 1):
        z = x.detach().clone()
        optimizer, active = torch.optim.Adam([z], lr=rate), torch.ones(len(x), dtype=torch.bool, device=x.device)
        moves = x.new_zeros(len(x))
        for k in range(inner + 1):
            with torch.enable_grad():
                at_z = z.detach().requires_grad_()
                clean = flow.ends(at_z, s).clean
                residual = seen * y.residual(flow.decode(clean))
                misfit = 0.5 * dot(residual, residual)
                active = active & ((2 * misfit.detach()).sqrt() >= goal)
                if k == inner or not active.any():
                    break
                cost = misfit + anchor / 2 * dot(at_z - x, at_z - x)
                (z.grad,) = torch.autograd.grad(cost.sum(), at_z)
            before = z.clone()
            optimizer.step()
            z.copy_(where_rows(active, z, before))  # momentum would move a row that is done
            moves += active
        clean = clean.detach()
        x = mix(flow.path, noise(clean), clean, t)
        yield Step(i, total, t, x, clean, {"misfit": misfit.detach(), "moves": moves})
