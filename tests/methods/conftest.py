"""Three states of the reference problem, and its measurement for each of them."""

import pytest

from flowhelm.measure import Measurement


@pytest.fixture
def y(observed):
    return Measurement(observed.y[None].expand(3, 1), observed.measurement.operator, observed.measurement.std)
