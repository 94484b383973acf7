"""SITCOM: its steps against formulas written out; float64, an exact prior."""

import pytest
import torch
from laws import TIMES

from flowhelm import Linear, Measurement, Noise
from flowhelm.grids import uniform
from flowhelm.restore.sitcom import sitcom

S, T = TIMES[:2]


def moved(flow, observed, x, steps, rate, anchor):
    """Adam on 1/2 |A D(z) - y|^2 + anchor/2 |z - x|^2, written out."""
    z, first, second = x, 0.0, 0.0
    for k in range(1, steps + 1):
        residual = flow.ends(z, S).clean @ observed.matrix.T - observed.y
        g = (flow.jacobian(z, S).mT @ (residual @ observed.matrix)[..., None])[..., 0] + anchor * (z - x)
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        z = z - rate * (first / (1 - 0.9**k)) / ((second / (1 - 0.999**k)).sqrt() + 1e-8)
    return z


@pytest.mark.parametrize(("steps", "anchor"), [(0, 0.0), (1, 0.0), (3, 0.0), (3, 0.7)])
def test_a_step_by_hand(mixture, observed, y, x, steps, anchor):
    clean = mixture.ends(moved(mixture, observed, x, steps, 0.05, anchor), S).clean
    expected = T * clean + (1 - T) * Noise(5, 3)(x)
    options = {"inner": steps, "rate": 0.05, "anchor": anchor, "margin": -1.0, "noise": Noise(5, 3)}
    step = next(sitcom(mixture, y, x, TIMES, **options))
    torch.testing.assert_close(step.x, expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(step.clean, clean, atol=1e-9, rtol=0)
    torch.testing.assert_close(step.info["misfit"], y.misfit(clean), atol=1e-9, rtol=0)
    assert step.info["moves"].tolist() == [steps] * 3


def test_a_row_stops_when_its_residual_is_that_of_noise(mixture, observed, y, x):
    """Row by row: the first number of Adam steps after which |A D - y| < (std + margin) sqrt(m)."""
    margin, most = 0.05, 40
    step = next(sitcom(mixture, y, x, TIMES, inner=most, rate=0.05, margin=margin, noise=Noise(5, 3)))
    expected = []
    for row in x.split(1):
        for count in range(most + 1):
            clean = mixture.ends(moved(mixture, observed, row, count, 0.05, 0.0), S).clean
            if (clean @ observed.matrix.T - observed.y).norm() < y.std + margin:
                break
        expected.append(count)
        i = len(expected) - 1
        torch.testing.assert_close(step.clean[i : i + 1], clean, atol=1e-9, rtol=0)
    assert step.info["moves"].tolist() == expected
    assert len(set(expected)) > 1  # rows differ, so that one of them waits
    assert min(expected) < most


@pytest.mark.parametrize("mask", [[1.0, 1.0], [1.0, 0.0]])
def test_the_discrepancy_grows_with_the_root_of_the_entries(mixture, x, mask):
    """Two entries of residual r each are a norm of sqrt(2) r; what a mask hides counts nowhere, whatever stands there in y."""
    mask, clean = torch.tensor(mask, dtype=torch.float64), mixture.ends(x, S).clean
    for offset, moves in ((0.199, 0), (0.202, 1)):
        y = Measurement((clean - offset) * mask + 5 * (1 - mask), Linear(lambda z: z * mask, (2,)), 0.2)
        step = next(sitcom(mixture, y, x, TIMES, inner=1, noise=Noise(5, 3)))
        assert step.info["moves"].tolist() == [moves] * 3


def test_the_last_step_is_the_estimate(mixture, y, x):
    *_, last = sitcom(mixture, y, x, uniform(5), inner=4, margin=-1.0, noise=Noise(5, 3))
    torch.testing.assert_close(last.x, last.clean, atol=1e-12, rtol=0)
