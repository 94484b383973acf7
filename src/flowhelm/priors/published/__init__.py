"""Published networks as priors of flowhelm: a checkpoint is converted once, tensor by tensor, and opens like any other weights' file.

    python -m flowhelm.priors.published.convert pnp-flow-celeba model_final.pt celeba.safetensors
    flow = flowhelm.load("celeba.safetensors")

One module for each layout of tensors: `pnp_flow`, `torchcfm`, `adm`, `sit`, `edm`. The networks are those of diffusers and deepinv, which
carry these weights exactly. `models` says which checkpoints are known by name.

    kind "published"; layout; config    how the network is made
    about                               size, classes, what it draws, where it is from
    tensors                             in the network's own names and the checkpoint's own precision
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import adm, edm, pnp_flow, sit, torchcfm
from .models import MODELS

KIND = "published"
LAYOUTS: Mapping[str, ModuleType] = {"pnp_flow": pnp_flow, "torchcfm": torchcfm, "adm": adm, "sit": sit, "edm": edm}


class Opened(NamedTuple):
    """A network that a file holds.

    net          `net(x, time, *conditions)`, in evaluation mode and frozen
    shape        of one state
    convention   arguments of `foreign.Foreign`
    null         the class that means none, if it has one
    latent       whether its states are latents, which only an auto-encoder makes pictures
    """

    net: nn.Module
    shape: tuple[int, ...]
    convention: Mapping[str, Any]
    null: tuple[Tensor, ...]
    latent: bool


def network(header: Mapping[str, str], held: Mapping[str, Tensor]) -> Opened:
    """The network of a file by its header and tensors.

    Raises:
        ValueError: tensors that are not those of the network that the header says; `ValidationError` for a header that is not ours.
    """
    layout = header["layout"]
    if layout not in LAYOUTS:
        raise ValueError(f"it holds a network of layout {layout[:40]!r}, which this version does not know")
    module: Any = LAYOUTS[layout]
    config = module.Config.model_validate_json(header["config"])
    with torch.device("meta"):  # takes no memory, however large the network is said to be
        shapes = {name: each.shape for name, each in module.network(config).state_dict().items()}
    if {name: each.shape for name, each in held.items()} != shapes:
        raise ValueError("its tensors are not those of the network that it says it is")
    net = module.network(config)
    net.load_state_dict({name: each.float() for name, each in held.items()})
    null = (torch.tensor([config.classes]),) if getattr(config, "null", False) else ()
    shape = (config.channels, config.size, config.size)
    called = module.called(net, config).eval().requires_grad_(False)
    return Opened(called, shape, module.convention(config), null, layout == "sit")


__all__ = ["KIND", "LAYOUTS", "MODELS", "Opened", "network"]
