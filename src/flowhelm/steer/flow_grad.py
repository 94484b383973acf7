"""FlowGrad: gradients through the whole flow. Liu, Wu, Zhang, Gong, Ping & Liu 2023, CVPR, Alg. 1 and its section 4.

Every state of the grid is kicked, and the kicks climb the reward of the end along the adjoint:

    z_k     <- x_k + kick_k,    x_{k+1} <- z_k + h_k v(z_k, t_k)
    a_N     <- grad reward(decode(x_N)),   a_k <- (I + h_k dv/dz)^T a_{k+1}
    kick_k  <- kick_k + rate / N * a_k

Where the trajectory is straight the adjoint hardly changes: with `skip` neighbouring steps share one vector-Jacobian
product over their joint length. A step joins while the sum of max(|v_{k-1} - v_k|, |v_{k+1} - v_k|)^2 / |v_k|^2 is below it.

Needs   a differentiable reward; a prior on the linear path (others: guide.on_path). There is no energy: nothing holds the
        picture back from fitting noise but the number of iterations
Cost    I iterations of N steps: (I + 1) 2 N evaluations, half of them within the (I + 1) N vector-Jacobian products (with
        `skip`, only of the rows that begin a segment). Memory: the states and kicks of N steps, the activations of one.
Paper   N = 100, 10 iterations of gradient descent at rate 10 on the kicks (1000 here) for a CLIP reward, the best end so far
        kept, skip 5e-3. Deviations: `rate` is the first one; then each row takes the Barzilai-Borwein rate of its last two
        passes, and halves it where its reward fell (it goes on from its best kicks). A measurement's reward is taken times
        std^2 (the misfit), so that the rate has no unit.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from ..control import check, differentiable, scale
from ..flow import Flow
from ..grad import dot, per_row, value_and_grad, vjp
from ..rng import Noise
from ..step import Reward, Step


@torch.no_grad()
def flow_grad(
    flow: Flow,
    reward: Reward,
    x: Tensor,
    times: Tensor,
    *,
    rate: float = 0.5,
    iterations: int = 10,
    skip: float = 0.0,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """Args:
    x: state `(b, *shape)` at times[0]; times: the grid, ending at 1.
    rate: of the first iteration, > 0; below 1 suits a measurement with |A| <= 1, for any other reward it is in its unit.
    iterations: passes over the trajectory.
    skip: relative change of the velocity within a segment that shares one gradient; 0: every step has its own.

    Yields one step per iteration: t = times[-1], x = clean = each row's best end so far; info["reward"], of that end,
    info["energy"], sum |kick_k|^2 / h_k, and info["products"], vector-Jacobian products of the row in this pass; all `(b,)`.

    Raises:
        ValueError: another path, a grid that does not end at 1, a rate, a skip or a number of iterations out of range.
    """
    check(flow, times, "flow_grad")
    if iterations < 1 or not rate > 0 or skip < 0:
        raise ValueError(
            "flow_grad: expected at least 1 iteration, a rate above 0 and a skip of at least 0, got "
            f"{iterations}, {rate} and {skip}"
        )
    weight, h = scale(reward, 1.0), times.diff()

    def score(end: Tensor) -> Tensor:
        return weight * differentiable(reward(flow.decode(end)), end)

    def walk(kicks: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """End, its score, the score's gradient in the kicks, and the products that took."""
        states, velocities, end = _forward(flow, x, times, kicks)
        value, gradient = value_and_grad(score, end)
        starts = _segments(velocities, skip)
        return end, value, _adjoint(flow, states, times, starts, gradient), starts.sum(0)

    kicks = x.new_zeros(len(x), len(h), *x.shape[1:])
    clean, value, climb, _ = walk(kicks)
    rates = torch.full_like(value, rate / len(h))
    for i in range(1, iterations + 1):
        trial = kicks + per_row(rates, kicks) * climb
        end, new, slope, products = walk(trial)
        better = new >= value
        moved, bend = trial - kicks, dot(trial - kicks, climb - slope)
        found = torch.where(bend > 0, dot(moved, moved) / bend.clamp(min=1e-30), 1.25 * rates)
        rates, value = torch.where(better, found, rates / 2), torch.where(better, new, value)
        keep = per_row(better, kicks) > 0
        kicks, climb = torch.where(keep, trial, kicks), torch.where(keep, slope, climb)
        clean = torch.where(keep[:, 0], end, clean)
        energy = sum(dot(kicks[:, k], kicks[:, k]) / a for k, a in enumerate(h))
        info = {"reward": value / weight, "energy": energy, "products": products.to(value)}
        yield Step(i, iterations, times[-1], clean, clean, info)


def _forward(flow: Flow, x: Tensor, times: Tensor, kicks: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """The kicked states, their velocities and the end."""
    states, velocities = [], []
    for k, (s, t) in enumerate(pairwise(times)):
        states.append(x + kicks[:, k])
        velocities.append(flow.velocity(states[-1], s))
        x = states[-1] + (t - s) * velocities[-1]
    return states, velocities, x


def _segments(velocities: list[Tensor], skip: float) -> Tensor:
    """Where each row's segments begin: `(N, b)` bool. The first step always does."""
    v = torch.stack(velocities)
    starts = torch.ones(v.shape[:2], dtype=torch.bool, device=v.device)
    if not skip or len(v) == 1:
        return starts
    jumps = v.diff(dim=0).square().flatten(2).sum(2)
    change = torch.cat([jumps[:1], torch.maximum(jumps[1:], jumps[:-1]), jumps[-1:]])
    change = change / v.square().flatten(2).sum(2).clamp(min=1e-30)
    spent = torch.zeros_like(change[0])
    for k in range(1, len(v)):
        spent = spent + change[k - 1]
        starts[k] = spent >= skip
        spent = torch.where(starts[k], 0, spent)
    return starts


def _adjoint(flow: Flow, states: list[Tensor], times: Tensor, starts: Tensor, gradient: Tensor) -> Tensor:
    """d score / d kicks, `(b, N, *shape)`: one vector-Jacobian product per segment, whose kicks share it."""
    a, rows = gradient, len(gradient)
    out, length = a.new_empty(rows, len(states), *a.shape[1:]), a.new_zeros(rows)
    for k in reversed(range(len(states))):
        length = length + (times[k + 1] - times[k])
        index = starts[k].nonzero()[:, 0]
        if len(index):
            part = flow if len(index) == rows else flow.rows(index, rows)
            _, product = vjp(lambda z, f=part, t=times[k]: f.velocity(z, t), states[k][index], a[index])  # type: ignore[misc]
            a = a.index_add(0, index, per_row(length[index], product) * product)
            length = torch.where(starts[k], 0, length)
        out[:, k] = a
    for k in range(1, len(states)):
        out[:, k] = torch.where(per_row(starts[k], a) > 0, out[:, k], out[:, k - 1])
    return out
