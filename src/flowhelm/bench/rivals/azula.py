"""azula's guided samplers with our prior. Imports azula, so import this module inside functions only.

azula's time runs from clean (0) to noise (1), here by its `RectifiedSchedule`, the linear path. States are flattened to
`(rows, pixels)`: its solvers of linear systems take the last axis for the vector and every other one for a batch. Its tutorials
sample with eta = 1; eta = 0 is tried too, since the mean error of a picture, not its likeness, is compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from azula.denoise import Denoiser, DiracPosterior
from azula.guidance import DiffPIRDenoiser, DPSSampler, MMPSDenoiser, PGDMSampler, TDSSampler, TMPDenoiser
from azula.noise import RectifiedSchedule
from azula.sample import DDIMSampler, Sampler
from torch import Tensor

from ...flow import Flow
from ...measure import LinearOperator
from .ours import PARTICLES, Contestant, Problem, Rival, estimate, trials


class Handed(Denoiser):
    """Our prior as azula's denoiser: x_t = alpha_t clean + sigma_t noise, flattened, and t -> E[clean | x_t]."""

    def __init__(self, flow: Flow):
        super().__init__()
        self.flow, self.schedule = flow, RectifiedSchedule()

    def forward(self, x_t: Tensor, t: Tensor, **_: object) -> DiracPosterior:
        alpha, sigma = self.schedule(t)
        x = (x_t / alpha).reshape(len(x_t), *self.flow.shape)
        return DiracPosterior(estimate(self.flow, x, float(sigma / alpha)).flatten(1))


def measured(problem: Problem) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The flattened measurement and its operator on flattened pictures."""
    shape, operator = problem.flow.shape, problem.y.operator
    return problem.y.y.flatten(1), lambda x: operator.A(x.reshape(len(x), *shape)).flatten(1)


def _sampled(problem: Problem, sampler: Sampler, particles: int = 1) -> Callable[[], Tensor]:
    x = problem.start() if particles == 1 else problem.flow.source(problem.noise().spawn(particles))

    def solve() -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(problem.seed())
            # the mean of the particles is the estimate with the least squared error
            return sampler(x.flatten(1)).mean(0).reshape(1, *problem.flow.shape)

    return solve


def _dps(problem: Problem, zeta: float) -> Callable[[], Tensor]:
    y, a = measured(problem)
    sampler = DPSSampler(
        Handed(problem.flow), y=y, A=a, zeta=zeta * problem.unit, steps=problem.evaluations, silent=True
    )
    return _sampled(problem, sampler)


def _pgdm(problem: Problem, ridge: float, eta: float) -> Callable[[], Tensor]:
    """azula's has no place for the noise of the measurement: its pseudo-inverse is regularised here, A^T (A A^T + ridge)^-1."""
    y, a = measured(problem)
    operator = problem.y.operator
    assert isinstance(operator, LinearOperator)

    def inverse(v: Tensor) -> Tensor:
        picture = torch.zeros(len(v), *problem.flow.shape)
        return operator.prox_l2(picture, v.reshape(len(v), *problem.y.y.shape[1:]), 1 / ridge).flatten(1)

    sampler = PGDMSampler(
        Handed(problem.flow), y=y, A=a, A_inv=inverse, eta=eta, steps=problem.evaluations, silent=True
    )
    return _sampled(problem, sampler)


def _ddim(problem: Problem, denoiser: Denoiser, eta: float) -> Callable[[], Tensor]:
    return _sampled(problem, DDIMSampler(denoiser, eta=eta, steps=problem.evaluations, silent=True))


def _tmpd(problem: Problem, std: float, eta: float) -> Callable[[], Tensor]:
    y, a = measured(problem)
    return _ddim(problem, TMPDenoiser(Handed(problem.flow), y=y, A=a, var_y=(std * problem.y.std) ** 2), eta)


def _mmps(problem: Problem, std: float, eta: float) -> Callable[[], Tensor]:
    y, a = measured(problem)
    variance = torch.full_like(y[0], (std * problem.y.std) ** 2)
    return _ddim(problem, MMPSDenoiser(Handed(problem.flow), y=y, A=a, cov_y=variance), eta)


def _diffpir(problem: Problem, lam: float, eta: float) -> Callable[[], Tensor]:
    y, a = measured(problem)
    return _ddim(problem, DiffPIRDenoiser(Handed(problem.flow), y=y, A=a, var_y=problem.y.std**2, lmbda=lam), eta)


def _tds(problem: Problem, spread: float) -> Callable[[], Tensor]:
    """The tutorial's twist: a normal density of variance std^2 + spread (sigma / alpha)^2."""
    y, a = measured(problem)

    def twist(x: Tensor, ratio: Tensor) -> Tensor:
        variance = problem.y.std**2 + spread * ratio**2
        return -((y - a(x)) ** 2 / variance + torch.log(variance) + math.log(2 * math.pi)) / 2

    sampler = TDSSampler(Handed(problem.flow), twist, steps=problem.evaluations, silent=True)
    return _sampled(problem, sampler, PARTICLES)


RIVALS: dict[str, Rival] = {
    "DPS": Rival(Contestant(_dps, trials({"zeta": 1.0}, {"zeta": (1.0, 2.0, 4.0, 8.0, 12.0, 16.0)})), "dps"),
    "PGDM": Rival(
        Contestant(_pgdm, trials({"ridge": 0.01, "eta": 1.0}, {"ridge": (0.0025, 0.01, 0.1), "eta": (0.0, 1.0)})),
        "ot_ode",
    ),
    "DiffPIR": Rival(
        Contestant(_diffpir, trials({"lam": 1.0, "eta": 1.0}, {"lam": (0.3, 1.0, 10.0), "eta": (0.0, 1.0)})), "diffpir"
    ),
    "TMPD": Rival(
        Contestant(_tmpd, trials({"std": 1.0, "eta": 1.0}, {"std": (1.0, 2.0, 4.0), "eta": (0.0, 1.0)})),
        "tmpd, diagonal",
    ),
    "MMPS": Rival(
        Contestant(_mmps, trials({"std": 1.0, "eta": 1.0}, {"std": (1.0, 2.0, 4.0), "eta": (0.0, 1.0)})), "tmpd"
    ),
    "TDS": Rival(Contestant(_tds, trials({"spread": 1.0}, {"spread": (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)})), "tds"),
}
