"""What a method's card and signature say of it: its paper, what it needs, what a budget buys, what it carries.

A card is the docstring of the method's module: `NAME: what it is. Paper.`, the update, and fields of a line or more:

    Needs   the reward or measurement, the prior
    Budget  buys `draws`; never exceeded                 of methods that take a budget; see `budget_option`, `keeps_budget`
    Start   where it begins, if that is not the source; see `from_picture`
    Cost    evaluations, backwards, memory
    Paper   its settings, and every deviation

Nothing of this is kept in a list beside it.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    METHODS: tuple[Callable[..., Any], ...]
    """All methods, those of `steer` first."""
    TUNERS: tuple[Callable[..., Any], ...]
    """Methods that train weights, where the others draw pictures."""
    TOKENS: tuple[Callable[..., Any], ...]
    """Methods of priors over tokens."""
    RESTORE_OR_STEER: tuple[Callable[..., Any], ...]
    """METHODS and TOKENS: what a request may name."""


def __getattr__(name: str) -> Any:
    if name not in (
        "METHODS",
        "TUNERS",
        "TOKENS",
        "RESTORE_OR_STEER",
    ):  # a card is read without the methods themselves, which need torch
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import restore, steer, tune

    both = (*steer.ALL, *restore.ALL)
    return {"TUNERS": tune.ALL, "TOKENS": restore.TOKENS, "RESTORE_OR_STEER": (*both, *restore.TOKENS)}.get(
        name
    ) or both


def cite(name: str) -> str:
    """Prints the BibTeX of a method's papers, and returns it: `cite("dps")`. flowhelm's own; the entries are in `references.bib`.

    Of solvers, losses, guides and moves, too. A key is an arXiv number; an entry whose title is not known has a `note` in its place.
    What has no paper gets its card's first line, as a comment.

    Raises:
        ValueError: a name that nothing has.
    """
    known = _citable()
    if name not in known:
        raise ValueError(f"cite: expected the name of a method, one of {', '.join(sorted(known))}, got {name!r}")
    entries = references()
    keys = cited(known[name])
    found = "\n".join(entries[key] for key in keys) if keys else f"% {title(known[name])}: no paper that is known.\n"
    print(found, end="")
    return found


def cited(method: Callable[..., Any]) -> list[str]:
    """The keys in `references` of what the first lines of a card and of a docstring name, in their order."""
    text = f"{card(method).partition(chr(10))[0]} {inspect.getdoc(method) or ''}"
    keys = dict.fromkeys([*re.findall(r"arXiv:(\d{4}\.\d{5})", text), method.__name__])
    return [key for key in keys if key in references()]


@cache
def references() -> Mapping[str, str]:
    """The entries of `references.bib`, by their keys: arXiv numbers, and names of methods whose papers have none."""
    text = (files(__package__) / "references.bib").read_text(encoding="utf-8")
    return {entry[1]: entry[0] for entry in re.finditer(r"^@\w+\{([^,]+),\n(?:  .*\n)+\}\n", text, re.M)}


def _citable() -> dict[str, Callable[..., Any]]:
    from . import distil, edit, guide, inverse, restore, sample, steer, transition, tune

    lists = (
        transition.ALL, guide.ALL, guide.GUIDANCES, sample.ALL, sample.TOKENS, inverse.ALL, distil.ALL, edit.ALL, tune.ALL, restore.ALL,
        restore.TOKENS, steer.ALL,
    )  # fmt: skip
    return {each.__name__: each for several in lists for each in several}


def card(method: Callable[..., Any]) -> str:
    """The card of a method: the docstring of its module; of your own method its own, up to the arguments."""
    method = method.func if isinstance(method, partial) else method
    if hasattr(method, "__card__"):  # of a method that was read off its source
        return inspect.cleandoc(method.__card__)
    if str(method.__module__).startswith(f"{__package__}."):
        return inspect.cleandoc(sys.modules[method.__module__].__doc__ or "")
    return re.split(r"\n+(?:Args|Options):", inspect.getdoc(method) or "")[0]


def title(method: Callable[..., Any]) -> str:
    """`FK: Feynman-Kac steering`."""
    return card(method).partition("\n")[0].partition(". ")[0].removesuffix(".")


def field(method: Callable[..., Any], name: str) -> str:
    """What stands behind `Needs`, `Start`, `Budget`, `Cost` or `Paper`, its continuation lines joined; nothing if it is not there."""
    found = re.search(rf"^{name} +(.*(?:\n +.*)*)", card(method), re.M)
    return " ".join(found[1].split()) if found else ""


def from_picture(method: Callable[..., Any]) -> bool:
    """Whether it starts from the degraded picture at a noise level, not from the source; see `flowhelm.begin`."""
    return field(method, "Start").startswith("the degraded picture")


def pixels_only(method: Callable[..., Any]) -> bool:
    """Whether it takes priors over pixels only: its Needs name such a prior, and nothing differentiable instead."""
    needs = field(method, "Needs")
    return "pixel prior" in needs and "differentiable" not in needs


def prior_kind(method: Callable[..., Any]) -> str:
    """The kind of prior that it takes, `Flow.prior_kind`: flow, but for methods whose Needs begin with another."""
    needs = field(method, "Needs")
    kinds = {"a paired flow": "paired", "a compressor": "codec", "a prior over tokens": "tokens"}
    return next((kind for words, kind in kinds.items() if needs.startswith(words)), "flow")


def needs_gradient(method: Callable[..., Any]) -> bool:
    """Whether it always follows the gradient of its reward or measurement, whatever its options."""
    return field(method, "Needs").removeprefix("a ").startswith("differentiable")


def takes_budget(method: Callable[..., Any]) -> bool:
    return "budget" in inspect.signature(method).parameters


def budget_option(method: Callable[..., Any]) -> str | None:
    """The option that a budget pays for, such as draws; None of a method whose chains are independent, of which it buys more."""
    found = re.match(r"buys `(\w+)`", field(method, "Budget"))
    return found[1] if found else None


def keeps_budget(method: Callable[..., Any]) -> bool:
    """Whether it ends before it spends what is not there."""
    return "never exceeded" in field(method, "Budget")


def whole_samples(method: Callable[..., Any]) -> bool:
    """Whether what it scores are finished pictures."""
    return "whole sample" in field(method, "Budget")


def carried(method: Callable[..., Any], info: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is to be kept of a step's info besides the state, so that `resumed` can go on from it."""
    from torch import Tensor

    hints = inspect.get_annotations(method.func if isinstance(method, partial) else method, eval_str=True)
    if "carried" in hints:
        return dict(info)
    return {name: each for name, each in info.items() if hints.get(name) == Tensor | None}


def resumed(method: Callable[..., Any], kept: Mapping[str, Tensor]) -> dict[str, Any]:
    """The options by which a method takes up what it carried: `carried` as a whole, else one each (a plan, weights)."""
    return {"carried": kept} if "carried" in inspect.signature(method).parameters else dict(kept)


__all__ = [
    "METHODS",
    "TOKENS",
    "TUNERS",
    "budget_option",
    "card",
    "carried",
    "cite",
    "cited",
    "field",
    "from_picture",
    "keeps_budget",
    "needs_gradient",
    "pixels_only",
    "prior_kind",
    "references",
    "resumed",
    "takes_budget",
    "title",
    "whole_samples",
]
