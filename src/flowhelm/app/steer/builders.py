"""The rewards that have a name: a builder makes one, and its keyword-only arguments are its options, `NAME:option=value,...`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from ... import rewards
from ...rewards.classifier import read as read_classifier
from ...step import Reward
from ..errors import BadInput, nearest
from ..files.pictures import read as read_picture
from .scored import Coloured

MODELS = ("model", "head", "processor")
"""Options that name what is loaded."""


class Subject(NamedTuple):
    """What a reward may want to know of the pictures: their text and class, the names of all classes; and where it computes."""

    prompt: str | None = None
    label: str | None = None
    classes: Sequence[str] = ()
    device: str = "cpu"


def brightness(subject: Subject) -> Reward:
    """Mean luminance, -1 to 1."""
    return rewards.brightness


def colourfulness(subject: Subject) -> Reward:
    """Of Hasler & Süsstrunk: 0 for grey, 33 moderately, 109 extremely."""
    return rewards.colourfulness


def compressibility(subject: Subject, *, quality: int = 95) -> Reward:
    """Minus kB as JPEG.

    Options:
        quality: of the JPEG, 1 to 95.
    """
    return rewards.Compressibility(quality)


def palette(subject: Subject, *, colours: str, directions: int = 24) -> Reward:
    """Nearness of the colours to those of a palette, at most 0.

    Options:
        colours: RRGGBB joined by +, such as colours=1d3557+e63946.
        directions: of projection.
    """
    words = colours.replace("#", "").split("+")
    if not all(re.fullmatch(r"[0-9a-fA-F]{6}", word) for word in words):
        raise BadInput(f"palette: expected colours=RRGGBB+RRGGBB+..., such as colours=1d3557+e63946, got {colours!r}")
    levels = torch.tensor([list(bytes.fromhex(word)) for word in words])
    return rewards.Palette(levels / 127.5 - 1, directions=directions)


def clip(subject: Subject, *, model: str, prompt: str | None = None) -> Reward:
    """CLIP score: cosine of picture and text.

    Options:
        model: a folder or a name of the hub.
        prompt: None for that of the pictures.
    """
    return Coloured(rewards.clip_score(model, _text("clip", prompt, subject), device=subject.device))


def pickscore(subject: Subject, *, model: str, prompt: str | None = None, processor: str | None = None) -> Reward:
    """PickScore.

    Options:
        model: a folder or a name of the hub.
        prompt: None for that of the pictures.
        processor: where the tokenizer and the picture processor are, if not beside the model.
    """
    text = _text("pickscore", prompt, subject)
    return Coloured(rewards.pick_score(model, text, processor=processor, device=subject.device))


def hps(subject: Subject, *, model: str, prompt: str | None = None) -> Reward:
    """Human Preference Score v2.

    Options:
        model: folder that scripts/convert_reward.py made.
        prompt: None for that of the pictures.
    """
    return Coloured(rewards.hps_score(model, _text("hps", prompt, subject), device=subject.device))


def image_reward(subject: Subject, *, model: str, prompt: str | None = None) -> Reward:
    """ImageReward.

    Options:
        model: folder that scripts/convert_reward.py made.
        prompt: None for that of the pictures.
    """
    return Coloured(rewards.image_reward(model, _text("image_reward", prompt, subject), device=subject.device))


def aesthetic(subject: Subject, *, model: str, head: str) -> Reward:
    """LAION's aesthetic score, 1 to 10.

    Options:
        model: a CLIP, hub name or folder.
        head: .safetensors file that scripts/convert_reward.py made.
    """
    return Coloured(rewards.aesthetic(model, head, device=subject.device))


def vqa(subject: Subject, *, model: str, question: str | None = None, answer: str = "Yes") -> Reward:
    """Log-probability of an answer by a vision-language model.

    Options:
        model: a folder or a name of the hub.
        question: None asks whether the picture shows the prompt.
        answer: how it should begin.
    """
    from ...rewards.vqa import SHOWS

    asked = SHOWS.format(_text("vqa", None, subject)) if question is None else question
    return Coloured(rewards.vqa_score(model, asked, answer, device=subject.device))


def style(subject: Subject, *, model: str, picture: Path, block: int = 3) -> Reward:
    """Nearness to the style of a picture, at most 0.

    Options:
        model: CLIP, DINOv2 or ViT, hub name or folder.
        picture: whose style.
        block: of the model.
    """
    seen = read_picture(picture).pixels.to(subject.device)
    return Coloured(rewards.Style(rewards.vision(model, device=subject.device), seen, block))


def classifier(subject: Subject, *, weights: Path, label: str | None = None) -> Reward:
    """Log-probability of a class by a trained network.

    Options:
        weights: its .safetensors file, which python -m flowhelm.bench.quality.classifier makes.
        label: name or number of the class; None for that of the pictures.
    """
    net, wanted = read_classifier(weights), label or subject.label
    if wanted is None:
        raise BadInput("classifier: expected label=NAME, or a --class of the pictures")
    table = {name.lower(): i for i, name in enumerate(subject.classes)}
    table |= {str(i): i for i in range(net.head.out_features)}
    if wanted.lower() not in table:
        raise BadInput(f"classifier: there is no label {wanted!r}; {nearest(wanted.lower(), table)}")
    return rewards.classified(net.to(subject.device), table[wanted.lower()])


BUILDERS: tuple[Callable[..., Reward], ...] = (
    brightness, colourfulness, compressibility, palette, clip, pickscore, hps, image_reward, aesthetic, vqa, style, classifier,
)  # fmt: skip


def _text(who: str, prompt: str | None, subject: Subject) -> str:
    text = prompt or subject.prompt or subject.label
    if not text:
        raise BadInput(f"{who}: expected a text, got none; give --prompt, or write {who}:prompt=...")
    return text
