"""fashion-tokens: clothes as tokens. First a tokenizer, `fashion_codes`, then the transformer over its tokens, `fashion_tokens`."""

from __future__ import annotations

from pathlib import Path

import torch

from ..masked import Masked
from ..priors.token_nets import Filler, Patches
from ..priors.tokens import tokenizer
from ..train import Alone, Batch, Data, codebook, filler_loss, shuffled, tokenizer_loss
from .fashion import whole
from .recipe import Recipe

CODES = 512
"""Patches of 4 x 4 pixels to choose from."""
BORDER = 2
"""Pixels of black around a picture of 28 x 28, as `fashion` has them; no token is spent on them."""


def fashion_codes(data: Path, *, batch: int = 64, seed: int = 0) -> Recipe:
    """A tokenizer of Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747; MIT licence): 7 x 7 tokens of 512 codes for 32 x 32 pixels.

    The codes are found before the first step, by k-means; what is trained is the decoder.

    Args:
        data: fashion_mnist.npz with train_images `(n, 28, 28)` uint8, train_labels, test_images, test_labels.
        batch: pictures in a batch.
        seed: of the network's first weights and of the data's order.
    """
    sets = whole(data)
    torch.manual_seed(seed)
    net = Patches(CODES, border=BORDER)
    some = sets["train"][0][torch.randperm(len(sets["train"][0]))[:6000]].float() / 127.5 - 1
    patches = [net.cut(part).movedim(1, -1).flatten(0, -2) for part in (some, some.flip(-1))]
    net.codes.copy_(codebook(torch.cat(patches), CODES, seed=seed).half())  # as they are written
    return Recipe(
        flow=Alone(net),
        loss=tokenizer_loss,
        data=shuffled(sets["train"][0], batch=batch, seed=seed, flip=True),
        apart=shuffled(sets["test"][0], batch=batch, seed=seed),
        steps=400,
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
    shape = codec.shape(32, 32)
    torch.manual_seed(seed)
    net = Filler(len(codec.codes), shape[0] * shape[1], width=128, depth=3, heads=4)
    return Recipe(
        flow=Masked(net, shape, codec),
        loss=filler_loss,
        data=_encoded(codec, shuffled(sets["train"][0], batch=batch, seed=seed, flip=True)),
        apart=_encoded(codec, shuffled(sets["test"][0], batch=batch, seed=seed)),
        steps=1_200,
        rate=2e-3,
        about={"size": 32},
        ema=0.995,
    )


def _encoded(codec: Patches, data: Data) -> Data:
    """The tokens of batches of pictures: to encode one is nothing beside a step, and a short training does not see all of the set."""
    return lambda index: Batch(codec.encode(data(index).clean))
