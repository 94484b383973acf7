"""What a computation holds in memory, counted without computing it: the same code runs on meta tensors, which have shapes and no
data, and every storage is counted from the operation that makes it to the moment when nothing refers to it any more.

    flow = hollow(flow)
    found = footprint(flow, begin, {"network": [net]}, steps=28)
    found.peak, found.held

torch has a tracker of its own (torch.distributed._tools.mem_tracker), which does not follow a network that is called more than once.

What it does not see: workspaces inside kernels (cuDNN, cuBLAS, oneDNN), the allocator's gaps, the driver's own memory.
"""

from __future__ import annotations

import copy
import sys
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from .flow import Flow, Wrapped
from .step import Step

aten = torch.ops.aten

ROUND = 512
"""Bytes: the CUDA caching allocator hands out multiples of it."""

LARGE = 2**22
"""Whole numbers in a tensor that are computed at most, see `Wholes`."""


class Enough(Exception):
    """The peak has not grown for long enough; see `Ledger.patience`."""


class Ledger(TorchDispatchMode):
    """Counts the bytes of live tensors on one device, by the part of the computation that made them.

    Args:
        device: whose tensors are counted; "meta", or "cpu" to count a real run.
        patience: by part, evaluations (`tick`) without growth of the peak by 0.1 % after which `Enough` is raised; a part that is not
            there is never enough.
        hidden: bytes that the kernel of an operation takes for itself, `(operation, its arguments) -> bytes`, on top of its outputs.

    Attributes:
        live, peak: bytes now, and at most so far; at_peak: those of the peak by part.
        parts: the most bytes that were live while a part was computed.
        calls: evaluations so far, by part.

    On meta a value does not exist: where the code asks for one, it is told True, 1, or 1.0. In this library these are questions
    such as "is there anything left to do?", so that the longest way is taken. For whole numbers see `Wholes`.
    """

    def __init__(
        self,
        device: str = "meta",
        *,
        patience: Mapping[str, int] | None = None,
        hidden: Callable[[Any, tuple[Any, ...]], int] | None = None,
    ):
        super().__init__()
        self.device, self.patience, self.hidden = device, patience or {}, hidden
        self.live = self.peak = 0
        self.at_peak: dict[str, int] = {}
        self.parts: dict[str, int] = defaultdict(int)
        self.calls: dict[str, int] = defaultdict(int)
        self._now = "method"
        self._by_part: dict[str, int] = defaultdict(int)
        self._wholes = Wholes()
        self._known: dict[int, tuple[int, str]] = {}  # address of a storage: its bytes and its part
        self._mark, self._grown = 0, dict[str, int]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self.device == "meta":
            out = self._wholes.call(func, args, kwargs or {})
        else:
            out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(each, Tensor):
                self._see(each)
        if self.hidden is not None:
            self._reach(self.live + self.hidden(func, args))
        return out

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What is made in the block belongs to `name`."""
        before = self.enter(name)
        try:
            yield
        finally:
            self.enter(before)

    def enter(self, name: str) -> str:
        """From here on it is this part; returns the one before."""
        before, self._now = self._now, name
        self._reach(self.live)
        return before

    def hold(self, name: str, *modules: nn.Module) -> int:
        """Counts parameters and buffers that exist already, as `name`; returns their bytes."""
        before = self.live
        with self.part(name):
            for module in modules:
                for each in (*module.parameters(), *module.buffers()):
                    self._see(each.data)
        return self.live - before

    def tick(self, name: str) -> None:
        """One evaluation of the network or of the decoder begins."""
        self.calls[name] += 1
        if self.peak > self._mark * 1.001:
            self._mark, self._grown = self.peak, dict(self.calls)
        if self.calls[name] - self._grown.get(name, 0) > self.patience.get(name, sys.maxsize):
            raise Enough

    def _see(self, tensor: Tensor) -> None:
        if tensor.device.type != self.device:
            return
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address in self._known:
            return
        size = -(-storage.nbytes() // ROUND) * ROUND
        self._known[address] = size, self._now
        self._by_part[self._now] += size
        self.live += size
        weakref.finalize(storage, self._forget, address)
        self._reach(self.live)

    def _forget(self, address: int) -> None:
        size, part = self._known.pop(address)
        self._by_part[part] -= size
        self.live -= size

    def _reach(self, size: int) -> None:
        self.parts[self._now] = max(self.parts[self._now], size)
        if size > self.peak:
            self.peak = size
            self.at_peak = {name: held for name, held in self._by_part.items() if held}
            if size > self.live:
                self.at_peak["kernels' own"] = size - self.live


class Wholes:
    """Whole numbers and truth values on meta, which have values beside, on the CPU: places, masks and counts say how large other
    tensors are. They are computed as long as they come from such alone. Those that were there before, or that floating point decides,
    are 1: a mixture of experts sends all tokens to one of them.
    """

    def __init__(self) -> None:
        self._values = WeakTensorKeyDictionary()

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the operation gives; on meta, unless it asks for values."""
        if func in _PICKS:
            args = (args[0], [index for each in args[1] for index in self._indices(each)], *args[2:])
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        if any(each.is_meta for each in given) and _asks(func, kwargs):
            value = self._value(func, args, kwargs, given)
            if value is None:
                value = _without_data(func, args, kwargs)
            elif torch.Tag.dynamic_output_shape in func.tags:
                return self._keep(torch.empty_like(value, device="meta"), value)
            if value is not None:
                return value
        out = func(*args, **kwargs)
        if _whole(out):
            self._keep(out, self._value(func, args, kwargs, [*given, out]))
        elif isinstance(out, (tuple, list)) and all(map(_whole, out)):
            for each, value in zip(out, self._value(func, args, kwargs, given) or [None] * len(out), strict=True):
                self._keep(each, value)
        return out

    def _indices(self, mask: Any) -> tuple[Any, ...]:
        """Of what a mask picks, since how many that are is its value."""
        if not _whole(mask) or mask.dtype not in (torch.bool, torch.uint8):
            return (mask,)
        found = self._of(mask).nonzero().unbind(1)
        return tuple(self._keep(torch.empty_like(each, device="meta"), each) for each in found)

    def _keep(self, tensor: Tensor, value: Tensor | None) -> Tensor:
        if value is not None:
            self._values[tensor] = value
        elif tensor in self._values:
            del self._values[tensor]
        return tensor

    def _of(self, tensor: Tensor) -> Tensor:
        if tensor not in self._values:
            self._values[tensor] = torch.ones(tensor.shape, dtype=tensor.dtype)
        return self._values[tensor]

    def _value(self, func: Any, args: Any, kwargs: Any, seen: Sequence[Tensor]) -> Any:
        """The operation on the values beside; None where there are none."""
        if torch.Tag.nondeterministic_seeded in func.tags or any(
            each.numel() > LARGE or (each.is_meta and not _whole(each)) for each in seen
        ):
            return None

        def beside(each: Any) -> Any:
            if isinstance(each, torch.device):
                return torch.device("cpu")
            return self._of(each) if _whole(each) else each

        try:
            return func(*tree_map(beside, args), **tree_map(beside, kwargs))
        except (RuntimeError, IndexError):  # a 1 that is no place
            return None


