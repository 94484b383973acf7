"""One step after another: Euler, midpoint, Heun, Runge-Kutta 4. Lipman et al. 2023, arXiv:2210.02747, appendix C.

The moves of `flowhelm.transition`, each as a solver. They carry nothing from step to step, so they start, stop and jump anywhere.

Needs   any prior
Cost    evaluations per step: Euler 1, midpoint 2, Heun 2, Runge-Kutta 4; Heun one fewer into t = 1 (Karras et al. 2022)
Paper   Textbook methods of order 1, 2, 2 and 4. Euler on the linear path is DDIM.

Example

    from flowhelm import Noise, load, run, sample
    flow, noise = load("fashion"), Noise(0, rows=1)
    final = run(sample.euler(flow, flow.source(noise), flow.times(8)))
"""

from __future__ import annotations

from collections.abc import Iterator

from .. import transition
from ..flow import Flow
from ..rng import Noise
from ..shapes import State, Times
from ..solve import integrate
from ..step import Step


def euler(flow: Flow, x: State, times: Times, *, noise: Noise | None = None) -> Iterator[Step]:
    """One step after another: Euler. Lipman et al. 2023, arXiv:2210.02747.

    Args:
        x: state `(b, *shape)` at times[0]; times: increasing, float64 on the CPU.
    """
    return integrate(flow, x, times, transition=transition.euler)


def midpoint(flow: Flow, x: State, times: Times, *, noise: Noise | None = None) -> Iterator[Step]:
    """One step after another: the midpoint rule. Lipman et al. 2023, arXiv:2210.02747.

    Args:
        x: state `(b, *shape)` at times[0]; times: increasing, float64 on the CPU.
    """
    return integrate(flow, x, times, transition=transition.midpoint)


def heun(flow: Flow, x: State, times: Times, *, noise: Noise | None = None) -> Iterator[Step]:
    """One step after another: Heun's rule. Lipman et al. 2023, arXiv:2210.02747.

    Args:
        x: state `(b, *shape)` at times[0]; times: increasing, float64 on the CPU.
    """
    return integrate(flow, x, times, transition=transition.heun)


def rk4(flow: Flow, x: State, times: Times, *, noise: Noise | None = None) -> Iterator[Step]:
    """One step after another: Runge-Kutta 4. Lipman et al. 2023, arXiv:2210.02747.

    Args:
        x: state `(b, *shape)` at times[0]; times: increasing, float64 on the CPU.
    """
    return integrate(flow, x, times, transition=transition.rk4)
