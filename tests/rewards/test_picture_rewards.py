"""Rewards of pictures: palettes, regions, sums and styles."""

import pytest
import torch

from flowhelm.grad import value_and_grad
from flowhelm.rewards import Combined, Palette, Region, Style, vision
from flowhelm.rewards.combined import each
from flowhelm.rewards.palette import _spread


def pictures(rows=2, side=8):
    return torch.rand(rows, 3, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1


def test_a_palette_s_own_picture_is_the_best_whatever_the_order():
    colours = torch.tensor([[1.0, -1.0, 0.0], [-0.5, 0.5, 0.9], [0.0, 0.0, -1.0]], dtype=torch.float64)
    shares = torch.tensor([2.0, 1.0, 1.0])
    owners = torch.tensor([0, 0, 1, 2]).repeat(16)[torch.randperm(64, generator=torch.Generator().manual_seed(1))]
    image = colours[owners].T.view(1, 3, 8, 8)
    assert Palette(colours, shares)(image).abs() < 1e-20
    assert Palette(colours)(image) < -1e-3  # equal shares are another palette
    with torch.no_grad():
        _, gradient = value_and_grad(Palette(colours, shares), pictures())
    assert Palette(colours, shares)(pictures() + 0.5 * gradient).gt(Palette(colours, shares)(pictures())).all()


def test_two_colours_are_a_third_of_their_squared_distance_apart():
    """A direction spread evenly over the sphere sees one third of a squared length."""
    one, other = torch.tensor([[0.2, 0.4, -0.6]]), torch.tensor([0.5, -0.5, 0.1])
    image = other.view(1, 3, 1, 1).expand(1, 3, 4, 4)
    assert float(Palette(one, directions=4000)(image)) == pytest.approx(
        -float((one - other).square().sum()) / 3, rel=1e-3
    )
    torch.testing.assert_close(_spread(500).norm(dim=1), torch.ones(500, dtype=torch.float64))


def test_a_region_is_judged_alone():
    mask = torch.zeros(8, 8)
    mask[2:5, 3:7] = 1
    mask[2, 3] = 0
    seen = []

    def reward(image):
        seen.append(image)
        return image.sum((1, 2, 3))

    image = pictures()
    total = Region(mask, reward)(image)
    assert seen[0].shape == (2, 3, 3, 4)
    assert (seen[0][..., 0, 0] == 0).all()
    torch.testing.assert_close(total, (mask * image).sum((1, 2, 3)))
    _, gradient = value_and_grad(Region(mask, reward), image)
    assert torch.equal(gradient, mask.expand_as(image).to(image))  # nothing outside is moved


def test_a_sum_weighs_its_parts():
    bright, red = (lambda image: image.mean((1, 2, 3))), (lambda image: image[:, 0].mean((1, 2)))
    both = Combined([(2.0, bright), (-0.5, red)])(pictures())
    torch.testing.assert_close(both, 2 * bright(pictures()) - 0.5 * red(pictures()))
    assert set(each({"bright": bright, "red": red}, pictures())) == {"bright", "red"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Palette(torch.zeros(3)), r"colours \(k, 3\)"),
        (lambda: Palette(torch.full((2, 3), 2.0)), r"in \[-1, 1\]"),
        (lambda: Palette(torch.zeros(2, 3), torch.ones(3)), "2 shares"),
        (lambda: Palette(torch.zeros(2, 3))(torch.zeros(1, 1, 4, 4)), "3 channels"),
        (lambda: Region(torch.zeros(4, 4), len), "not empty"),
        (lambda: Region(torch.ones(4, 4), len)(torch.zeros(1, 3, 8, 8)), "4 x 4 as the mask"),
        (lambda: Combined([]), "at least one"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.fixture(scope="module", params=["clip", "dinov2"])
def folder(request, tmp_path_factory):
    """A tiny random model of the real class, saved."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    if request.param == "clip":
        model = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(intermediate_size=32, **small))
    else:
        model = transformers.Dinov2Model(transformers.Dinov2Config(mlp_ratio=2, **small))
    path = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(path)
    return path


def test_a_style_is_the_gram_matrix_of_the_third_block(folder):
    seen, style = vision(folder), pictures(1, 48).float()
    image = pictures(2, 40).float().flip(0)
    reward = Style(seen, style)

    def correlations(picture):
        states = seen.model(pixel_values=seen.seen(picture), output_hidden_states=True).hidden_states
        patches = states[3][:, 1:]
        return (
            sum(torch.einsum("bi,bj->bij", patches[:, k], patches[:, k]) for k in range(patches.shape[1]))
            / (patches.shape[1])
        )

    expected = -(correlations(image) - correlations(style)).square().sum((1, 2))
    torch.testing.assert_close(reward(image), expected)
    assert reward(style).abs() < 1e-9
    value, gradient = value_and_grad(reward, image)
    assert gradient.isfinite().all()
    assert (reward(image + 1e-3 * gradient / gradient.abs().max()) > value).all()
    with pytest.raises(ValueError, match="block of 0 to 4"):
        Style(seen, style, block=9)(image)


def test_pictures_are_shown_as_the_model_s_own_processor_would(folder):
    if "clip" not in folder.name:
        pytest.skip("DINOv2's processor crops, too")
    from PIL import Image
    from transformers import CLIPImageProcessor

    rough = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(3))
    smooth = torch.nn.functional.interpolate(rough, (48, 48), mode="bilinear")
    levels = (255 * smooth[0]).round().byte().permute(1, 2, 0)
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    theirs = processor(Image.fromarray(levels.numpy()), return_tensors="pt")["pixel_values"]
    ours = vision(folder).seen(levels.permute(2, 0, 1)[None] / 127.5 - 1)
    torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0)  # theirs is rounded to levels when resized


def test_a_model_that_is_not_there_is_one_sentence(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match="cannot load"):
        vision(tmp_path / "nothing")
