"""fashion-tokens: clothes as tokens. First a tokenizer, `fashion_codes`, then the transformer over its tokens, `fashion_tokens`."""

from __future__ import annotations

from pathlib import Path

import torch

from ..masked import Masked
from ..priors.token_nets import Filler, Lattice
from ..priors.tokens import tokenizer
from ..train import Alone, cached, filler_loss, shuffled, tokenizer_loss
from .fashion import whole
from .recipe import Recipe

LEVELS = (2,) * 9
"""Nine bits at a place: 512 codes, without look-up."""
BORDER = 2
"""Pixels of black around a picture of 28 x 28, as `fashion` has them; no token is spent on them."""


def fashion_codes(data: Path, *, batch: int = 64, seed: int = 0) -> Recipe:
    """A tokenizer of Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747; MIT licence): 7 x 7 tokens of 512 codes for 32 x 32 pixels.

    Args:
        data: fashion_mnist.npz with train_images `(n, 28, 28)` uint8, train_labels, test_images, test_labels.
        batch: pictures in a batch.
        seed: of the network's first weights and of the data's order.
    """
    sets = whole(data)
    torch.manual_seed(seed)
    net = Lattice(LEVELS, (48, 96), border=BORDER).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Recipe(
        flow=Alone(net),
        loss=tokenizer_loss,
        data=shuffled(sets["train"][0], batch=batch, seed=seed, flip=True),
        apart=shuffled(sets["test"][0], batch=batch, seed=seed),
        steps=2_400,
        rate=2e-3,
        about={"size": 32},
        ema=0.99,
    )


def fashion_tokens(data: Path, codes: Path, *, batch: int = 64, seed: int = 0) -> Recipe:
    """Masked discrete diffusion (Sahoo et al. 2024, arXiv:2406.07524) over the tokens of Fashion-MNIST.

    Args:
        data: fashion_mnist.npz, as for `fashion_codes`.
        codes: the tokenizer's weights, of `flowhelm train fashion_codes`.
        batch: pictures in a batch.
        seed: of the network's first weights and of the data's order.
    """
    sets, codec = whole(data), tokenizer(codes)
    sides = [cached(codec, part, batch=500).short() for part in (sets["train"][0], sets["train"][0].flip(-1))]
    shape = (int(sides[0].shape[1]), int(sides[0].shape[2]))
    torch.manual_seed(seed)
    net = Filler(len(codec.codes), shape[0] * shape[1], width=160, depth=5, heads=5)
    return Recipe(
        flow=Masked(net, shape, codec),
        loss=filler_loss,
        data=shuffled(torch.cat(sides), batch=batch, seed=seed),
        apart=shuffled(cached(codec, sets["test"][0], batch=500).short(), batch=batch, seed=seed),
        steps=4_000,
        rate=1e-3,
        about={"size": 32},
        ema=0.995,
    )
