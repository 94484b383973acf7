"""Minibatch couplings: which source each clean state is paired with. Tong et al. 2024, arXiv:2302.00482, section 3.2.

    cost[i, j] = |source_i - clean_j|^2
    optimal_transport   indices = the permutation that minimises sum_j cost[indices[j], j]                       OT-CFM
    sinkhorn            plan = argmin <plan, cost> + regularization sum plan log plan, uniform marginals
                        indices[j] ~ plan[:, j]                                                                  SB-CFM

Needs   POT: pip install flowhelm[train]
Cost    for b rows of d numbers: b^2 d, and about b^3 for the exact plan (40 ms for 256 rows of 3072 on one core)
Paper   It draws b pairs from the plan with replacement. Here every clean row keeps its place, and so its condition, and is
        met once: a plan between equal weights is a permutation, and a column of the entropic plan is the law of a row's
        source. The expectation of the loss is the same, its variance less. The bridge's Brownian noise is left out: `sinkhorn`
        gives its endpoints (regularization = 2 sigma^2), the path between them stays that of the flow.

Paths are as straight as the batch is large. With conditions beware: pairs are made without regard to them, so that given a
condition the source is no longer normal in training, and it is when sampling (Cheng & Schwing 2025, arXiv:2503.10636).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from types import ModuleType

    from .flow_matching import Coupling


@torch.no_grad()
def optimal_transport(source: Tensor, clean: Tensor, generator: torch.Generator) -> Tensor:
    """The exact minibatch transport plan, a `Coupling`: sources and clean states `(b, ...)` -> indices `(b,)`, a permutation.

    Draws nothing. Raises ImportError without POT.
    """
    uniform = torch.ones(len(clean), dtype=torch.float64)
    return _pot().emd(uniform, uniform, _cost(source, clean)).argmax(0).to(clean.device)


def sinkhorn(regularization: float, iterations: int = 1000) -> Coupling:
    """The entropic plan: towards independent pairs for a large regularization, towards `optimal_transport` for a small one.

    Args:
        regularization: > 0, in the unit of |source - clean|^2, which is a sum over a state's elements: about 2 d for a
            normal source and data of variance 1. 2 sigma^2 for the Schrödinger bridge of a Brownian motion of scale sigma.
        iterations: at most; POT warns where they were not enough. The clean marginal is exact all the same.
    """
    if regularization <= 0:
        raise ValueError(
            f"sinkhorn: expected a regularization > 0, got {regularization}; without any it is `optimal_transport`"
        )

    @torch.no_grad()
    def coupling(source: Tensor, clean: Tensor, generator: torch.Generator) -> Tensor:
        share = 1 / len(clean)
        uniform = torch.full((len(clean),), share, dtype=torch.float64)
        plan = _pot().bregman.sinkhorn_log(
            uniform, uniform, _cost(source, clean), regularization, numItermax=iterations, stopThr=1e-4 * share
        )  # a marginal off by 1e-4 of itself cannot be seen in draws
        law = plan.T.to(generator.device, torch.float32)
        return torch.multinomial(law, 1, generator=generator).flatten().to(clean.device)

    return coupling


def _cost(source: Tensor, clean: Tensor) -> Tensor:
    """|source_i - clean_j|^2, float64 on the CPU, where POT works."""
    if len(source) != len(clean):
        raise ValueError(f"coupling: expected as many sources as clean states, got {len(source)} and {len(clean)}")
    one, two = (x.flatten(1).cpu().double() for x in (source, clean))
    return torch.cdist(one, two).square()


def _pot() -> ModuleType:
    try:
        import ot  # type: ignore[import-untyped,import-not-found,unused-ignore]  # 1 s, and few need it
    except ImportError:
        raise ImportError(
            "coupling: a transport plan needs POT, which is not installed; pip install flowhelm[train]"
        ) from None
    return ot
