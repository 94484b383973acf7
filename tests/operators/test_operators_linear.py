"""Linear operators against the dense matrix, computed in float64 from A itself."""

import math

import numpy as np
import pytest
import torch
from deepinv.physics.functional import gaussian_blur
from torch import Tensor
from torch.nn import functional as fn

from flowhelm import operators
from flowhelm.measure import LinearOperator
from flowhelm.operators.blur import gaussian
from flowhelm.operators.exact import mirrored_eigh, turned

torch.set_num_threads(1)


def _kernel(tmp_path, height=5, width=4):
    """Asymmetric, of even width, far from singular: half of its mass is in one pixel."""
    kernel = torch.rand(height, width, generator=torch.Generator().manual_seed(3)).numpy()
    kernel[1, width // 2] += kernel.sum()
    np.save(tmp_path / "kernel.npy", kernel)
    return tmp_path / "kernel.npy"


CASES = {
    "denoise": ((3, 8, 8), lambda s, p: operators.denoise(s)),
    "inpaint": ((3, 7, 9), lambda s, p: operators.inpaint(s, mask=torch.arange(63).reshape(7, 9) % 3 > 0)),
    "box": ((3, 10, 12), lambda s, p: operators.box(s)),
    "random_mask": ((3, 7, 9), lambda s, p: operators.random_mask(s, missing=0.6, seed=1)),
    "deblur": ((3, 8, 8), lambda s, p: operators.deblur(s, border="circular")),
    "deblur_odd": ((1, 9, 11), lambda s, p: operators.deblur(s, sigma=0.6, border="circular")),
    "deblur_open": ((2, 15, 14), lambda s, p: operators.deblur(s, sigma=0.6)),
    "deblur_open_wide": ((1, 20, 19), lambda s, p: operators.deblur(s, sigma=1.6)),
    "motion": ((3, 8, 8), lambda s, p: operators.motion(s, kernel=_kernel(p), border="circular")),
    "motion_odd": ((1, 9, 11), lambda s, p: operators.motion(s, kernel=_kernel(p), border="circular")),
    "motion_wrapped": ((1, 5, 6), lambda s, p: operators.motion(s, kernel=_kernel(p, 8, 7), border="circular")),
    "motion_open": ((3, 9, 11), lambda s, p: operators.motion(s, kernel=_kernel(p))),
    "motion_open_flat": ((1, 9, 11), lambda s, p: operators.motion(s, kernel=_kernel(p, 2, 1))),
    "motion_open_wide": ((1, 10, 8), lambda s, p: operators.motion(s, kernel=_kernel(p, 8, 7))),
    "average_2": ((3, 8, 8), lambda s, p: operators.superres(s, factor=2)),
    "average_3": ((1, 9, 12), lambda s, p: operators.superres(s, factor=3)),
    "average_4": ((3, 8, 12), lambda s, p: operators.superres(s, factor=4)),
    "decimate_2": ((3, 8, 10), lambda s, p: operators.superres(s, factor=2, filter="decimate")),
    "bicubic_2": ((3, 10, 12), lambda s, p: operators.superres(s, factor=2, filter="bicubic")),
    "bicubic_3": ((1, 15, 9), lambda s, p: operators.superres(s, factor=3, filter="bicubic")),
    "colorize": ((3, 7, 9), lambda s, p: operators.colorize(s)),
    "demosaic": ((3, 7, 9), lambda s, p: operators.demosaic(s, pattern="GBRG")),
}
GAMMAS = (1e-3, 1e-1, 1.0, 10.0, 1e2, 1e4)


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """Operator, dense A (m, n) in float64, and two rows each of z and y."""
    shape, build = CASES[request.param]
    operator = build(shape, tmp_path_factory.mktemp("kernel"))
    n = math.prod(shape)
    dense = operator.A(torch.eye(n).reshape(n, *shape)).flatten(1).T.double()
    draw = torch.Generator().manual_seed(0)
    z, x = torch.randn(2, 2, *shape, generator=draw)
    y = operator.A(x)
    return operator, dense, z, y + 0.1 * torch.randn(y.shape, generator=draw)


def _relative(got: Tensor, want: Tensor) -> float:
    return float((got.double().flatten() - want.double().flatten()).norm() / want.double().norm())


def test_is_a_linear_operator_without_noise(case):
    operator, dense, z, _ = case
    assert isinstance(operator, LinearOperator)
    assert _relative(operator(z), z.flatten(1).double() @ dense.T) < 1e-5
    assert operator.A(z).dtype == torch.float32


def test_adjoint(case):
    operator, dense, _, y = case
    assert _relative(operator.A_adjoint(y), y.flatten(1).double() @ dense) < 1e-5


@pytest.mark.parametrize("gamma", GAMMAS)
def test_prox_is_the_dense_solution(case, gamma):
    operator, dense, z, y = case
    matrix = torch.eye(dense.shape[1], dtype=torch.float64) + gamma * dense.T @ dense
    right = z.flatten(1).double() + gamma * y.flatten(1).double() @ dense
    got = operator.prox_l2(z, y, gamma)
    assert _relative(got, torch.linalg.solve(matrix, right.T).T) < 2e-5
    assert got.shape == z.shape


def test_prox_with_one_weight_per_row_and_a_constant_start(case):
    operator, _, z, y = case
    each = operator.prox_l2(z, y, torch.tensor([0.5, 20.0]).reshape(2, 1, 1, 1))
    for i, gamma in enumerate((0.5, 20.0)):
        assert _relative(each[i], operator.prox_l2(z[i : i + 1], y[i : i + 1], gamma)) < 1e-6
    assert _relative(operator.prox_l2(0.0, y, 2.0), operator.prox_l2(torch.zeros_like(z), y, 2.0)) < 1e-6


def test_dagger_is_the_pseudo_inverse(case):
    operator, dense, _, y = case
    singular = torch.linalg.svdvals(dense)
    if singular[(singular > 1e-7)].min() < 1e-4:
        # nearly singular: where the inverse is cut off is a matter of rounding, but it must undo A on what A passes
        x = operator.A_adjoint(y)
        assert _relative(operator.A(operator.A_dagger(operator.A(x))), operator.A(x)) < 1e-4
    else:
        assert _relative(operator.A_dagger(y), (torch.linalg.pinv(dense, rtol=1e-6) @ y.flatten(1).double().T).T) < 1e-4


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_average_is_the_mean_of_each_block_and_decimate_its_top_left_pixel(factor):
    image = torch.randn(2, 3, 24, 36)
    average, decimate = (
        operators.superres(image.shape[1:], factor=factor, **more) for more in ({}, {"filter": "decimate"})
    )
    assert torch.allclose(average.A(image), fn.avg_pool2d(image, factor), atol=1e-6)
    assert torch.allclose(decimate.A(image), image[..., ::factor, ::factor], atol=1e-5)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_bicubic_is_that_of_torch_away_from_the_border(factor):
    image = torch.randn(1, 1, 48, 60)
    small = operators.superres((1, 48, 60), factor=factor, filter="bicubic").A(image)
    expected = fn.interpolate(image, small.shape[-2:], mode="bicubic", antialias=True, align_corners=False)
    assert torch.allclose(small[..., 3:-3, 3:-3], expected[..., 3:-3, 3:-3], atol=1e-5)


def test_gaussian_has_its_width_and_centre():
    operator = operators.deblur((1, 41, 40), sigma=2.5, border="circular")
    impulse = torch.zeros(1, 1, 41, 40)
    impulse[..., 20, 20] = 1
    response = operator.A(impulse)[0, 0]
    rows, columns = torch.arange(41.0) - 20, torch.arange(40.0) - 20
    assert float(response.sum()) == pytest.approx(1, abs=1e-5)
    assert float((response.sum(1) * rows).sum()) == pytest.approx(0, abs=1e-3)
    assert float((response.sum(1) * rows**2).sum()) == pytest.approx(2.5**2, rel=1e-3)
    assert float((response.sum(0) * columns**2).sum()) == pytest.approx(2.5**2, rel=1e-3)


@pytest.mark.parametrize("sigma", [0.3, 1.6, 4.1])
def test_gaussian_is_that_of_deepinv(sigma):
    side = 2 * math.ceil(5 * sigma) + 1
    theirs = gaussian_blur(psf_size=(side, side), sigma=(sigma, sigma))[0, 0]
    assert torch.allclose(gaussian(sigma), theirs, rtol=0, atol=1e-6 * float(theirs.max()))


def test_kernel_larger_than_the_picture_is_wrapped():
    small, large = (operators.deblur((1, *s), sigma=1.6, border="circular") for s in ((6, 7), (42, 49)))
    image = torch.randn(1, 1, 6, 7)
    assert torch.allclose(small.A(image), large.A(image.tile(7, 7))[..., :6, :7], atol=1e-5)


def test_motion_is_a_convolution_centred_at_the_middle(tmp_path):
    kernel = np.load(_kernel(tmp_path)).astype(float)
    operator = operators.motion((1, 9, 11), kernel=tmp_path / "kernel.npy", border="circular")
    impulse = torch.zeros(1, 1, 9, 11)
    impulse[..., 4, 5] = 1
    expected = torch.zeros(9, 11)
    expected[4 - 2 : 4 + 3, 5 - 2 : 5 + 2] = torch.from_numpy(kernel / kernel.sum())
    assert torch.allclose(operator.A(impulse)[0, 0], expected, atol=1e-6)


@pytest.mark.parametrize(("name", "option"), [("deblur", {"sigma": 1.1}), ("motion", {"kernel": (5, 4)})])
def test_open_border_is_the_inside_of_the_circular_blur(name, option, tmp_path):
    """y is all that no wrapping reaches: it is the plain convolution, without any filling."""
    if name == "motion":
        option = {"kernel": _kernel(tmp_path, *option["kernel"])}
    builder = getattr(operators, name)
    shape = operators.clean_shape(builder, (3, 20, 23), option)
    operator, circular = builder(shape, **option), builder(shape, **option, border="circular")
    image = torch.randn(2, *shape)
    y = operator.A(image)
    assert y.shape == (2, 3, 20, 23)
    assert torch.allclose(y, operator.crop(circular.A(image)), atol=1e-6)
    kernel = operators.kernel_of(1.1) if name == "deblur" else operators.traced(option["kernel"])
    plain = fn.conv2d(image.flatten(0, 1)[:, None], kernel.flip(0, 1)[None, None]).reshape(y.shape)
    assert torch.allclose(y, plain, atol=1e-5)


def test_clean_shape_has_the_reach_of_the_kernel(tmp_path):
    assert operators.clean_shape(operators.deblur, (3, 20, 30), {"sigma": 1.6}) == (3, 36, 46)
    assert operators.clean_shape(operators.deblur, (3, 20, 30), {"border": "circular"}) == (3, 20, 30)
    kernel = _kernel(tmp_path, 7, 2)
    assert operators.clean_shape(operators.motion, (1, 20, 30), {"kernel": kernel}) == (1, 26, 31)
    assert operators.clean_shape(operators.motion, (1, 20, 30), {"kernel": kernel, "border": "circular"}) == (1, 20, 30)


@pytest.mark.parametrize("gamma", [1.0, 100.0, 1000.0])
def test_the_prox_of_an_open_blur_takes_few_iterations(gamma, tmp_path, monkeypatch):
    """The preconditioner keeps them near the square root of gamma; without it they are three times as many."""
    from flowhelm.operators import exact

    calls, solve = [], exact.conjugate_gradient

    def counting(apply, *rest):
        return solve(lambda v: (calls.append(1), apply(v))[1], *rest)

    monkeypatch.setattr(exact, "conjugate_gradient", counting)
    # with its diagonal raised a Gaussian is no product of a column and a row, which would be solved in closed form
    kernel = operators.kernel_of(1.6)
    np.save(tmp_path / "kernel.npy", (kernel + 1e-3 * kernel.max() * torch.eye(17)).numpy())
    operator = operators.motion((1, 80, 80), kernel=tmp_path / "kernel.npy")
    z, x = torch.rand(2, 1, 1, 80, 80) * 2 - 1
    operator.prox_l2(z, operator.A(x), gamma)
    assert len(calls) <= 10 + 2.5 * math.sqrt(gamma)
    calls.clear()
    operator.prox_l2(z, operator.A(z), gamma)
    assert not calls  # solved for the change


def test_kernel_files(tmp_path):
    from PIL import Image

    first, second = np.eye(3), np.arange(15.0).reshape(3, 5)
    np.savez(tmp_path / "two.npz", a=first, b=second)
    Image.fromarray((second * 10).astype(np.uint8)).save(tmp_path / "second.png")
    shape, image = (1, 8, 8), torch.randn(1, 1, 8, 8)

    def blurred(name):
        return operators.motion(shape, kernel=tmp_path / name, border="circular").A(image)

    assert torch.equal(blurred("two.npz"), blurred("two.npz:a"))
    assert torch.equal(blurred("two.npz:1"), blurred("two.npz:b"))
    assert torch.allclose(blurred("two.npz:b"), blurred("second.png"), atol=1e-6)
    assert not torch.allclose(blurred("two.npz:0"), blurred("two.npz:1"), atol=1e-3)
    with pytest.raises(ValueError, match="holds a, b, got 'c'"):
        blurred("two.npz:c")
    with pytest.raises(ValueError, match="got '2'"):
        blurred("two.npz:2")


def test_kernels_are_checked_and_never_unpickled(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([[1, None]], dtype=object), allow_pickle=True)
    np.save(tmp_path / "stack.npy", np.ones((2, 3, 3)))
    np.save(tmp_path / "zero.npy", np.zeros((3, 3)))
    np.save(tmp_path / "nan.npy", np.array([[1, np.nan]]))
    with pytest.raises(ValueError, match="Python objects"):
        operators.motion((1, 8, 8), kernel=tmp_path / "objects.npy")
    for name in ("stack.npy", "zero.npy", "nan.npy"):
        with pytest.raises(ValueError, match=rf"^motion: .*positive sum.*{name}"):
            operators.motion((1, 8, 8), kernel=tmp_path / name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.png", "does not exist; check the path"),
        ("missing.npy", "does not exist; check the path"),
        ("missing.npz:3", "does not exist; check the path"),
        ("text.png", "is not a picture; expected JPEG, PNG"),
        ("text.npy", "cannot be read"),
        ("text.npz", "cannot be read"),
        ("cut.png", "cannot be read"),
        ("cut.npy", "cannot be read"),
        ("cut.npz", "cannot be read"),
        ("words.npy", "cannot be read"),
        ("folder.png", "cannot be read"),
        ("array.npz", "cannot be read"),
        ("black.png", "positive sum"),
        ("nan.tiff", "finite"),
    ],
)
def test_files_that_cannot_be_used_are_named(name, message, tmp_path):
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 255, (40, 50), np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    np.save(tmp_path / "whole.npy", noise)
    np.savez(tmp_path / "whole.npz", noise)
    np.save(tmp_path / "words.npy", np.array([["one", "two"]]))
    Image.new("L", (50, 40)).save(tmp_path / "black.png")
    Image.fromarray(np.full((40, 50), np.nan, np.float32)).save(tmp_path / "nan.tiff")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "array.npz").write_bytes((tmp_path / "whole.npy").read_bytes())
    for kind in ("png", "npy", "npz"):
        (tmp_path / f"text.{kind}").write_text("neither picture nor numbers")
        (tmp_path / f"cut.{kind}").write_bytes((tmp_path / f"whole.{kind}").read_bytes()[:600])

    def sentence(build):
        with pytest.raises(ValueError, match=message) as error:
            build()
        assert repr(str(tmp_path / name.partition(":")[0])) in str(error.value)
        assert "\n" not in str(error.value)

    sentence(lambda: operators.motion((1, 64, 64), kernel=tmp_path / name))
    sentence(lambda: operators.clean_shape(operators.motion, (1, 64, 64), {"kernel": tmp_path / name}))
    if name.endswith((".png", ".tiff")):
        message = {"black.png": "nothing known", "nan.tiff": "NaN"}.get(name, message)
        sentence(lambda: operators.inpaint((1, 40, 50), mask=tmp_path / name))


