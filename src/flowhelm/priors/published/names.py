"""Where each tensor of a network is in a published checkpoint, and what is done to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, TypeVar

from torch import Tensor, nn

T = TypeVar("T")


def same(value: Tensor) -> Tensor:
    return value


def flat(value: Tensor) -> Tensor:
    """The weight of a convolution of one pixel `(out, in, 1[, 1])`, or its bias, as that of a linear layer."""
    return value.flatten(1) if value.ndim > 1 else value


def stacked(value: Tensor, part: int, heads: int, by_head: bool = False) -> Tensor:
    """One of query, key and value (part 0, 1, 2) of a layer `(3 c, ...)` that gives all three.

    Args:
        by_head: query, key and value of a head follow one another, then those of the next; else all queries come first.
    """
    value = flat(value)
    rows = value.unflatten(0, (heads, 3, -1))[:, part] if by_head else value.unflatten(0, (3, -1))[part]
    return rows.flatten(0, 1) if by_head else rows


class From(NamedTuple):
    """A tensor of a network is `change` of the one of this name in the checkpoint."""

    name: str
    change: Callable[[Tensor], Tensor] = same


Table = dict[str, From]
"""Name in the network -> where from."""


def both(to: str, name: str, change: Callable[[Tensor], Tensor] = same) -> Table:
    """Weight and bias of a layer."""
    return {f"{to}.{part}": From(f"{name}.{part}", change) for part in ("weight", "bias")}


def three(to: str, name: str, heads: int, by_head: bool = False) -> Table:
    """`to_q`, `to_k` and `to_v` of an attention of one layer for all three."""
    found: Table = {}
    for part, letter in enumerate("qkv"):
        found |= both(f"{to}.to_{letter}", name, partial(stacked, part=part, heads=heads, by_head=by_head))
    return found


def shape(weights: Mapping[str, Tensor], name: str, layout: str) -> tuple[int, ...]:
    """Of a tensor by which a checkpoint shows how its network is made. ValueError if it is not there."""
    if name not in weights:
        raise ValueError(
            f"convert: expected the tensors of {layout}, and {name!r} is not among the {len(weights)} of this file; the checkpoint is of "
            "another network: name its own kind"
        )
    return tuple(weights[name].shape)


def number(found: int, what: str, layout: str) -> int:
    """A count of layers that must be above 0."""
    if found < 1:
        raise ValueError(
            f"convert: expected the tensors of {layout}, and this file has no {what}; it is of another network"
        )
    return found


def fitted(weights: Mapping[str, Tensor], table: Table, net: nn.Module, layout: str) -> dict[str, Tensor]:
    """The network's tensors out of a checkpoint, every one of both accounted for.

    Args:
        net: may be on the device "meta".

    Raises:
        ValueError: a tensor that is missing, too many, of another shape, or not finite.
    """
    wanted = {name: tuple(each.shape) for name, each in net.state_dict().items()}
    assert wanted.keys() == table.keys(), sorted(wanted.keys() ^ table.keys())[:4]
    missing = sorted({each.name for each in table.values()} - weights.keys())
    extra = sorted(weights.keys() - {each.name for each in table.values()})
    if missing or extra:
        name, what = (missing[0], "is missing") if missing else (extra[0], "is not one of them")
        others = f" (and {len(missing) + len(extra) - 1} more do not fit)" if len(missing) + len(extra) > 1 else ""
        raise ValueError(
            f"convert: expected the tensors of {layout}, and {name!r} {what}{others}; the checkpoint is of another network or "
            "another version of it"
        )
    made = {}
    for name, source in table.items():
        value = weights[source.name]
        try:
            changed = source.change(value).contiguous()
            fits = tuple(changed.shape) == wanted[name]
        except (RuntimeError, IndexError):
            fits = False
        if not fits:
            raise ValueError(
                f"convert: {source.name!r} has the shape {tuple(value.shape)}, which does not fit {layout} of this width; the checkpoint "
                "is of another network"
            )
        if not bool(changed.isfinite().all()):
            raise ValueError(f"convert: {source.name!r} holds numbers that are not finite; its training went wrong")
        made[name] = changed
    return made
