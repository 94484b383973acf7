"""Rewards without a text: pixels, JPEG, classifiers, the aesthetic head; and what wraps any reward."""

import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from encoded import encoded
from safetensors.torch import save_file

from flowhelm.grad import value_and_grad
from flowhelm.rewards import (
    Combined,
    Compressibility,
    Region,
    Remote,
    Report,
    aesthetic,
    brightness,
    chunked,
    classified,
    colourfulness,
    counted,
    differentiable,
    on,
    remote,
)
from flowhelm.rewards.remote import Scorer
from flowhelm.step import Step, run


def test_brightness_is_the_luminance_of_a_grey_picture():
    grey = torch.tensor([-0.3, 0.8]).view(2, 1, 1, 1).expand(2, 3, 4, 5)
    torch.testing.assert_close(brightness(grey), torch.tensor([-0.3, 0.8]))
    torch.testing.assert_close(brightness(grey[:, :1]), torch.tensor([-0.3, 0.8]))
    green = torch.tensor([-1.0, 1.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    assert float(brightness(green)) == pytest.approx(2 * 0.587 - 1)


def test_colourfulness_is_that_of_its_paper(pictures):
    image = pictures(3, 24, 20).double()
    levels = (image + 1) * 127.5
    rg, yb = levels[:, 0] - levels[:, 1], (levels[:, 0] + levels[:, 1]) / 2 - levels[:, 2]
    spread = (rg.flatten(1).var(1, unbiased=False) + yb.flatten(1).var(1, unbiased=False)).sqrt()
    mean = (rg.mean((1, 2)) ** 2 + yb.mean((1, 2)) ** 2).sqrt()
    torch.testing.assert_close(colourfulness(image), spread + 0.3 * mean)
    value, gradient = value_and_grad(colourfulness, image)
    assert (colourfulness(image + 0.01 * gradient) > value).all()
    grey = torch.zeros(1, 3, 8, 8, dtype=torch.float64)
    value, gradient = value_and_grad(colourfulness, grey)
    assert value == 0
    assert gradient.isfinite().all()


def test_compressibility_is_minus_the_size_of_the_file(pictures):

    image = torch.cat(
        [pictures(1, 40, 56), torch.rand(1, 3, 40, 56, generator=torch.Generator().manual_seed(1)) * 2 - 1]
    )
    scores = Compressibility(80)(image)
    for row in range(2):
        levels = ((image[row] + 1) * 127.5).round().byte().permute(1, 2, 0)
        assert float(scores[row]) == pytest.approx(-len(encoded(levels.numpy(), "JPEG", quality=80)) / 1000)
    assert scores[0] > scores[1]  # noise is larger
    assert Compressibility()(image)[1] < scores[1]
    assert torch.equal(Compressibility(80)(3 * image), Compressibility(80)((3 * image).clamp(-1, 1)))
    assert Compressibility()(image[:, :1]).shape == (2,)


def test_a_black_box_says_that_it_has_no_gradient(pictures):
    """0 would be taken for a constant, and a method would go on unsteered."""
    jpeg = Compressibility()
    with pytest.raises(ValueError, match="none to give"):
        value_and_grad(jpeg, pictures())
    with pytest.raises(ValueError, match="none to give"), torch.no_grad():
        value_and_grad(Combined([(1.0, brightness), (0.1, jpeg)]), pictures())
    with torch.no_grad():
        assert jpeg(pictures().requires_grad_()).shape == (2,)
    mask = torch.ones(32, 32)
    kinds = [jpeg, Combined([(1.0, brightness), (1.0, jpeg)]), chunked(jpeg, 2), on(jpeg, "cpu"), counted(jpeg)]
    assert not any(differentiable(each) for each in [*kinds, Region(mask, jpeg)])
    assert all(differentiable(each) for each in (brightness, Combined([(1.0, brightness)]), chunked(brightness, 2)))


def small_net(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 4)).eval()


def test_a_classifier_gives_the_log_probability_of_its_label(pictures):
    net, image = small_net(), pictures(4)
    reward = classified(net, [2, 0], mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.4])
    seen = (image + 1) / 2
    for channel, (mean, std) in enumerate(zip((0.4, 0.5, 0.6), (0.2, 0.3, 0.4), strict=True)):
        seen[:, channel] = (seen[:, channel] - mean) / std
    log_p = net(seen).log_softmax(1).detach()
    torch.testing.assert_close(reward(image).detach(), log_p[torch.arange(4), torch.tensor([2, 2, 0, 0])])
    torch.testing.assert_close(classified(net, 1)(image), net(image).log_softmax(1)[:, 1])
    torch.testing.assert_close(chunked(reward, 3)(image), reward(image))
    value, gradient = value_and_grad(reward, image)
    assert (reward(image + 0.01 * gradient) > value).all()


