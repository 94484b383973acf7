"""Randomness: one stream per row, so that a result does not depend on the batch it was computed in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

Key = int | str | tuple[int | str, ...]


class Noise:
    """One random stream per batch row. flowhelm's own.

    Args:
        seed: any integer; or one for each row, to run together what has seeds of its own.
        rows: how many rows, or one key per row (an index, a file name, ...). Stream i depends on (seed i, key i) alone:
            not on the batch, its order, its neighbours or the device.

    Raises:
        ValueError: seeds for another number of rows.

    Draws are made on the CPU in float32 (float64 for a float64 state) and then moved, so that a seed means the
    same everywhere.
    """

    def __init__(self, seed: int | Sequence[int], rows: int | Iterable[Key]):
        keys: Sequence[Key] = range(rows) if isinstance(rows, int) else list(rows)
        self.keys = [k if isinstance(k, tuple) else (k,) for k in keys]
        self.seeds = list(seed) if isinstance(seed, Sequence) else [seed] * len(self.keys)
        if len(self.seeds) != len(self.keys):
            raise ValueError(f"Noise: expected one seed or {len(self.keys)}, one for each row, got {len(self.seeds)}")
        self._streams = [
            torch.Generator().manual_seed(digest(s, k)) for s, k in zip(self.seeds, self.keys, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.keys)

    def __call__(self, like: Tensor) -> Tensor:
        """Standard normal noise shaped, typed and placed as `like` `(rows, ...)`; row i from stream i only."""
        if len(like) != len(self):
            raise ValueError(
                f"Noise: expected a batch of {len(self)} rows, got {len(like)}; make Noise(seed, rows={len(like)})"
            )
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        draws = [torch.randn(like.shape[1:], generator=g, dtype=dtype) for g in self._streams]
        return torch.stack(draws).to(like) if draws else torch.empty_like(like)

    def uniform(self) -> Tensor:
        """One number in [0, 1) per row, float64 on the CPU: `(rows,)`."""
        return torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in self._streams])

    def spawn(self, children: int) -> Noise:
        """Streams for particles: `children` per row, row-major, each independent of its parent and of its sisters."""
        seeds = [seed for seed in self.seeds for _ in range(children)]
        return Noise(seeds, [(*key, "child", c) for key in self.keys for c in range(children)])

    def named(self, purpose: str) -> Noise:
        """Streams of the same rows for another purpose (measurement noise, say), independent of these."""
        return Noise(self.seeds, [(*key, "purpose", purpose) for key in self.keys])

    def rows(self, index: Iterable[int] | Tensor) -> Noise:
        """The streams of some rows: shared, not copied, so that what is drawn here is not drawn there again."""
        chosen, some = [int(i) for i in index], Noise([], [])
        some.seeds, some.keys = [self.seeds[i] for i in chosen], [self.keys[i] for i in chosen]
        some._streams = [self._streams[i] for i in chosen]
        return some

    def state(self) -> Tensor:
        """Where every stream stands: uint8 `(rows, n)`. `restore` puts them back, which resumes a run exactly."""
        return torch.stack([g.get_state() for g in self._streams])

    def restore(self, state: Tensor) -> Noise:
        """Sets the streams to a `state()` of the same number of rows; returns self."""
        if len(state) != len(self):
            raise ValueError(f"Noise.restore: expected the state of {len(self)} rows, got {len(state)}")
        for stream, row in zip(self._streams, state, strict=True):
            stream.set_state(row.clone())  # torch ignores the offset of a view and would read foreign memory
        return self


def digest(seed: int, key: tuple[int | str, ...]) -> int:
    """63 bits that differ for every (seed, key); neighbouring integers would give torch correlated streams."""
    text = repr((int(seed), key)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
