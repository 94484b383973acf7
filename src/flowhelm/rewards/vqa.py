"""What a vision-language model says of a picture: the log-probability of an answer (VQAScore, Lin et al. 2024, arXiv:2404.01291).

    score = sum_k log p(answer_k | picture, question, answer_<k)

VQAScore is exp(score) of "Yes" to `SHOWS`; the logarithm is what a reward is, and has a gradient far from a match.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from ..shapes import Image, PerSample
from .blackbox import levels, refuse_gradient
from .pretrained import companion, pretrained
from .rows import owners, texts

SHOWS = 'Does this figure show "{}"? Please answer yes or no.'
"""VQAScore's question: `SHOWS.format(prompt)`."""


@dataclass(frozen=True, eq=False)
class Asked:
    """log p(answer | picture, question), of pictures `(b, 3, h, w)`.

    Args:
        model: of AutoModelForImageTextToText.
        processor: its own, with a chat template.
        told: (question as the model reads it, answer) of the rows; a batch of k times as many has k pictures of each.
        differentiable: whether the processor's picture part is; if not, it is shown 8-bit pictures.
    """

    model: Any
    processor: Any
    told: Sequence[tuple[str, str]]
    differentiable: bool

    def __call__(self, image: Image) -> PerSample:
        if image.shape[1] != 3:
            raise ValueError(f"vqa_score: expected pictures of 3 channels, got {image.shape[1]}")
        if not self.differentiable:
            refuse_gradient("vqa_score", image)
        whose = owners("vqa_score", len(self.told), len(image)).tolist()
        groups: dict[tuple[str, str], list[int]] = {}
        for row, owner in enumerate(whose):
            groups.setdefault(self.told[owner], []).append(row)
        # rows of one text have one length: nothing is padded, and a row does not depend on its neighbours
        scores = [self._scores(image[rows], *asked) for asked, rows in groups.items()]
        order = torch.tensor([row for rows in groups.values() for row in rows]).argsort()
        return torch.cat(scores)[order.to(scores[0].device)].to(image.device)

    def _scores(self, image: Image, question: str, answer: str) -> PerSample:
        device = self.model.device
        pictures = [[picture] for picture in levels("vqa_score", image.detach()).permute(0, 3, 1, 2)]
        # a tokenizer would begin with the token that templates begin with, too
        start = self.processor.tokenizer.bos_token
        special = not (start and question.startswith(start))
        given = dict(
            self.processor(
                text=[question] * len(image), images=pictures, add_special_tokens=special, return_tensors="pt"
            )
        )
        if self.differentiable:
            shown = [[picture] for picture in (image.float() + 1) / 2]
            seen = self.processor.image_processor(images=shown, do_rescale=False, return_tensors="pt")
            given["pixel_values"] = seen["pixel_values"]
        given = {name: value.to(device) for name, value in given.items()}
        given["pixel_values"] = given["pixel_values"].to(self.model.dtype)
        said = self.processor.tokenizer(answer, add_special_tokens=False, return_tensors="pt")["input_ids"].to(device)
        said, length = said.expand(len(image), -1), said.shape[1]
        ids = given["input_ids"]
        for name, value in given.items():
            if name == "input_ids":
                given[name] = torch.cat([value, said], dim=1)
            elif value.shape == ids.shape:  # a mask, or what kind of token each is
                fill = torch.ones_like(said) if name == "attention_mask" else torch.zeros_like(said)
                given[name] = torch.cat([value, fill.to(value.dtype)], dim=1)
        if "logits_to_keep" in inspect.signature(self.model.forward).parameters:
            logits = self.model(**given, logits_to_keep=length + 1).logits
        else:
            logits = self.model(**given).logits
        log_p = torch.log_softmax(logits[:, -length - 1 : -1].float(), dim=-1)
        return log_p.gather(2, said[..., None]).sum((1, 2))

    def rows(self, index: Tensor, total: int) -> Self:
        """The same reward for some rows of a batch of `total`."""
        whose = owners("vqa_score", len(self.told), total)[index.cpu()]
        return replace(self, told=[self.told[i] for i in whose.tolist()])


def vqa_score(
    model: str | Path,
    questions: str | Sequence[str],
    answers: str | Sequence[str] = "Yes",
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Asked:
    """How likely a vision-language model is to give an answer, as a log-probability (at most 0).
    VQAScore, Lin et al. 2024, arXiv:2404.01291.

    Args:
        model: hub name or folder of an image-text-to-text model with a processor and a chat template, such as
            "Qwen/Qwen2.5-VL-7B-Instruct" or "HuggingFaceTB/SmolVLM-256M-Instruct".
        questions: one for all rows or one each: "How many cups are there?", or `SHOWS.format(prompt)`.
        answers: one for all or one each, as the model would begin; those that have no line break before their answer begin it
            with a blank (" Yes" for SmolVLM). What may follow is not scored: "1" is the beginning of "12", too.

    Differentiable (attribute `differentiable`) where the model's picture processor is: those of torchvision but not of Pillow.

    Raises:
        ValueError: no question, numbers of questions and answers that do not fit, an empty answer, no chat template, or a model that
            cannot be loaded.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    asked, said = texts("vqa_score", questions, "question"), texts("vqa_score", answers, "answer")
    if len(asked) != len(said) and 1 not in (len(asked), len(said)):
        raise ValueError(
            f"vqa_score: expected as many answers as questions, or one of either, got {len(asked)} and {len(said)}"
        )
    vlm = pretrained("vqa_score", AutoModelForImageTextToText, model, device=device, dtype=dtype)
    processor = companion("vqa_score", AutoProcessor, model)
    if not getattr(processor, "chat_template", None) or not hasattr(processor, "image_processor"):
        raise ValueError(f"vqa_score: expected a processor of pictures with a chat template, got none in '{model}'")
    if not all(processor.tokenizer(each, add_special_tokens=False)["input_ids"] for each in said):
        raise ValueError("vqa_score: expected answers of at least one token, got an empty one")
    count = max(len(asked), len(said))
    told = [
        (_prompt(processor, question), answer)
        for question, answer in zip(asked * (count // len(asked)), said * (count // len(said)), strict=True)
    ]
    return Asked(vlm, processor, told, _differentiable(processor))


def _prompt(processor: Any, question: str) -> str:
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
    return str(processor.apply_chat_template([turn], add_generation_prompt=True, tokenize=False))


def _differentiable(processor: Any) -> bool:
    """Tried out: processors are of two kinds, and some methods of resizing have no gradient."""
    probe = torch.full((3, 48, 64), 0.5, requires_grad=True)
    try:
        with torch.enable_grad():
            seen = processor.image_processor(images=[[probe]], do_rescale=False, return_tensors="pt")["pixel_values"]
    except (TypeError, ValueError, RuntimeError, AttributeError):
        return False
    return bool(seen.requires_grad)
