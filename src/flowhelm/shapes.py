"""Names of tensors by their shape, for signatures. Each is a plain tensor: nothing is checked when a program runs, but in the tests."""

from __future__ import annotations

from torch import Tensor

State = Tensor
"""States of a prior, `(b, *shape)`; a velocity, a source, a clean end and a control have its shape."""
Image = Tensor
"""Pictures `(b, c, h, w)`, nominally in [-1, 1]; of the exact priors whatever their states are."""
PerSample = Tensor
"""One number for each row, `(b,)`."""
Time = Tensor
"""A time in [0, 1], 0 = source, 1 = clean: 0-dim float64 on the CPU, or `(b,)`, one for each row."""
Times = Tensor
"""A grid of times, `(steps + 1,)` float64 on the CPU."""
