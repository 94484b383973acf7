"""Costs of BOSS and what is made of them: closed forms, brute force, flows whose best grid is known, the toy on which it loses."""

from dataclasses import dataclass
from itertools import combinations, pairwise

import pytest
import torch
from toys import double, seeded

from flowhelm import GaussianFlow, MixtureFlow, Pixels, grids, integrate, run
from flowhelm.guide import counted
from flowhelm.path import linear


@dataclass(frozen=True, eq=False)
class Field(Pixels):
    """Any velocity of t and x, as a flow."""

    of: object
    shape: tuple = (2,)
    path: object = linear

    def velocity(self, x, t):
        return self.of(x, t)


def costs_of(flow, x, times):
    return grids.local_costs(*grids.traced(flow, x, times), times)


def end(flow, x, times):
    return run(integrate(flow, x, times)).x


def test_a_path_is_euler_s(mixture, x):
    times = grids.uniform(9)
    states, velocities = grids.traced(mixture, x, times)
    steps = list(integrate(mixture, x, times))
    torch.testing.assert_close(states[1:], torch.stack([s.x for s in steps]), atol=1e-13, rtol=0)
    for k in range(9):
        torch.testing.assert_close(velocities[k], mixture.velocity(states[k], times[k]))


def test_local_costs_are_what_one_step_misses(mixture, x):
    times = grids.shifted(7, 2.0)
    costs = costs_of(mixture, x, times)
    states = [x, *(s.x for s in integrate(mixture, x, times))]
    assert (costs.tril() == 0).all()
    for i, j in combinations(range(8), 2):
        jump = states[i] + (times[j] - times[i]) * mixture.velocity(states[i], times[i])
        assert float(costs[i, j]) == pytest.approx(float((jump - states[j]).square().sum(1).mean()), abs=1e-12)


def test_costs_are_additive_over_rows(mixture):
    x, times = torch.randn(6, 2, dtype=torch.float64), grids.uniform(8)
    apart = [costs_of(mixture, part, times) * len(part) for part in x.split([1, 3, 2])]
    torch.testing.assert_close(costs_of(mixture, x, times), sum(apart) / 6, atol=1e-13, rtol=0)


def test_endpoint_costs_of_a_linear_flow_are_local_ones_stretched():
    """dx/dt = k(t) x: the error at t_j is multiplied by prod (1 + h k) over the fine steps that are left."""
    rate = lambda t: 1.5 - 3 * t  # noqa: E731
    flow, times = Field(lambda x, t: rate(t) * x), grids.shifted(9, 1.7)
    x = torch.randn(4, 2, dtype=torch.float64)
    states, velocities = grids.traced(flow, x, times)
    factors = 1 + times.diff() * rate(times[:-1])
    growth = torch.cat([factors.flip(0).cumprod(0).flip(0), double([1.0])])
    ends = grids.endpoint_costs(flow, states, velocities, times)
    torch.testing.assert_close(ends, grids.local_costs(states, velocities, times) * growth**2, atol=1e-12, rtol=0)


def test_endpoint_costs_are_those_of_running_to_the_end(mixture, x):
    times = grids.uniform(6)
    states, velocities = grids.traced(mixture, x, times)
    seen = counted(mixture)
    ends = grids.endpoint_costs(seen, states, velocities, times)
    assert seen.count.calls == 6 * 5 * 4 / 6
    for i, j in combinations(range(7), 2):
        jump = states[i] + (times[j] - times[i]) * velocities[i]
        last = end(mixture, jump, times[j:]) if j < 6 else jump
        assert float(ends[i, j]) == pytest.approx(float((last - states[-1]).square().sum(1).mean()), abs=1e-12)


@pytest.mark.parametrize("cuts", [[3, 9], [1, 2], [5, 11]])
def test_the_corners_of_a_path_of_straight_pieces_are_found(cuts):
    """A velocity that is constant between a few times: three Euler steps are exact there, and nowhere else."""
    times, levels = grids.uniform(12), double([1.0, -2.0, 0.5])
    corners = times[cuts] - 1e-9

    def velocity(x, t):
        return levels[torch.searchsorted(corners, t, right=True)] * torch.ones_like(x)

    flow, x = Field(velocity), torch.randn(5, 2, dtype=torch.float64)
    costs = costs_of(flow, x, times)
    for made in (costs, grids.endpoint_costs(flow, *grids.traced(flow, x, times), times)):
        chain = grids.bellman(made, 3)
        assert chain.tolist() == [0, *cuts, 12]
        assert sum(float(made[a, b]) for a, b in pairwise(chain.tolist())) < 1e-20
    torch.testing.assert_close(end(flow, x, times[chain]), end(flow, x, times), atol=1e-12, rtol=0)


