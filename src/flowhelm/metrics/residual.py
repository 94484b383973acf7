"""Does the restored picture explain the measurement?"""

from torch import Tensor

from ..shapes import PerSample


def residual_ratio(residual: Tensor, std: float) -> PerSample:
    """Root mean square of `residual` = A(image) - y, `(b, ...)`, in units of the noise's standard deviation: `(b,)`. flowhelm's own.

    1 is calibrated; below, the picture also fits the noise; above, it contradicts the measurement.
    """
    if not std > 0:
        raise ValueError(f"residual_ratio: expected std > 0, got {std}; report the residual itself for noiseless data")
    return residual[:, None].flatten(1).square().mean(1).sqrt() / std
