"""Rewards of a picture and a text, beside the model's own library on 8-bit pictures."""

import pytest
import torch

from flowhelm.grad import value_and_grad
from flowhelm.rewards import Combined, chunked, clip, clip_score, hps_score, image_reward, pick_score
from flowhelm.rewards.vision import Eye

transformers = pytest.importorskip("transformers")

PROMPTS = ["a red cat", "two cups on the table there"]


def eight_bit(image):
    from PIL import Image

    levels = ((image + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
    return [Image.fromarray(each.numpy()) for each in levels]


@torch.no_grad()
def theirs(folder, image, prompts, rounded):
    """What CLIPModel says, shown and told by its own processor: logits `(b, p)`, and exp(logit_scale)."""
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    processor = transformers.CLIPProcessor.from_pretrained(folder)
    images = eight_bit(image) if rounded else list((image + 1) / 2)
    given = processor(text=prompts, images=images, do_rescale=rounded, return_tensors="pt", padding=True)
    return model(**given).logits_per_image, float(model.logit_scale.exp())


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("size", [(32, 32), (48, 48), (40, 57), (51, 33)])
def test_clip_and_pick_scores_are_those_of_the_library(clip_folder, pictures, size, rounded):
    image = pictures(2, *size)
    logits, scale = theirs(clip_folder, image, PROMPTS, rounded)
    assert scale == pytest.approx(5.474, rel=1e-3)
    tolerance = 0.05 if rounded and size != (32, 32) else 1e-4  # theirs is rounded to levels again when resized
    assert (logits[0] - logits[1]).abs().max() > 0.05  # what is compared does vary
    torch.testing.assert_close(pick_score(clip_folder, PROMPTS)(image), logits.diagonal(), atol=tolerance, rtol=0)
    torch.testing.assert_close(
        clip_score(clip_folder, PROMPTS)(image), logits.diagonal() / scale, atol=tolerance, rtol=0
    )


def test_a_text_longer_than_the_model_is_cut_as_the_processor_cuts_it(clip_folder, pictures):
    longer = "a red cat and so on and on and on"
    assert torch.equal(
        clip_score(clip_folder, longer)(pictures()), clip_score(clip_folder, longer + " and on")(pictures())
    )


def test_hps_is_a_cosine_of_padded_pictures(clip_folder, pictures):
    image = pictures(2, 32, 20)
    padded = torch.nn.functional.pad(image, (6, 6), value=-1.0)
    logits, scale = theirs(clip_folder, padded, PROMPTS, True)
    ours = hps_score(clip_folder, PROMPTS)
    torch.testing.assert_close(ours(image), logits.diagonal() / scale, atol=1e-5, rtol=0)
    assert not torch.allclose(ours(image), clip_score(clip_folder, PROMPTS)(image), atol=1e-4)


def test_an_eye_of_each_fit_keeps_what_it_should():
    mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    image = torch.linspace(-1, 1, 48).expand(1, 3, 16, 48).contiguous()
    weight = torch.zeros(())
    crop, pad, stretch = (Eye(16, mean, std, fit)(image, weight) for fit in ("crop", "pad", "stretch"))
    assert crop.shape == pad.shape == stretch.shape == (1, 3, 16, 16)
    torch.testing.assert_close(crop, image[..., 16:32])
    assert (pad[..., :5, :] == -1).all()
    assert (pad[..., 10:, :] == -1).all()
    assert stretch[..., 0].max() < -0.9
    assert stretch[..., -1].min() > 0.9
    torch.testing.assert_close(Eye(16, mean, std)(-image.mT, weight), -crop.mT)


@pytest.fixture(params=["clip", "image_reward"])
def make(request, clip_folder, blip_folder):
    if request.param == "clip":
        return lambda prompts: pick_score(clip_folder, prompts)
    return lambda prompts: image_reward(blip_folder, prompts)


def test_ascent_raises_the_score_of_every_row(make, pictures):
    reward, image = make(PROMPTS), pictures(2, 40, 48)
    value, gradient = value_and_grad(reward, image)
    assert gradient.isfinite().all()
    assert gradient.flatten(1).norm(dim=1).min() > 0
    step = 0.01 * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert (reward(image + step) > value).all()
    along = (reward(image + step) - reward(image - step)) / 0.02
    torch.testing.assert_close(along, gradient.flatten(1).norm(dim=1), rtol=0.05, atol=1e-4)
    frozen = getattr(reward, "clip", reward).model
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert not frozen.training


def test_a_row_is_scored_as_if_alone_and_with_its_own_prompt(make, pictures):
    image = pictures(2, 32, 32)
    both = make(PROMPTS)(image)
    assert both.dtype == torch.float32
    for row, prompt in enumerate(PROMPTS):
        torch.testing.assert_close(make(prompt)(image[row : row + 1])[0], both[row], atol=1e-5, rtol=1e-5)
    assert (make(PROMPTS[::-1])(image) - both).abs().min() > 1e-4


def test_particles_of_a_prompt_are_next_to_one_another(make, pictures):
    image = pictures(6, 32, 32)
    reward = make(PROMPTS)
    expected = torch.cat([make(PROMPTS[0])(image[:3]), make(PROMPTS[1])(image[3:])])
    torch.testing.assert_close(reward(image), expected, atol=1e-5, rtol=1e-5)
    # and remain with their prompt in chunks, of a sum too
    whole = Combined([(2.0, reward), (1.0, lambda image: image.mean((1, 2, 3)))])
    torch.testing.assert_close(chunked(whole, 4)(image), whole(image), atol=1e-5, rtol=1e-5)
    index = torch.tensor([5, 0, 2])
    torch.testing.assert_close(reward.rows(index, 6)(image[index]), expected[index], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        reward.rows(torch.arange(2, 6), 6).rows(torch.tensor([3, 0]), 4)(image[[5, 2]]),
        expected[[5, 2]],
        atol=1e-5,
        rtol=1e-5,
    )
    with pytest.raises(ValueError, match="multiple of the 2 given prompts, got a batch of 3"):
        reward(image[:3])


def test_a_loaded_model_serves_several_rewards(clip_folder, pictures):
    loaded = clip(clip_folder)
    torch.testing.assert_close(clip_score(loaded, PROMPTS)(pictures()), clip_score(clip_folder, PROMPTS)(pictures()))
    assert pick_score(loaded, "a").clip.model is loaded.model


def test_image_reward_is_a_head_on_what_blip_says_of_both(blip_folder, pictures):
    from safetensors.torch import load_file

    image = pictures(2, 32, 32)
    model = transformers.BlipForImageTextRetrieval.from_pretrained(blip_folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(blip_folder)
    side = {"height": 32, "width": 32}
    pixels = transformers.BlipImageProcessor(size=side)(eight_bit(image), return_tensors="pt")["pixel_values"]
    told = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(
            input_ids=told["input_ids"], attention_mask=told["attention_mask"], pixel_values=pixels
        ).question_embeds[:, 0]
    w = load_file(blip_folder / "head.safetensors")
    hidden = states @ w["layers.0.weight"].T + w["layers.0.bias"]
    score = (hidden @ w["layers.2.weight"].T + w["layers.2.bias"])[:, 0]
    reward = image_reward(blip_folder, PROMPTS)
    assert reward.tokens.shape == (2, 35)
    torch.testing.assert_close(reward(image), (score - 0.16717362830052426) / 1.0333394966054072, atol=1e-4, rtol=1e-4)
    assert (score[0] - score[1]).abs() > 0.01


def test_mistakes(clip_folder, blip_folder, tmp_path, pictures):
    with pytest.raises(ValueError, match="clip_score: expected a prompt or several"):
        clip_score(clip_folder, [])
    with pytest.raises(ValueError, match="cannot load"):
        clip_score(tmp_path / "nothing", "a cat")
    with pytest.raises(ValueError, match="is a pickle"):
        image_reward(tmp_path / "ImageReward.pt", "a cat")
    with pytest.raises(ValueError, match="3 channels, got 1"):
        clip_score(clip_folder, "a cat")(torch.zeros(1, 1, 32, 32))
    model = transformers.CLIPModel.from_pretrained(clip_folder)
    model.save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match="no usable CLIPImageProcessor"):
        clip_score(tmp_path / "bare", "a cat")
    beside = pick_score(tmp_path / "bare", "a cat", processor=clip_folder)
    assert torch.equal(beside(pictures()), pick_score(clip_folder, "a cat")(pictures()))
    model.vision_model.save_pretrained(tmp_path / "half")
    with pytest.raises(ValueError, match=r"expected all weights of CLIPModel .* missing, such as"):
        clip_score(tmp_path / "half", "a cat")


def test_pickled_weights_are_not_read(clip_folder, tmp_path):
    model = transformers.CLIPModel.from_pretrained(clip_folder)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot load"):
        clip_score(tmp_path, "a cat")
