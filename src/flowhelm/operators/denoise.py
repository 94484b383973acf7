"""The identity: all that stands between the picture and its measurement is noise."""

from flowhelm.measure import LinearOperator


def denoise(shape: tuple[int, int, int]) -> LinearOperator:
    """Remove noise: the picture itself is measured.

    Options: none.

    flowhelm's own.
    """
    from deepinv.physics import Denoising, ZeroNoise

    return Denoising(ZeroNoise())  # deepinv's own default adds noise of standard deviation 0.1
