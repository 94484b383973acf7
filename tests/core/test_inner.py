from functools import partial

import pytest
import torch

from flowhelm import MixtureFlow, inner
from flowhelm.grids import uniform
from flowhelm.steer import mpc_flow


def quadratics(rows=4, d=6):
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(rows, d, d, generator=generator, dtype=torch.float64)
    scale = torch.logspace(-1, 2, rows, dtype=torch.float64)[:, None, None]  # a stiffness of its own for each row
    matrix = (root @ root.mT + 0.1 * torch.eye(d)) * scale
    minimum = torch.randn(rows, d, generator=generator, dtype=torch.float64)
    return matrix, minimum


def cost_of(matrix, minimum):
    return lambda u: 0.5 * torch.einsum("bi,bij,bj->b", u - minimum, matrix, u - minimum)


def rosenbrock(u):
    return (100 * (u[:, 1:] - u[:, :-1] ** 2) ** 2 + (1 - u[:, :-1]) ** 2).sum(1)


def test_adam_is_torchs():
    matrix, minimum = quadratics()
    cost, start = cost_of(matrix, minimum), torch.ones(4, 6, dtype=torch.float64)
    u = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([u], lr=0.03)
    for _ in range(15):
        optimizer.zero_grad()
        cost(u).sum().backward()
        optimizer.step()
    result = inner.adam(cost, start, None, iterations=15, rate=0.03)
    torch.testing.assert_close(result, u.detach(), atol=1e-14, rtol=0)
    assert not result.requires_grad
    assert torch.equal(start, torch.ones_like(start))


def test_lbfgs_reaches_the_minimum():
    matrix, minimum = quadratics()
    result = inner.lbfgs(cost_of(matrix, minimum), torch.zeros_like(minimum), None, iterations=100, tolerance=1e-12)
    torch.testing.assert_close(result, minimum, atol=1e-8, rtol=0)


def test_lbfgs_reaches_it_in_few_steps_on_a_curved_valley():
    start = torch.tensor([[-1.2, 1.0, -0.5, 0.8]], dtype=torch.float64)
    result = inner.lbfgs(rosenbrock, start, None, iterations=80)
    torch.testing.assert_close(result, torch.ones_like(start), atol=1e-7, rtol=0)


@pytest.mark.parametrize("most", [1, 2, 5, 9, 20])
def test_lbfgs_keeps_to_its_evaluations(most):
    """Each row to its own: the result of a row is that of the row alone, which makes no more."""
    start = torch.cat([3 * torch.randn(4, 3, dtype=torch.float64), torch.ones(1, 3, dtype=torch.float64)])
    batch = inner.lbfgs(rosenbrock, start, None, evaluations=most)
    for i in range(5):
        calls = []
        alone = inner.lbfgs(
            lambda u, calls=calls: calls.append(1) or rosenbrock(u), start[i : i + 1], None, evaluations=most
        )
        torch.testing.assert_close(alone, batch[i : i + 1], atol=1e-10, rtol=1e-10)
        assert len(calls) <= most
        assert len(calls) == most or i == 4  # the last one is at the minimum
    assert (rosenbrock(batch) <= rosenbrock(start)).all()


@pytest.mark.parametrize("solve", [partial(inner.adam, iterations=10), partial(inner.lbfgs, iterations=12), inner.auto])
def test_rows_do_not_see_each_other(solve):
    matrix, minimum = quadratics()
    start = torch.zeros_like(minimum)
    batch = solve(cost_of(matrix, minimum), start, None)
    for i in range(4):
        alone = solve(cost_of(matrix[i : i + 1], minimum[i : i + 1]), start[i : i + 1], None)
        torch.testing.assert_close(alone, batch[i : i + 1], atol=1e-10, rtol=0)


def test_each_row_has_its_own_line_search():
    start = torch.cat([3 * torch.randn(4, 3, dtype=torch.float64), torch.ones(1, 3, dtype=torch.float64)])
    batch = inner.lbfgs(rosenbrock, start, None, iterations=7)
    for i in range(5):
        alone = inner.lbfgs(rosenbrock, start[i : i + 1], None, iterations=7)
        torch.testing.assert_close(alone, batch[i : i + 1], atol=1e-10, rtol=1e-10)


def test_lbfgs_stays_at_a_minimum_and_survives_a_flat_cost():
    matrix, minimum = quadratics()
    assert torch.equal(inner.lbfgs(cost_of(matrix, minimum), minimum, None), minimum)
    assert torch.equal(inner.lbfgs(lambda u: u.sum(1) * 0, minimum, None), minimum)


def test_lbfgs_never_climbs():
    start = torch.randn(20, 4, dtype=torch.float64) * 2
    for iterations in (1, 3, 10):
        result = inner.lbfgs(rosenbrock, start, None, iterations=iterations)
        assert (rosenbrock(result) < rosenbrock(start)).all()


def hexagon():
    """The toy of MPC-Flow's authors: a uniform law on the border of a hexagon of radius 2, as 60 narrow normals; and its last corner."""
    angles = torch.arange(7, dtype=torch.float64) * torch.pi / 3
    corners, share = 2 * torch.stack([angles.cos(), angles.sin()], 1), (torch.arange(10).double() + 0.5)[:, None] / 10
    means = (corners[:-1, None] * (1 - share) + corners[1:, None] * share).flatten(0, 1)
    eye = 0.05**2 * torch.eye(2, dtype=torch.float64)
    return MixtureFlow(torch.full((60,), 1 / 60, dtype=torch.float64), means, eye.expand(60, 2, 2)), corners[5]


@pytest.mark.parametrize("horizon", [1, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 5))])
def test_auto_ends_at_most_one_per_cent_above_the_best_solver(horizon):
    """On the authors' start, target and strength; their Adam makes 200 iterations, of which 20 end 6 to 20 % above."""
    flow, target = hexagon()
    times, objective = uniform(25), {}
    reward = lambda image: -0.5 * (image - target).square().sum(1)  # noqa: E731
    solvers = {"auto": inner.auto, "Adam, 20": inner.adam, "L-BFGS": inner.lbfgs}
    if horizon != 2:  # by default with the horizon of 1 alone, where it takes the least
        solvers["Adam, 100"] = partial(inner.adam, iterations=100)
    for name, solver in solvers.items():
        start = torch.tensor([[-0.75, -0.5]], dtype=torch.float64)
        steps = list(mpc_flow(flow, reward, start, times, strength=75.0, horizon=horizon, inner=solver))
        spent = sum(step.info["energy"] for step in steps) / 25
        objective[name] = float(spent - 75 * reward(steps[-1].x))
    print(objective)
    assert objective["auto"] < 1.01 * min(objective.values())
    assert objective["Adam, 20"] > 1.04 * objective["auto"]


def test_a_closed_form_is_used_where_there_is_one():
    matrix, minimum = quadratics()
    cost, start = cost_of(matrix, minimum), torch.zeros_like(minimum)
    for solve in (inner.exact, inner.auto):
        assert solve(cost, start, lambda: minimum) is minimum
    assert torch.equal(inner.auto(cost, start, None), inner.lbfgs(cost, start, None, tolerance=1e-4, evaluations=25))
    with pytest.raises(ValueError, match="closed form"):
        inner.exact(cost, start, None)