def test_grey_is_rec_601():
    image = torch.zeros(3, 3, 1, 1)
    image[range(3), range(3)] = 1
    grey = operators.colorize((3, 1, 1)).A(image)
    assert grey.flatten().tolist() == pytest.approx([0.299, 0.587, 0.114], abs=1e-6)


@pytest.mark.parametrize("pattern", ["RGGB", "BGGR", "GRBG", "GBRG"])
def test_demosaic_reads_the_pattern(pattern):
    seen = operators.demosaic((3, 6, 6), pattern=pattern).A(torch.ones(1, 3, 6, 6))[0]
    assert torch.equal(seen.sum(0), torch.ones(6, 6))
    corner = "".join("RGB"[int(seen[:, i, j].argmax())] for i, j in ((2, 2), (2, 3), (3, 2), (3, 3)))
    assert corner == pattern


def test_mask_picture_is_white_where_known(tmp_path):
    from PIL import Image

    pixels = np.full((6, 8), 255, np.uint8)
    pixels[2:4, 1:3] = 0
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    seen = operators.inpaint((3, 6, 8), mask=tmp_path / "mask.png").A(torch.ones(1, 3, 6, 8))
    assert torch.equal(seen[0, 1], torch.from_numpy(pixels / 255).float())
    with pytest.raises(ValueError, match=r"8 x 6, got 6 x 8 in .*mask.png"):
        operators.inpaint((3, 8, 6), mask=tmp_path / "mask.png")


