import pytest
import torch

from flowhelm.grad import value_and_grad
from flowhelm.measure import Function, Linear, LinearOperator, Measurement, Operator, conjugate_gradient, simulate
from flowhelm.rng import Noise

SHAPE = (2, 2, 3)


@pytest.fixture
def matrix():
    return torch.randn(7, 12, dtype=torch.float64) / 3


@pytest.fixture
def operator(matrix):
    return Linear(lambda x: x.flatten(1) @ matrix.T, SHAPE, tolerance=1e-12)


@pytest.fixture
def images():
    return torch.randn(4, *SHAPE, dtype=torch.float64)


def flat(x):
    return x.flatten(1)


def test_adjoint_and_pseudo_inverse_against_dense_matrices(operator, matrix):
    y = torch.randn(4, 7, dtype=torch.float64)
    torch.testing.assert_close(flat(operator.A_adjoint(y)), y @ matrix, atol=1e-14, rtol=0)
    torch.testing.assert_close(flat(operator.A_dagger(y)), y @ torch.linalg.pinv(matrix).T, atol=1e-9, rtol=0)


@pytest.mark.parametrize("gamma", [0.01, 1.0, 300.0])
def test_prox_against_a_dense_solve(operator, matrix, images, gamma):
    y = torch.randn(4, 7, dtype=torch.float64)
    normal = gamma * matrix.T @ matrix + torch.eye(12)
    expected = torch.linalg.solve(normal, (gamma * y @ matrix + flat(images)).T).T
    torch.testing.assert_close(flat(operator.prox_l2(images, y, gamma)), expected, atol=1e-9, rtol=0)


def test_an_estimate_that_fits_is_its_own_prox(operator, images):
    assert torch.equal(operator.prox_l2(images, operator.A(images), 5.0), images)


@pytest.mark.parametrize(("iterations", "tolerance"), [(3, 1e-10), (50, 1e-10), (50, 1e-2)])
def test_conjugate_gradients_keep_rows_apart(iterations, tolerance):
    root = torch.randn(4, 6, 6, dtype=torch.float64)
    matrix = root @ root.mT * torch.logspace(-3, 3, 4)[:, None, None]
    b = torch.randn(4, 6, dtype=torch.float64) * torch.tensor([[1.0], [1e4], [0.0], [1.0]])
    solve = lambda rows: conjugate_gradient(  # noqa: E731
        lambda x: (matrix[rows] @ x[..., None])[..., 0], b[rows], tolerance, iterations
    )
    together = solve(slice(0, 4))
    for i in range(4):
        torch.testing.assert_close(solve(slice(i, i + 1)), together[i : i + 1], atol=1e-12, rtol=1e-10)
    assert together.isfinite().all()
    if (iterations, tolerance) == (50, 1e-10):
        torch.testing.assert_close((matrix @ together[..., None])[..., 0], b, atol=1e-9, rtol=1e-9)


def test_conjugate_gradients_need_as_many_steps_as_eigenvalues():
    spectrum = torch.tensor([1.0, 4.0, 9.0, 9.0, 4.0], dtype=torch.float64)
    calls = []
    solved = conjugate_gradient(lambda x: calls.append(1) or spectrum * x, torch.ones(1, 5).double(), 1e-10, 50)
    torch.testing.assert_close(solved, 1 / spectrum[None], atol=1e-10, rtol=0)
    assert len(calls) == 3


def test_likelihood_and_its_parts(operator, images):
    y = Measurement(torch.randn(4, 7, dtype=torch.float64), operator, 0.3)
    residual = operator.A(images) - y.y
    torch.testing.assert_close(y.residual(images), residual)
    torch.testing.assert_close(y.misfit(images), residual.square().sum(1) / 2)
    law = torch.distributions.Normal(operator.A(images), 0.3)
    peak = torch.distributions.Normal(y.y, 0.3).log_prob(y.y).sum(1)
    torch.testing.assert_close(y(images), law.log_prob(y.y).sum(1) - peak)
    assert y.linear


@pytest.mark.parametrize("weight", [0.1, 4.0])
def test_prox_is_in_units_of_the_likelihood(operator, images, weight):
    y = Measurement(torch.randn(4, 7, dtype=torch.float64), operator, 0.3)
    z = y.prox(images, weight)
    _, gradient = value_and_grad(lambda x: 0.5 * (x - images).square().flatten(1).sum(1) - weight * y(x), z)
    torch.testing.assert_close(gradient, torch.zeros_like(z), atol=1e-8, rtol=0)


def test_particles_share_the_measurement_of_their_row(operator, images):
    y = Measurement(torch.randn(2, 7, dtype=torch.float64), operator, 0.3)
    single = [Measurement(y.y[i : i + 1], operator, 0.3) for i in range(2)]
    for method in ("residual", "misfit", "__call__"):
        rows = [getattr(single[i], method)(images[2 * i : 2 * i + 2]) for i in range(2)]
        torch.testing.assert_close(getattr(y, method)(images), torch.cat(rows))
    rows = [single[i].prox(images[2 * i : 2 * i + 2], 1.0) for i in range(2)]
    torch.testing.assert_close(y.prox(images, 1.0), torch.cat(rows))
    for batch in (images[:3], images[:1]):
        with pytest.raises(ValueError, match="multiple of 2"):
            y.residual(batch)


