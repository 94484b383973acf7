"""FlowOpt: where it converges, against the matrix of the discrete flow map; its start; its bound."""

from functools import partial
from itertools import combinations

import pytest
import torch
from toys import double

from flowhelm import GaussianFlow, Linear, Measurement, Noise, Wrapped, run
from flowhelm.guide import counted
from flowhelm.path import VP
from flowhelm.solve import integrate, inversion_rate, inversion_start
from flowhelm.steer.flow_opt import flow_opt

MATRIX = torch.tensor([[1.0, 0.5], [-0.4, 0.9], [0.2, 0.7]], dtype=torch.float64)


def normal(values, seed=0):
    """N(m, S) with these eigenvalues of S^1/2."""
    values = double(values)
    q = torch.linalg.qr(torch.randn(len(values), len(values), generator=torch.Generator().manual_seed(seed)).double())[
        0
    ]
    return GaussianFlow(torch.linspace(-1, 1, len(values)).double(), (q * values**2) @ q.T)


def ends(flow, z, times):
    return run(integrate(flow, z, times)).x


def map_of(flow, times):
    """The matrix of the discrete flow map, which is affine for a Gaussian flow."""
    d = len(flow.mean)
    zero = torch.zeros(1, d).double()
    return (ends(flow, torch.eye(d).double(), times) - ends(flow, zero, times)).T


def to(target):
    return lambda end: -(end - target).square().flatten(1).sum(1) / 2


# convergence


@pytest.mark.parametrize("steps", [4, 20])
def test_it_converges_below_the_threshold_and_diverges_above(steps):
    flow = normal([1.9, 1.2, 0.7])
    times, target = flow.times(steps), torch.randn(5, 3).double()
    matrix = map_of(flow, times)
    largest = torch.linalg.eigvalsh((matrix + matrix.T) / 2).max()
    torch.testing.assert_close(matrix, matrix.T)
    print(f"{steps} steps: largest eigenvalue {float(largest):.3f}, exact map 1.9")
    if steps == 20:
        assert abs(largest / 1.9 - 1) < 0.08  # f is S^1/2 z + m
    start = torch.randn(5, 3).double()
    for share, converges in ((0.98, True), (1.03, False)):
        solve = flow_opt(
            flow, to(target), start, times, rate=float(share * 2 / largest), iterations=300 if converges else 90
        )
        errors = [(step.x - target).norm(dim=1).max() for step in solve]
        print(f"{share} of the bound: error {float(errors[0]):.2f} -> {float(errors[-1]):.2e}")
        assert (errors[-1] < 1e-4) if converges else (errors[-1] > 10 * errors[0])


def test_two_iterations_by_hand(mixture):
    """The gradient is that of the measurement at the end, in units of std^2, put to the source as it is."""
    times, z, std = double([0.2, 0.5, 1.0]), torch.randn(3, 2).double(), 0.2
    y = Measurement(torch.randn(3, 3).double(), Linear(lambda x: x @ MATRIX.T, (2,)), std)
    first, second = flow_opt(mixture, y, z, times, rate=0.3, iterations=2)
    f = z + 0.3 * mixture.velocity(z, times[0])
    f = f + 0.5 * mixture.velocity(f, times[1])
    moved = z - 0.3 * (f @ MATRIX.T - y.y) @ MATRIX
    torch.testing.assert_close(first.x, f, atol=1e-12, rtol=0)
    torch.testing.assert_close(first.info["reward"], y(f))
    torch.testing.assert_close(first.info["plan"][:, 0], moved, atol=1e-12, rtol=0)
    torch.testing.assert_close(second.x, ends(mixture, moved, times), atol=1e-12, rtol=0)
    assert torch.equal(second.info["plan"], first.info["plan"])
    assert [(s.index, s.total, float(s.t)) for s in (first, second)] == [(1, 2, 1.0), (2, 2, 1.0)]
    assert torch.equal(first.clean, first.x)


# what it costs, resuming, mistakes


