"""FlowGrad: gradients through the whole flow. Liu, Wu, Zhang, Gong, Ping & Liu 2023, CVPR (no arXiv number), Alg. 1 and section 4.

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
        kept, skip 5e-3 (here 0: every step its own gradient). Deviations: `rate` is the first one; then each row takes the
        Barzilai-Borwein rate of its last two passes, and halves it where its reward fell (it goes on from its best
        kicks). A measurement's reward is taken times std^2 (the misfit), so that the rate has no unit.

Example

    from flowhelm import Noise, load, rewards, run, steer
    flow, noise = load("fashion"), Noise(0, rows=1)
    final = run(steer.flow_grad(flow, rewards.brightness, flow.source(noise), flow.times(6), iterations=3))
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..adjoint import adjoint, kicked, segments
from ..control import check, scale
from ..entry import Count, NonNegative, Positive, checked
from ..flow import Flow
from ..grad import differentiable, dot, per_row, value_and_grad
from ..inner import barzilai_borwein
from ..rng import Noise
from ..shapes import State, Times
from ..step import Reward, Step


@checked
@torch.no_grad()
def flow_grad(
    flow: Flow,
    reward: Reward,
    x: State,
    times: Times,
    *,
    rate: Positive = 0.5,
    iterations: Count = 10,
    skip: NonNegative = 0.0,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """FlowGrad: gradients through the whole flow. Liu, Wu, Zhang, Gong, Ping & Liu 2023, CVPR (no arXiv number), Alg. 1 and section 4.

    Args:
        x: state `(b, *shape)` at times[0].
        times: the grid, ending at 1.
        rate: of the first iteration; below 1 suits a measurement with |A| <= 1, for any other reward it is in its unit.
        iterations: passes over the trajectory.
        skip: relative change of the velocity within a segment that shares one gradient; 0 gives every step its own.

    Yields one step per iteration: t = times[-1], x = clean = each row's best end so far; info["reward"], of that end,
    info["energy"], sum |kick_k|^2 / h_k, and info["products"], vector-Jacobian products of the row in this pass; all `(b,)`.

    Raises:
        ValueError: another path, a grid that does not end at 1.
    """
    check(flow, times, "flow_grad")
    weight, h = scale(reward, 1.0), times.diff()

    def score(end: Tensor) -> Tensor:
        return weight * differentiable(reward(flow.decode(end)), end)

    def walk(kicks: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """End, its score, the score's gradient in the kicks, and the products that took."""
        states, velocities, end = kicked(flow, x, times, kicks)
        value, gradient = value_and_grad(score, end)
        starts = segments(velocities, skip)
        return end, value, adjoint(flow, states, times, starts, gradient), starts.sum(0)

    kicks = x.new_zeros(len(x), len(h), *x.shape[1:])
    clean, value, climb, _ = walk(kicks)
    rates = torch.full_like(value, rate / len(h))
    for i in range(1, iterations + 1):
        trial = kicks + per_row(rates, kicks) * climb
        end, new, slope, products = walk(trial)
        better = new >= value
        moved = trial - kicks
        found = barzilai_borwein(dot(moved, moved), dot(moved, climb - slope), rates)
        rates, value = torch.where(better, found, rates / 2), torch.where(better, new, value)
        keep = per_row(better, kicks) > 0
        kicks, climb = torch.where(keep, trial, kicks), torch.where(keep, slope, climb)
        clean = torch.where(keep[:, 0], end, clean)
        energy = sum(dot(kicks[:, k], kicks[:, k]) / a for k, a in enumerate(h))
        info = {"reward": value / weight, "energy": energy, "products": products.to(value)}
        yield Step(i, iterations, times[-1], clean, clean, info)
