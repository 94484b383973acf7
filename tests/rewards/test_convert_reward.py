"""Published weights have other names: models under those names, converted, say the same as before."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toys import loaded

from flowhelm.rewards import aesthetic, hps_score, image_reward

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def convert():
    file = Path(__file__).parents[2] / "scripts" / "convert_reward.py"
    if not file.exists():
        pytest.skip("the scripts are not in a source distribution")
    return loaded(file)


def replaced(name, *rules):
    for old, new in rules:
        name = re.sub(old, new, name)
    return name


def test_image_reward(convert, blip_folder, tmp_path, pictures):
    weights = {}
    for name, value in load_file(blip_folder / "model.safetensors").items():
        if name.startswith("itm_head"):
            continue
        old = replaced(
            name,
            ("vision_model", "visual_encoder"),
            ("embeddings.class_embedding", "cls_token"),
            ("embeddings.position_embedding$", "pos_embed"),
            ("embeddings.patch_embedding", "patch_embed.proj"),
            ("post_layernorm", "norm"),
            ("encoder.layers", "blocks"),
            ("self_attn.projection", "attn.proj"),
            ("self_attn", "attn"),
            ("layer_norm", "norm"),
        )
        weights[f"blip.{old}"] = value
    weights["blip.text_encoder.embeddings.position_ids"] = torch.arange(40)[None]
    weights |= {f"mlp.{name}": value for name, value in load_file(blip_folder / "head.safetensors").items()}
    torch.save(weights, tmp_path / "ImageReward.pt")
    convert.image_reward(tmp_path / "ImageReward.pt", blip_folder, tmp_path / "made", text_heads=2, head_width=12)
    prompts = ["a red cat", "two cups on the table"]
    was, made = (image_reward(folder, prompts) for folder in (blip_folder, tmp_path / "made"))
    torch.testing.assert_close(made(pictures()), was(pictures()))
    assert made.model.config.vision_config.layer_norm_eps == 1e-6
    torch.save({"something": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises((ValueError, KeyError)):
        convert.image_reward(tmp_path / "other.pt", blip_folder, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_hpsv2(convert, clip_folder, tmp_path, pictures):
    weights, stacked = {}, {}
    for name, value in load_file(clip_folder / "model.safetensors").items():
        old = replaced(
            name,
            (r"^vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
            (r"^vision_model\.embeddings\.class_embedding", "visual.class_embedding"),
            (r"^vision_model\.embeddings\.patch_embedding", "visual.conv1"),
            (r"^vision_model\.pre_layrnorm", "visual.ln_pre"),
            (r"^vision_model\.post_layernorm", "visual.ln_post"),
            (r"^text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
            (r"^text_model\.embeddings\.", ""),
            (r"^text_model\.final_layer_norm", "ln_final"),
            (r"^vision_model\.encoder\.layers", "visual.transformer.resblocks"),
            (r"^text_model\.encoder\.layers", "transformer.resblocks"),
            ("layer_norm", "ln_"),
            ("fc1", "c_fc"),
            ("fc2", "c_proj"),
            ("self_attn", "attn"),
            (r"^text_projection\.weight", "text_projection"),
            (r"^visual_projection\.weight", "visual.proj"),
        )
        if found := re.match(r"(.*attn\.)([qkv])_proj\.(.*)", old):
            stacked.setdefault(f"{found[1]}in_proj_{found[3]}", {})[found[2]] = value
        else:
            weights[old] = value.T if old in ("text_projection", "visual.proj") else value
    weights |= {name: torch.cat([parts[each] for each in "qkv"]) for name, parts in stacked.items()}
    torch.save({"epoch": 3, "state_dict": weights}, tmp_path / "HPS.pt")
    convert.main(["hpsv2", str(tmp_path / "HPS.pt"), str(clip_folder), str(tmp_path / "made")])
    was, made = (hps_score(folder, ["a red cat", "two cups"]) for folder in (clip_folder, tmp_path / "made"))
    torch.testing.assert_close(made(pictures()), was(pictures()))
    with pytest.raises(ValueError, match="exists"):
        convert.main(["hpsv2", str(tmp_path / "HPS.pt"), str(clip_folder), str(tmp_path / "made")])


def test_aesthetic(convert, clip_folder, tmp_path, random_head, pictures):
    torch.save(random_head(12, (7, 1), (0, 2)), tmp_path / "head.pth")
    convert.main(["aesthetic", str(tmp_path / "head.pth"), str(tmp_path / "head.safetensors")])
    assert aesthetic(clip_folder, tmp_path / "head.safetensors")(pictures()).isfinite().all()


class Mischief:
    def __reduce__(self):
        return (print, ("code in a pickle was run",))


def test_code_in_a_pickle_is_not_run(convert, tmp_path, capsys):
    torch.save({"layers.0.weight": Mischief()}, tmp_path / "bad.pth")
    with pytest.raises(Exception, match=r"weights_only|Unsupported|unsafe|global"):
        convert.main(["aesthetic", str(tmp_path / "bad.pth"), str(tmp_path / "bad.safetensors")])
    assert "was run" not in capsys.readouterr().out
    assert not (tmp_path / "bad.safetensors").exists()