def test_chunks_are_of_the_size_and_their_gradient_is_the_same(pictures):
    seen = []

    def reward(image):
        seen.append(len(image))
        return image.square().mean((1, 2, 3)).exp()

    image = pictures(5)
    torch.testing.assert_close(chunked(reward, 2)(image), reward(image))
    assert seen == [2, 2, 1, 5]
    torch.testing.assert_close(value_and_grad(chunked(reward, 2), image), value_and_grad(reward, image))
    nested = counted(reward)
    chunked(nested, 2)(image)
    assert (nested.count.calls, nested.count.pictures, nested.count.backward) == (3, 5, 0)
    value_and_grad(nested, image)
    assert (nested.count.calls, nested.count.pictures, nested.count.backward) == (4, 10, 1)


def test_on_another_device_the_picture_goes_there_and_the_gradient_comes_back(pictures):
    image = pictures()
    value, gradient = value_and_grad(on(lambda image: image.mean((1, 2, 3)), "cpu"), image)
    torch.testing.assert_close(gradient, torch.full_like(image, 1 / image[0].numel()))
    there = on(lambda image: torch.full((len(image),), float(image.device.type == "meta")), "meta")
    assert torch.equal(there(image), torch.ones(2))
    with pytest.raises(NotImplementedError, match="meta"):  # a score is fetched, which that device cannot do
        on(lambda image: image.mean((1, 2, 3)), "meta")(image)
    if torch.cuda.is_available():
        torch.testing.assert_close(value_and_grad(on(lambda x: x.mean((1, 2, 3)), "cuda"), image), (value, gradient))


def test_a_report_scores_the_estimates_of_a_run(pictures):
    clean = pictures(2)

    def steps():
        for i in range(1, 6):
            yield Step(i, 5, torch.tensor(i / 5, dtype=torch.float64), clean, clean * i / 5, {})

    report = Report({"bright": brightness, "jpeg": Compressibility()}, decode=lambda z: z / 2, every=2)
    run(steps(), report)
    assert [line["index"] for line in report.lines] == [2, 4, 5]
    assert report.lines[1]["t"] == pytest.approx(0.8)
    torch.testing.assert_close(report.lines[-1]["bright"], brightness(clean / 2))
    line = report.add(clean.requires_grad_(), 7)  # from a loop with gradients, a black box, too
    assert line["jpeg"].shape == (2,)
    assert not line["bright"].requires_grad


class Actors:
    """What is used of Ray, in this process: handles whose methods have `remote`, and `get`."""

    def __init__(self, started=True):
        self.started = started

    def is_initialized(self):
        return self.started

    def get(self, value):
        return value

    def remote(self, kind):
        def make(*args):
            one = kind(*args)
            return SimpleNamespace(score=SimpleNamespace(remote=one.score))

        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=make))


def labelled():
    return classified(small_net(), [2, 0])


def test_a_remote_reward_is_asked_of_its_rows(monkeypatch, pictures):
    monkeypatch.setitem(sys.modules, "ray", Actors())
    image, there = pictures(4), remote(labelled)
    here = labelled()(image).detach()
    torch.testing.assert_close(there(image), here)
    torch.testing.assert_close(chunked(there, 3)(image), here)
    twice = there.rows(torch.tensor([3, 1, 0]), 4).rows(torch.tensor([2, 0]), 3)
    torch.testing.assert_close(twice(image[[0, 3]]), here[[0, 3]])
    assert not differentiable(there)
    with pytest.raises(ValueError, match="remote: expected a picture without gradient"):
        value_and_grad(there, image)
    monkeypatch.setitem(sys.modules, "ray", Actors(started=False))
    with pytest.raises(ValueError, match=r"ray\.init"):
        remote(labelled)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match="not installed"):
        remote(labelled)


