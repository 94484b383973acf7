import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from flowhelm.grad import dot, gauss_newton, per_row, probes, value_and_grad, vjp, where_rows
from flowhelm.rng import Noise


def test_every_row_has_its_own_gradient():
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    function = lambda z: (z**3).flatten(1).sum(1) * torch.arange(1, len(z) + 1)  # noqa: E731
    value, gradient = value_and_grad(function, x)
    scale = torch.arange(1, 5, dtype=torch.float64)
    torch.testing.assert_close(value, (x**3).sum((1, 2)) * scale)
    torch.testing.assert_close(gradient, 3 * x**2 * scale[:, None, None])
    torch.testing.assert_close(value_and_grad(function, x[:1])[1], gradient[:1])


def test_it_works_without_grad_mode_and_detaches():
    x = torch.randn(2, 3, requires_grad=True)
    with torch.no_grad():
        value, gradient = value_and_grad(lambda z: z.square().sum(1), x)
        assert not torch.is_grad_enabled()
    torch.testing.assert_close(gradient, 2 * x.detach())
    assert not value.requires_grad
    assert not gradient.requires_grad
    assert x.grad is None


def test_what_does_not_depend_on_x_has_no_gradient():
    x, weight = torch.randn(2, 3), torch.ones(2, requires_grad=True)
    for function in (lambda z: torch.ones(2), lambda z: weight * 2):
        value, gradient = value_and_grad(function, x)
        assert not value.requires_grad
        assert torch.equal(gradient, torch.zeros_like(x))


def test_one_value_per_row_is_asked_for():
    with pytest.raises(ValueError, match="one value per row"):
        value_and_grad(lambda z: z.sum(), torch.randn(2, 3))


@torch.no_grad()
def test_vjp_is_the_transposed_jacobian():
    matrix, x, cotangent = torch.randn(5, 3).double(), torch.randn(2, 3).double(), torch.randn(2, 5).double()
    value, product = vjp(lambda z: (z @ matrix.T).sin(), x, cotangent)
    torch.testing.assert_close(value, (x @ matrix.T).sin())
    torch.testing.assert_close(product, ((x @ matrix.T).cos() * cotangent) @ matrix)
    assert not product.requires_grad


def test_dot_and_per_row():
    a, b = torch.randn(2, 4, 2, 3).double()
    torch.testing.assert_close(dot(a, b), torch.einsum("bij,bij->b", a, b))
    weight = per_row(torch.arange(4), a)
    assert weight.dtype == a.dtype
    torch.testing.assert_close(weight * a, torch.einsum("b,bij->bij", torch.arange(4.0).double(), a))


@torch.no_grad()
def test_gauss_newton_on_a_line():
    """r = sin(M x): 1/2 |r|^2, J^T r, and the length that minimises |r - step J g|^2, row by row."""
    matrix, x = torch.randn(5, 3).double(), torch.randn(2, 3).double()
    half, gradient, best = gauss_newton(lambda z: (z @ matrix.T).sin(), x)
    r, jacobian = (x @ matrix.T).sin(), (x @ matrix.T).cos()[..., None] * matrix
    torch.testing.assert_close(half, r.square().sum(1) / 2)
    torch.testing.assert_close(gradient, torch.einsum("bij,bi->bj", jacobian, r))
    moved = torch.einsum("bij,bj->bi", jacobian, gradient)
    at_best = r - best[:, None] * moved
    torch.testing.assert_close((at_best * moved).sum(1), torch.zeros(2).double(), atol=1e-9, rtol=0)
    assert not any(part.requires_grad for part in (half, gradient, best))


def test_probes_add_up_to_the_identity():
    like = torch.zeros(3, 2, 2).double()
    exact = torch.stack(list(probes(like, None))).flatten(2)
    torch.testing.assert_close(torch.einsum("kbi,kbj->bij", exact, exact), torch.eye(4).double().expand(3, 4, 4))
    (one,) = probes(like, Noise(3, 3))
    assert torch.equal(one, Noise(3, 3)(like))


def test_rows_of_two_tensors():
    a, b = torch.randn(2, 3, 2, 1)
    assert torch.equal(where_rows(torch.tensor([True, False, True]), a, b), torch.stack([a[0], b[1], a[2]]))
    assert torch.equal(
        where_rows(torch.tensor([True, False, True]), a, b * torch.nan)[0], a[0]
    )  # what is left out is not read


def test_operations_of_a_gradient_are_counted():
    """A network of which the gradient is taken sees no leaf, which torch's counter cannot follow: forward, and backward to its input."""
    net = torch.nn.Linear(3, 5, bias=False)
    with FlopCounterMode(display=False) as counter:
        value_and_grad(lambda x: net(x).sum(1), torch.randn(7, 3))
    assert counter.get_total_flops() >= 2 * 2 * 7 * 3 * 5
