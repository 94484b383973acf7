from functools import partial

import pytest
import torch

from flowhelm import Measurement, operators
from flowhelm.operators.bridge import to_signed, to_unit

BUILDERS = [
    operators.denoise, operators.random_mask, partial(operators.deblur, border="circular"),
    partial(operators.deblur, sigma=0.5), operators.superres, operators.colorize, operators.demosaic,
]  # fmt: skip


@pytest.mark.parametrize("builder", BUILDERS)
def test_residual_and_likelihood_agree_in_both_ranges(builder):
    operator = builder((3, 8, 12))
    truth, guess = torch.rand(2, 2, 3, 8, 12)  # in [0, 1], where deepinv works
    clean = operator.A(truth)
    y01 = clean + 0.05 * torch.randn_like(clean)
    y, std = to_signed(operator, y01, 0.05)
    unit, signed = Measurement(y01, operator, 0.05), Measurement(y, operator, std)
    assert torch.allclose(signed.residual(2 * guess - 1), 2 * unit.residual(guess), atol=1e-5)
    assert torch.allclose(signed(2 * guess - 1), unit(guess), rtol=1e-4)
    assert torch.allclose(operator.A(2 * truth - 1), to_signed(operator, clean, 1.0)[0], atol=1e-5)


def test_there_and_back():
    operator = operators.superres((3, 8, 12), filter="bicubic")
    y01 = torch.rand(2, 3, 4, 6)
    back, std = to_unit(operator, *to_signed(operator, y01, 0.1))
    assert torch.allclose(back, y01, atol=1e-6)
    assert std == pytest.approx(0.1)


def test_white_stays_white():
    operator = operators.deblur((1, 24, 24))
    assert torch.allclose(to_signed(operator, torch.ones(1, 1, 8, 8), 0.1)[0], torch.ones(1, 1, 8, 8), atol=1e-5)


def test_needs_a_linear_operator():
    with pytest.raises(ValueError, match="linear"):
        to_signed(operators.phase((1, 8, 8)), torch.rand(1, 1, 16, 16), 0.1)
