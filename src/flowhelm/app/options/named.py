"""Functions of the library that an option chooses from by their names."""

from collections.abc import Callable, Sequence
from typing import Any


def named(kind: Any) -> Sequence[Callable[..., Any]]:
    """The functions that an option of this type chooses from. Told by identity: two aliases may be equal.

    Diffusions are made by theirs.
    """
    from ... import inner, particles, sample, solve, transition
    from ...control import ENERGIES, Energy
    from ...sample import slopes
    from ...transition import diffusion

    moments = (transition.ancestral_moments, transition.langevin_moments, transition.renoise_moments)
    choices: tuple[tuple[Any, Sequence[Callable[..., Any]]], ...] = (
        (inner.Inner, inner.ALL),
        (Energy, ENERGIES),
        (transition.Transition, transition.ALL),
        (transition.Moments, moments),
        (solve.Solver, sample.ALL),
        (slopes.Slope, slopes.ALL),
        (particles.Resampler, (particles.systematic, particles.stratified, particles.residual)),
        (diffusion.Diffusion, (diffusion.constant, diffusion.falling, diffusion.cosine, diffusion.hill)),
    )
    return next((functions for alias, functions in choices if alias is kind), ())
