from itertools import combinations, pairwise

import pytest
import torch

from flowhelm import grids
from flowhelm.path import VP, linear

GRIDS = [grids.uniform, lambda n: grids.shifted(n, 3.0), lambda n: grids.logit(n, 0.3, 1.2), grids.karras]
GRIDS += [lambda n: grids.karras(n, path=VP())]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_grids_rise_from_0_to_1(grid, steps):
    times = grid(steps)
    assert times.shape == (steps + 1,)
    assert times.dtype == torch.float64
    assert times.device.type == "cpu"
    assert times[0] == 0
    assert times[-1] == 1
    assert (times.diff() > 0).all()


def test_uniform():
    torch.testing.assert_close(
        grids.uniform(4, 0.2, 0.6), torch.tensor([0.2, 0.3, 0.4, 0.5, 0.6], dtype=torch.float64), atol=1e-15, rtol=0
    )
    assert grids.uniform(3, 0.2, 0.6)[[0, -1]].tolist() == [0.2, 0.6]


@pytest.mark.parametrize("shift", [1.0, 3.0, 6.5])
def test_shifted_is_that_of_sd3_and_flux(shift):
    sigmas = torch.linspace(1, 0, 9, dtype=torch.float64)  # their clock: 1 is noise
    sd3 = shift * sigmas / (1 + (shift - 1) * sigmas)
    flux = shift / (shift + (1 / sigmas[:-1] - 1))  # with mu = log(shift)
    torch.testing.assert_close(1 - grids.shifted(8, shift), sd3, atol=1e-14, rtol=0)
    torch.testing.assert_close(1 - grids.shifted(8, shift)[:-1], flux, atol=1e-14, rtol=0)


def test_arc_is_the_grid_of_rbf():
    """In the paper's noise time u = 1 - t: u = sqrt(1 - (1 - w)^2) for w from 1 to 0."""
    w = torch.linspace(1, 0, 11, dtype=torch.float64)
    torch.testing.assert_close(grids.arc(10), 1 - (1 - (1 - w) ** 2).sqrt(), atol=1e-15, rtol=0)
    assert (grids.arc(10).diff() > 0).all()
    assert grids.arc(10)[[0, -1]].tolist() == [0, 1]


def test_logit_has_the_quantiles_of_its_density():
    times = grids.logit(10, 0.5, 0.8)[1:-1]
    z = (torch.log(times / (1 - times)) - 0.5) / 0.8
    torch.testing.assert_close(torch.special.ndtr(z), torch.arange(1, 10, dtype=torch.float64) / 10, atol=1e-12, rtol=0)


@pytest.mark.parametrize("path", [linear, VP()])
def test_karras_spaces_the_noise_as_the_paper_does(path):
    n, low, high, rho = 12, 0.01, 20.0, 5.0
    c = path(grids.karras(n, path, low, high, rho)[1:-1])
    i = torch.arange(n - 1, dtype=torch.float64)
    paper = (high ** (1 / rho) + i / (n - 2) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    torch.testing.assert_close(c.sigma / c.alpha, paper, rtol=1e-8, atol=0)


@pytest.mark.parametrize("steps", [1, 2, 4, 7])
@pytest.mark.parametrize("seed", range(5))
def test_bellman_finds_the_cheapest_chain(steps, seed):
    costs = torch.rand(8, 8, generator=torch.Generator().manual_seed(seed))
    price = lambda chain: sum(costs[a, b].double() for a, b in pairwise(chain))  # noqa: E731
    best = min(([0, *inner, 7] for inner in combinations(range(1, 7), steps - 1)), key=price)
    assert grids.bellman(costs, steps).tolist() == best


def test_bellman_refuses_more_steps_than_points():
    for steps in (0, 5):
        with pytest.raises(ValueError, match="expected 1 to 4 steps"):
            grids.bellman(torch.ones(5, 5), steps)
