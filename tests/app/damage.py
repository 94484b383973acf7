"""How files are damaged: the values in a tree, and bytes."""

import copy
import json
import random
from collections.abc import Sequence
from typing import Any

HARSH: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 3, 0.5, -0.5, 1e-12, 1e9, 10**20, -(10**20), 1e300, 10**400, float("nan"), float("inf")),
    *("", " ", "auto", "a", "0.1", "..", "/", "~", "gone.png", "photo.png", "\0", "\ud800", "x" * 300, "photos", "org/name"),
    *("cpu", "cuda", "meta", "mps:0", "cpu:7", "adam", "adam:rate=x", "denoise", "inpaint", "phase", "dps", "fk", "float16", "done"),
    *([], {}, [[]], [0], [0, 1], [1, 0], ["a"], {"a": 1}, [None], [[[[[[[[[[[[1]]]]]]]]]]]], {"settings": {}}),
]  # fmt: skip
PIECES = (b"NaN", b"[" * 3000, b"{", b'"', b"-", b"1e999", b"9" * 5000, b"\xff", b"\0", b"\\ud800")


def parts(value: Any, where: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything in a tree, itself included."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [where, *(path for key, each in inner for path in parts(each, (*where, key)))]


def damaged(value: Any, chance: random.Random, wrong: Sequence[Any] = HARSH) -> Any:
    """A tree with something left out, of another type, under another name, or that of its neighbour; or `wrong`."""
    value = json.loads(json.dumps(value))
    for _ in range(chance.choice((1, 1, 2, 4))):
        *above, last = chance.choice(parts(value)[1:] or [(None,)])
        holder = value
        for key in above:
            holder = holder[key]
        if last is None or not isinstance(holder, dict | list):
            return copy.deepcopy(chance.choice(wrong))
        kind = chance.randrange(5)
        if kind == 0:
            del holder[last]
        elif kind == 1 and isinstance(holder, dict):
            holder[chance.choice((f"{last}s", "", "a", f" {last}"))] = holder.pop(last)
        elif kind == 2:
            holder[last] = [copy.deepcopy(holder[last])]
        elif kind == 3 and isinstance(holder, dict):
            holder[last] = copy.deepcopy(holder[chance.choice(list(holder))])
        else:
            holder[last] = copy.deepcopy(chance.choice(wrong))
    return value


def broken(data: bytes, chance: random.Random, pieces: Sequence[bytes] = PIECES) -> bytes:
    """Bytes flipped, left out, doubled, written over or put in (one of `pieces`), or cut off."""
    found = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        at = chance.randrange(min(len(found), chance.choice((64, 10**6))) or 1)  # headers are short, and what matters
        kind, piece = chance.randrange(6), chance.choice(pieces)
        if kind == 0 and found:
            found[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            found[at : at + len(piece)] = piece
        elif kind == 2:
            del found[at : at + chance.randrange(1, 40)]
        elif kind == 3:
            found[at:at] = piece
        elif kind == 4:
            found[at:at] = found[at : at + chance.randrange(1, 80)]
        elif chance.random() < 0.3:
            del found[at:]
    return bytes(found)
