"""Solvers of `flowhelm.sample`: identities, orders, parity, costs, invariances."""

import inspect
import itertools
import math
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from flowhelm import GaussianFlow, MixtureFlow, Noise, Wrapped, grids, run, sample, transition
from flowhelm.cards import card
from flowhelm.fixed_point import jacobi
from flowhelm.guide import counted
from flowhelm.multistep import slopes
from flowhelm.multistep.past import Past
from flowhelm.multistep.variables import CLEAN_LOG, CLEAN_SNR, SOURCE_RATIO, SOURCE_SNR, SOURCE_TIME, VELOCITY
from flowhelm.multistep.weights import exponential, weights
from flowhelm.path import VP, Ends, linear, trig
from flowhelm.sample.ghvb import coefficients

VARIABLES = {
    "v": VELOCITY, "clean": CLEAN_SNR, "log": CLEAN_LOG, "e": SOURCE_SNR, "ratio": SOURCE_RATIO, "te": SOURCE_TIME,
}  # fmt: skip
EVEN = partial(torch.linspace, dtype=torch.float64)


@pytest.fixture(scope="module")
def smooth():
    g = torch.Generator().manual_seed(0)
    means = 1.2 * torch.randn(5, 4, generator=g, dtype=torch.float64)
    return MixtureFlow(torch.ones(5).double(), means, 0.36 * torch.eye(4).double().expand(5, 4, 4))


@pytest.fixture(scope="module")
def source():
    return torch.randn(32, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def from_to(flow, x, steps):
    """From t = 0.05 to 0.9, where every variable is finite: start, and the exact end."""
    start = run(sample.rk4(flow, x, EVEN(0, 0.05, 41))).x
    return start, run(sample.rk4(flow, start, EVEN(0.05, 0.9, steps + 1))).x


@pytest.fixture(scope="module")
def ends_at(smooth, source):
    return from_to(smooth, source[:8], 400)


# --- the four exact identities ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [linear, trig, VP()], ids=["linear", "trig", "vp"])
@pytest.mark.parametrize("name", VARIABLES)
def test_a_constant_prediction_is_carried_exactly(path, name):
    """d(x / sigma) = clean d(alpha / sigma), d(x / alpha) = source d(sigma / alpha), dx = v dt, in one step of any length."""
    a, s, t = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).double(), *EVEN(0.2, 0.8, 2)
    x, p, here, there = a, a.flip(1) + 1, path(s), path(t)
    past = Past(path, VARIABLES[name], 1)
    if name == "v":
        exact, ends = x + (t - s) * p, Ends(p / here.d_sigma, torch.zeros_like(p))  # sigma' source + alpha' clean = p
    elif name in ("clean", "log"):
        exact = there.sigma * (x / here.sigma + p * (there.alpha / there.sigma - here.alpha / here.sigma))
        ends = Ends((x - here.alpha * p) / here.sigma, p)
    else:
        exact = there.alpha * (x / here.alpha + p * (there.sigma / there.alpha - here.sigma / here.alpha))
        ends = Ends(p, (x - here.sigma * p) / here.alpha)
    past.add(ends, s)
    torch.testing.assert_close(past.step(x, t, past.slope(t)), exact, atol=1e-10, rtol=0)


