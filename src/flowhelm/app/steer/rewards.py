"""Rewards as they are typed: `2*brightness`, `clip:model=openai/clip-vit-large-patch14,prompt=a cat`, `mine.py:function`.

A builder below makes one; its keyword-only arguments are its options, `NAME:option=value,...`. What follows a comma and is no
option belongs to the text before it, so that a prompt may have commas.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from ... import rewards
from ...rewards import differentiable, rows_of
from ...rewards.classifier import read as read_classifier
from ...step import Reward
from ..errors import BadInput, nearest
from ..files import atomic as files
from ..files.pictures import read as read_picture
from ..models import opening as models
from ..models.doctor import module_of
from ..options.request import Plain
from ..options.signature import bind, options, pick, shown


class Told(NamedTuple):
    """What a reward may want to know: the text and the class of the pictures, the names of all classes, its device."""

    prompt: str | None = None
    label: str | None = None
    classes: Sequence[str] = ()
    device: str = "cpu"


class Term(NamedTuple):
    """One `--reward` or `--held-out`: `weight` times what `make` makes. `label` is how it was typed, without the weight."""

    weight: float
    label: str
    make: Callable[[Told], Reward]
    reads: Mapping[str, str]  # what it is made of beside its words: models, files

    @property
    def text(self) -> str:
        """To be read again, anywhere on this machine."""
        return self.label if self.weight == 1 else f"{self.weight!r}*{self.label}"


# --- builders ---


def brightness(told: Told) -> Reward:
    """Mean luminance, -1 to 1."""
    return rewards.brightness


def colourfulness(told: Told) -> Reward:
    """Of Hasler & Süsstrunk: 0 for grey, 33 moderately, 109 extremely."""
    return rewards.colourfulness


def compressibility(told: Told, *, quality: int = 95) -> Reward:
    """Minus kB as JPEG.

    Options:
        quality: of the JPEG, 1 to 95.
    """
    return rewards.Compressibility(quality)


def palette(told: Told, *, colours: str | None = None, directions: int = 24) -> Reward:
    """Nearness of the colours to those of a palette, at most 0.

    Options:
        colours: RRGGBB joined by +, `1d3557+e63946+f1faee`.
        directions: of projection.
    """
    words = [] if colours is None else colours.replace("#", "").split("+")
    if not words or not all(re.fullmatch(r"[0-9a-fA-F]{6}", word) for word in words):
        raise BadInput(f"palette: expected colours=RRGGBB+RRGGBB+..., such as colours=1d3557+e63946, got {colours!r}")
    levels = torch.tensor([list(bytes.fromhex(word)) for word in words])
    return rewards.Palette(levels / 127.5 - 1, directions=directions)


def clip(told: Told, *, model: str | None = None, prompt: str | None = None) -> Reward:
    """CLIP score: cosine of picture and text.

    Options:
        model: hub name or folder.
        prompt: None for that of the pictures.
    """
    return Coloured(rewards.clip_score(_model("clip", model), _text("clip", prompt, told), device=told.device))


def pickscore(
    told: Told, *, model: str | None = None, prompt: str | None = None, processor: str | None = None
) -> Reward:
    """PickScore.

    Options:
        model: hub name or folder.
        prompt: None for that of the pictures.
        processor: where the tokenizer and the picture processor are, if not beside the model.
    """
    name, text = _model("pickscore", model), _text("pickscore", prompt, told)
    return Coloured(rewards.pick_score(name, text, processor=processor, device=told.device))


def hps(told: Told, *, model: str | None = None, prompt: str | None = None) -> Reward:
    """Human Preference Score v2.

    Options:
        model: folder that scripts/convert_reward.py made.
        prompt: None for that of the pictures.
    """
    return Coloured(rewards.hps_score(_model("hps", model), _text("hps", prompt, told), device=told.device))


def image_reward(told: Told, *, model: str | None = None, prompt: str | None = None) -> Reward:
    """ImageReward.

    Options:
        model: folder that scripts/convert_reward.py made.
        prompt: None for that of the pictures.
    """
    name, text = _model("image_reward", model), _text("image_reward", prompt, told)
    return Coloured(rewards.image_reward(name, text, device=told.device))


def aesthetic(told: Told, *, model: str | None = None, head: str | None = None) -> Reward:
    """LAION's aesthetic score, 1 to 10.

    Options:
        model: a CLIP, hub name or folder.
        head: .safetensors file that scripts/convert_reward.py made.
    """
    name = _model("aesthetic", model)
    if head is None:
        raise BadInput(
            "aesthetic: expected head=FILE.safetensors, which scripts/convert_reward.py makes, beside the model"
        )
    return Coloured(rewards.aesthetic(name, head, device=told.device))


def vqa(told: Told, *, model: str | None = None, question: str | None = None, answer: str = "Yes") -> Reward:
    """Log-probability of an answer by a vision-language model.

    Options:
        model: hub name or folder.
        question: None asks whether the picture shows the prompt.
        answer: how it should begin.
    """
    from ...rewards.vqa import SHOWS

    name = _model("vqa", model)
    asked = SHOWS.format(_text("vqa", None, told)) if question is None else question
    return Coloured(rewards.vqa_score(name, asked, answer, device=told.device))


def style(told: Told, *, model: str | None = None, picture: Path | None = None, block: int = 3) -> Reward:
    """Nearness to the style of a picture, at most 0.

    Options:
        model: CLIP, DINOv2 or ViT, hub name or folder.
        picture: whose style.
        block: of the model.
    """
    name = _model("style", model)
    if picture is None:
        raise BadInput("style: expected picture=FILE, whose style is wanted, beside the model")
    seen = read_picture(picture).pixels.to(told.device)
    return Coloured(rewards.Style(rewards.vision(name, device=told.device), seen, block))


def classifier(told: Told, *, weights: Path | None = None, label: str | None = None) -> Reward:
    """Log-probability of a class by a network that `python -m flowhelm.bench.quality.classifier` has trained.

    Options:
        weights: its .safetensors file.
        label: name or number of the class; None for that of the pictures.
    """
    if weights is None:
        raise BadInput(
            "classifier: expected weights=FILE.safetensors, which python -m flowhelm.bench.quality.classifier makes"
        )
    net, wanted = read_classifier(weights), label or told.label
    if wanted is None:
        raise BadInput("classifier: expected label=NAME, or a --class of the pictures")
    table = {name.lower(): i for i, name in enumerate(told.classes)} | {str(i): i for i in range(net.head.out_features)}
    if wanted.lower() not in table:
        raise BadInput(f"classifier: there is no label {wanted!r}; {nearest(wanted.lower(), table)}")
    return rewards.classified(net.to(told.device), table[wanted.lower()])


BUILDERS: tuple[Callable[..., Reward], ...] = (
    brightness, colourfulness, compressibility, palette, clip, pickscore, hps, image_reward, aesthetic, vqa, style, classifier,
)  # fmt: skip


# --- words ---


def term(text: str, flag: str = "reward") -> Term:
    """Reads `[WEIGHT*]NAME[:option=value,...]`, `[WEIGHT*]FILE.safetensors[:label=...]` or `[WEIGHT*]FILE.py:FUNCTION`.

    Raises:
        BadInput: one sentence. Nothing is loaded yet.
    """
    number, star, rest = text.partition("*")
    if not star or ":" in number:  # a text may have stars, too
        number, rest = ("-1", text[1:]) if text.startswith("-") else ("1", text)
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    rest = rest.strip()
    if not math.isfinite(weight) or not weight or not rest:
        raise BadInput(
            f"--{flag}: expected WEIGHT*NAME with a weight that is not 0, such as 2*brightness, got {text!r}"
        )
    if found := re.fullmatch(r"(.+\.py):(\w+)", rest):
        return _own(weight, Path(found[1]), found[2], flag)
    if found := re.match(r"(?!\w+:\w+=)(.+?\.safetensors)(?::|$)", rest):
        rest = f"classifier:weights={found[1]},{rest[found.end() :]}"
    if re.search(r"\.py$", rest):
        raise BadInput(f"--{flag}: expected FILE.py:FUNCTION, got {rest!r}; name the function in it")
    name, _, tail = rest.partition(":")
    builder = pick(flag.replace("-", " "), name, BUILDERS)
    given = _given(builder, tail)
    values = bind(builder, given)
    named = {key: str(value) for key, value in values.items() if isinstance(value, Path) or key in _MODELS}
    reads = {key: str(Path(path).absolute()) if Path(path).exists() else path for key, path in named.items()}
    values |= reads
    for key, option in options(builder).items():
        if Path in option.types and key in values:
            values[key] = Path(values[key])
            if not values[key].is_file():
                raise BadInput(f"--{flag}: {name}: {str(values[key])!r} does not exist; check the path")
    label = name + ":" * bool(values) + ",".join(f"{key}={shown(value)}" for key, value in values.items())
    return Term(weight, label, partial(builder, **values), {f"{name} {key}": path for key, path in reads.items()})


def summed(parts: Sequence[tuple[float, Reward]]) -> Reward:
    """The weighted sum."""
    return parts[0][1] if len(parts) == 1 and parts[0][0] == 1 else rewards.Combined(parts)


def fingerprints(terms: Sequence[Term]) -> dict[str, str]:
    """Of the files and models that they are made of."""
    found = {}
    for what, path in {what: path for each in terms for what, path in each.reads.items()}.items():
        if Path(path).is_file():
            found[f"{what} sha256"] = files.sha256(Path(path))
        elif Path(path).is_dir():
            found[f"{what} fingerprint"] = models.fingerprint(path)
        else:
            found[what] = path  # of the hub, by name
    return found


_MODELS = ("model", "head", "processor")
"""Options that name what is loaded."""


def _given(builder: Callable[..., Any], tail: str) -> dict[str, Plain]:
    known, found = options(builder), dict[str, str]()
    last, who = "", builder.__name__
    for piece in tail.split(",") if tail else []:
        head, equals, value = piece.partition("=")
        key, text = head.strip(), bool(last) and str in known[last].types and last not in _MODELS
        if equals and key in known:
            if key in found:
                raise BadInput(f"{who}: {key} is given twice; give it once")
            last, found[key] = key, value.strip()
        elif text and not (equals and difflib.get_close_matches(key, known, 1, 0.75)):
            found[last] += f",{piece}"
        elif piece.strip():
            raise BadInput(f"{who} has no option {key!r}; {nearest(key, known)}")
    return dict(found)


def _own(weight: float, path: Path, name: str, flag: str) -> Term:
    if not path.is_file():
        raise BadInput(f"--{flag}: {str(path)!r} does not exist; check the path")
    label = f"{path.absolute()}:{name}"

    def make(told: Told) -> Reward:
        try:
            function = getattr(module_of(str(path.absolute())), name)
        except Exception as error:  # a stranger's code raises anything
            raise BadInput(
                f"--{flag} {path.name}:{name} cannot be had ({type(error).__name__}: {_first(error)})"
            ) from error
        if not callable(function):
            raise BadInput(f"--{flag} {path.name}:{name} is no function")
        return Own(function, f"{path.name}:{name}")

    return Term(weight, label, make, {path.name: str(path.absolute())})


def _model(who: str, model: str | None) -> str:
    if model is None:
        raise BadInput(f"{who}: expected a model, a folder or a name of the hub, got none; write {who}:model=...")
    return model


def _text(who: str, prompt: str | None, told: Told) -> str:
    text = prompt or told.prompt or told.label
    if not text:
        raise BadInput(f"{who}: expected a text, got none; give --prompt, or write {who}:prompt=...")
    return text


def _first(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# --- edits ---


@dataclass(frozen=True, eq=False)
class Own:
    """A function of the user's: `(b, c, h, w)` in [-1, 1] -> `(b,)`."""

    function: Callable[[Tensor], Tensor]
    name: str

    @property
    def differentiable(self) -> bool:
        return differentiable(self.function)

    def __call__(self, image: Tensor) -> Tensor:
        try:
            score = self.function(image)
        except Exception as error:
            raise BadInput(f"{self.name} fails ({type(error).__name__}: {_first(error)})") from error
        if not isinstance(score, Tensor) or score.shape != image.shape[:1]:
            got = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise BadInput(f"{self.name}: expected a tensor of one number per picture, ({len(image)},), got {got}")
        return score


@dataclass(frozen=True, eq=False)
class Coloured:
    """A reward of pictures with three channels, given grey ones too."""

    reward: Reward

    @property
    def differentiable(self) -> bool:
        return differentiable(self.reward)

    def __call__(self, image: Tensor) -> Tensor:
        return self.reward(image.expand(-1, 3, -1, -1) if image.shape[1] == 1 else image)

    def rows(self, index: Tensor, total: int) -> Self:
        return type(self)(rows_of(self.reward, index, total))


@dataclass(frozen=True, eq=False)
class Saved:
    """A reward of what a file would hold: clamped to [-1, 1]. Under gradient it is not: outside, a gradient would end."""

    reward: Reward
    seen: Callable[[Tensor, Tensor], object] | None = None  # told every batch with its scores

    @property
    def differentiable(self) -> bool:
        return differentiable(self.reward)

    def __call__(self, image: Tensor) -> Tensor:
        score = self.reward(image if image.requires_grad else image.clamp(-1, 1))
        if self.seen is not None:
            self.seen(image, score)
        return score

    def rows(self, index: Tensor, total: int) -> Self:
        return type(self)(rows_of(self.reward, index, total), self.seen)
