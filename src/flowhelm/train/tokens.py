"""Tokens: a tokenizer by reconstruction, then a transformer that fills in what is masked. Sahoo et al. 2024 (MDLM), arXiv:2406.07524.

    tokenizer   z = encoder(picture);  q = nearest code, straight through
                loss = | decoder(q) - picture |^2 + balance |mean of z over the batch and its places|^2
    filler      n ~ 1..L, so many of the L places masked at random
                loss = mean over the masked places of -log p(token | the others)

L times the filler's loss is, on average, an upper bound of -log p(tokens): that of any-order autoregression, which is MDLM's with
the integral over time done exactly (n uniform is what a uniform time and the weight 1 / t come to). It is tight for a network that
knows the conditionals.

Needs   pictures; then tokens of them (`train.cached` with the tokenizer)
Cost    1 evaluation, 1 backward
Paper   MDLM draws a time and masks each place by chance; a count has the same mean and less variance. The tokenizers of the paper's
        pictures (MAGVIT-v2, arXiv:2310.05737) are also trained by a discriminator and a perceptual network: left out.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as fn

from .data import Batch
from .fit import Trained


def tokenizer_loss(
    tokenizer: Trained, batch: Batch, generator: torch.Generator, *, balance: float = 0.01
) -> Tensor:
    """Of every row `(b,)`: the mean square error of what comes back of a picture.

    Args:
        tokenizer: its `net` gives of pictures `(b, c, h, w)` what comes back of them, and their latents in (-1, 1) before rounding.
        balance: price of a channel of the latent that is always on one side: half of the codes would never be used.
    """
    back, latent = tokenizer.net(batch.clean)
    error = (back - batch.clean).square().flatten(1).mean(1)
    return error + balance * latent.float().mean((0, 2, 3)).square().mean()


def filler_loss(prior: Trained, batch: Batch, generator: torch.Generator) -> Tensor:
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
    codes = prior.net.config["codes"]  # type: ignore[index]
    logits = prior.net(torch.where(hidden, codes, flat).view_as(tokens)).flatten(1, -2).float()
    surprise = fn.cross_entropy(logits.transpose(1, 2), flat, reduction="none")
    return (surprise * hidden).sum(1) / masked[:, 0]
