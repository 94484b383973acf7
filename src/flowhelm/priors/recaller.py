"""A velocity network that remembers the pictures before it: hybrid attention. ARFlow, Hui et al. 2025, arXiv:2501.16085.

    out_s = softmax(q_s k_s^T) v_s + q_s memory_s,    memory_{s+1} = e^{g_s} memory_s + k_s^T v_s / tokens,    memory_1 = 0

Cost    linear in the number of pictures; a picture costs the same with and without memory
Paper   There g decays with the place of a token within its picture, though tokens have no order: here one g for a picture, the
        mean over its tokens. q and k have unit length, v is not normalised.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

Memory = tuple[Tensor, ...]
"""What each layer has seen: `(b, heads, d, d)`."""


class Hybrid(nn.Module):
    """Softmax attention within a picture, linear attention to the pictures before it."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.remembers = heads, True
        self.qkv, self.gate, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width), nn.Linear(width, width)
        self.decay = nn.Linear(width, heads)

    def forward(self, x: Tensor, told: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(2, 3) for part in self.qkv(x).chunk(3, -1))
        q, k = fn.normalize(q, dim=-1) * q.shape[-1] ** 0.5, fn.normalize(k, dim=-1)
        decay = fn.logsigmoid(self.decay(x + told)).mean(2).exp()[..., None, None] ** 0.25
        reads = []
        for s in range(x.shape[1]):
            reads.append(q[:, s] @ memory)
            memory = decay[:, s] * memory + k[:, s].transpose(-1, -2) @ v[:, s] / x.shape[2]
        seen = (q @ k.transpose(-1, -2)).softmax(-1) @ v + torch.stack(reads, 1) * self.remembers
        seen = fn.rms_norm(seen, seen.shape[-1:]).transpose(2, 3).flatten(3)
        return self.out(seen * fn.silu(self.gate(x))), memory


class Recaller(nn.Module):
    """A transformer over the patches of a sequence of small pictures.

    Args:
        shape: `(c, h, w)` of a picture. classes: of its labels; their number itself means none. patch: side of a token.

    Call: `net(x, t, label)` as any velocity network, a picture by itself; `net.step(x, t, label, memory)` for sequences.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        patch: int = 2,
        width: int = 64,
        layers: int = 3,
        heads: int = 4,
    ):
        super().__init__()
        self.shape, self.patch, self.heads = shape, patch, heads
        numbers, tokens = shape[0] * patch**2, (shape[1] // patch) * (shape[2] // patch)
        self.null = (torch.full((1,), classes),)
        self.inner, self.place = nn.Linear(numbers, width), nn.Parameter(0.02 * torch.randn(tokens, width))
        self.label, self.time = (
            nn.Embedding(classes + 1, width),
            nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width)),
        )
        self.attend = nn.ModuleList(Hybrid(width, heads) for _ in range(layers))
        self.mix = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)) for _ in range(layers)
        )
        self.adapt = nn.ModuleList(nn.Linear(width, 6 * width) for _ in range(layers))
        self.last, self.outer = nn.Linear(width, 2 * width), nn.Linear(width, numbers)
        for layer in (*self.adapt, self.last, self.outer):
            nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)

    def empty(self, rows: int) -> Memory:
        """The memory of one who has seen nothing."""
        weight = self.place
        size = weight.shape[1] // self.heads
        return tuple(weight.new_zeros(rows, self.heads, size, size) for _ in self.attend)

    def step(self, x: Tensor, t: Tensor, label: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Velocities of a sequence `(b, n, c, h, w)` at times `(b, n)`, and the memory after it."""
        rows, n = x.shape[:2]
        angles = t[..., None] * 0.5 * 2.0 ** torch.arange(16, device=x.device)
        told = (self.time(torch.cat([angles.sin(), angles.cos()], -1).to(x)) + self.label(label)[:, None])[:, :, None]
        y = fn.unfold(x.flatten(0, 1), self.patch, stride=self.patch).transpose(1, 2).unflatten(0, (rows, n))
        h, kept = self.inner(y) + self.place, []
        for attend, mix, adapt, before in zip(self.attend, self.mix, self.adapt, memory, strict=True):
            a = adapt(fn.silu(told)).chunk(6, -1)
            seen, after = attend(_normed(h) * (1 + a[0]) + a[1], told, before)
            h = h + a[2] * seen
            h = h + a[5] * mix(_normed(h) * (1 + a[3]) + a[4])
            kept.append(after)
        scale, shift = self.last(fn.silu(told)).chunk(2, -1)
        y = self.outer(_normed(h) * (1 + scale) + shift).flatten(0, 1).transpose(1, 2)
        return fn.fold(y, self.shape[1:], self.patch, stride=self.patch).view_as(x), tuple(kept)

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return self.step(x[:, None], t.to(x).expand(len(x))[:, None], label, self.empty(len(x)))[0][:, 0]


def _normed(h: Tensor) -> Tensor:
    return fn.layer_norm(h, h.shape[-1:])
