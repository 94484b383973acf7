"""Stochastic gradient Hamiltonian Monte Carlo with adapted masses. Chen et al. 2014, arXiv:1402.4102; Springenberg et al. 2016, NeurIPS.

    g = grad U(e)
    in the burn-in:  share = 1 / (window + 1),  window += 1 - window mean^2 / square
                     mean += share (g - mean),  square += share (g^2 - square)
    always:          m <- m - rate^2 g / sqrt(square) - friction m + N(0, 2 rate^2 friction / sqrt(square)),   e <- e + m

Needs   a potential that can be differentiated
Cost    1 evaluation, 1 backward a move, of all chains together
Paper   Its noise has rate^4 less, for what gradients of minibatches bring by themselves. Here they are of all data, and the
        subtraction would make the law too narrow: left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def sghmc(
    potential: Callable[[Tensor], Tensor], start: Tensor, generator: torch.Generator, *, burn: int = 2000, every: int = 50,
    rate: float = 0.01, friction: float = 0.05,
) -> Iterator[Tensor]:  # fmt: skip
    """States of exp(-potential), without end: one of every chain, `(chains, d)`, after `burn` moves and then after each `every`.

    Args:
        start: `(chains, d)`. rate: step; a bias of the order of its square stays. friction: in (0, 1); small is far and slow to forget.
    """
    e, momentum = start.clone(), torch.zeros_like(start)
    window, mean, square = (torch.ones_like(start) for _ in range(3))
    for move in range(1, 2**62):
        (slope,) = torch.autograd.grad(potential(e.requires_grad_()).sum(), e)
        e = e.detach()
        if move <= burn:  # the mass is adapted, and kept from then on
            share = 1 / (window + 1)
            window += 1 - window * mean**2 / square
            mean += share * (slope - mean)
            square += share * (slope**2 - square)
        mass = square.clamp(min=1e-16).rsqrt()
        noise = torch.randn(e.shape, generator=generator, device=e.device, dtype=e.dtype)
        momentum += -(rate**2) * mass * slope - friction * momentum + (2 * rate**2 * friction * mass).sqrt() * noise
        e = e + momentum
        if move > burn and (move - burn) % every == 0:
            yield e
