"""Weight priors whose functions are those of a Gaussian process. Tran et al. 2022, arXiv:2011.12829, section 4 and appendix A.

    f(x):         weights softplus(w_l) e / sqrt(inputs), biases softplus(b_l) e, e ~ N(0, 1), tanh between layers; (w, b) are learnt
    energy:       min over (w, b) of  2 E|f - g| - E|f - f'|,    g ~ the process, at the points x; f' another draw
    wasserstein:  min over (w, b) of max over critics of  E critic(f) - E critic(g) - penalty E(|grad critic| - 1)^2
    posterior:    exp(-U(e)),   U = |e|^2 / 2 + |y - f(x)|^2 / (2 noise^2),   by `sghmc`

Needs   a process that can be drawn from (`functions`); for the posterior the data and their noise
Cost    energy: 1 evaluation, 1 backward; wasserstein: `steps` more of a small critic
Paper   The critic is anew at every step, and its distance may read 0 while the laws differ: judge by another distance, such as
        `energy_distance`. The energy loss is not the paper's: no critic, unbiased, and nearer to the process here. Weights are
        written as e, of the same law.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from ..flow import NetFlow
from .data import Batch, Data, seeded
from .gaussian_process import GaussianProcess


class NetworkPrior(nn.Module):
    """A network of independent normal weights, whose scales are learnt, one for the weights and one for the biases of each layer.

    Args:
        sizes: numbers of the input, of each hidden layer, and 1. scale: all standard deviations at first, > 0.

    Call: `prior(e, x)` with e `(b, size)` standard normal and points x `(n, sizes[0])` -> functions `(b, n)`.
    """

    def __init__(self, sizes: tuple[int, ...] = (1, 50, 50, 1), scale: float = 1.0):
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1 or sizes[-1] != 1 or not scale > 0:
            raise ValueError(
                f"NetworkPrior: expected sizes from the input's to 1 and a scale > 0, got {sizes} and {scale}"
            )
        self.sizes, raw = tuple(sizes), torch.tensor(scale).expm1().log().item()
        self.weights, self.biases = (nn.Parameter(torch.full((len(sizes) - 1,), raw)) for _ in range(2))
        self.size = sum((a + 1) * b for a, b in pairwise(sizes))

    def forward(self, e: Tensor, x: Tensor) -> Tensor:
        h = x.expand(len(e), *x.shape)
        for layer, (inputs, outputs) in enumerate(pairwise(self.sizes)):
            weight, bias, e = e.split([inputs * outputs, outputs, e.shape[1] - (inputs + 1) * outputs], 1)
            weight = weight.unflatten(1, (inputs, outputs)) * fn.softplus(self.weights[layer]) / inputs**0.5
            h = torch.baddbmm(bias[:, None] * fn.softplus(self.biases[layer]), torch.tanh(h) if layer else h, weight)
        return h[..., 0]


def functions(process: GaussianProcess, x: Tensor, *, batch: int = 256, seed: int = 0) -> Data:
    """Batches of functions `(batch, n)` of a process at the points x `(n, d)`; its noise keeps the covariance regular: 0.01 will do."""
    return lambda index: Batch(process.sample(x.expand(batch, *x.shape), seeded(seed, index, purpose="functions")))


def energy_loss(flow: NetFlow, batch: Batch, generator: torch.Generator, *, x: Tensor) -> Tensor:
    """Of every drawn function `(b,)`, for `train.fit`; its mean is the energy distance less a constant.

    Args:
        flow: `NetFlow(NetworkPrior(...), (n,))`. batch: functions of the process at the points x `(n, d)`.
    """
    ours, theirs = _drawn(flow, batch, generator, x), batch.clean
    return 2 * torch.cdist(ours, theirs).mean(1) - torch.cdist(ours, ours).sum(1) / (len(ours) - 1)


def energy_distance(one: Tensor, other: Tensor) -> Tensor:
    """2 E|a - b| - E|a - a'| - E|b - b'| of two samples `(n, d)`, `(m, d)`, unbiased: 0-dim, about 0 for the same law."""
    own = [torch.cdist(z, z).sum() / (len(z) * (len(z) - 1)) for z in (one, other)]
    return 2 * torch.cdist(one, other).mean() - own[0] - own[1]


def wasserstein_loss(
    flow: NetFlow, batch: Batch, generator: torch.Generator, *, x: Tensor, steps: int = 60, rate: float = 0.05,
    penalty: float = 10.0, width: int = 200,
) -> Tensor:  # fmt: skip
    """critic(f) - E critic(g) of every drawn function `(b,)`, the critic trained anew for it; otherwise as `energy_loss`.

    Args:
        steps, rate: of Adagrad on the critic. penalty: for slopes that are not 1. width: of its two hidden layers.
    """
    ours, theirs = _drawn(flow, batch, generator, x), batch.clean
    critic = [(_normal(a, b, generator, (2 / (a + b)) ** 0.5), _normal(1, b, generator)) for a, b in
              ((ours.shape[1], width), (width, width), (width, 1))]  # fmt: skip

    def value(f: Tensor) -> Tensor:
        for weight, bias in critic[:-1]:
            f = fn.softplus(f @ weight + bias)
        return (f @ critic[-1][0] + critic[-1][1])[:, 0]

    descent, fixed = torch.optim.Adagrad([p for layer in critic for p in layer], rate), ours.detach()
    for _ in range(steps):
        part = torch.rand(len(fixed), 1, generator=generator, device=fixed.device, dtype=fixed.dtype)
        between = torch.lerp(theirs, fixed, part).requires_grad_()
        (slope,) = torch.autograd.grad(value(between).sum(), between, create_graph=True)
        loss = value(theirs).mean() - value(fixed).mean() + penalty * (slope.norm(dim=1) - 1).square().mean()
        descent.zero_grad()
        loss.backward()
        descent.step()
    return value(ours) - value(theirs).mean().detach()


def posterior(prior: NetworkPrior, x: Tensor, y: Tensor, noise: float) -> Callable[[Tensor], Tensor]:
    """U of the data x `(n, d)`, y `(n,)`: weights e `(b, size)` -> `(b,)`."""
    return lambda e: e.square().sum(1) / 2 + (y - prior(e, x)).square().sum(1) / (2 * noise**2)


def _drawn(flow: NetFlow, batch: Batch, generator: torch.Generator, x: Tensor) -> Tensor:
    net: Any = flow.net
    e = torch.randn(len(batch.clean), net.size, generator=generator, device=x.device, dtype=x.dtype)
    return net(e, x)


def _normal(inputs: int, outputs: int, generator: torch.Generator, scale: float = 1.0) -> Tensor:
    z = torch.randn(inputs, outputs, generator=generator, device=generator.device)
    return (scale * z).requires_grad_()