@pytest.mark.parametrize("path", [linear, trig, VP()], ids=["linear", "trig", "vp"])
@pytest.mark.parametrize("name", [n for n in VARIABLES if n != "v"])
@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("corrected", [False, True])
def test_polynomials_in_the_variable_are_integrated_exactly(path, name, order, corrected):
    """Against 4000 points of Simpson's rule for the integral of the identity."""
    variable, nodes = VARIABLES[name], EVEN(0.3, 0.7, 4).tolist() + [0.85]
    x, ones = torch.ones(1, 1).double(), torch.ones(1, 1).double()
    past = Past(path, variable, order)
    degree = order - 1 + corrected

    def u(t: Tensor) -> Tensor:
        a = path(t)
        kind = {
            "clean": (a.alpha / a.sigma).log(),
            "log": (a.alpha / a.sigma).log1p(),
            "te": t,
            "ratio": a.sigma / a.alpha,
        }
        return kind.get(name, (a.alpha / a.sigma).log())

    def p(t: Tensor) -> Tensor:
        return 1 + u(t) - 0.7 * u(t) ** degree

    for each in nodes[4 - order : 4]:
        t = torch.tensor(each, dtype=torch.float64)
        past.add(Ends(p(t) * ones, p(t) * ones), t)
    s, t = torch.tensor(nodes[3:5], dtype=torch.float64)
    ahead = past.node(Ends(p(t) * ones, p(t) * ones), t) if corrected else None
    got = past.step(x, t, past.slope(t, ahead=ahead))
    fine = torch.linspace(float(s), float(t), 8001, dtype=torch.float64)
    a, c = path(fine), path(t)
    if name in ("clean", "log"):
        kernel, scale, kept = a.alpha / a.sigma, c.sigma, x * c.sigma / path(s).sigma
    else:
        kernel, scale, kept = a.sigma / a.alpha, c.alpha, x * c.alpha / path(s).alpha
    rate = (a.d_alpha * a.sigma - a.alpha * a.d_sigma) / a.sigma**2 if name in ("clean", "log") else (
        (a.d_sigma * a.alpha - a.sigma * a.d_alpha) / a.alpha**2
    )  # fmt: skip
    mass = torch.ones_like(fine)
    mass[1:-1:2], mass[2:-1:2] = 4, 2
    exact = kept + scale * (p(fine) * rate * mass).sum() * (fine[1] - fine[0]) / 3
    assert kernel.isfinite().all()
    torch.testing.assert_close(got, exact, atol=1e-10, rtol=1e-10)


def test_moments_do_not_jump_where_the_formula_changes():
    for h in (-30.0, -1.0, -0.999999, -1e-5, 1e-5, 0.999999, 1.0, 30.0):
        theta = torch.linspace(0, 1, 200001, dtype=torch.float64)
        density = (h * (theta - (1 if h > 0 else 0))).exp()
        mass = torch.ones_like(theta)
        mass[1:-1:2], mass[2:-1:2] = 4, 2
        for k, found in enumerate(exponential(h, 4), 1):
            exact = float((mass * density * theta**k).sum() / (mass * density).sum())
            assert found == pytest.approx(exact, rel=1e-9)


def test_weights_of_even_grids_are_adams_and_moulton():
    flat = [1 / 2, 1 / 3, 1 / 4]
    for nodes, table in (
        ((-1,), (3 / 2, -1 / 2)),
        ((-1, -2), (23 / 12, -16 / 12, 5 / 12)),
        ((-1, -2, -3), (55 / 24, -59 / 24, 37 / 24, -9 / 24)),
        ((1,), (1 / 2, 1 / 2)),
        ((-1, 1), (8 / 12, -1 / 12, 5 / 12)),
    ):
        w = weights(nodes, flat[: len(nodes)])
        assert [1 - sum(w), *w] == pytest.approx(table, abs=1e-14)


# --- what coincides ----------------------------------------------------------------------------------------------------

FIRST = [
    sample.ab, sample.dpm, partial(sample.dpm, variable="log"), sample.res, sample.deis, partial(sample.deis, variable="log"),
    partial(sample.deis, variable="ratio"), partial(sample.unipc, corrector=False), partial(sample.unipc, corrector=False, variable="snr"),
]  # fmt: skip


@pytest.mark.parametrize("solver", FIRST)
def test_first_order_is_euler_on_the_linear_path(smooth, source, solver):
    times = grids.shifted(7, 2.0)
    torch.testing.assert_close(
        run(solver(smooth, source, times, order=1)).x, run(sample.euler(smooth, source, times)).x, atol=1e-12, rtol=0
    )


