from functools import partial

import pytest
import torch

from flowhelm import inner


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


@pytest.mark.parametrize("solve", [partial(inner.adam, iterations=10), partial(inner.lbfgs, iterations=12)])
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


def test_a_closed_form_is_used_where_there_is_one():
    matrix, minimum = quadratics()
    cost, start = cost_of(matrix, minimum), torch.zeros_like(minimum)
    for solve in (inner.exact, inner.auto):
        assert solve(cost, start, lambda: minimum) is minimum
    assert torch.equal(inner.auto(cost, start, None), inner.adam(cost, start, None, iterations=20, rate=0.1))
    with pytest.raises(ValueError, match="closed form"):
        inner.exact(cost, start, None)