@pytest.mark.slow
def test_a_reward_in_a_process_of_ray(pictures):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=1, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    try:
        there = remote(partial(Compressibility, 60))
        assert isinstance(there, Remote)
        torch.testing.assert_close(there(pictures(3)), Compressibility(60)(pictures(3)))
    finally:
        ray.shutdown()


def test_the_scorer_is_without_gradient(pictures):
    score = Scorer(lambda: brightness).score(pictures().numpy(), None, 0)
    torch.testing.assert_close(torch.from_numpy(score), brightness(pictures()))


@pytest.mark.parametrize("layers", [((7, 3, 1), (0, 2, 10)), ((1,), (0,))])
def test_the_aesthetic_score_is_an_affine_head_on_unit_vectors(clip_folder, tmp_path, pictures, random_head, layers):
    transformers = pytest.importorskip("transformers")
    weights = random_head(12, *layers)
    save_file(weights, tmp_path / "head.safetensors")
    model = transformers.CLIPModel.from_pretrained(clip_folder).eval()
    processor = transformers.CLIPImageProcessor.from_pretrained(clip_folder)
    image = pictures(2, 40, 48)
    pixels = processor(list((image + 1) / 2), do_rescale=False, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        x = model.get_image_features(pixel_values=pixels).pooler_output
    x = x / x.norm(dim=1, keepdim=True)
    for number in layers[1]:
        x = x @ weights[f"layers.{number}.weight"].T + weights[f"layers.{number}.bias"]
    for head in (tmp_path / "head.safetensors", tmp_path):
        reward = aesthetic(clip_folder, head)
        torch.testing.assert_close(reward(image), x[:, 0], atol=1e-4, rtol=1e-4)
    value, gradient = value_and_grad(reward, image)
    assert (reward(image + 0.01 * gradient / gradient.abs().max()) > value).all()


def test_a_head_that_does_not_fit_is_told(clip_folder, tmp_path, random_head):
    pytest.importorskip("transformers")
    good = random_head(12, (7, 1), (0, 2))
    for name, weights in {
        "width": random_head(16, (7, 1), (0, 2)),
        "two": random_head(12, (7, 2), (0, 2)),
        "gap": {**good, "layers.2.weight": torch.zeros(1, 5)},
        "half": {key: value for key, value in good.items() if key != "layers.0.bias"},
        "none": {"something": torch.zeros(3)},
    }.items():
        save_file(weights, tmp_path / f"{name}.safetensors")
        with pytest.raises(ValueError, match="expected linear layers with biases from 12 to 1"):
            aesthetic(clip_folder, tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match=r"is a pickle, .* scripts/convert_reward.py"):
        aesthetic(clip_folder, tmp_path / "head.pth")
    torch.save(good, tmp_path / "fake.safetensors")
    with pytest.raises(ValueError, match="cannot read"):
        aesthetic(clip_folder, tmp_path / "fake.safetensors")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Compressibility(100), "quality of 1 to 95"),
        (lambda: Compressibility()(torch.zeros(1, 4, 8, 8)), "1 or 3 channels"),
        (lambda: colourfulness(torch.zeros(1, 1, 8, 8)), "3 channels"),
        (lambda: brightness(torch.zeros(1, 2, 8, 8)), "3 channels"),
        (lambda: classified(torch.nn.Linear(2, 2), 0), r"net.eval\(\)"),
        (lambda: classified(small_net(), []), "a label of at least 0"),
        (lambda: classified(small_net(), -1), "a label of at least 0"),
        (lambda: classified(small_net(), 4)(torch.zeros(1, 3, 32, 32)), "more than 4 classes"),
        (lambda: classified(small_net(), [0, 1])(torch.zeros(3, 3, 32, 32)), "multiple of the 2"),
        (lambda: chunked(brightness, 0), "at least 1"),
        (lambda: Report({}, every=0), "every >= 1"),
        (lambda: Report({"t": brightness}), "not called index or t"),
    ],
)
def test_mistakes_are_one_sentence(make, message):
    with pytest.raises(ValueError, match=message):
        make()
