import pytest
import torch

from flowhelm.metrics import frechet, frechet_features

D = torch.float64


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=D)


def rotation(d, seed=0):
    return torch.linalg.qr(normal(d, d, seed=seed))[0]


def law(d, seed):
    """A mean and a covariance of no special form."""
    root = normal(d, d + 2, seed=seed)
    return normal(d, seed=seed + 100), root @ root.T / d


def test_closed_form_of_commuting_covariances():
    turn = rotation(5)
    a, b = torch.tensor([[4.0, 1, 0.25, 0, 2], [1, 1, 4, 9, 2]], dtype=D)
    mean_a, mean_b = normal(5, seed=1), normal(5, seed=2)
    expected = ((mean_a - mean_b) ** 2).sum() + ((a.sqrt() - b.sqrt()) ** 2).sum()
    got = frechet(mean_a, turn @ a.diag() @ turn.T, mean_b, turn @ b.diag() @ turn.T)
    assert float(got) == pytest.approx(float(expected), rel=1e-7)


def test_it_is_the_cost_of_the_optimal_map():
    """Gelbrich: the map x -> T x with T the geometric mean of cov_a^-1 and cov_b carries one normal law to the other; it moves by d."""
    (mean_a, cov_a), (mean_b, cov_b) = law(4, 1), law(4, 2)
    values, vectors = torch.linalg.eigh(cov_a)
    root, back = ((vectors * values**p) @ vectors.T for p in (0.5, -0.5))
    values, vectors = torch.linalg.eigh(root @ cov_b @ root)
    carry = back @ ((vectors * values.sqrt()) @ vectors.T) @ back
    assert torch.allclose(carry @ cov_a @ carry, cov_b)
    moved = (carry - torch.eye(4, dtype=D)) @ cov_a @ (carry - torch.eye(4, dtype=D))
    expected = (mean_a - mean_b).square().sum() + moved.trace()
    assert float(frechet(mean_a, cov_a, mean_b, cov_b)) == pytest.approx(float(expected), rel=1e-9)


def test_it_is_symmetric_and_blind_to_rotation_and_translation():
    (mean_a, cov_a), (mean_b, cov_b) = law(6, 3), law(6, 4)
    turn, move = rotation(6, seed=5), normal(6, seed=6)
    d = float(frechet(mean_a, cov_a, mean_b, cov_b))
    assert d > 1
    assert float(frechet(mean_b, cov_b, mean_a, cov_a)) == pytest.approx(d, rel=1e-10)
    turned = frechet(turn @ mean_a + move, turn @ cov_a @ turn.T, turn @ mean_b + move, turn @ cov_b @ turn.T)
    assert float(turned) == pytest.approx(d, rel=1e-10)
    scaled = frechet(3 * mean_a, 9 * cov_a, 3 * mean_b, 9 * cov_b)
    assert float(scaled) == pytest.approx(9 * d, rel=1e-10)  # a squared distance


def test_equal_laws_have_none_singular_ones_too():
    mean, cov = law(6, 7)
    assert float(frechet(mean, cov, mean, cov)) < 1e-12
    cov[-2:] = cov[:, -2:] = 0
    assert float(frechet(mean, cov, mean, cov)) < 1e-7
    point = torch.zeros(6, 6, dtype=D)
    assert float(frechet(mean, point, mean, cov)) == pytest.approx(float(cov.trace()))


def test_it_agrees_with_the_square_root_of_the_product():
    linalg = pytest.importorskip("scipy.linalg")
    (mean_a, cov_a), (mean_b, cov_b) = law(20, 8), law(20, 9)
    root = linalg.sqrtm((cov_a @ cov_b).numpy())
    expected = float((mean_a - mean_b).square().sum() + (cov_a + cov_b).trace()) - 2 * root.trace().real
    assert float(frechet(mean_a, cov_a, mean_b, cov_b)) == pytest.approx(expected, rel=1e-8)


def test_features_have_the_mean_and_the_unbiased_covariance():
    a, b = normal(7, 3, seed=10).float(), normal(9, 3, seed=11).float() * 2 + 1
    expected = frechet(a.double().mean(0), torch.cov(a.double().T), b.double().mean(0), torch.cov(b.double().T))
    assert float(frechet_features(a, b)) == pytest.approx(float(expected), rel=1e-12)
    one = frechet_features(a[:, :1], b[:, :1])  # a single feature
    assert float(one) == pytest.approx(
        float((a[:, 0].mean() - b[:, 0].mean()) ** 2 + (a[:, 0].std() - b[:, 0].std()) ** 2), rel=1e-5
    )


def test_what_is_left_between_samples_of_one_law():
    """The docstring's formula, over 200 pairs of samples of a law with unequal eigenvalues."""
    values = torch.tensor([4.0, 2, 1, 0.5, 0.25, 0.1], dtype=D)
    n, m = 400, 900
    pair = values[:, None] * values / (values[:, None] + values)
    expected = float((1 / n + 1 / m) * (values.sum() + 0.5 * (pair.sum() + pair.diag().sum())))
    got = torch.stack(
        [
            frechet_features(
                normal(n, 6, seed=2 * i + 1000) * values.sqrt(), normal(m, 6, seed=2 * i + 1001) * values.sqrt()
            )
            for i in range(200)
        ]
    )
    error = float(got.std() / len(got) ** 0.5)
    print(f"left between {n} and {m} samples of one law: {float(got.mean()):.5f} ± {error:.5f}, derived {expected:.5f}")
    assert error < 0.05 * expected
    assert float(got.mean()) == pytest.approx(expected, abs=3 * error)


def test_shapes_are_checked():
    mean, cov = law(3, 1)
    with pytest.raises(ValueError, match="covariances"):
        frechet(mean, cov[:2], mean, cov)
    with pytest.raises(ValueError, match="covariances"):
        frechet(mean, cov, mean, cov[:2, :2])
    with pytest.raises(ValueError, match="two rows or more"):
        frechet_features(mean[None], mean[None])
