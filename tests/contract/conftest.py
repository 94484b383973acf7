"""Every method, on a prior over pixels and on one with a decoder."""

from collections.abc import Callable

import pytest
from every import METHODS

from flowhelm import Flow, Linear, Measurement, cards
from flowhelm.bench.contract import world


@pytest.fixture(scope="session")
def flows() -> dict[str, Flow]:
    return world.flows()


@pytest.fixture(params=["pixels", "latent"])
def flow(request: pytest.FixtureRequest, flows: dict[str, Flow]) -> Flow:
    return flows[request.param]


@pytest.fixture
def methods() -> dict[str, Callable]:
    return METHODS


@pytest.fixture(params=list(METHODS))
def method(request: pytest.FixtureRequest) -> Callable:
    method = METHODS[request.param]
    if cards.pixels_only(getattr(method, "func", method)) and request.node.callspec.params.get("flow") == "latent":
        pytest.skip("for priors over pixels")
    return method


@pytest.fixture(scope="session")
def operator() -> Linear:
    """Every second column, blurred along the rows."""
    return world.operator()


@pytest.fixture(scope="session")
def y(operator: Linear) -> Measurement:
    return world.measured(operator)