def test_simulation(operator, images):
    y = simulate(operator, images, 0.2, Noise(3, 4))
    torch.testing.assert_close((y.y - operator.A(images)) / 0.2, Noise(3, 4)(y.y), atol=1e-12, rtol=0)
    assert y.std == 0.2
    assert y.operator is operator
    plain = simulate(torch.sin, images, 0.2, Noise(3, 4))
    torch.testing.assert_close((plain.y - images.sin()) / 0.2, Noise(3, 4)(plain.y), atol=1e-12, rtol=0)


def test_what_is_seen_of_a_picture():
    """Of a mask its pixels, up to rounding; of differences and means everything; of what is not linear everything."""
    mask = (torch.arange(16).view(1, 4, 4) % 3 == 0).double()
    y = torch.zeros(2, 1, 4, 4).double()
    about = lambda function: Measurement(y[:1], Linear(function, (1, 4, 4)), 0.1).seen(2)  # noqa: E731
    for masked in (
        lambda x: mask * x,
        lambda x: 1e-9 * mask * x,  # whatever the unit
        lambda x: (mask + 1e-8) * x,
    ):
        assert torch.equal(about(masked), mask.expand(2, 1, 4, 4))
    assert about(lambda x: x - x.roll(1, -1)).all()
    small = Measurement(y[..., ::2, ::2], Linear(lambda x: torch.nn.functional.avg_pool2d(x, 2), (1, 4, 4)), 0.1)
    assert torch.equal(small.seen(4), torch.ones(4, 1, 2, 2).double())
    assert not about(lambda x: 0 * x).any()
    bent = Measurement(y, lambda x: mask * x**2, 0.1)
    assert torch.equal(bent.seen(2), torch.ones_like(y))
    assert bent.count(4).tolist() == [16] * 4
    assert Measurement(y, Linear(lambda x: mask * x, (1, 4, 4)), 0.1).count(4).tolist() == [6] * 4


def test_a_perturbed_measurement_has_its_noise_once_more(operator):
    """Drawn for each state; with a prox of a perturbed draw of N(0, I) it has the law of the picture given y."""
    y = Measurement(torch.randn(2, 7, dtype=torch.float64), operator, 0.3)
    more = y.perturbed(4, Noise(3, 4), 0.5)
    torch.testing.assert_close(more.y, y.y.repeat_interleave(2, 0) + 0.15 * Noise(3, 4)(more.y), atol=1e-15, rtol=0)
    assert (more.operator, more.std) == (y.operator, y.std)


def test_a_plain_function_has_no_prox(images):
    y = Measurement(images.tanh(), torch.tanh, 0.1)
    assert isinstance(y.operator, Function)
    assert not y.linear
    torch.testing.assert_close(y.misfit(images), torch.zeros(4).double())
    with pytest.raises(ValueError, match="linear operator"):
        y.prox(images, 1.0)


def test_what_is_no_measurement_is_refused(operator):
    for std in (0, -0.1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="std > 0"):
            Measurement(torch.zeros(1, 7), operator, std)
    for kind in (torch.complex64, torch.complex128, torch.uint8):
        with pytest.raises(ValueError, match=f"real floating-point numbers, got {kind}; .*view_as_real"):
            Measurement(torch.zeros(1, 7, dtype=kind), operator, 0.1)
    with pytest.raises(ValueError, match="got int"):
        Measurement(torch.zeros(1, 7), 3, 0.1)
    y = Measurement(torch.zeros(2, 7, dtype=torch.float64), operator, 0.1)  # of a latent state
    with pytest.raises(ValueError, match=r"prox: expected a picture of shape .* got \(4, 1, 1\); .* decoder"):
        y.prox(torch.zeros(2, 4, 1, 1).double(), 1.0)


def test_deepinv_physics_fit_as_they_are():
    physics = pytest.importorskip("deepinv").physics
    linear = [
        physics.Inpainting((2, 2, 3), mask=torch.tensor([[1.0, 0, 1], [0, 1, 1]]).expand(2, 2, 3)),
        physics.BlurFFT((2, 2, 3), filter=torch.tensor([[[[0.2, 0.5, 0.3]]]])),
    ]
    images = torch.randn(3, 2, 2, 3)
    for operator in linear:
        assert isinstance(operator, LinearOperator)
        y = Measurement(operator.A(torch.randn(3, 2, 2, 3)), operator, 0.3)
        z = y.prox(images, 0.7)
        _, gradient = value_and_grad(lambda x, y=y: 0.5 * (x - images).square().flatten(1).sum(1) - 0.7 * y(x), z)
        torch.testing.assert_close(gradient, torch.zeros_like(z), atol=1e-4, rtol=0)
    square = physics.Physics(A=lambda x, **_: x**2)
    assert isinstance(square, Operator)
    assert not isinstance(square, LinearOperator)
    assert not Measurement(images**2, square, 0.1).linear
    assert not Measurement(images**2, lambda x: x**2, 0.1).linear
    # phase retrieval offers an adjoint, of its linear part, and no prox: it is not a linear operator
    phase = physics.PhaseRetrieval(B=linear[0])
    assert isinstance(phase, Operator)
    assert not isinstance(phase, LinearOperator)
