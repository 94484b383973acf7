import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flowhelm import operators
from flowhelm.measure import LinearOperator, Operator

torch.set_num_threads(1)
EXAMPLES = Path(__file__).parents[2] / "examples"


def photograph(height, width, seed=0):
    """Smooth colours, edges and some texture, as 8-bit (h, w, 3)."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 40
    waves = sum(
        draw.normal(size=3)[None, None] * np.sin(a * x + b * y + c)[..., None]
        for a, b, c in draw.uniform(-4, 4, size=(6, 3))
    )
    waves[(x - 1) ** 2 + (y - 1) ** 2 < 0.3] += draw.normal(size=3) * 1.5
    waves += 0.1 * draw.normal(size=(height, width, 1))
    return np.clip(128 + 45 * waves, 0, 255).astype(np.uint8)


def to_tensor(pixels):
    pixels = torch.from_numpy(np.atleast_3d(pixels)).permute(2, 0, 1)[None].float()
    return pixels / 127.5 - 1


def pillow(pixels, quality, subsampling):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=subsampling)
    return np.array(Image.open(file))


def photographs():
    """Real ones, some not of whole blocks, and what no photograph is."""
    for name, size in {"chelsea.png": (301, 451), "astronaut.png": (200, 200), "coffee.png": (123, 117)}.items():
        yield np.array(Image.open(EXAMPLES / name).convert("RGB"))[: size[0], : size[1]]
    yield from (photograph(*size) for size in ((61, 83), (58, 86), (1, 1), (7, 9), (16, 17)))
    yield np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
@pytest.mark.parametrize("quality", [1, 5, 20, 30, 50, 75, 95, 100])
def test_jpeg_is_libjpeg_pixel_for_pixel(subsampling, quality):
    for pixels in photographs():
        for image in (pixels, np.ascontiguousarray(pixels[..., 0])):
            operator = operators.jpeg((image[0, 0].size, *image.shape[:2]), quality=quality, subsampling=subsampling)
            expected = pillow(image, quality, subsampling if image.ndim == 3 else 0)
            assert torch.equal(operator.A(to_tensor(image)), to_tensor(expected))


def test_jpeg_gives_bytes_and_treats_rows_alone():
    batch = torch.cat([to_tensor(photograph(33, 40, seed)) for seed in (0, 1)]) * 1.2
    operator = operators.jpeg((3, 33, 40))
    got = operator.A(batch)
    levels = (got + 1) * 127.5
    assert torch.allclose(levels, levels.round(), atol=1e-3)
    assert got.abs().max() <= 1 + 1e-6
    assert torch.allclose(operator.A(batch[1:]), got[1:], atol=1e-6)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_jpeg_gradient_leads_downhill(subsampling):
    operator = operators.jpeg((3, 64, 64), quality=10, subsampling=subsampling)
    y = operator.A(to_tensor(photograph(64, 64)))
    image = torch.zeros_like(y)
    first = (operator.A(image) - y).square().mean()
    for _ in range(20):
        image = image.detach().requires_grad_()
        (gradient,) = torch.autograd.grad((operator.A(image) - y).square().sum() / 2, image)
        assert gradient.isfinite().all()
        image = image - 0.5 * gradient
    last = (operator.A(image.detach()) - y).square().mean()
    assert last < first / 50


def test_jpeg_gradient_is_the_identity_at_full_resolution():
    image = (torch.rand(1, 3, 16, 24) * 2.2 - 1.1).requires_grad_()  # some of it outside the range
    cotangent = torch.randn(1, 3, 16, 24)
    out = operators.jpeg((3, 16, 24), subsampling="4:4:4").A(image)
    (gradient,) = torch.autograd.grad(out, image, cotangent)
    assert torch.allclose(gradient, cotangent, atol=1e-4)


def test_saturate():
    operator = operators.saturate((1, 1, 4), gain=2.0)
    image = torch.tensor([-0.9, -0.3, 0.2, 0.6]).reshape(1, 1, 1, 4).requires_grad_()
    y = operator.A(image)
    assert torch.allclose(y.flatten(), torch.tensor([-1, -0.6, 0.4, 1]))
    (gradient,) = torch.autograd.grad(y.sum(), image)
    assert gradient.flatten().tolist() == [0, 2, 2, 0]


def test_blur_in_linear_light():
    shape, k = (1, 12, 15), 3
    operator = operators.blur_linear_light(shape, sigma=0.6, gamma=2.2)
    image = torch.rand(2, *shape) * 1.8 - 0.9
    offset = torch.arange(-k, k + 1, dtype=torch.float64)
    taps = torch.exp(-(offset**2) / (2 * 0.6**2))
    taps = taps / taps.sum()
    light = ((image.double() + 1) / 2) ** 2.2
    for axis in (-1, -2):
        light = sum(w * light.roll(int(o), axis) for w, o in zip(taps, offset, strict=True))
    assert torch.allclose(operator.A(image).double(), 2 * light ** (1 / 2.2) - 1, atol=1e-4)
    flat = torch.full((1, *shape), -0.4)
    assert torch.allclose(operator.A(flat), flat, atol=1e-5)
    assert (operator.A(image) - operators.deblur(shape, sigma=0.6, border="circular").A(image)).min() > -1e-5  # Jensen
    # brightness is what spreads: a white line on black grows when it is blurred before the tone curve
    linear = operators.blur_linear_light(shape, sigma=0.6, gamma=1.0)
    assert torch.allclose(linear.A(image), operators.deblur(shape, sigma=0.6, border="circular").A(image), atol=1e-5)


def test_blur_in_linear_light_has_a_gradient_even_at_black():
    operator = operators.blur_linear_light((1, 8, 8), sigma=0.7)
    image = (torch.rand(1, 1, 8, 8) * 1.6 - 0.8).requires_grad_()
    direction, cotangent = torch.randn(1, 1, 8, 8), torch.randn(1, 1, 8, 8)
    (gradient,) = torch.autograd.grad(operator.A(image), image, cotangent)
    h = 1e-2
    with torch.no_grad():
        moved = (operator.A(image + h * direction) - operator.A(image - h * direction)) / (2 * h)
    assert float((gradient * direction).sum()) == pytest.approx(float((cotangent * moved).sum()), abs=2e-2)
    dark = torch.full((1, 1, 8, 8), -1.5, requires_grad=True)
    (gradient,) = torch.autograd.grad(operator.A(dark).sum(), dark)
    assert gradient.isfinite().all()
    assert operator.A(dark).max() < -0.99


@pytest.mark.parametrize("oversampling", [1.0, 1.5, 2.0, 2.3])
def test_phase_keeps_the_norm_and_forgets_the_place(oversampling):
    image = torch.rand(2, 3, 10, 13) * 2 - 1
    operator = operators.phase((3, 10, 13), oversampling=oversampling)
    y = operator.A(image)
    assert torch.allclose(y.flatten(1).norm(dim=1), ((image + 1) / 2).flatten(1).norm(dim=1), rtol=1e-5)
    assert torch.allclose(operator.A(image.flip(-1, -2)), y, atol=1e-5)
    assert operators.clean_shape(operators.phase, tuple(y.shape[1:]), {"oversampling": oversampling}) == (3, 10, 13)


def test_phase_pads_to_whole_pixels():
    y = operators.phase((1, 25, 13), oversampling=2.2).A(torch.zeros(1, 1, 25, 13))
    assert y.shape == (1, 1, 55, 29)  # although 2.2 * 25 > 55 in floating point


def test_phase_is_the_fourier_magnitude():
    image = torch.rand(1, 1, 2, 2) * 2 - 1
    padded = np.zeros((4, 4))
    padded[:2, :2] = (image[0, 0].numpy() + 1) / 2
    wave = np.exp(-2j * np.pi * np.outer(np.arange(4), np.arange(4)) / 4) / 2
    assert torch.allclose(
        operators.phase((1, 2, 2)).A(image)[0, 0], torch.from_numpy(abs(wave @ padded @ wave)).float(), atol=1e-6
    )


def test_phase_gradient_is_finite_where_the_magnitude_is_zero():
    image = torch.full((1, 1, 8, 8), -1.0, requires_grad=True)  # black: every magnitude is 0
    (gradient,) = torch.autograd.grad(operators.phase((1, 8, 8)).A(image).sum(), image)
    assert torch.equal(gradient, torch.zeros_like(image))


@pytest.mark.parametrize("builder", [operators.jpeg, operators.saturate, operators.phase])
def test_nonlinear_operators_do_not_pretend(builder):
    operator = builder((3, 16, 16))
    assert isinstance(operator, Operator)
    assert not isinstance(operator, LinearOperator)
    image = torch.zeros(1, 3, 16, 16)
    assert torch.equal(operator(image), operator.A(image))  # no noise


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: operators.jpeg((4, 8, 8)), "1 or 3 channels"),
        (
            lambda: operators.jpeg((3, 8, 8), quality=0),
            "quality a whole number of at least 1 and of at most 100, got 0",
        ),
        (lambda: operators.jpeg((3, 8, 8), subsampling="4:1:1"), "subsampling one of 4:4:4, 4:2:0, got '4:1:1'"),
        (lambda: operators.saturate((3, 8, 8), gain=1.0), "above 1"),
        (lambda: operators.phase((3, 8, 8), oversampling=0.5), "of at least 1"),
        (lambda: operators.phase((3, 8, 8), oversampling=17.0), "of at most 16"),
        (lambda: operators.deblur((3, 8, 8), sigma=201.0), "of at most 200"),
    ],
)
def test_wrong_options_say_what_is_wrong(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_clean_shape_inverts_the_builders():
    for builder, options in [
        (operators.denoise, {}), (operators.superres, {"factor": 3}), (operators.superres, {}),
        (operators.colorize, {}), (operators.demosaic, {}), (operators.jpeg, {"quality": 50}), (operators.phase, {}),
    ]:  # fmt: skip
        measured = builder((3, 12, 18), **options).A(torch.zeros(1, 3, 12, 18)).shape[1:]
        assert operators.clean_shape(builder, tuple(measured), options) == (3, 12, 18)
    with pytest.raises(TypeError, match="sigma"):
        operators.clean_shape(operators.superres, (3, 8, 8), {"sigma": 1})
    with pytest.raises(ValueError, match="at most 200"):
        operators.clean_shape(operators.deblur, (3, 8, 8), {"sigma": 1e9})
    with pytest.raises(ValueError, match="1 channel, got 3"):
        operators.clean_shape(operators.colorize, (3, 8, 8), {})
