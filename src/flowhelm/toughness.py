"""How hard the blocks of a normalising flow are to invert all tokens at once, and the plan that follows. Liu & Qin 2025, arXiv:2505.12849.

    IGM(start) = | mean over pictures of (one sweep from the start) - x |_2         start: z, or zeros after the first token
    CRM        = | mean over pictures of exp(-log_scale) x |_2 |W_log_scale|_2 + |W_mean|_2

Both are spectral norms, the first two of matrices (tokens x numbers of a token), W of the last layer. A block begins from the start of
the smaller IGM. Blocks with a large share of all CRM are tough: they are cut into segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .bijection import Bijection, Block, arranged, scattered

Start = Literal["noise", "zeros"]
STARTS: tuple[Start, ...] = ("noise", "zeros")


class Toughness(NamedTuple):
    """Of one block, 0-dim: `noise` and `zeros` are the IGM of the two starts, `crm` the convergence ranking metric."""

    noise: Tensor
    zeros: Tensor
    crm: Tensor


class Way(NamedTuple):
    """How a block is inverted: where the sweeps begin, in how many segments, and how many sweeps a segment has at most."""

    start: Start = "noise"
    segments: int = 1
    sweeps: int | None = None


@torch.no_grad()
def toughness(flow: Bijection, image: Tensor) -> list[Toughness]:
    """Of every block, in the order from picture to noise, measured on pictures `(b, *shape)`, which have the training's noise already.

    About 1000 pictures are the paper's. Without a condition, as there: bind none.
    """
    found, x = [], flow.net.tokens(image)
    for block in flow.blocks:
        rows = arranged(block, x)
        mean, log_scale = flow.affine(block, rows)
        z = (rows - mean) * (-log_scale).exp()
        noise, zeros = (_norm((swept(flow, block, z, begun(z, start)) - rows).mean(0)) for start in STARTS)
        of_mean, of_scale = block.ends()
        crm = _norm(((-log_scale).exp() * rows).mean(0)) * _norm(of_scale) + _norm(of_mean)
        found.append(Toughness(noise, zeros, crm))
        x = scattered(block, z, len(x))
    return found


def begun(z: Tensor, start: Start) -> Tensor:
    """Where the sweeps begin: the noise itself, or its first token and zeros."""
    return z.clone() if start == "noise" else torch.cat([z[:, :1], torch.zeros_like(z[:, 1:])], 1)


def swept(flow: Bijection, block: Block, z: Tensor, x: Tensor) -> Tensor:
    """One sweep over all tokens."""
    mean, log_scale = flow.affine(block, x)
    return z * log_scale.exp() + mean


def plan(found: Sequence[Toughness], *, segments: int = 8, sweeps: int | None = None, share: float = 0.3) -> list[Way]:
    """A way for every block, in the order of `found`: tough ones, of at least this share of all CRM, in segments, the others in one.

    The paper names its tough blocks by hand, from shares of 34 % and more (others: 10 % at most); `share` stands for that.
    """
    whole = sum(float(each.crm) for each in found)
    return [
        Way(
            "noise" if each.noise <= each.zeros else "zeros",
            segments if float(each.crm) >= share * whole else 1,
            sweeps,
        )
        for each in found
    ]


def _norm(matrix: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(matrix.double(), 2)