def test_masks_are_checked():
    with pytest.raises(ValueError, match="nothing missing"):
        operators.inpaint((1, 4, 4), mask=torch.ones(4, 4))
    with pytest.raises(ValueError, match="nothing known"):
        operators.inpaint((1, 4, 4), mask=torch.zeros(4, 4))
    with pytest.raises(ValueError, match="other values"):
        operators.inpaint((1, 4, 4), mask=torch.full((4, 4), 255))
    with pytest.raises(ValueError, match="4 x 4, got 2 x 4 x 4"):
        operators.inpaint((3, 4, 4), mask=torch.eye(4).expand(2, 4, 4))


def test_box_and_random_mask_miss_what_they_say():
    def missing(operator, shape):
        return operator.A(torch.ones(1, *shape))[0] == 0

    hole = missing(operators.box((3, 16, 20)), (3, 16, 20))
    assert hole[:, 6:10, 8:12].all()
    assert hole.sum() == 3 * 16
    hole = missing(operators.box((1, 16, 20), size=5, top=0, left=15), (1, 16, 20))
    assert hole[:, :5, 15:].all()
    assert hole.sum() == 25
    hole = missing(operators.random_mask((3, 16, 20), missing=0.3, seed=4), (3, 16, 20))
    assert hole[0].sum() == 96
    assert torch.equal(hole[0], hole[2])
    assert torch.equal(hole, missing(operators.random_mask((3, 16, 20), missing=0.3, seed=4), (3, 16, 20)))
    assert not torch.equal(hole, missing(operators.random_mask((3, 16, 20), missing=0.3, seed=5), (3, 16, 20)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: operators.superres((3, 9, 8), factor=2), "multiples of the factor 2, got 9 x 8; crop to 8 x 8"),
        (
            lambda: operators.superres((3, 8, 8), filter="lanczos"),
            "superres: expected filter one of average, bicubic, decimate, got 'lanczos'",
        ),
        (lambda: operators.colorize((1, 8, 8)), "3 channels, got 1"),
        (lambda: operators.demosaic((1, 8, 8)), "3 channels, got 1"),
        (lambda: operators.demosaic((3, 8, 8), pattern="RGBG"[:3]), "pattern one of RGGB, BGGR, GRBG, GBRG, got 'RGB'"),
        (
            lambda: operators.deblur((3, 8, 8), sigma=0.0),
            "sigma one of auto or a number above 0 and of at most 200, got 0.0",
        ),
        (lambda: operators.deblur((3, 16, 40)), "at least the kernel's 17 x 17 pixels, got 16 x 40"),
        (lambda: operators.deblur((3, 8, 8), border="reflect"), "border one of open, circular, got 'reflect'"),
        (lambda: operators.box((3, 8, 8), size=9), "must lie inside"),
        (lambda: operators.box((3, 8, 8), size=8), "leave something known"),
        (lambda: operators.box((3, 8, 8), size=2, top=7), "must lie inside"),
        (lambda: operators.random_mask((3, 8, 8), missing=1.0), "above 0 and below 1, got 1.0"),
        (lambda: operators.random_mask((3, 8, 8), missing=1e-3), "at least one missing"),
        (lambda: operators.superres((3, 8, 8), factor=0), "factor a whole number of at least 1"),
        (lambda: operators.box((3, 8, 8), size=-1), "size a whole number of at least 0"),
    ],
)
def test_wrong_options_say_what_is_wrong(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("size", [1, 2, 5, 8, 31])
def test_a_matrix_that_is_its_own_half_turn_has_eigenvectors_of_half_the_size(size):
    lags = torch.randn(size, generator=torch.Generator().manual_seed(size)).double()
    place = torch.arange(size)
    matrix = lags[(place[:, None] - place).abs()]
    values, like, unlike = mirrored_eigh(matrix)
    eye = torch.eye(size).double()
    vectors = turned(eye, like, unlike, back=True)
    torch.testing.assert_close(vectors @ torch.diag(values) @ vectors.T, matrix, atol=1e-12, rtol=0)
    torch.testing.assert_close(vectors.T @ vectors, eye, atol=1e-12, rtol=0)
    torch.testing.assert_close(turned(eye, like, unlike), vectors.T, atol=1e-12, rtol=0)
