"""How many rows a bundled prior's network sees at once."""

import math

from ...flow import Flow

PIXELS = 2**18
"""That the network sees at once, guidance's second half included: about 0.1 GiB for the bundled priors."""


def batches(flow: Flow, count: int, guided: bool) -> int:
    """Rows of a batch."""
    return max(1, min(count, PIXELS // (math.prod(flow.shape[-2:]) * (2 if guided else 1))))
