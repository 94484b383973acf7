"""Inner solvers: minimise a cost over a control, each row by itself.

solve(cost, start, closed) -> minimiser.  cost: control `(b, ...)` -> `(b,)`; start: where to begin; closed: a function
that gives the exact minimiser, or None where there is none. Call under `torch.no_grad` or not; the result is detached.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .entry import Count, NonNegative, Positive
from .grad import dot, per_row, value_and_grad

Cost = Callable[[Tensor], Tensor]
Closed = Callable[[], Tensor]
Inner = Callable[[Cost, Tensor, Closed | None], Tensor]


def exact(cost: Cost, start: Tensor, closed: Closed | None) -> Tensor:
    """The closed-form minimiser (a prox). No gradient is taken.

    Raises:
        ValueError: where there is none: several planned steps, a non-linear operator, a plain reward, a decoder.
    """
    if closed is None:
        raise ValueError(
            "inner solver 'exact': expected a linear measurement on a pixel prior and one planned step, "
            "for which a closed form exists; got another problem, use adam or lbfgs"
        )
    return closed()


MOST = 25
"""Evaluations of the cost that `auto` makes at most. With 20, plans of five steps end 2 % above the best on the toy of MPC-Flow."""


def auto(cost: Cost, start: Tensor, closed: Closed | None) -> Tensor:
    """`exact` where there is a closed form, else 20 steps of `lbfgs` in at most 25 evaluations of the cost."""
    return lbfgs(cost, start, None, tolerance=1e-4, evaluations=MOST) if closed is None else closed()


def adam(cost: Cost, start: Tensor, closed: Closed | None, *, iterations: Count = 20, rate: Positive = 0.1) -> Tensor:
    """Adam (Kingma & Ba 2015) from fresh moments; 20 iterations at rate 0.1 are the MPC-Flow paper's setting.

    It is not converged then where the cost is stiff (small noise): use more iterations, or another solver, to solve.

    Args:
        iterations: how many, each one evaluation of the cost and its gradient.
        rate: learning rate, in units of the control.
    """
    u = start.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([u], lr=rate)
    for _ in range(iterations):
        _, u.grad = value_and_grad(cost, u)
        optimizer.step()
    return u.detach()


def lbfgs(
    cost: Cost,
    start: Tensor,
    closed: Closed | None,
    *,
    iterations: Count = 20,
    history: Count = 10,
    tolerance: NonNegative = 1e-9,
    evaluations: Count | None = None,
) -> Tensor:
    """Limited-memory BFGS (Nocedal & Wright 2006, Alg. 7.5) with a backtracking line search (Alg. 3.1).

    torch's own L-BFGS takes the batch for one vector, so that rows share one line search and a result depends on its
    neighbours; here each row has its own. A row stops when its gradient is below `tolerance` times its first, or when
    it can no longer be improved. At most `iterations` steps, each about one evaluation with gradient.

    Args:
        iterations: at most so many steps.
        history: pairs of step and change of gradient that are remembered.
        tolerance: of the gradient's norm, relative to the first.
        evaluations: of the cost with its gradient, at most so many of each row (rows wait for one another in a line search); None for
            as many as the steps take.
    """
    u, most = start.detach(), float("inf") if evaluations is None else evaluations
    value, gradient = value_and_grad(cost, u)
    used = torch.ones_like(value)
    goal = tolerance * dot(gradient, gradient).sqrt()
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(iterations):
        direction = _two_loop(gradient, pairs)
        slope = dot(direction, gradient)
        direction = torch.where(per_row(slope, u) < 0, direction, -gradient)
        slope = torch.where(slope < 0, slope, -dot(gradient, gradient))
        size = gradient.flatten(1).norm(dim=1)
        step = torch.ones_like(value) if pairs else (1 / size.clamp(min=1e-30)).clamp(max=1.0)
        # done: small gradient, or a decrease that the cost's rounding would hide (a warm start may be optimal already). Where the
        # number of evaluations is given that may go on: to stop there is to stop where rounding, and so the batch's size, decides
        told = -slope > torch.finfo(value.dtype).eps * value.abs()
        active = (size > goal) & (told if evaluations is None else used < most)
        if not active.any():
            break
        step = torch.where(active, step, 0)
        # rounding of the cost itself must not stop a step that is as good as can be told
        slack = 4 * torch.finfo(value.dtype).eps * value.abs()
        done = ~active
        for _ in range(30):
            new_value, new_gradient = value_and_grad(cost, u + per_row(step, u) * direction)
            used = used + ~done
            known = new_gradient.flatten(1).isfinite().all(1)  # a cost may have none at a kink
            good = (new_value <= value + 1e-4 * step * slope + slack) & known
            done = good | (used >= most)
            if done.all():
                break
            step = torch.where(done, step, step / 2)
        step = torch.where(good, step, 0)
        moved, change = per_row(step, u) * direction, new_gradient - gradient
        accept = per_row(step, u) > 0
        u, gradient = u + moved, torch.where(accept, new_gradient, gradient)
        value = torch.where(step > 0, new_value, value)
        if not (step > 0).any():
            break
        curvature = dot(moved, change)
        inverse = torch.where(curvature > 1e-12 * dot(change, change), 1 / curvature, 0)  # 0: this row forgets the pair
        pairs = [*pairs[1 - history :], (moved, change, inverse)] if history > 1 else [(moved, change, inverse)]
    return u


def barzilai_borwein(length: Tensor, curvature: Tensor, last: Tensor) -> Tensor:
    """The rate of each row's next gradient step (Barzilai & Borwein 1988); 1.25 times the last one where the cost is not convex.

    Args:
        length: <moved, moved> of the last step, `(b,)`; curvature: <moved, change of the gradient>, along it.
        last: the rate of the last step.
    """
    return torch.where(curvature > 0, length / curvature.clamp(min=1e-30), 1.25 * last)


def _two_loop(gradient: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """-H gradient, H the inverse Hessian that the pairs (step, change of gradient, 1 / their product) imply."""
    d, weights = -gradient, []
    for s, y, inverse in reversed(pairs):
        weights.append(inverse * dot(s, d))
        d = d - per_row(weights[-1], d) * y
    if pairs:
        _, y, inverse = pairs[-1]
        yy = dot(y, y)
        d = d * per_row(torch.where(inverse > 0, 1 / (inverse * yy).clamp(min=1e-30), 1), d)
    for (s, y, inverse), weight in zip(pairs, reversed(weights), strict=True):
        d = d + per_row(weight - inverse * dot(y, d), d) * s
    return d


ALL = (auto, exact, adam, lbfgs)
