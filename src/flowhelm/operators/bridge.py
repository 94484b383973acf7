"""Between deepinv's pictures in [0, 1] and ours in [-1, 1], for a linear operator A.

With x = 2 x01 - 1 a measurement y01 = A x01 + n01 becomes y = A x + n, where y = 2 y01 - A 1 and n = 2 n01. The
residual doubles and so does the noise: the likelihood of a picture is the same.
"""

import torch
from torch import Tensor

from flowhelm.measure import LinearOperator


def to_signed(operator: LinearOperator, y01: Tensor, std01: float) -> tuple[Tensor, float]:
    """The measurement and noise level for pictures in [-1, 1], from those for pictures in [0, 1]."""
    return 2 * y01 - _ones(operator, y01), 2 * std01


def to_unit(operator: LinearOperator, y: Tensor, std: float) -> tuple[Tensor, float]:
    """The measurement and noise level for pictures in [0, 1], from those for pictures in [-1, 1]."""
    return (y + _ones(operator, y)) / 2, std / 2


def _ones(operator: LinearOperator, y: Tensor) -> Tensor:
    """A 1: what the operator makes of a white picture in [0, 1]."""
    if not isinstance(operator, LinearOperator):
        raise ValueError(
            "bridge: expected a linear operator (with A_adjoint), got a non-linear one; shift the picture instead"
        )
    return operator.A(torch.ones_like(operator.A_adjoint(y)))
