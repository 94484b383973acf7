"""Where it is computed."""

from __future__ import annotations

import torch

from ..errors import BadInput


def to_device(name: str) -> torch.device:
    """The device of that name, which is there. Raises BadInput."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # not of `meta`, which holds no numbers
    except (RuntimeError, AssertionError) as error:
        raise BadInput(f"device {name!r} is not there ({str(error).splitlines()[0]}); use --device cpu") from error
    return device


def exactly(threads: int) -> None:
    """The same numbers at every run: so many threads in this thread, and no kernel that is chosen by timing."""
    if torch.get_num_threads() != threads:  # each thread has its own
        torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