def test_the_best_chain_of_a_gaussian_flow_by_brute_force():
    """Of all chains of 3 steps over 14: local and endpoint costs against the true error at the end, and the descent from any start."""
    flow = GaussianFlow(double([0.0]), double([[0.04]]))
    x, times = torch.randn(50, 1, generator=seeded(0), dtype=torch.float64), grids.uniform(14)
    states, velocities = grids.traced(flow, x, times)
    truth = flow.map(x, times[0], times[-1])
    price = lambda index: float((end(flow, x, times[index]) - truth).square().mean())  # noqa: E731
    chains = [torch.tensor([0, *inner, 14]) for inner in combinations(range(1, 14), 2)]
    best = min(map(price, chains))
    for begin in ([0, 1, 2, 14], [0, 5, 10, 14], [0, 12, 13, 14]):
        *_, (chain, found) = grids.descended(price, torch.tensor(begin))
        assert found == price(chain) <= price(torch.tensor(begin))
        assert found == pytest.approx(best, rel=0.2)
    ends = grids.endpoint_costs(flow, states, velocities, times)
    local = grids.local_costs(states, velocities, times)
    assert price(grids.bellman(ends, 3)) <= price(grids.bellman(local, 3))


def test_a_descent_keeps_order_and_ends_and_never_gets_worse():
    costs = torch.rand(21, 21, generator=seeded(2)).double()
    price = lambda index: sum(float(costs[a, b]) for a, b in pairwise(index.tolist()))  # noqa: E731
    seen = list(grids.descended(price, torch.tensor([0, 4, 9, 13, 20])))
    assert all(later <= before for (_, before), (_, later) in pairwise(seen))
    for chain, found in seen:
        assert chain[0] == 0
        assert chain[-1] == 20
        assert (chain.diff() > 0).all()
        assert found == price(chain)
    squares = lambda index: float(index.diff().square().sum())  # noqa: E731
    *_, (chain, _) = grids.descended(squares, torch.tensor([0, 1, 2, 3, 20]))
    assert (chain.diff() - 5).abs().max() <= 1


def eight_modes():
    angles = torch.arange(8, dtype=torch.float64) * (torch.pi / 4)
    means = 2 * torch.stack([angles.cos(), angles.sin()], 1)
    return MixtureFlow(torch.ones(8).double(), means, 0.15**2 * torch.eye(2).double().expand(8, 2, 2))


@pytest.mark.parametrize(("steps", "uniform", "bellman"), [(4, 0.159, 0.192), (6, 0.089, 0.110), (8, 0.067, 0.072)])
def test_the_published_cost_gains_nothing_on_eight_modes(steps, uniform, bellman):
    """Mean error at the end of Euler's rule from 400 noises, the chain of BOSS against even times: it is the worse of the two."""
    flow, times = eight_modes(), grids.uniform(100)
    x = torch.randn(400, 2, generator=seeded(1), dtype=torch.float64)
    costs, held = costs_of(flow, x[:100], times), x[100:]
    truth = end(flow, held, times)
    error = lambda grid: float((end(flow, held, grid) - truth).norm(dim=1).mean())  # noqa: E731
    even, chain = error(grids.uniform(steps)), error(times[grids.bellman(costs, steps)])
    assert even == pytest.approx(uniform, rel=0.15)
    assert chain == pytest.approx(bellman, rel=0.15)
    assert chain > even


def test_a_part_of_a_grid():
    times = grids.uniform(10)
    assert torch.equal(grids.between(times, times[0], times[-1]), times)
    assert torch.equal(grids.between(times, times[2], times[5]), times[2:6])
    sliver = grids.between(times, double(0.19), double(0.52))  # 0.2 and 0.5 are too near
    assert sliver.tolist() == pytest.approx([0.19, 0.3, 0.4, 0.52])
    assert grids.between(times, double(0.12), double(0.58)).tolist() == pytest.approx([0.12, 0.2, 0.3, 0.4, 0.5, 0.58])
    assert grids.between(times, double(0.3), double(0.3)).tolist() == pytest.approx([0.3])
    steep = grids.shifted(10, 20.0)
    assert torch.equal(grids.between(steep, steep[0], steep[-1]), steep)


def test_shifts_compose():
    torch.testing.assert_close(grids.reshifted(grids.shifted(9, 3.0), 0.5), grids.shifted(9, 1.5), atol=1e-14, rtol=0)
