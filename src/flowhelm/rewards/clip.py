"""How well a picture fits a text: CLIP score, PickScore, HPSv2. One model of two encoders, three scales.

    clip_score   cos(picture, text)                        Hessel et al. 2021, arXiv:2104.08718 (who also scale by 2.5, cut at 0)
    pick_score   exp(logit_scale) cos(picture, text)       Kirstain et al. 2023, arXiv:2305.01569, eq. 1
    hps_score    cos(picture, text), padded pictures       Wu et al. 2023, arXiv:2306.09341

Texts are read once, when the reward is made. Cost of a call: the picture encoder, one row per row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor

from ..shapes import Image, PerSample
from .pretrained import companion, pretrained
from .rows import owners, texts
from .vision import Eye


@dataclass(frozen=True, eq=False)
class Clip:
    """A frozen CLIP: pictures and texts as unit vectors.

    Args:
        model: CLIPModel.
        tokenizer: its own.
        eye: how it sees pictures.
    """

    model: Any
    tokenizer: Any
    eye: Eye

    def pictures(self, image: Image) -> Tensor:
        """`(b, 3, h, w)` in [-1, 1] -> `(b, d)` float32 on the model's device; differentiable."""
        features = self.model.get_image_features(pixel_values=self.eye(image, self.model.logit_scale))
        return torch.nn.functional.normalize(features.pooler_output.float(), dim=-1)

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """`(p, d)` float32 on the model's device. What a text has beyond the model's length (77 tokens) is cut off."""
        length = self.model.config.text_config.max_position_embeddings
        read = self.tokenizer(list(prompts), padding=True, truncation=True, max_length=length, return_tensors="pt")
        features = self.model.get_text_features(**read.to(self.model.device))
        return torch.nn.functional.normalize(features.pooler_output.float(), dim=-1)


def clip(
    name: str | Path,
    *,
    processor: str | Path | None = None,
    fit: Literal["stretch", "crop", "pad"] = "crop",
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Clip:
    """A CLIPModel of transformers by its hub name or folder, to be shared by rewards of several prompts.

    Args:
        processor: where the tokenizer and the picture processor are, if not beside the model.
        fit: of pictures that are not square; the processor's own is "crop".

    Raises:
        ValueError: it cannot be loaded or is incomplete; only safetensors are read.
    """
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

    model = pretrained("clip", CLIPModel, name, device=device, dtype=dtype)
    beside = name if processor is None else processor
    shown = companion("clip", CLIPImageProcessor, beside)
    eye = Eye(int(model.config.vision_config.image_size), tuple(shown.image_mean), tuple(shown.image_std), fit)
    return Clip(model, companion("clip", AutoTokenizer, beside), eye)


@dataclass(frozen=True, eq=False)
class ClipScore:
    """scale * cos(picture, text).

    Args:
        clip: of which model.
        wanted: unit vectors of the texts, `(p, d)`; a batch of k p rows has k pictures (particles) of each, next to one another.
    """

    clip: Clip
    wanted: Tensor
    scale: float = 1.0

    def __call__(self, image: Image) -> PerSample:
        whose = owners("ClipScore", len(self.wanted), len(image))
        return self.scale * (self.clip.pictures(image) * self.wanted[whose]).sum(1).to(image.device)

    def rows(self, index: Tensor, total: int) -> Self:
        """The same reward for some rows of a batch of `total`."""
        return replace(self, wanted=self.wanted[owners("ClipScore", len(self.wanted), total)[index.cpu()]])


def clip_score(
    model: str | Path | Clip, prompts: str | Sequence[str], *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> ClipScore:
    """Cosine of picture and text, in [-1, 1]. Times 100 it is torchmetrics' CLIPScore (which is cut at 0).
    Hessel et al. 2021, arXiv:2104.08718.

    Args:
        model: hub name or folder, such as "openai/clip-vit-large-patch14", or what `clip` has loaded (`device` and `dtype` are its own).
        prompts: one for all rows or one each; a batch of k times as many rows has k pictures (particles) of each.

    Raises:
        ValueError: no prompt, or a model that cannot be loaded.
    """
    listed = texts("clip_score", prompts)
    loaded = model if isinstance(model, Clip) else clip(model, device=device, dtype=dtype)
    return ClipScore(loaded, loaded.texts(listed))


def pick_score(
    model: str | Path | Clip,
    prompts: str | Sequence[str],
    *,
    processor: str | Path | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ClipScore:
    """What people preferred on Pick-a-Pic: a cosine times the model's own scale.

    Pictures of Stable Diffusion 3 have 21.8 on average (arXiv:2512.05116, table 1).

    Args:
        model: "yuvalkirstain/PickScore_v1", a folder, or what `clip` has loaded.
        prompts: as in `clip_score`.
        processor: None for the model's own; its authors use that of "laion/CLIP-ViT-H-14-laion2B-s32B-b79K".
    """
    listed = texts("pick_score", prompts)
    loaded = model if isinstance(model, Clip) else clip(model, processor=processor, device=device, dtype=dtype)
    return ClipScore(loaded, loaded.texts(listed), float(loaded.model.logit_scale.exp()))


def hps_score(
    model: str | Path | Clip, prompts: str | Sequence[str], *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> ClipScore:
    """Human Preference Score v2 or v2.1, a cosine; the two cannot be compared, nor can different prompts.

    Pictures of Stable Diffusion 3 have 0.28 on average (arXiv:2512.05116, table 1).

    Args:
        model: a folder that `scripts/convert_reward.py hpsv2` has made of the published weights (a pickle of open_clip's ViT-H/14),
            any such CLIPModel, or what `clip(..., fit="pad")` has loaded.
        prompts: as in `clip_score`.

    Pictures that are not square are padded with black, as its authors do.
    """
    listed = texts("hps_score", prompts)
    loaded = model if isinstance(model, Clip) else clip(model, fit="pad", device=device, dtype=dtype)
    return ClipScore(loaded, loaded.texts(listed))