PAIRS = {
    "res is 2M exact in the logarithm": (sample.res, partial(sample.dpm, variable="log", rule="exact")),
    "res 3 is 3M, kappa 2": (partial(sample.res, order=3), partial(sample.dpm, variable="log", rule="exact", order=3, kappa=2)),
    "the predictor of UniPC-2, bh2, is 2M midpoint": (
        partial(sample.unipc, variable="snr", rule="bh2", corrector=False), sample.dpm),
    "predictor of UniPC-3 is 3M with kappa 2, but for its last steps": (
        partial(sample.unipc, variable="log", order=3, corrector=False), partial(sample.res, order=3)),
    "predictor over time is Adams-Bashforth": (partial(sample.unipc, order=3, corrector=False), partial(sample.ab, order=3)),
    "even weights on an even grid": (partial(sample.ab, order=4, spacing="even"), partial(sample.ab, order=4)),
    "GHVB of an integer is Adams-Bashforth": (partial(sample.ghvb, order=3), partial(sample.ab, order=3)),
    "HB with beta 1 is its base": (partial(sample.hb, beta=1), sample.ab),
    "GHVB 0.8 is Euler under HB": (partial(sample.ghvb, order=0.8), partial(sample.hb, base=partial(sample.ab, order=1), beta=0.8)),
    "the pseudo-corrector without its last evaluation is Adams-Bashforth 2": (partial(sample.pseudo, last=False), sample.ab),
    "so is UniPC-1 over time": (partial(sample.unipc, order=1), sample.ab),
    "and DualFast of DDIM by half, from the previous step": (
        partial(sample.dual_fast, base=partial(sample.ab, order=1), strength=0.5, reference="previous"), sample.ab),
    "ancestral Euler without noise is Euler": (partial(sample.ancestral_euler, eta=0), sample.euler),
    "ER-SDE without noise, order 1, is Euler": (partial(sample.er_sde, order=1, phi="ode"), sample.euler),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_solvers_that_are_the_same(smooth, source, name):
    one, other = PAIRS[name]
    states = [[step.x for step in solver(smooth, source, EVEN(0, 1, 9))] for solver in (one, other)]
    compared = slice(-2) if "last steps" in name else slice(-1, None) if "pseudo" in name else slice(None)
    for a, b in zip(*(each[compared] for each in states), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_ghvb_weights_of_the_paper():
    assert coefficients(2, 0.8) == pytest.approx([1.75, -0.75])
    assert coefficients(3, 0.8) == pytest.approx([(18 + 4) / 9.6, -(24 - 6.4) / 9.6, (6 - 0.8) / 9.6])
    beta = 0.3
    assert coefficients(4, beta) == pytest.approx(
        [w / (24 * beta) for w in (46 + 9 * beta, -(78 - 19 * beta), 42 - 5 * beta, -(10 - beta))]
    )
    assert sum(coefficients(5, beta)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("r", "beta", "limit"),
    [
        (1, 1, -2), (1, 0.8, -3), (2, 1, -1), (2, 0.8, -1.2), (2, 0.5, -1.5), (3, 1, -0.545), (3, 0.5, -0.782),
        (4, 0.8, -0.352),
    ],
)  # fmt: skip
def test_ghvb_stability_on_the_real_axis(r, beta, limit):
    """Where x' = z x stops shrinking at unit steps: the roots of the recursion in (x, u, u_1, ...)."""

    def grows(z: float) -> bool:
        w = coefficients(r, beta)
        m = torch.zeros(r + 1, r + 1, dtype=torch.float64)  # x_n, u_{n-1}, ..., u_{n-r}
        m[1, 0], m[1, 1] = beta * z, 1 - beta
        m[0] = w[0] * m[1]
        m[0, 0] += 1
        for j in range(1, r):
            m[0, j] += w[j]
            m[j + 1, j] = 1
        return float(torch.linalg.eigvals(m).abs().max()) > 1 + 1e-9

    assert not grows(limit + 0.01)
    assert grows(limit - 0.01)


def test_the_stiff_problem_of_the_paper():
    """x' = A x, 26 steps on [0, 3]: Adams-Bashforth 2 diverges, momentum mends it."""
    a = torch.tensor([[0.0, 1.0], [-9.0, -10.0]]).double()

    class Stiff(Wrapped):
        flow = GaussianFlow(torch.zeros(2).double(), torch.eye(2).double())

        def velocity(self, x, t):
            return 3 * x @ a.T

    x = torch.tensor([[-1.0, 0.0]]).double()
    exact = x @ torch.linalg.matrix_exp(3 * a).T

    def error(solver):
        return float((run(solver(Stiff(), x, EVEN(0, 1, 27))).x - exact).square().mean().sqrt())

    assert error(sample.euler) < 0.01
    assert error(sample.ab) > 1
    assert error(partial(sample.ghvb, order=1.9)) < 0.04
    assert error(partial(sample.ghvb, order=1.8)) < 0.001
    assert error(partial(sample.hb, beta=0.8)) < 0.005
    assert error(partial(sample.ghvb, order=4)) > 1
    assert error(partial(sample.ghvb, order=3.8)) > 1


# --- orders ------------------------------------------------------------------------------------------------------------

RK4 = transition.rk4
ORDERS = {
    "euler": (sample.euler, 1), "midpoint": (sample.midpoint, 2), "heun": (sample.heun, 2), "rk4": (sample.rk4, 4),
    "pseudo": (sample.pseudo, 2),
    **{f"ab {k}": (partial(sample.ab, order=k, start=RK4), k) for k in (2, 3, 4)},
    "dpm 2M midpoint": (sample.dpm, 2), "dpm 2M exact": (partial(sample.dpm, rule="exact"), 2),
    "dpm 3M as published": (partial(sample.dpm, order=3, start=RK4), 2),
    "dpm 3M, kappa 2": (partial(sample.dpm, order=3, kappa=2, start=RK4), 3),
    "dpm 3M log, kappa 2": (partial(sample.dpm, order=3, kappa=2, variable="log", start=RK4), 3),
    **{f"res {k}": (partial(sample.res, order=k, start=RK4), k) for k in (2, 3)},
    **{f"deis {v} {k}": (partial(sample.deis, variable=v, order=k, start=RK4), k) for v in ("time", "log") for k in (2, 3)},
    "deis ratio": (partial(sample.deis, variable="ratio"), 2),
    "unipc time 1": (partial(sample.unipc, order=1), 2), "unipc time 2": (sample.unipc, 3),
    "unipc time 3": (partial(sample.unipc, order=3), 3),  # limited by the start of order 2
    "unipc snr 2 exact": (partial(sample.unipc, variable="snr"), 3),
    "er_sde ode 2": (partial(sample.er_sde, phi="ode", order=2), 2),
    "ghvb 0.8": (partial(sample.ghvb, order=0.8), 1), "ghvb 1.8": (partial(sample.ghvb, order=1.8), 2),
    "ghvb 1.5": (partial(sample.ghvb, order=1.5), 2), "ghvb 2": (partial(sample.ghvb, order=2), 2),
    "ghvb 2.8": (partial(sample.ghvb, order=2.8, start=RK4), 3), "ghvb 3.8": (partial(sample.ghvb, order=3.8, start=RK4), 4),
    "hb": (sample.hb, 1), "hb dpm": (partial(sample.hb, base=sample.dpm), 1),
}  # fmt: skip


def slope_of(flow, solver, start, end, steps):
    errors = [
        (run(solver(flow, start, EVEN(0.05, 0.9, n + 1))).x - end).square().sum(1).sqrt().median().log2() for n in steps
    ]
    return float(errors[0] - errors[-1]) / math.log2(steps[-1] / steps[0])


QUICK = (
    "euler", "heun", "pseudo", "ab 2", "ab 3", "dpm 2M midpoint", "res 3", "unipc time 2", "deis time 2", "ghvb 1.8",
    "hb",
)  # fmt: skip


@pytest.mark.parametrize("name", QUICK)
def test_order_of_convergence(smooth, ends_at, name):
    solver, order = ORDERS[name]
    steps = (256, 512) if name == "unipc time 2" else (128, 256)
    assert slope_of(smooth, solver, *ends_at, steps) == pytest.approx(order, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ORDERS)
def test_order_of_convergence_of_all(smooth, source, name):
    solver, order = ORDERS[name]
    steps = (256, 512) if order == 4 else (512, 1024)
    assert slope_of(smooth, solver, *from_to(smooth, source[:16], 2000), steps) == pytest.approx(order, abs=0.1)


class Quiet(Wrapped):
    """x' = 4 t^6 (x + cos(6 t)) that begins so gently that what a solver lacks at its start does not show."""

    flow = GaussianFlow(torch.zeros(1).double(), torch.eye(1).double())

    def velocity(self, x, t):
        return 4 * t**6 * (x + torch.cos(6 * t))


@pytest.fixture(scope="module")
def quiet():
    x = torch.ones(1, 1).double()
    return x, run(sample.rk4(Quiet(), x, EVEN(0, 1, 1601))).x


@pytest.mark.parametrize("q", [0.8, 1, 1.5, 1.8, 2, 2.5, 2.8, 3, 3.5, 3.8, 4])
def test_ghvb_has_the_order_that_its_name_rounds_up_to(quiet, q):
    """Between 1 and 4, for every damping; of the fraction only the error depends."""
    x, exact = quiet
    errors = [
        (run(sample.ghvb(Quiet(), x, EVEN(0, 1, n + 1), order=float(q))).x - exact).abs().log2() for n in (320, 640)
    ]
    assert float(errors[0] - errors[1]) == pytest.approx(math.ceil(q), abs=0.1)


def test_second_and_third_order_hold_to_sigma_0(smooth, source):
    exact = run(sample.rk4(smooth, source, EVEN(0, 1, 401))).x
    for solver, order in ((sample.ab, 2), (sample.pseudo, 2), (sample.unipc, 3)):
        errors = [
            (run(solver(smooth, source, EVEN(0, 1, n + 1))).x - exact).norm(dim=1).median().log2() for n in (128, 256)
        ]
        assert float(errors[0] - errors[1]) == pytest.approx(order, abs=0.1)


# --- libraries ---------------------------------------------------------------------------------------------------------


def scheduler_states(flow, x, kind, options, sigmas, steps):
    """What a scheduler of diffusers does on these sigmas, asked at the true ones."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = getattr(diffusers, kind)(**options)
    scheduler.set_timesteps(len(sigmas) - 1)
    scheduler.sigmas, states = sigmas.clone(), []
    for i, label in enumerate(scheduler.timesteps[:steps]):
        v = flow.velocity(x, 1 - scheduler.sigmas[i].double())
        x = scheduler.step(-v, label, x, return_dict=False)[0]
        states.append(x)
    return states


FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
THEIRS = {
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {}, sample.dpm),
    "DPM++ 2M heun": ("DPMSolverMultistepScheduler", {"solver_type": "heun"}, partial(sample.dpm, rule="exact")),
    "DPM++ 3M": ("DPMSolverMultistepScheduler", {"solver_order": 3}, partial(sample.dpm, order=3)),
    "UniPC-2": ("UniPCMultistepScheduler", {}, partial(sample.unipc, variable="snr", rule="bh2")),
    "UniPC-2 bh1": ("UniPCMultistepScheduler", {"solver_type": "bh1"}, partial(sample.unipc, variable="snr", rule="bh1")),
    "UniPC-3": ("UniPCMultistepScheduler", {"solver_order": 3}, partial(sample.unipc, order=3, variable="snr", rule="bh2")),
    "UniPC-2 without corrector": (
        "UniPCMultistepScheduler", {"disable_corrector": list(range(99))},
        partial(sample.unipc, variable="snr", rule="bh2", corrector=False)),
    "DEIS-2": ("DEISMultistepScheduler", {"solver_order": 2}, partial(sample.deis, variable="log")),
    "DEIS-3": ("DEISMultistepScheduler", {"solver_order": 3}, partial(sample.deis, order=3, variable="log")),
}  # fmt: skip


@pytest.mark.parametrize("name", THEIRS)
def test_parity_with_diffusers(smooth, source, name):
    """Where alpha and sigma are above 0, and before the orders fall at the end (as theirs do for few steps, ours where sigma ends at 0)."""
    kind, options, ours = THEIRS[name]
    times = EVEN(0.05, 0.95, 13)
    states = scheduler_states(smooth, source, kind, FLOW | options, (1 - times), 10)
    mine = [step.x for step in ours(smooth, source, times)]
    for a, b in zip(states, mine[:10], strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_parity_with_diffusers_euler_and_heun(smooth, source):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[1.0, 0.8, 0.5, 0.3])
    x = source
    for label, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        x = scheduler.step(-smooth.velocity(x, 1 - sigma.double()), label, x, return_dict=False)[0]
    times = 1 - scheduler.sigmas.double()
    torch.testing.assert_close(x, run(sample.euler(smooth, source, times)).x, atol=1e-5, rtol=0)

    scheduler = diffusers.FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(6)
    x, sigmas = source, scheduler.sigmas.double()
    for i, label in enumerate(scheduler.timesteps):
        x = scheduler.step(-smooth.velocity(x, 1 - sigmas[i]), label, x, return_dict=False)[0]
    times = torch.cat([1 - sigmas[0:1], 1 - sigmas[1::2]])
    torch.testing.assert_close(x, run(sample.heun(smooth, source, times)).x, atol=1e-5, rtol=0)


def test_from_pure_noise_to_the_end_as_unipc_of_diffusers(smooth, source):
    """sigma 1 to 0: only their clamp of sigma = 1 to 1 - 1e-6 differs."""
    times = EVEN(0, 1, 11)
    sigmas = 1 - times
    sigmas[0] -= 1e-6
    for order in (2, 3):
        states = scheduler_states(smooth, source, "UniPCMultistepScheduler", FLOW | {"solver_order": order}, sigmas, 10)
        mine = run(sample.unipc(smooth, source, times, order=order, variable="snr", rule="bh2")).x
        torch.testing.assert_close(states[-1], mine, atol=1e-5, rtol=0)


def test_rk45_beside_torchdiffeq(smooth, source):
    torchdiffeq = pytest.importorskip("torchdiffeq")
    exact = run(sample.rk4(smooth, source, EVEN(0, 1, 401))).x
    calls = []

    def field(t, z):
        calls.append(t)
        return smooth.velocity(z, t)

    for row in range(3):
        x = source[row : row + 1]
        calls.clear()
        theirs = torchdiffeq.odeint(field, x, EVEN(0, 1, 2), rtol=1e-6, atol=1e-8, method="dopri5")[-1]
        step = run(sample.rk45(smooth, x, EVEN(0, 1, 2), relative=1e-6, absolute=1e-8))
        assert (step.x - exact[row]).abs().max() < 3 * (theirs - exact[row]).abs().max() + 2e-6
        # they step beyond the end and interpolate; we land on it
        assert int(step.info["evaluations"]) == pytest.approx(len(calls), rel=0.25)


# --- properties --------------------------------------------------------------------------------------------------------

ONE = {
    "euler": 1, "midpoint": 2, "heun": 2, "rk4": 4, "pseudo": 1, "ab": 1, "dpm": 1, "unipc": 1, "deis": 1, "res": 1, "ghvb": 1, "hb": 1,
    "dual_fast": 1, "ancestral_euler": 1, "er_sde": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize("path", [linear, trig], ids=["linear", "trig"])
def test_cost_and_steps(smooth, source, name, path):
    flow = counted(MixtureFlow(smooth.weights, smooth.means, smooth.covariances, path))
    steps = list(getattr(sample, name)(flow, source, EVEN(0, 1, 7), noise=Noise(0, 32)))
    assert flow.count.calls == 6 * ONE[name] + {"heun": -1, "pseudo": 1}.get(name, 0)
    assert [(s.index, s.total, float(s.t)) for s in steps] == [(i, 6, float(EVEN(0, 1, 7)[i])) for i in range(1, 7)]
    assert all(s.x.isfinite().all() and s.clean.isfinite().all() for s in steps)


@pytest.mark.parametrize("name", [*ONE, "rk45"])
def test_a_row_does_not_depend_on_its_neighbours(smooth, source, name):
    solver = getattr(sample, name)
    whole = run(solver(smooth, source, EVEN(0, 1, 6), noise=Noise(3, 32))).x
    part = run(solver(smooth, source[5:7], EVEN(0, 1, 6), noise=Noise(3, [5, 6]))).x
    torch.testing.assert_close(whole[5:7], part, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", [n for n in ONE])
def test_it_begins_anywhere_without_a_history(smooth, source, name):
    """The first step from the middle is the first-order one (or the one-step rule's own), whatever came before."""
    solver, times = getattr(sample, name), EVEN(0.4, 1, 5)
    if name in ("ancestral_euler", "er_sde", "midpoint", "heun", "rk4", "pseudo"):
        pytest.skip("has no history, or noise")
    first = next(iter(solver(smooth, source, times))).x
    torch.testing.assert_close(first, transition.euler(smooth, source, times[0], times[1]), atol=1e-12, rtol=0)
    again = [run(solver(smooth, source, times)).x for _ in range(2)]
    assert torch.equal(*again)


@pytest.mark.parametrize(
    "solver",
    [sample.ab, sample.dpm, partial(sample.dpm, eta=1.0), sample.unipc, partial(sample.unipc, variable="snr"), sample.deis,
     partial(sample.deis, variable="log"), sample.res, partial(sample.res, eta=1.0), sample.ghvb, sample.hb, sample.dual_fast,
     sample.pseudo, sample.ancestral_euler, sample.er_sde, sample.euler],
)  # fmt: skip
def test_no_step_waits_for_a_device(solver):
    """Tensors of the meta device have shapes and no values: whatever asks for one fails."""

    class Shapes(Wrapped):
        flow = GaussianFlow(torch.zeros(4), torch.eye(4))

        def velocity(self, x, t):
            return 2 * x

    x = torch.empty(3, 4, device="meta")
    steps = list(solver(Shapes(), x, EVEN(0, 1, 6), noise=Noise(0, 3)))
    assert steps[-1].x.device.type == "meta"


@pytest.mark.parametrize("path", [linear, trig, VP()], ids=["linear", "trig", "vp"])
@pytest.mark.parametrize(
    "solver",
    [partial(sample.dpm, eta=1.0), partial(sample.dpm, eta=0.5), partial(sample.res, eta=1.0), sample.ancestral_euler,
     partial(sample.ancestral_euler, eta=0.4), sample.er_sde, partial(sample.er_sde, phi="sde")],
)  # fmt: skip
def test_fresh_noise_keeps_the_law_on_the_way(path, solver):
    """Where the clean state is known, x = alpha clean + sigma noise with noise of variance 1 at every time."""

    class Known(Wrapped):
        flow = GaussianFlow(torch.zeros(64).double(), torch.eye(64).double(), path)

        def velocity(self, x, t):
            raise NotImplementedError

        def ends(self, x, t):
            a = path(t)
            return Ends((x - 0.7 * a.alpha) / a.sigma, torch.full_like(x, 0.7))

    begin, a = torch.randn(300, 64, generator=torch.Generator().manual_seed(0)).double(), path(torch.zeros(()).double())
    fresh = []
    for step in solver(Known(), a.alpha * 0.7 + a.sigma * begin, EVEN(0, 1, 8), noise=Noise(0, 300)):
        a = path(step.t)
        noise = (step.x - 0.7 * a.alpha) / a.sigma
        if a.sigma > 0:
            assert float(noise.std()) == pytest.approx(1, abs=0.02)  # 3 deviations of 19200 draws: 0.015
            fresh.append(float((noise * begin).mean()))
    torch.testing.assert_close(step.x, torch.full_like(step.x, 0.7))
    assert fresh[-1] < 0.9  # not the noise that it began with


@pytest.mark.parametrize("order", [1, 2])
def test_er_sde_is_the_plain_reverse_sde_where_phi_is_the_square(smooth, source, order):
    """Whose multi-step integrator is DPM-Solver++ with eta = 1: the same but for the variable of the second order."""
    times = EVEN(0.1, 0.9, 5)
    one = [s.x for s in sample.er_sde(smooth, source, times, order=order, phi="sde", noise=Noise(0, 32))]
    other = [s.x for s in sample.dpm(smooth, source, times, order=order, eta=1.0, noise=Noise(0, 32))]
    torch.testing.assert_close(one[0], other[0], atol=1e-12, rtol=0)
    if order == 1:
        torch.testing.assert_close(one[-1], other[-1], atol=1e-12, rtol=0)


def test_noise_is_asked_for(smooth, source):
    for solver in (sample.ancestral_euler, sample.er_sde, partial(sample.dpm, eta=1.0), partial(sample.res, eta=1.0)):
        with pytest.raises(ValueError, match="expected a Noise"):
            run(solver(smooth, source, EVEN(0, 1, 5)))


def test_two_transforms_of_slopes_are_refused(smooth, source):
    for name, base in itertools.product(
        ("hb", "dual_fast"),
        (sample.ghvb, sample.hb, sample.dual_fast, sample.pseudo, partial(sample.ab, slope=slopes.momentum)),
    ):
        with pytest.raises(ValueError, match=f"^{name}: .*extrapolated or damped twice; take ab"):
            next(getattr(sample, name)(smooth, source, EVEN(0, 1, 5), base=base))
    for base in (sample.euler, sample.rk45, sample.er_sde):
        with pytest.raises(ValueError, match="multi-step base solver"):
            next(sample.hb(smooth, source, EVEN(0, 1, 5), base=base))


@pytest.mark.parametrize("base", [sample.ab, sample.dpm, sample.unipc, sample.deis, sample.res])
def test_dual_fast_of_nothing_is_its_base(smooth, source, base):
    for form in ("velocity", "epsilon"):
        got = run(sample.dual_fast(smooth, source, EVEN(0, 1, 7), base=base, strength=0.0, form=form)).x
        assert torch.equal(got, run(base(smooth, source, EVEN(0, 1, 7))).x)
        moved = run(sample.dual_fast(smooth, source, EVEN(0, 1, 7), base=base, strength=0.2, form=form)).x
        assert (moved - got).abs().max() > 1e-3


def test_dual_fast_in_the_form_of_the_paper(smooth, source):
    """DDIM: x+ = (alpha+ / alpha) x + (sigma+ - sigma alpha+ / alpha) ((1 + c) eps - c eps_ref), from the previous step."""
    times, c, x, old = EVEN(0, 1, 6), 0.3, source, None
    for s, t in itertools.pairwise(times):
        eps = smooth.ends(x, s).source
        new = eps if old is None else (1 + c) * eps - c * old
        x = transition.euler(smooth, x, s, t) if s == 0 else t / s * x + (1 - t - (1 - s) * t / s) * new
        old = eps
    base = partial(sample.ab, order=1)
    got = sample.dual_fast(smooth, source, times, base=base, strength=c, reference="previous", form="epsilon")
    torch.testing.assert_close(run(got).x, x, atol=1e-10, rtol=0)


# --- many steps at once ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [None, 1, 4])
def test_picard_without_tolerance_is_euler(smooth, source, window):
    steps = list(sample.picard(smooth, source, EVEN(0, 1, 13), tolerance=0.0, window=window))
    for step, other in zip(steps, sample.euler(smooth, source, EVEN(0, 1, 13)), strict=True):
        torch.testing.assert_close(step.x, other.x, atol=1e-12, rtol=0)
        torch.testing.assert_close(step.clean, other.clean, atol=1e-12, rtol=0)
    assert int(steps[-1].info["sweeps"]) <= 12
    assert window != 1 or int(steps[-1].info["sweeps"]) == 12


def test_picard_saves_sweeps_within_its_tolerance(smooth, source):
    flow = counted(smooth)
    last = run(sample.picard(flow, source, EVEN(0, 1, 65), tolerance=1e-3))
    assert flow.count.calls == int(last.info["sweeps"]) < 24
    exact = run(sample.euler(smooth, source, EVEN(0, 1, 65))).x
    assert (last.x - exact).square().mean().sqrt() < 1e-3


def test_jacobi_solves_triangular_maps():
    g = torch.Generator().manual_seed(0)
    lower = torch.randn(9, 9, generator=g).double().tril(-1)
    b = torch.randn(2, 9, 1, generator=g).double()
    exact = torch.linalg.solve(torch.eye(9).double() - lower, b)

    def update(x, first, stop):
        return (lower @ x + b)[:, first:stop]

    for window in (None, 3):
        sweeps = list(jacobi(update, torch.zeros(2, 9, 1).double(), window=window))
        torch.testing.assert_close(sweeps[-1].x, exact, atol=1e-9, rtol=1e-9)
        assert len(sweeps) <= 9
        for sweep in sweeps:
            torch.testing.assert_close(sweep.x[:, : sweep.settled], exact[:, : sweep.settled], atol=1e-9, rtol=1e-9)


# --- cards -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [s for s in sample.ALL if s is not sample.bottleneck], ids=lambda s: s.__name__)
def test_card(solver):
    text = card(solver)
    assert all(re.search(rf"^{field} ", text, re.MULTILINE) for field in ("Needs", "Cost", "Paper"))
    first = inspect.getdoc(solver).partition("\n")[0]
    assert re.search(r"arXiv:\d{4}\.\d{5}|no arXiv number", first)
    assert "\nArgs:\n" in inspect.getdoc(solver)
    file = Path(inspect.getfile(inspect.unwrap(solver)))
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 110
