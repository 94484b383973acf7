"""Solvers of `flowhelm.sample`: identities, orders, parity, costs, invariances."""

import itertools
import math
from functools import partial

import pytest
import torch
from torch import Tensor

from flowhelm import grids, sample, transition
from flowhelm.fixed_point import jacobi
from flowhelm.flow import GaussianFlow, MixtureFlow, Wrapped
from flowhelm.guide import counted
from flowhelm.path import VP, Ends, linear, trig
from flowhelm.rng import Noise
from flowhelm.sample import slopes
from flowhelm.sample.ghvb import coefficients
from flowhelm.sample.multistep import Past, weights
from flowhelm.sample.variables import CLEAN_LOG, CLEAN_SNR, SOURCE_RATIO, SOURCE_SNR, SOURCE_TIME, VELOCITY, exponential
from flowhelm.step import run

VARIABLES = {"v": VELOCITY, "clean": CLEAN_SNR, "log": CLEAN_LOG, "e": SOURCE_SNR, "ratio": SOURCE_RATIO, "te": SOURCE_TIME}
EVEN = partial(torch.linspace, dtype=torch.float64)


@pytest.fixture(scope="module")
def smooth():
    g = torch.Generator().manual_seed(0)
    means = 1.2 * torch.randn(5, 4, generator=g, dtype=torch.float64)
    return MixtureFlow(torch.ones(5).double(), means, 0.36 * torch.eye(4).double().expand(5, 4, 4))


@pytest.fixture(scope="module")
def source():
    return torch.randn(32, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture(scope="module")
def ends_at(smooth, source):
    """From t = 0.05 to 0.9, where every variable is finite: start, and the exact end."""
    start = run(sample.rk4(smooth, source, EVEN(0, 0.05, 101))).x
    return start, run(sample.rk4(smooth, start, EVEN(0.05, 0.9, 2001))).x


class Drifting(Wrapped):
    """A velocity whose prediction is a polynomial of degree d in a variable: the state has no say."""

    def __init__(self, flow, read):
        self.flow, self.read = flow, read

    def velocity(self, x, t):
        raise NotImplementedError

    def ends(self, x, t):
        return self.read(x, t)


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
        kind = {"clean": (a.alpha / a.sigma).log(), "log": (a.alpha / a.sigma).log1p(), "te": t, "ratio": a.sigma / a.alpha}
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
        partial(sample.unipc, variable="log", order=3, corrector=False), partial(sample.dpm, variable="log", rule="exact", order=3, kappa=2)),
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
    [(1, 1, -2), (1, 0.8, -3), (2, 1, -1), (2, 0.8, -1.2), (2, 0.5, -1.5), (3, 1, -0.545), (3, 0.5, -0.782), (4, 0.8, -0.352)],
)
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

    print([error(s) for s in (sample.euler, sample.ab, partial(sample.ghvb, order=1.9), partial(sample.ghvb, order=1.8), partial(sample.hb, beta=0.8))])


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


@pytest.mark.parametrize("name", ORDERS)
def test_order_of_convergence(smooth, ends_at, name):
    solver, order = ORDERS[name]
    for n in (128,256,512):
        print(name, order, round(slope_of(smooth, solver, *ends_at, (n, 2*n)), 2))
