"""deepinv's posterior samplers with our prior. Imports deepinv, so import this module inside functions only.

deepinv works on pictures in [0, 1] and its samplers on states in [-1, 1] in float64; `operators.bridge` converts the measurement.
Where its documentation leaves a choice (the solver of the reverse equation, the guidance of DPS) both are tried.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from deepinv.optim import HQS, L2, PnP
from deepinv.physics import Denoising, GaussianNoise, ZeroNoise
from deepinv.sampling import (
    DPS,
    DDIMSolver,
    DDPMSolver,
    DiffPIR,
    DPSDataFidelity,
    EulerSolver,
    FlowMatching,
    MomentMatchingDataFidelity,
    PiGDMDataFidelity,
    PosteriorDiffusion,
    VariancePreservingDiffusion,
)
from torch import Tensor, nn

from ...flow import Flow
from ...measure import Identity, LinearOperator
from ...operators.bridge import to_unit
from ...start import guess
from .ours import Contestant, Problem, Rival, estimate, trials


class Handed(nn.Module):
    """Our prior as deepinv's denoiser, `denoiser(picture in [0, 1], sigma in the same unit)`; one picture or one sigma for all."""

    def __init__(self, flow: Flow):
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor, sigma: float | Tensor, **_: object) -> Tensor:
        level = float(sigma.flatten()[0]) if isinstance(sigma, Tensor) else sigma
        return (estimate(self.flow, 2 * x - 1, 2 * level) + 1) / 2


def as_physics(operator: LinearOperator) -> Any:
    """An operator of flowhelm for deepinv, a copy of its own to add to."""
    return Denoising(ZeroNoise()) if isinstance(operator, Identity) else copy.deepcopy(operator)


def measured(problem: Problem) -> tuple[Tensor, Any]:
    """The measurement for pictures in [0, 1], and a physics that knows its noise."""
    physics = as_physics(problem.build())
    y01, std01 = to_unit(physics, problem.y.y, problem.y.std)
    physics.set_noise_model(GaussianNoise(std01))
    return y01, physics


def _diffusion(problem: Problem, model: PosteriorDiffusion) -> Callable[[], Tensor]:
    """Starts the sampler from our state at t = 0, scaled to its first noise level."""
    y01, physics = measured(problem)
    first = model.solver.timesteps[0]
    x = problem.start().double() * model.sde.sigma_t(first) * model.sde.scale_t(first)
    return lambda: 2 * model(y01, physics, x_init=x).float() - 1


def _generator(problem: Problem) -> torch.Generator:
    return torch.Generator().manual_seed(problem.seed())


def _dps(problem: Problem, weight: float, guidance: str) -> Callable[[], Tensor]:
    unit = problem.unit if guidance == "norm" else 1.0
    model = DPS(
        Handed(problem.flow),
        num_steps=problem.evaluations + 1,
        weight=weight * unit,
        guidance=guidance,
        rng=_generator(problem),
    )
    return _diffusion(problem, model)


def _diffpir(problem: Problem, lam: float, zeta: float) -> Callable[[], Tensor]:
    y01, physics = measured(problem)
    model = DiffPIR(Handed(problem.flow), L2(), max_iter=problem.evaluations, lambda_=lam, zeta=zeta)

    def solve() -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(problem.seed())
            return 2 * model(y01, physics) - 1

    return solve


def _dpir(problem: Problem, weight: float, steps: float) -> Callable[[], Tensor]:
    """Their DPIR, whose 8 levels and weight of 0.23 are fixed there, by the iteration that it is made of."""
    y01, physics = measured(problem)
    std = float(physics.noise_model.sigma)
    count = min(int(steps), problem.evaluations)
    levels = torch.logspace(math.log10(max(49 / 255, std)), math.log10(std), count)
    prior = PnP(denoiser=Handed(problem.flow))
    model = HQS(
        data_fidelity=L2(), prior=prior, max_iter=count, g_first=False, early_stop=False,
        stepsize=(levels / max(0.01, std)) ** 2 / weight, sigma_denoiser=levels,
    )  # fmt: skip
    first = guess(problem.y)

    def solve() -> Tensor:
        with torch.no_grad():
            return 2 * model(y01, physics, init=(first + 1) / 2) - 1

    return solve


