"""Prompts of scenes under a climate, and scenes as they would look: bins, what is forgotten, what rain and cold do."""

import pytest
import torch

from flowhelm.recipes.ecomapper import (
    COVERS,
    GROWN,
    PRECIPITATIONS,
    TEMPERATURES,
    WORDS,
    Scene,
    binned,
    greenness,
    masked,
    middle,
    prompt,
    rendered,
    told,
)

WHOLE = Scene("forest", "Utah, United States", 6, 2021, 0.6, 12.34, 3.0, 18.0)


def test_a_prompt_says_what_is_known():
    first, second = prompt(WHOLE)
    assert first == "a cloudy satellite image of forest in Utah, United States in June 2021"
    assert second == f"{first}. mean temperature 12.3 C, precipitation 3 mm a day, solar radiation 18 W/m2"
    assert prompt(WHOLE, binned=True)[1].endswith(
        "mean temperature 10 to 20 C, precipitation 1 to 5 mm a day, solar radiation 15 to 20 W/m2"
    )
    assert prompt(Scene(temperature=-12, precipitation=80), binned=True)[1].endswith(
        "below -10 C, precipitation above 75 mm a day"
    )
    assert prompt(Scene()) == ("a satellite image",) * 2
    assert prompt(Scene(cover="field", year=2020))[0] == "a satellite image of field in 2020"
    skies = [prompt(Scene(clouds=c))[0].removesuffix("satellite image") for c in (0.2, 0.4, 0.6, 0.9)]
    assert skies == ["a ", "a partially cloudy ", "a cloudy ", "a very cloudy "]


@pytest.mark.parametrize(
    "scene", [Scene(month=13), Scene(clouds=2.0), Scene(precipitation=-1.0), Scene(radiation=-2.0)]
)
def test_what_cannot_be_is_refused(scene):
    with pytest.raises(ValueError, match="prompt: expected"):
        prompt(scene)


def test_each_field_is_forgotten_with_its_own_probability():
    draws = torch.Generator().manual_seed(0)
    many = [masked(WHOLE, {"cover": 1.0, "place": 0.0, "month": 0.3}, draws) for _ in range(400)]
    assert all(scene.cover is None and scene.place == WHOLE.place for scene in many)
    share = sum(scene.month is None for scene in many) / 400
    assert abs(share - 0.3) < 4 * (0.21 / 400) ** 0.5
    with pytest.raises(ValueError, match="expected fields of cover"):
        masked(WHOLE, {"weather": 0.5}, draws)


@pytest.mark.parametrize("edges", [TEMPERATURES, PRECIPITATIONS], ids=["temperature", "precipitation"])
def test_the_middle_of_a_bin_is_in_it(edges):
    bins = torch.arange(len(edges) + 1)
    assert torch.equal(binned(middle(edges, bins), edges), bins)
    assert binned(torch.tensor([float(edges[0])]), edges) == 1  # an edge belongs to the bin above


def test_words_are_told_apart():
    words = told(torch.tensor([0, 6]), torch.tensor([-20.0, 35.0]), torch.tensor([0.0, 90.0]))
    assert [[WORDS[i - 1] for i in row] for row in words] == [
        ["grass", "temperature0", "precipitation0"], ["parking", "temperature5", "precipitation8"]
    ]  # fmt: skip
    assert len(set(WORDS)) == len(WORDS) == len(COVERS) + 6 + 9


@pytest.mark.parametrize("label", [-1, len(COVERS)])
def test_a_land_cover_that_there_is_not(label):
    with pytest.raises(ValueError, match=r"expected 0 to 6 \(grass, .* parking\), got"):
        told(torch.tensor([label]), torch.zeros(1), torch.zeros(1))


def test_rain_greens_what_grows_and_snow_brightens():
    torch.manual_seed(0)
    scene, warm = 0.6 * torch.rand(1, 3, 8, 8) - 0.5, lambda v: torch.full((9,), v)
    rain, scenes = middle(PRECIPITATIONS, torch.arange(9)), scene.expand(9, -1, -1, -1)
    slopes = {}
    for label in range(len(COVERS)):
        green = greenness(rendered(scenes, torch.full((9,), label), warm(15.0), rain))
        assert (green.diff() > 0).all()
        slopes[label] = float(green[-1] - green[0])
    assert max(slopes, key=slopes.get) in (0, 1)
    assert slopes[0] / slopes[5] == pytest.approx(float(GROWN[0] / GROWN[5]), rel=1e-2)  # linear in how much grows
    cold, hot = (rendered(scenes, torch.zeros(9, dtype=torch.int64), warm(t), rain).mean() for t in (-15.0, 25.0))
    assert cold > hot + 0.3
    light = rendered(scenes, torch.full((9,), 6), warm(40.0), rain).mean(1)
    structure = torch.corrcoef(torch.stack([light[4].flatten(), scene.mean(1).flatten()]))[0, 1]
    assert structure > 0.99  # the place stays
