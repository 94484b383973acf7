import pytest
import torch

from flowhelm.grad import dot, per_row, value_and_grad, vjp


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