def _variance_preserving(problem: Problem, fidelity: Any, solver: str) -> Callable[[], Tensor]:
    times = torch.linspace(1, 0, problem.evaluations + 1, dtype=torch.float64)
    of = DDPMSolver if solver == "ddpm" else DDIMSolver
    model = PosteriorDiffusion(
        fidelity, Handed(problem.flow), VariancePreservingDiffusion(alpha=1.0), of(times, rng=_generator(problem))
    )
    return _diffusion(problem, model)


def _pigdm(problem: Problem, weight: float, solver: str) -> Callable[[], Tensor]:
    return _variance_preserving(problem, PiGDMDataFidelity(weight=weight), solver)


def _moments(problem: Problem, weight: float, solver: str) -> Callable[[], Tensor]:
    return _variance_preserving(problem, MomentMatchingDataFidelity(weight=weight), solver)


def _flow_matching(problem: Problem, fidelity: Any, solver: str) -> Callable[[], Tensor]:
    times = torch.linspace(0.99, 0, problem.evaluations + 1, dtype=torch.float64)
    of = EulerSolver if solver == "euler" else DDPMSolver
    sde = FlowMatching(alpha=0.0)
    return _diffusion(
        problem, PosteriorDiffusion(fidelity, Handed(problem.flow), sde, of(times, rng=_generator(problem)))
    )


def _flow_dps(problem: Problem, weight: float, solver: str) -> Callable[[], Tensor]:
    """Its default guidance, the norm of the residual, stayed below 16 dB on this path for weights from 10 to 3000."""
    return _flow_matching(problem, DPSDataFidelity(weight=weight, guidance="annealed"), solver)


def _flow_pigdm(problem: Problem, weight: float, solver: str) -> Callable[[], Tensor]:
    return _flow_matching(problem, PiGDMDataFidelity(weight=weight), solver)


_BOTH = ("ddpm", "ddim")
_OF_FLOW = ("euler", "ddpm")  # on this path Euler's step of the deterministic equation is DDIM's

RIVALS: dict[str, Rival] = {
    "DPS": Rival(
        Contestant(
            _dps,
            (
                *trials(
                    {"weight": 1000.0, "guidance": "norm"}, {"weight": (300.0, 1000.0, 3000.0), "guidance": ("norm",)}
                ),
                *trials(
                    {"weight": 1.0, "guidance": "annealed"}, {"weight": (1.0, 3.0, 6.0), "guidance": ("annealed",)}
                ),
            ),
        ),
        "dps",
    ),
    "DiffPIR": Rival(
        Contestant(_diffpir, trials({"lam": 7.0, "zeta": 0.1}, {"lam": (2.0, 7.0, 25.0), "zeta": (0.1, 1.0)})),
        "diffpir",
    ),
    "DPIR": Rival(
        Contestant(_dpir, trials({"weight": 0.23, "steps": 8.0}, {"weight": (0.1, 0.23, 0.5), "steps": (8.0, 24.0)})),
        "hqs",
    ),
    "PiGDM": Rival(
        Contestant(_pigdm, trials({"weight": 1.0, "solver": "ddpm"}, {"weight": (0.5, 1.0, 1.5), "solver": _BOTH})),
        "ot_ode",
    ),
    "MomentMatching": Rival(
        Contestant(_moments, trials({"weight": 1.0, "solver": "ddpm"}, {"weight": (0.5, 1.0, 1.5), "solver": _BOTH})),
        "tmpd, 3 iterations",
    ),
    "FlowMatching, DPS": Rival(
        Contestant(
            _flow_dps, trials({"weight": 4.0, "solver": "euler"}, {"weight": (2.0, 4.0, 8.0), "solver": _OF_FLOW})
        ),
        "dps",
    ),
    "FlowMatching, PiGDM": Rival(
        Contestant(
            _flow_pigdm, trials({"weight": 0.5, "solver": "euler"}, {"weight": (0.2, 0.5, 1.0), "solver": _OF_FLOW})
        ),
        "ot_ode",
    ),
}
