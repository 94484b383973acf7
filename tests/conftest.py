"""Shared by all tests: one thread, one seed, and the reference problem with an exact prior."""

import os
from typing import NamedTuple

import pytest
import torch
from hypothesis import settings
from torch import Tensor
from toys import double

from flowhelm import GaussianFlow, Linear, Measurement, MixtureFlow

torch.set_num_threads(1)
os.fsync = lambda handle: None  # no test cuts the power, and a disk takes longer to answer than most tests do
settings.register_profile("flowhelm", deadline=None, max_examples=25, derandomize=True, database=None)
settings.load_profile("flowhelm")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class Observed(NamedTuple):
    """y = matrix clean + N(0, covariance), also as a `Measurement` of flat states."""

    matrix: Tensor
    y: Tensor
    covariance: Tensor
    measurement: Measurement


@pytest.fixture
def x() -> Tensor:
    """Three states of the reference problem."""
    return torch.randn(3, 2, dtype=torch.float64)


@pytest.fixture
def gaussian() -> GaussianFlow:
    return GaussianFlow(double([1.0, -0.5]), double([[0.8, 0.3], [0.3, 0.5]]))


@pytest.fixture
def mixture() -> MixtureFlow:
    return MixtureFlow(
        double([0.3, 0.7]),
        double([[2.0, 0.0], [-1.0, 1.0]]),
        double([[[0.5, 0.2], [0.2, 0.3]], [[0.2, -0.05], [-0.05, 0.4]]]),
    )


@pytest.fixture
def observed() -> Observed:
    matrix, y, std = double([[1.0, 0.5]]), double([0.8]), 0.2
    operator = Linear(lambda x: x @ matrix.T, (2,), tolerance=1e-14)
    return Observed(matrix, y, double([[std**2]]), Measurement(y[None], operator, std))
