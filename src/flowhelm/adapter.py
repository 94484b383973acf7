"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv:2106.09685) of a prior's network, by PEFT; or folded into its weights.

A network with an adapter is a copy that shares every weight with the one it was made of: both are there, in the memory of one. So the flow
that it came from is the base, and nothing needs to be switched off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import chain
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from .entry import Count, Positive, guarded

NAME = "default"  # of the adapter, as PEFT has it
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
"""Layers that adapters of transformers usually change; where a network has none, every linear layer and convolution is."""
M = TypeVar("M", bound=nn.Module)


class Adaptable:
    """A flow over a network whose weights can be trained by an adapter."""

    net: Any

    def with_net(self, net: Any) -> Self:
        """The same flow over another network of the same kind."""
        raise NotImplementedError

    def trained(self) -> list[nn.Parameter]:
        """The weights that an optimiser is given: those that require a gradient."""
        return [weight for weight in self.net.parameters() if weight.requires_grad]

    def adapted(self, weights: Mapping[str, Tensor]) -> Self:
        """The same flow with the change of an adapter, as `state` has it, folded into its weights; see `applied`."""
        return self.with_net(applied(self.net, weights))

    @guarded
    def with_lora(
        self, rank: Count = 8, targets: Sequence[str] | None = None, *, alpha: Positive | None = None, seed: int = 0
    ) -> Self:
        """The same flow with an adapter to train, which changes nothing at first; this one stays as it is, and shares all weights.

            base = flowhelm.load("fashion");   flow = base.with_lora(8)

        Args:
            rank: of the change of each layer.
            targets: ends of the layers' names, such as ("to_q", "to_v"); None for those of attention, or all linear layers and
                convolutions of a network that has none.
            alpha: the change counts alpha / rank times; None for once.
            seed: of the first weights.

        Raises:
            ValueError: targets that no layer has; PEFT is not installed.
        """
        return self.with_net(injected(self.net, rank, targets, alpha, seed))


def sharing(net: M) -> M:
    """A copy of a network with the same tensors: its modules can be changed, and cost nothing."""
    return deepcopy(net, {id(each): each for each in chain(net.parameters(), net.buffers())})


def injected(net: M, rank: int, targets: Sequence[str] | None = None, alpha: float | None = None, seed: int = 0) -> M:
    """A copy that shares all weights, with an adapter; see `Adaptable.with_lora`."""
    peft = _peft()
    names = layers(net, targets)
    made = sharing(net)
    config = peft.LoraConfig(r=rank, lora_alpha=rank if alpha is None else alpha, target_modules=names)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, made, NAME)
    device = next(net.parameters()).device
    return made.to(device)


def layers(net: nn.Module, targets: Sequence[str] | None = None) -> list[str]:
    """Names of the layers that an adapter changes.

    Raises:
        ValueError: none ends so, or one is no linear layer or convolution.
    """
    known = {name: each for name, each in net.named_modules() if name and _fits(each)}

    def ending(ends: Sequence[str]) -> list[str]:
        return [name for name in known if any(name == end or name.endswith(f".{end}") for end in ends)]

    if targets is None:
        return ending(ATTENTION) or list(known)
    for end in targets:
        if not ending([end]):
            kinds = sorted({name.rpartition(".")[2] for name in known})
            raise ValueError(
                f"with_lora: expected targets that linear layers or convolutions of {type(net).__name__} have, got {end!r}, which matches "
                f"none; names of its layers end in {', '.join(kinds[:12])}"
            )
    return ending(targets)


def state(net: nn.Module) -> dict[str, Tensor]:
    """The weights of the adapter, `LAYER.lora_A.weight` and `LAYER.lora_B.weight`, on the CPU in float32, scale folded into B: their
    product is the whole change, whoever reads them without their alpha.

    Raises:
        ValueError: a network without an adapter.
    """
    found: dict[str, Tensor] = {}
    for name, each in net.named_modules():
        if hasattr(each, "lora_A") and NAME in each.lora_A:
            a, b = (getattr(each, part)[NAME].weight.detach().cpu().float() for part in ("lora_A", "lora_B"))
            found[f"{name}.lora_A.weight"] = a.clone()
            found[f"{name}.lora_B.weight"] = b * each.scaling[NAME]
    if not found:
        raise ValueError(
            "adapter: expected a network with an adapter, got one without; make it by flow.with_lora(rank)"
        )
    return found


def applied(net: M, weights: Mapping[str, Tensor]) -> M:
    """A copy with the adapter's change folded into its layers' weights; all others are shared. Packed weights keep it beside them.

    Args:
        weights: as `state` has them.

    Raises:
        ValueError: a layer that the network has not, or of another size.
    """
    names = [name.removesuffix(".lora_A.weight") for name in weights if name.endswith(".lora_A.weight")]
    known = dict(net.named_modules())
    changes = {}
    for name in names:
        a, b = weights[f"{name}.lora_A.weight"], weights[f"{name}.lora_B.weight"]
        layer: Any = known.get(name)
        if layer is None or not _fits(layer):
            raise ValueError(
                f"adapter: expected the layers of {type(net).__name__}, got {name!r}, which it has not; the adapter is of another model"
            )
        size = (layer.out_features, layer.in_features) if hasattr(layer, "out_features") else tuple(layer.weight.shape)
        if (len(b), *a.shape[1:]) != size:
            raise ValueError(
                f"adapter: expected a change of {size} for {name!r}, got {(len(b), *a.shape[1:])}; the adapter is of another model"
            )
        changes[name] = (b.flatten(1).float() @ a.flatten(1).float()).view(size)
    if all(type(known[name].weight) is nn.Parameter and known[name].weight.is_floating_point() for name in names):
        made = sharing(net)
        for name, change in changes.items():
            layer = made.get_submodule(name)
            weight = layer.weight.detach()
            whole = (weight.float() + change.to(weight.device)).to(weight)
            layer.weight = nn.Parameter(whole.contiguous(memory_format=_layout(weight)), requires_grad=False)
        return made
    made = injected(net, min(weights[f"{names[0]}.lora_A.weight"].shape[:1]), names)
    put(made, weights)
    return made.requires_grad_(False)


@torch.no_grad()
def put(net: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Sets the weights of an adapter that is there to those of `state`, of the same layers and rank."""
    for name, each in net.named_modules():
        if hasattr(each, "lora_A") and NAME in each.lora_A:
            each.lora_A[NAME].weight.copy_(weights[f"{name}.lora_A.weight"])
            each.lora_B[NAME].weight.copy_(weights[f"{name}.lora_B.weight"] / each.scaling[NAME])


def _fits(layer: nn.Module) -> bool:
    """Linear, of any kind of packing, or a plain convolution."""
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)


def _layout(weight: Tensor) -> torch.memory_format:
    channels_last = weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ValueError("with_lora: PEFT is not installed; mend it with: pip install 'flowhelm[tune]'") from error
    return peft