_PICKS = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)


def _whole(each: Any) -> bool:
    return isinstance(each, Tensor) and each.is_meta and not each.is_floating_point() and not each.is_complex()


def _asks(func: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether an operation asks for values, or for how many there are of some."""
    if func is aten._to_copy.default:
        return torch.device(kwargs.get("device") or "meta").type != "meta"
    return torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags


def _without_data(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The answer to a question for values that do not exist, or None if it was none."""
    if not (args and isinstance(args[0], Tensor) and args[0].is_meta):
        return None
    if func is aten._local_scalar_dense.default:
        return torch.ones((), dtype=args[0].dtype).item()
    if func is aten.equal.default:
        return True
    if func is aten.nonzero.default:
        return torch.empty(args[0].numel(), args[0].ndim, dtype=torch.int64, device="meta")
    if func is aten._to_copy.default and torch.device(kwargs.get("device") or "meta").type != "meta":
        return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
    return None


@contextmanager
def attention() -> Iterator[None]:
    """Attention on meta as the fused kernels of CPU and CUDA do it, which never hold all scores; else torch would take the plain one.

    The function is replaced, since a mode of torch would not reach what checkpointing computes anew in the backward pass.
    """
    plain = F.scaled_dot_product_attention

    def _either(query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        # kernels are for four dimensions; any other number is done by the plain one, on a GPU, too
        return (_fused if query.is_meta and query.ndim == 4 else plain)(query, *args, **kwargs)

    F.scaled_dot_product_attention = _either
    try:
        yield
    finally:
        F.scaled_dot_product_attention = plain


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if enable_gqa:
        key, value = (each.repeat_interleave(query.shape[-3] // each.shape[-3], -3) for each in (key, value))
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, float("-inf"))
    return aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
    )[0]


@contextmanager
def without_data() -> Iterator[None]:
    """What torch itself lacks on meta: autocast knows nothing of it, and `tensor` forgets whole numbers there."""
    autocast: Any = torch.autocast
    tensor: Any = torch.tensor

    def _autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return nullcontext() if device_type == "meta" else autocast(device_type, *args, **kwargs)

    def _tensor(data: Any, *, device: Any = None, **kwargs: Any) -> Tensor:
        meta = device is not None and torch.device(device).type == "meta"
        made: Tensor = tensor(data, device="cpu" if meta else device, **kwargs)
        return made.to("meta") if meta else made

    torch.autocast, torch.tensor = _autocast, _tensor  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        torch.autocast, torch.tensor = autocast, tensor  # type: ignore[misc]


@dataclass(frozen=True, eq=False)
class Watched(Wrapped):
    """A flow whose evaluations, decodings and their backward passes are parts of a ledger."""

    flow: Flow
    ledger: Ledger

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        return self._part("network", lambda z: self.flow.velocity(z, t), x)

    def encode(self, image: Tensor) -> Tensor:
        return self._part("encoder", self.flow.encode, image)

    def decode(self, clean: Tensor) -> Tensor:
        if self.pixels:
            return self.flow.decode(clean)
        return self._part("decoder", self.flow.decode, clean)

    def _part(self, name: str, call: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        self.ledger.tick(name)
        before: list[str] = []
        if torch.is_grad_enabled() and x.requires_grad:
            x = x.view_as(x)  # its gradient is the last that the backward pass of the call makes
            x.register_hook(lambda _: self.ledger.enter(before.pop()) and None)
        with self.ledger.part(f"{name} forward"):
            out = call(x)
        if out.requires_grad:
            out.register_hook(lambda _: before.append(self.ledger.enter(f"{name} backward")))
        return out


def hollow(thing: Any, without: Sequence[nn.Module] = ()) -> Any:
    """A copy without data: modules and tensors in it are on meta, nothing is allocated.

    Args:
        thing: a module, a flow, or any object made of such; what else is in it is copied.
        without: modules that are None in the copy.
    """
    memo: dict[int, Any] = {}
    seen: set[int] = set()
    kept: list[Any] = []  # memo goes by identity, so that nothing that is in it may be freed

    def visit(each: Any) -> None:
        if id(each) in seen:
            return
        seen.add(id(each))
        kept.append(each)
        if isinstance(each, nn.Module):
            for tensor in (*each.parameters(), *each.buffers()):
                empty = tensor.detach().to("meta")
                memo[id(tensor)] = nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty
        elif isinstance(each, Tensor):
            memo[id(each)] = each.detach().to("meta") if each.ndim else each
        elif isinstance(each, (list, tuple)):
            for part in each:
                visit(part)
        elif isinstance(each, dict):
            visit(list(each.values()))
        elif isinstance(parts := getattr(each, "components", None), dict):  # a pipeline of diffusers
            visit(parts)
        elif type(each).__module__.startswith("flowhelm"):
            visit(list(getattr(each, "__dict__", {}).values()))

    memo.update({id(each): None for each in without})
    seen.update(map(id, without))
    visit(thing)
    return copy.deepcopy(thing, memo)


def modules(thing: Any) -> list[nn.Module]:
    """The outermost modules in a flow, each once."""
    found: list[nn.Module] = []
    seen: set[int] = set()

    def visit(each: Any) -> None:
        if id(each) in seen:
            return
        seen.add(id(each))
        if isinstance(each, nn.Module):
            found.append(each)
        elif isinstance(each, (list, tuple)):
            for part in each:
                visit(part)
        elif type(each).__module__.startswith("flowhelm"):
            visit(list(getattr(each, "__dict__", {}).values()))

    visit(thing)
    return found


@dataclass(frozen=True)
class Footprint:
    """Memory of a run, in bytes.

    Attributes:
        peak: the most that is held at once; held: of what that consists.
        parts: the most that is held while a part is computed.
        weights: of the modules.
    """

    peak: int
    held: Mapping[str, int]
    parts: Mapping[str, int]
    weights: Mapping[str, int]

    def differentiates(self, name: str) -> bool:
        """Whether there is a backward pass through "network" or "decoder"."""
        return f"{name} backward" in self.parts


Begin = Callable[[Flow, int], Iterable[Step]]
"""Begins a method on a flow, with a grid of so many steps: what it makes for that (state, measurement) is counted, too."""

STEPS = 2
"""Of the grid that is walked. What a method over whole trajectories holds grows with the grid by the same amount each step."""


def walk(flow: Flow, begin: Begin, steps: int) -> None:
    """Two steps of a method (the second has what the first one left) and a picture of the result."""
    method = iter(begin(flow, steps))
    last = next(method)
    last = next(method, last)
    with torch.no_grad():
        flow.decode(last.x)


def footprint(
    flow: Flow,
    begin: Begin,
    weights: Mapping[str, Sequence[nn.Module]],
    *,
    steps: int,
    ahead: int | None = None,
    hidden: Callable[[Any, tuple[Any, ...]], int] | None = None,
) -> Footprint:
    """What a method needs, from a walk on meta.

    Args:
        flow: without data, see `hollow`.
        weights: modules that stay, by name ("network", "decoder").
        steps: of the real run.
        ahead: that a method plans at once, however long the grid is; None of others.
        hidden: see `Ledger`.
    """
    first, whole = _walked(flow, begin, weights, min(steps, STEPS), ahead or 0, hidden)
    if not whole or ahead is not None or steps <= STEPS:
        return first
    second, _ = _walked(flow, begin, weights, STEPS + 1, 0, hidden)
    more = max(second.peak - first.peak, 0) * (steps - STEPS)
    held = {**first.held, "method": first.held.get("method", 0) + more}
    return Footprint(first.peak + more, held, first.parts, first.weights)


def _walked(
    flow: Flow, begin: Begin, weights: Mapping[str, Sequence[nn.Module]], steps: int, ahead: int, hidden: Any
) -> tuple[Footprint, bool]:
    """The footprint, and whether the first step asks the network at least as often as the grid has steps."""
    # an evaluation of a whole trajectory with its gradient asks the network 2 steps - 1 times
    ledger = Ledger(patience={"network": 2 * max(steps, ahead), "decoder": 4}, hidden=hidden)
    fixed = {name: ledger.hold(f"{name} weights", *each) for name, each in weights.items()}
    watched = Watched(flow, ledger)
    asked: list[int] = []

    def noted(inner: Flow, count: int) -> Iterator[Step]:
        for step in begin(inner, count):
            asked.append(ledger.calls["network"])
            yield step

    with ledger, attention(), without_data():
        with suppress(Enough):
            walk(watched, noted, steps)
        if not ledger.calls["decoder"]:  # it was cut short
            ledger.patience = {}
            watched.decode(torch.empty(1, *flow.shape, device="meta"))
    held = _settled(ledger.at_peak, fixed)
    return Footprint(ledger.peak, held, dict(ledger.parts), fixed), (
        asked[0] if asked else ledger.calls["network"]
    ) >= steps > 1


def _settled(held: Mapping[str, int], fixed: Mapping[str, int]) -> dict[str, int]:
    """Weights are weights, even those that were cast to compute and cast back (fp8), which are new storages then."""
    settled = dict(held)
    for name, size in fixed.items():
        lacking = size - settled.get(f"{name} weights", 0)
        settled[f"{name} weights"] = size
        for part in (f"{name} forward", f"{name} backward"):
            taken = min(max(lacking, 0), settled.get(part, 0))
            lacking -= taken
            if part in settled:
                settled[part] -= taken
    return {name: size for name, size in settled.items() if size}


def is_short(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, on a GPU or by the CPU's allocator."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SHORT)
    )


_SHORT = ("out of memory", "can't allocate memory", "not enough memory")
