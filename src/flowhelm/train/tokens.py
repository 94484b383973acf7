"""Tokens: a tokenizer by reconstruction, then a transformer that fills in what is masked. Sahoo et al. 2024 (MDLM), arXiv:2406.07524.

    tokenizer   codes of patches by k-means, once;  q = the codes nearest to a picture's patches
                loss = | decoder(q) - picture |^2
    filler      n ~ 1..L, so many of the L places masked at random
                loss = mean over the masked places of -log p(token | the others)

L times the filler's loss is, on average, an upper bound of -log p(tokens): that of any-order autoregression, which is MDLM's with
the integral over time done exactly (n uniform is what a uniform time and the weight 1 / t come to). It is tight for a network that
knows the conditionals.

Needs   pictures; then tokens of them (`train.cached` with the tokenizer)
Cost    1 evaluation, 1 backward
Paper   MDLM draws a time and masks each place by chance; a count has the same mean and less variance. The tokenizers of the paper's
        pictures (MAGVIT-v2, arXiv:2310.05737) have an encoder that is trained, a discriminator and a perceptual network: left out.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as fn

from ..masked import Masked
from .data import Batch
from .fit import Trained


def codebook(vectors: Tensor, codes: int, *, rounds: int = 20, batch: int = 100_000, seed: int = 0) -> Tensor:
    """So many codes `(codes, d)` by k-means on batches of vectors `(n, d)`; seldom used ones move to where the error is largest.

    Args:
        rounds: of Lloyd's algorithm, each on `batch` vectors drawn anew; the last quarter moves no code.
    """
    draw = torch.Generator().manual_seed(seed)
    distinct = vectors[torch.randint(len(vectors), (min(batch, 8 * len(vectors)),), generator=draw)].unique(dim=0)
    if len(distinct) < codes:
        raise ValueError(f"codebook: expected at least {codes} different vectors, got {len(distinct)}")
    found = distinct[torch.randperm(len(distinct), generator=draw)[:codes]].clone()
    for number in range(rounds):
        part = vectors[torch.randint(len(vectors), (batch,), generator=draw)]
        distance = found.square().sum(1) - 2 * part @ found.T
        nearest = distance.argmin(1)
        count = torch.bincount(nearest, minlength=codes)
        mean = torch.zeros_like(found).index_add_(0, nearest, part) / count.clamp(min=1)[:, None]
        found = torch.where(count[:, None] > 0, mean, found)
        if number < 3 * rounds // 4:
            error = (part - found[nearest]).square().sum(1)
            seldom = count.argsort()[: max(1, codes // 25)]
            found[seldom] = part[torch.multinomial(error + 1e-9, len(seldom), generator=draw)]
    return found


def tokenizer_loss(tokenizer: Trained, batch: Batch, generator: torch.Generator) -> Tensor:
    """Of every row `(b,)`: the mean square error of what comes back of a picture.

    Args:
        tokenizer: its `net` gives of pictures `(b, c, h, w)` what comes back of them.
    """
    return (tokenizer.net(batch.clean) - batch.clean).square().flatten(1).mean(1)


def filler_loss(prior: Masked, batch: Batch, generator: torch.Generator) -> Tensor:
    """Of every row `(b,)`: mean of -log p(token) in nats over its masked places; times L a bound of -log p(tokens).

    Args:
        prior: its `net` gives of tokens `(b, *shape)` the logits `(b, *shape, K)`; the token K is the mask.
        batch: tokens in 0..K-1, int64, or of a smaller type to save memory.
    """
    tokens = batch.clean.long()
    flat = tokens.flatten(1)
    rows, places = flat.shape
    masked = torch.randint(1, places + 1, (rows, 1), generator=generator, device=flat.device)
    order = torch.rand(rows, places, generator=generator, device=flat.device).argsort(1).argsort(1)
    hidden = order < masked
    logits = prior.net(torch.where(hidden, prior.mask, flat).view_as(tokens)).flatten(1, -2).float()
    surprise = fn.cross_entropy(logits.transpose(1, 2), flat, reduction="none")
    return (surprise * hidden).sum(1) / masked[:, 0]
