"""Published reward weights, which are pickles, as safetensors that flowhelm.rewards reads.

    python scripts/convert_reward.py image-reward ImageReward.pt  bert-base-uncased                      DIRECTORY
    python scripts/convert_reward.py hpsv2        HPS_v2.1_compressed.pt laion/CLIP-ViT-H-14-laion2B-s32B-b79K DIRECTORY
    python scripts/convert_reward.py aesthetic    sac+logos+ava1-l14-linearMSE.pth                       FILE.safetensors

Only tensors are read of a pickle (`weights_only=True`): code in it is not run. The second name is that of the tokenizer
(ImageReward), or of the CLIPModel whose configuration, tokenizer and processor are used (HPSv2).
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

Weights = dict[str, Tensor]


def read(path: Path) -> Weights:
    """The tensors of a pickle, under "state_dict" or at its top."""
    told = torch.load(path, map_location="cpu", weights_only=True)
    told = told.get("state_dict", told)
    return {name: value.contiguous() for name, value in told.items() if isinstance(value, Tensor)}


def renamed(weights: Weights, rules: list[tuple[str, str]]) -> Weights:
    """Each name by the first rule that fits; those that none fits are left out."""
    out: Weights = {}
    for name, value in weights.items():
        for pattern, to in rules:
            if re.fullmatch(pattern, name):
                out[re.sub(pattern, to, name)] = value
                break
    return out


@contextmanager
def beside(to: Path) -> Iterator[Path]:
    """Where to write so that `to` is there whole or not at all."""
    if to.exists():
        raise ValueError(f"convert_reward: '{to}' exists; name another place")
    part = to.with_name(to.name + ".part")
    yield part
    part.replace(to)


VIT = r"blip\.visual_encoder\."
BLIP = [
    (VIT + r"cls_token", "vision_model.embeddings.class_embedding"),
    (VIT + r"pos_embed", "vision_model.embeddings.position_embedding"),
    (VIT + r"patch_embed\.proj\.(\w+)", r"vision_model.embeddings.patch_embedding.\1"),
    (VIT + r"norm\.(\w+)", r"vision_model.post_layernorm.\1"),
    (VIT + r"blocks\.(\d+)\.norm(\d)\.(\w+)", r"vision_model.encoder.layers.\1.layer_norm\2.\3"),
    (VIT + r"blocks\.(\d+)\.attn\.qkv\.(\w+)", r"vision_model.encoder.layers.\1.self_attn.qkv.\2"),
    (VIT + r"blocks\.(\d+)\.attn\.proj\.(\w+)", r"vision_model.encoder.layers.\1.self_attn.projection.\2"),
    (VIT + r"blocks\.(\d+)\.mlp\.(\w+)\.(\w+)", r"vision_model.encoder.layers.\1.mlp.\2.\3"),
    (r"blip\.(text_encoder\.(?!.*position_ids).*)", r"\1"),
    (r"blip\.((vision|text)_proj\..*)", r"\1"),
]


def blip_config(weights: Weights, text_heads: int = 12, head_width: int = 64) -> Any:
    """BlipConfig of ImageReward's weights, by their shapes; numbers of heads cannot be seen from them.

    The layer norms of its vision transformer have 1e-6, of its text encoder 1e-12; BlipConfig's own defaults are others.
    """
    from transformers import BlipConfig

    patch = weights["vision_model.embeddings.patch_embedding.weight"]
    positions = weights["vision_model.embeddings.position_embedding"].shape[1] - 1
    words = weights["text_encoder.embeddings.word_embeddings.weight"]
    layers = {
        kind: 1 + max(int(found[1]) for name in weights if (found := re.match(rf"{kind}(\d+)\.", name)))
        for kind in (r"vision_model\.encoder\.layers\.", r"text_encoder\.encoder\.layer\.")
    }
    return BlipConfig(
        vision_config={
            "hidden_size": patch.shape[0],
            "intermediate_size": weights["vision_model.encoder.layers.0.mlp.fc1.bias"].shape[0],
            "num_hidden_layers": layers[r"vision_model\.encoder\.layers\."],
            "num_attention_heads": patch.shape[0] // head_width,
            "image_size": round(positions**0.5) * patch.shape[-1],
            "patch_size": patch.shape[-1],
            "layer_norm_eps": 1e-6,
        },
        text_config={
            "vocab_size": words.shape[0],
            "hidden_size": words.shape[1],
            "encoder_hidden_size": patch.shape[0],
            "intermediate_size": weights["text_encoder.encoder.layer.0.intermediate.dense.bias"].shape[0],
            "num_hidden_layers": layers[r"text_encoder\.encoder\.layer\."],
            "num_attention_heads": text_heads,
            "max_position_embeddings": weights["text_encoder.embeddings.position_embeddings.weight"].shape[0],
            "layer_norm_eps": 1e-12,
        },
        image_text_hidden_size=weights["vision_proj.bias"].shape[0],
    )


def image_reward(pickle: Path, tokenizer: str, folder: Path, text_heads: int = 12, head_width: int = 64) -> None:
    """A BlipForImageTextRetrieval with its tokenizer, and head.safetensors, in a folder."""
    from transformers import AutoTokenizer, BlipForImageTextRetrieval

    weights = read(pickle)
    blip = renamed(weights, BLIP)
    model = BlipForImageTextRetrieval(blip_config(blip, text_heads, head_width))
    told = model.load_state_dict(blip, strict=False)
    if told.unexpected_keys or [name for name in told.missing_keys if not name.startswith("itm_head.")]:
        raise ValueError(f"convert_reward: expected the weights of ImageReward, got others: {told}")
    for parameter in model.itm_head.parameters():
        torch.nn.init.zeros_(parameter)  # not part of ImageReward
    with beside(folder) as part:
        model.save_pretrained(part)
        save_file(renamed(weights, [(r"mlp\.(layers\..*)", r"\1")]), part / "head.safetensors")
        AutoTokenizer.from_pretrained(tokenizer).save_pretrained(part)


def clip_names(weights: Weights) -> Weights:
    """open_clip's names (and stacked q, k, v; projections the other way round) as those of transformers' CLIPModel."""
    block = [
        (r"ln_(\d)\.(\w+)", r"layer_norm\1.\2"),
        (r"mlp\.c_fc\.(\w+)", r"mlp.fc1.\1"),
        (r"mlp\.c_proj\.(\w+)", r"mlp.fc2.\1"),
        (r"attn\.out_proj\.(\w+)", r"self_attn.out_proj.\1"),
        (r"attn\.([qkv])_proj\.(\w+)", r"self_attn.\1_proj.\2"),
    ]
    rules = [
        (rf"{theirs}transformer\.resblocks\.(\d+)\.{old}", rf"{ours}.encoder.layers.\1.{_shifted(new)}")
        for theirs, ours in ((r"visual\.", "vision_model"), ("", "text_model"))
        for old, new in block
    ]
    rules += [
        ("logit_scale", "logit_scale"),
        (r"token_embedding\.weight", "text_model.embeddings.token_embedding.weight"),
        ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
        (r"ln_final\.(\w+)", r"text_model.final_layer_norm.\1"),
        ("text_projection", "text_projection.weight"),
        (r"visual\.class_embedding", "vision_model.embeddings.class_embedding"),
        (r"visual\.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
        (r"visual\.conv1\.weight", "vision_model.embeddings.patch_embedding.weight"),
        (r"visual\.ln_pre\.(\w+)", r"vision_model.pre_layrnorm.\1"),
        (r"visual\.ln_post\.(\w+)", r"vision_model.post_layernorm.\1"),
        (r"visual\.proj", "visual_projection.weight"),
    ]
    apart: Weights = {}
    for name, value in weights.items():
        if found := re.fullmatch(r"(.*attn\.)in_proj_(weight|bias)", name):
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                apart[f"{found[1]}{letter}_proj.{found[2]}"] = part.contiguous()
        else:
            apart[name] = value.T.contiguous() if name in ("text_projection", "visual.proj") else value
    return renamed(apart, rules)


def _shifted(new: str) -> str:
    """References to groups, one later: the first is the number of the block."""
    return re.sub(r"\\(\d)", lambda found: rf"\{int(found[1]) + 1}", new)


def hpsv2(pickle: Path, like: str, folder: Path) -> None:
    """A CLIPModel with the tokenizer and processor of `like`, in a folder."""
    from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessor, CLIPModel

    model = CLIPModel(CLIPConfig.from_pretrained(like))
    model.load_state_dict(clip_names(read(pickle)))
    with beside(folder) as part:
        model.save_pretrained(part)
        AutoTokenizer.from_pretrained(like).save_pretrained(part)
        CLIPImageProcessor.from_pretrained(like).save_pretrained(part)


def aesthetic(pickle: Path, file: Path) -> None:
    with beside(file) as part:
        save_file(read(pickle), part)


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    for kind, beside in (("image-reward", "tokenizer"), ("hpsv2", "like"), ("aesthetic", None)):
        one = kinds.add_parser(kind)
        one.add_argument("pickle", type=Path)
        if beside:
            one.add_argument(beside)
        one.add_argument("to", type=Path)
    told = parser.parse_args(given)
    if told.kind == "image-reward":
        image_reward(told.pickle, told.tokenizer, told.to)
    elif told.kind == "hpsv2":
        hpsv2(told.pickle, told.like, told.to)
    else:
        aesthetic(told.pickle, told.to)


if __name__ == "__main__":
    main()
