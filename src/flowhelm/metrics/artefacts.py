"""Divergence artefacts: spots where a sampler ran away."""

from __future__ import annotations

from torch import Tensor

from ..entry import Positive, guarded


@guarded
def magnitude_score(x: Tensor, like: Tensor, *, threshold: Positive = 3.0) -> Tensor:
    """How much of each state is larger than it should be: `(b,)`, 0 for none. Wizadwongsa et al. 2023, arXiv:2307.11118, section 5.

    The sum, over channels and places, of magnitudes above `threshold`, in standard deviations of the channel.

    Args:
        x: states `(b, c, ...)`, latents in the paper.
        like: states of the same law that are sound, `(n, c, ...)`: they give each channel's mean and deviation.
        threshold: what still counts as sound; 3 in the paper.
    """
    channels = like.transpose(0, 1).flatten(1)
    shape = (1, -1, *(1,) * (x.ndim - 2))
    size = ((x - channels.mean(1).view(shape)) / channels.std(1).view(shape)).abs()
    return (size * (size > threshold)).flatten(1).sum(1)
