"""HQS: plug-and-play half-quadratic splitting. Zhang et al. 2021 (DPIR), arXiv:2008.13751, eqs. (6) to (8).

    guess  <- clean + momentum (clean - clean before)
    fitted <- argmin_z |A decode(z) - y|^2 / (2 std^2) + weight |z - guess|^2 / (2 r^2),   r = sigma_t / alpha_t
    clean  <- E[clean | x_t = alpha_t fitted], of the picture as it is, mirrored and turned, by turns

Needs   a linear measurement on a pixel prior (a prox), or any differentiable operator (`inner` minimises)
Start   the degraded picture with its holes filled, and noise levels r evenly spaced in their logarithm
Cost    1 evaluation per step, forward only, 1 more with `sure`, up to 7 more with `ensemble`; the prox, or the inner solver's backwards
Paper   8 steps (24 for super-resolution), weight 0.23, r from 49/255 of the range from black to white down to the noise.
        Its denoisers look at eight turned and mirrored copies in turn; here at those of them that the prior was made for. Other
        operators than linear ones and decoders are not in the paper. Where pixels are missing it has the same weight and last level;
        here both are less, by the share of the pixels that bear noise and by its root: up to 2.6 dB better (docs/defaults.md). Nor
        are momentum (Kamilov et al. 2017, arXiv:1701.04863), with which 24 steps do what 50 do without where pixels are missing,
        and the mean of all looks (Timofte et al. 2016, arXiv:1511.02228). No noise is drawn: the answer is an estimate, not a sample.
        It is also MPC-Flow's one-step plan (`mpc_flow`, K = 1, arXiv:2601.23231) with the price weight t^2 / 2 of |u|^2, made from
        the degraded picture at log-spaced levels, each plan at the price of the level that follows, its estimate of the source
        dropped: the plan's argmin |A z - y|^2 / (2 std^2) + price |z - clean|^2 / h^2, h = 1 - t, is the fitted estimate, as
        r = h / t. Kept, the source estimate would come back as noise that the network was not shown.

Example

    from flowhelm import Noise, begin, integrate, load, operators, restore, run, simulate
    flow, noise = load("fashion"), Noise(0, rows=1)
    picture = run(integrate(flow, flow.source(noise), flow.times(20))).x
    y = simulate(operators.deblur(flow.shape, border="circular"), picture, 0.05, noise)
    final = run(restore.hqs(flow, y, *begin(restore.hqs, flow, y, 8, noise)))
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..entry import Fraction, Positive, checked
from ..flow import Flow
from ..inner import Inner, auto
from ..looks import ALL, Look, Looks
from ..measure import Measurement
from ..path import at
from ..prox import refined
from ..risk import trusted
from ..rng import Noise
from ..shapes import State, Time, Times
from ..step import Step


def seen(flow: Flow, x: State, t: Time, look: Look) -> State:
    return look.back(flow.ends(look.at(x), t).clean)  # E[clean | x_t = x] by a look at x


@checked
@torch.no_grad()
def hqs(
    flow: Flow,
    y: Measurement,
    x: State,
    times: Times,
    *,
    weight: Positive | None = None,
    momentum: Fraction = 0.0,
    sure: bool = False,
    looks: Looks | None = None,
    ensemble: bool = False,
    inner: Inner = auto,
    before: torch.Tensor | None = None,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """HQS: plug-and-play half-quadratic splitting. Zhang et al. 2021 (DPIR), arXiv:2008.13751.

    Args:
        x: the clean estimate `(b, *shape)` to start from. times: the grid; the last of it is only where the result is.
        weight: trust in the prior's estimate; the larger it is, the nearer a step stays to the estimate; None: 0.23 times the
            measurement's `noise_share`.
        momentum: how far the estimate is carried on in the direction that it last moved, before it is made to fit; 0 is the paper's.
        sure: keep as much of the last estimate as Stein's unbiased risk estimate says, place by place (`flowhelm.risk`), with one more
            evaluation: for noise alone, where it saves texture that the prior does not know. Not in the paper.
        looks: how the prior looks at the picture in turn: upright, as it is; mirrored left to right, too; turned by quarters as well,
            which is the paper's; None: as far as the prior was made for it, `Flow.looks`. The last look is at the picture as it is.
        ensemble: the last estimate is the mean over all looks, one evaluation for each. Not in the paper.
        inner: solver for the fitted estimate, see `flowhelm.inner`; its control is the displacement in units of
            sigma / sqrt(alpha^2 + sigma^2).
        before: the estimate before x (info["before"] of the last step of an interrupted run with momentum), to resume it exactly.

    Yields steps whose x and clean are the clean estimate; info["misfit"], 1/2 |A clean - y|^2 before the step, `(b,)`.
    """
    if sure and x.ndim != 4:
        raise ValueError(f"hqs: sure is for pictures (b, c, h, w), got a state of shape {tuple(x.shape)}; leave it out")
    turns = ALL[looks or flow.looks]
    if len(turns) > 1 and x.ndim != 4:
        raise ValueError(
            f"hqs: looks are at pictures (b, c, h, w), got a state of shape {tuple(x.shape)}; leave them out"
        )
    total = len(times) - 1
    trust = 0.23 * y.noise_share if weight is None else weight
    before = x if before is None else before
    for i, t in enumerate(times[:-1], 1):
        misfit = y.misfit(flow.decode(x))
        c = at(flow.path, t, x)
        r = (c.sigma / c.alpha).clamp(max=100.0)
        guess = x + momentum * (x - before)
        fitted = refined(flow, y, guess, r**2 / trust, c.deviation, inner)
        before, x = x, seen(flow, c.alpha * fitted, t, turns[(total - i) % len(turns)])
        upright = x
        if ensemble and i == total:
            x = sum((seen(flow, c.alpha * fitted, t, look) for look in turns[1:]), x) / len(turns)
        if sure and i == total:
            x = trusted(flow, fitted, x, t, upright)
        yield Step(i, total, times[i], x, x, {"misfit": misfit} | ({"before": before} if momentum else {}))
