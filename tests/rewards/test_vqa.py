"""A vision-language model's answer as a reward, beside its logits."""

from dataclasses import replace

import pytest
import torch

from flowhelm.grad import value_and_grad
from flowhelm.rewards import chunked, differentiable, vqa_score
from flowhelm.rewards.vqa import _differentiable

transformers = pytest.importorskip("transformers")


@torch.no_grad()
def by_hand(folder, image, question, answer, shown="<image>"):
    """log p of each token of an answer, one after the other."""
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    ids = processor.tokenizer(answer, add_special_tokens=False)["input_ids"]
    text = f"<s> user : {shown} {question} assistant :"
    pixels = [(each + 1) / 2 for each in image]
    given = processor(text=[text], images=pixels, do_rescale=False, add_special_tokens=False, return_tensors="pt")
    patches = int((given["input_ids"] == model.config.image_token_id).sum())
    assert patches == (16 if shown == "<image>" else 2 * 3)
    total = 0.0
    for each in ids:
        total += float(model(**given).logits[0, -1].double().log_softmax(0)[each])
        given["input_ids"] = torch.cat([given["input_ids"], torch.tensor([[each]])], dim=1)
        given["attention_mask"] = torch.ones_like(given["input_ids"])
        if "mm_token_type_ids" in given:
            given["mm_token_type_ids"] = torch.nn.functional.pad(given["mm_token_type_ids"], (0, 1))
    return total


def test_the_score_is_the_log_probability_of_every_token_of_the_answer(llava_folder, pictures):
    image = pictures(3, 32, 40)
    questions, answers = (
        ["how many cups are there ?", "does this show a cat ?", "how many dog ?"],
        ["two", "yes", "two red"],
    )
    reward = vqa_score(llava_folder, questions, answers)
    expected = [by_hand(llava_folder, image[i : i + 1], questions[i], answers[i]) for i in range(3)]
    torch.testing.assert_close(reward(image), torch.tensor(expected), atol=1e-4, rtol=1e-4)
    assert len({round(each, 2) for each in expected}) == 3
    assert max(expected) < 0


def test_a_family_that_shows_patches_and_kinds_of_tokens(qwen_folder, pictures):
    image = pictures(4, 60, 90)
    questions, answers = ["how many cups are there ?", "does this show a cat ?"], ["two red", "yes"]
    reward = vqa_score(qwen_folder, questions, answers)
    shown = "<|vision_start|><|image_pad|><|vision_end|>"
    expected = [by_hand(qwen_folder, image[i : i + 1], questions[i // 2], answers[i // 2], shown) for i in range(4)]
    torch.testing.assert_close(reward(image).detach(), torch.tensor(expected), atol=1e-4, rtol=1e-4)
    _, gradient = value_and_grad(reward, image)
    size = gradient.flatten(1).norm(dim=1)
    step = 0.01 * gradient / size.view(-1, 1, 1, 1)
    torch.testing.assert_close((reward(image + step) - reward(image - step)) / 0.02, size, rtol=0.05, atol=1e-3)


def test_rows_of_one_question_are_a_batch_and_each_as_if_alone(llava_folder, pictures):
    image = pictures(4)
    reward = vqa_score(llava_folder, ["how many cups ?", "does this show a red cat ?"], "yes")
    alone = [vqa_score(llava_folder, each, "yes") for each in ("how many cups ?", "does this show a red cat ?")]
    expected = torch.cat([alone[i // 2](image[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(reward(image), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(chunked(reward, 3)(image), expected, atol=1e-5, rtol=1e-5)
    index = torch.tensor([3, 0, 1, 2])  # the order of rows is kept where questions alternate
    torch.testing.assert_close(reward.rows(index, 4)(image[index]), expected[index], atol=1e-5, rtol=1e-5)


def test_it_is_differentiable_through_a_processor_that_is(llava_folder, pictures):
    reward, image = vqa_score(llava_folder, "how many cups ?", ["two", "three"]), pictures(2, 40, 48)
    assert differentiable(reward)
    value, gradient = value_and_grad(reward, image)
    assert gradient.isfinite().all()
    size = gradient.flatten(1).norm(dim=1)
    assert size.min() > 0
    step = 0.01 * gradient / size.view(-1, 1, 1, 1)
    assert (reward(image + step) > value).all()
    torch.testing.assert_close((reward(image + step) - reward(image - step)) / 0.02, size, rtol=0.05, atol=1e-4)


def test_with_a_processor_of_pillow_it_is_a_black_box_of_8_bits(llava_folder, pictures):
    processor = transformers.AutoProcessor.from_pretrained(llava_folder)
    side = {"height": 32, "width": 32}
    processor.image_processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=side)
    reward = vqa_score(llava_folder, "how many cups ?", "two")
    assert not _differentiable(processor)
    other = replace(reward, processor=processor, differentiable=_differentiable(processor))
    image = pictures(2)
    torch.testing.assert_close(other(image), reward(image), atol=1e-4, rtol=1e-4)
    assert torch.equal(other(image + 0.3 / 127.5), other(image))
    with pytest.raises(ValueError, match="none to give"):
        value_and_grad(other, image)


def test_mistakes(llava_folder, tmp_path):
    with pytest.raises(ValueError, match="expected a question or several"):
        vqa_score(llava_folder, [])
    with pytest.raises(ValueError, match="as many answers as questions"):
        vqa_score(llava_folder, ["how ?", "many ?"], ["a", "b", "c"])
    with pytest.raises(ValueError, match="at least one token"):
        vqa_score(llava_folder, "how ?", "")
    with pytest.raises(ValueError, match="3 channels"):
        vqa_score(llava_folder, "how ?")(torch.zeros(1, 1, 8, 8))
    bare = tmp_path / "bare"
    transformers.AutoModelForImageTextToText.from_pretrained(llava_folder).save_pretrained(bare)
    processor = transformers.AutoProcessor.from_pretrained(llava_folder)
    processor.chat_template = processor.tokenizer.chat_template = None
    processor.save_pretrained(bare)
    with pytest.raises(ValueError, match="chat template"):
        vqa_score(bare, "how ?")
