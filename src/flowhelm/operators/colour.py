"""Colorisation: the operator takes the colours away."""

from flowhelm.measure import LinearOperator


def colorize(shape: tuple[int, int, int]) -> LinearOperator:
    """Colour a grey picture (experimental: colours are guessed); grey = 0.299 red + 0.587 green + 0.114 blue (Rec. 601).

    The measurement has one channel. The bundled priors do not know what has which colour: they colour smoothly, and often wrongly.

    Options: none.
    """
    if shape[0] != 3:
        raise ValueError(
            f"colorize: expected a clean picture of 3 channels, got {shape[0]}; use a prior of colour pictures"
        )
    from .exact import Grey

    return Grey(channels=3, srf=(0.299, 0.587, 0.114))