def test_the_cost_is_that_of_the_notes(mixture):
    """(N + 1) + (K + 1) N evaluations for K changes, none differentiated."""
    flow, n, k = counted(mixture), 13, 8
    clean, times = mixture.sample(Noise(1, 2)), mixture.times(15)[2:]
    z = inversion_start(flow, clean, times)
    assert flow.count.calls == n + 1
    run(flow_opt(flow, to(clean), z.requires_grad_(), times, rate=0.1, iterations=k + 1))
    assert (flow.count.calls, flow.count.backward) == ((n + 1) + (k + 1) * n, 0)
    flow = counted(mixture)
    inversion_rate(flow, times, torch.randn(4, 2).double(), rounds=2)
    assert flow.count.rows == 4 * 3 * n


def test_a_plan_resumes_a_run(mixture):
    times, z = mixture.times(4), torch.randn(3, 2).double()
    solve = partial(flow_opt, mixture, to(torch.ones(3, 2).double()), times=times, rate=0.2)
    steps = list(solve(x=z, iterations=7))
    resumed = list(solve(x=steps[2].x, plan=steps[2].info["plan"], iterations=4))
    for mine, expected in zip(resumed, steps[3:], strict=True):
        assert torch.equal(mine.x, expected.x)


def test_mistakes_are_told(mixture):
    z, times = torch.randn(3, 2).double(), mixture.times(3)
    with pytest.raises(ValueError, match="at least 2 rows"):
        inversion_rate(mixture, times, z[:1])


# the start


def test_the_start_by_hand(mixture):
    """Backwards: predict with the last velocity, take it anew where that leads, go back with it."""
    times, clean = double([0.2, 0.5, 1.0]), torch.randn(3, 2).double()
    v = mixture.velocity(clean, times[1])
    v = mixture.velocity(clean - 0.5 * v, times[1])
    x = clean - 0.5 * v
    v = mixture.velocity(x - 0.3 * v, times[0])
    torch.testing.assert_close(inversion_start(mixture, clean, times), x - 0.3 * v, atol=1e-12, rtol=0)


def test_a_path_without_a_velocity_at_its_end_is_inverted(gaussian):
    flow = GaussianFlow(gaussian.mean, gaussian.covariance, VP())
    clean = flow.sample(Noise(1, 3))
    z = inversion_start(flow, clean, flow.times(200))
    assert (ends(flow, z, flow.times(200)) - clean).abs().max() < 0.1


# the bound


def test_the_bound_is_the_least_of_all_pairs(mixture):
    times, z = mixture.times(5), torch.randn(5, 2).double()
    f = ends(mixture, z, times)
    pairs = [
        float(2 * (z[i] - z[j]) @ (f[i] - f[j]) / (f[i] - f[j]).square().sum()) for i, j in combinations(range(5), 2)
    ]
    assert inversion_rate(mixture, times, z, rounds=0, safety=1.0) == pytest.approx(min(pairs))
    assert inversion_rate(mixture, times, z, rounds=0) == pytest.approx(min(pairs) / 4)


def test_the_bound_of_a_normal_prior_is_that_of_its_map():
    """Few dimensions: the sampled pairs find it. Many, with one direction of them stretched: the rounds do."""
    flow = normal([1.8, 1.1, 0.8, 0.6, 0.5, 0.4])
    times = flow.times(20)
    for d, rounds, low, high in ((6, 0, 1.0, 1.1), (6, 4, 1.0, 1.005), (400, 0, 1.5, 9.0), (400, 4, 1.0, 1.01)):
        if d == 400:
            flow = normal([3.0] + 399 * [0.3])
        z = flow.source(Noise(3, 20)).double()
        largest = torch.linalg.eigvalsh(map_of(flow, times)).max()
        ratio = inversion_rate(flow, times, z, rounds=rounds, safety=1.0) * float(largest) / 2
        print(f"{d} dimensions, {rounds} rounds: {ratio:.3f} of 2 / lambda_max")
        assert low - 1e-9 <= ratio < high


def test_a_flow_that_turns_round_has_no_bound(gaussian):
    class Mirror(Wrapped):
        def __init__(self, flow):
            self.flow = flow

        def velocity(self, x, t):
            return -2 * x

    with pytest.raises(ValueError, match="turns round"):
        inversion_rate(Mirror(gaussian), double([0.0, 1.0]), torch.randn(3, 2).double())
