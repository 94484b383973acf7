"""A few of many samples, which show how different they can be. Cohen et al. 2024, arXiv:2310.16047.

Samples of a posterior are mostly alike; of 100, these select 5 that are worth looking at:

    farthest      each next one is the farthest from those chosen: extremes first
    kmeans        one for each of k clusters
    uniformised   at random, as if all that is possible were equally likely

They see features `(n, d)` (pixels of the hole, the layer before a classifier's last, a few principal components), or distances
`(n, n)` between the samples of any kind (`euclidean` of features, or a perceptual one), and return indices `(count,)`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def euclidean(features: Tensor) -> Tensor:
    """Distances `(n, n)` of features `(n, ...)`, in float64. flowhelm's own."""
    flat = features[:, None].flatten(1).double()
    return torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")  # which is inexact for near ones


def farthest(distances: Tensor, count: int, *, first: int | None = None, seed: int = 0) -> Tensor:
    """Farthest-point sampling: the next one has the largest distance to its nearest chosen one (Eldar et al. 1997).

    Args:
        distances: `(n, n)`.
        first: the one to begin with; None for one at random.
        seed: of that.
    """
    _check(distances, count, square=True)
    chosen = [int(torch.randint(len(distances), (), generator=_draws(seed))) if first is None else first]
    near = distances[chosen[0]]
    while len(chosen) < count:
        chosen.append(int(near.index_fill(0, torch.tensor(chosen, device=near.device), -1.0).argmax()))
        near = torch.minimum(near, distances[chosen[-1]])
    return torch.tensor(chosen)


def kmeans(features: Tensor, count: int, *, starts: int = 10, iterations: int = 100, seed: int = 0) -> Tensor:
    """The sample nearest to the centre of each of `count` clusters, ordered by the size of the cluster, largest first.

    Lloyd's iterations from k-means++ (Arthur & Vassilvitskii 2007); the best of several starts. Own code: no package that
    flowhelm needs has it.

    Args:
        features: `(n, ...)`.
        starts: how many; iterations: of each, at most.
        seed: of the starts.
    """
    _check(features, count)
    x, generator = features[:, None].flatten(1).double(), _draws(seed)
    best, lowest = None, torch.inf
    for _ in range(starts):
        own, squares = _lloyd(x, _spread(x, count, generator), iterations)
        if (loss := float(squares.sum())) < lowest:
            best, lowest = (own, squares), loss
    assert best is not None
    own, squares = best
    sizes = torch.bincount(own, minlength=count)
    nearest = [
        int(torch.where(own == k, squares, torch.inf).argmin()) for k in sizes.argsort(descending=True, stable=True)
    ]
    return torch.tensor(nearest)


def uniformised(
    distances: Tensor, count: int, *, dimension: float, neighbour: int = 6, drop: float = 0.0, seed: int = 0
) -> Tensor:
    """Drawn without replacement with weights inverse to the density: `r^dimension`, r the distance to a near neighbour. flowhelm's own.

    Args:
        distances: `(n, n)`.
        dimension: of the features; the paper has 25 (principal components) and 5 (for LPIPS distances). It sharpens.
        neighbour: which one, counting the sample itself as the first.
        drop: share of the samples, those of lowest density, that are left out: outliers.
        seed: of the draws.
    """
    _check(distances, count, square=True)
    # copies weigh nothing, but come before what is dropped
    weights = log_rarity(distances, dimension=dimension, neighbour=neighbour).clamp(min=-1e6)
    kept = len(weights) - int(drop * len(weights))
    if not 0 <= drop < 1 or count > kept:
        raise ValueError(
            f"uniformised: expected drop in [0, 1) that leaves {count} samples, got {drop} of {len(weights)} samples"
        )
    weights[weights.argsort(stable=True)[kept:]] = -torch.inf
    # the largest of log w + Gumbel noise are draws without replacement (Efraimidis & Spirakis 2006)
    uniform = torch.rand(len(weights), generator=_draws(seed), dtype=torch.float64).clamp(min=1e-300).to(weights.device)
    return (weights - (-uniform.log()).log()).argsort(descending=True)[:count].cpu()


def log_rarity(distances: Tensor, *, dimension: float, neighbour: int = 6) -> Tensor:
    """Logarithms of the weights r^dimension of `uniformised`, up to a constant: `(n,)` float64."""
    if not 2 <= neighbour <= len(distances) or not dimension > 0:
        raise ValueError(
            f"diversity: expected a neighbour from 2 to {len(distances)} and a dimension above 0, got {neighbour} and {dimension}"
        )
    return dimension * distances.double().kthvalue(neighbour, dim=1)[0].log()


def _spread(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Centres `(count, d)` by k-means++: each next one is drawn with the square of its distance to the nearest one."""
    pick = int(torch.randint(len(x), (), generator=generator))
    centres, near = x[pick][None], torch.full_like(x[:, 0], torch.inf)
    while len(centres) < count:
        near = torch.minimum(near, (x - centres[-1]).square().sum(1))
        edges = near.cumsum(0)
        draw = torch.rand((), generator=generator, dtype=torch.float64).to(x) * edges[-1]
        centres = torch.cat([centres, x[int(torch.searchsorted(edges, draw, right=True).clamp(max=len(x) - 1))][None]])
    return centres


def _lloyd(x: Tensor, centres: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """To which cluster each row belongs at last, and its squared distance to the cluster's mean. None is empty."""
    own = torch.full((len(x),), -1, device=x.device)
    for _ in range(iterations):
        before, (far, own) = own, torch.cdist(x, centres, compute_mode="donot_use_mm_for_euclid_dist").min(1)
        while not (sizes := torch.bincount(own, minlength=len(centres))).all():
            worst = torch.where(sizes[own] > 1, far, -1).argmax()  # an empty cluster takes the row that is worst off
            own[worst], far[worst] = sizes.argmin(), 0
        centres = torch.stack([x[own == k].mean(0) for k in range(len(centres))])
        if torch.equal(before, own):
            break
    return own, (x - centres[own]).square().sum(1)


def _draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _check(given: Tensor, count: int, square: bool = False) -> None:
    if not 1 <= count <= len(given) or (square and given.shape != (len(given), len(given))):
        raise ValueError(
            f"diversity: expected {'distances (n, n)' if square else 'features (n, ...)'} of at least {count} samples "
            f"and a count of at least 1, got {tuple(given.shape)}"
        )
