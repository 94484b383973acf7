"""Tiny random pipelines of every family, made offline: real classes of diffusers and transformers, small sizes, tokenizers of 45
characters. For parity (`python -m flowhelm.bench.pipelines.parity`) and tests; their pictures mean nothing.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789,.!?' "


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    words = ["<|startoftext|>", "!", "<|endoftext|>", *(c + end for c in ALPHABET for end in ("", "</w>"))]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(dict.fromkeys(words))}, merges=[], model_max_length=77)


def _clip(kind: str, places: int = 77) -> Any:
    import transformers

    config = transformers.CLIPTextConfig(
        max_position_embeddings=places,
        bos_token_id=0, eos_token_id=2, pad_token_id=1, vocab_size=200, hidden_size=32, intermediate_size=37,
        num_attention_heads=4, num_hidden_layers=3, projection_dim=32, hidden_act="gelu",
    )  # fmt: skip
    return getattr(transformers, kind)(config)


def _t5_tokenizer() -> Any:
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return T5Tokenizer(vocab=special + [(c, -3.0) for c in ALPHABET.strip()], extra_ids=0, model_max_length=512)


def _umt5() -> Any:
    from transformers import UMT5Config, UMT5EncoderModel

    return UMT5EncoderModel(
        UMT5Config(
            d_model=32, d_ff=37, d_kv=8, num_heads=4, num_layers=2, vocab_size=100, feed_forward_proj="gated-gelu"
        )
    )


def _t5(words: int = 100) -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            d_model=32, d_ff=37, d_kv=8, num_heads=4, num_layers=2, vocab_size=words, feed_forward_proj="gated-gelu"
        )
    )


CHAT = """{% for m in messages %}<|im_start|>{{ m.role }}
{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}{{ c.text }}{% endfor %}{% endif %}<|im_end|>
{% endfor %}"""


def _qwen_tokenizer() -> Any:
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    kinds = ("im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")
    special = [f"<|{kind}|>" for kind in kinds]
    words = ["<|endoftext|>", *special, *sorted(ByteLevel.alphabet())]
    made = Qwen2Tokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[])
    made.add_special_tokens({"additional_special_tokens": special})
    made.chat_template = CHAT
    return made


def _qwen(layers: int = 2) -> Any:
    """Qwen3, as a text encoder."""
    from transformers import Qwen3Config, Qwen3Model

    config = Qwen3Config(
        vocab_size=300, hidden_size=16, intermediate_size=32, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=2048,
    )  # fmt: skip
    return Qwen3Model(config)


def _qwen_vl() -> Any:
    """Qwen2.5-VL, whose eyes are not used."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {
        "vocab_size": 300, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_key_value_heads": 2, "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
    }  # fmt: skip
    eyes = {"depth": 1, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 16}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=eyes))


def _qwen3_vl(kind: str, layers: int = 2) -> Any:
    """Qwen3-VL, whose eyes are not used."""
    import transformers

    text = {
        "vocab_size": 300, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2,
        "num_key_value_heads": 2, "head_dim": 8, "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default"},
    }  # fmt: skip
    eyes = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 16,
        "deepstack_visual_indexes": [],
    }  # fmt: skip
    return getattr(transformers, kind)(transformers.Qwen3VLConfig(text_config=text, vision_config=eyes))


def _gemma_tokenizer() -> Any:
    from transformers import GemmaTokenizer

    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *ALPHABET.strip()]
    return GemmaTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=512)


def _gemma() -> Any:
    from transformers import Gemma2Config, Gemma2Model

    config = Gemma2Config(
        head_dim=4, hidden_size=8, intermediate_size=16, num_attention_heads=2, num_hidden_layers=2,
        num_key_value_heads=2, vocab_size=100, max_position_embeddings=4096,
    )  # fmt: skip
    return Gemma2Model(config)


def _kl(channels: int, shift: float | None = 0.0609, scale: float = 1.5035, levels: int = 2) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        sample_size=32, in_channels=3, out_channels=3, block_out_channels=(8,) * levels, layers_per_block=1,
        down_block_types=["DownEncoderBlock2D"] * levels, up_block_types=["UpDecoderBlock2D"] * levels, latent_channels=channels,
        norm_num_groups=1, use_quant_conv=False, use_post_quant_conv=False, shift_factor=shift, scaling_factor=scale,
    )  # fmt: skip


def flux(width: int = 32, layers: int = 1) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    net = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=layers, num_single_layers=layers, attention_head_dim=16,
        num_attention_heads=width // 16, joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=[4, 4, 8],
        guidance_embeds=True,
    )  # fmt: skip
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), vae=_kl(4), transformer=net,
        text_encoder=_clip("CLIPTextModel"), tokenizer=_clip_tokenizer(), text_encoder_2=_t5(), tokenizer_2=_t5_tokenizer(),
    )  # fmt: skip


def _flux2_vae() -> Any:
    from diffusers import AutoencoderKLFlux2

    vae: Any = AutoencoderKLFlux2(
        sample_size=32, in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, block_out_channels=(8, 8), layers_per_block=1, latent_channels=4,
        norm_num_groups=1, use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip
    with torch.no_grad():  # as after training, so that the latents' units matter
        vae.bn.running_mean.normal_()
        vae.bn.running_var.uniform_(0.5, 2)
    return vae


def _flux2_parts(width: int = 32, layers: int = 1) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel

    net = Flux2Transformer2DModel(
        patch_size=1, in_channels=16, num_layers=layers, num_single_layers=layers, attention_head_dim=16,
        num_attention_heads=width // 16, joint_attention_dim=48, timestep_guidance_channels=256, axes_dims_rope=[4, 4, 4, 4],
    )  # fmt: skip
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), "vae": _flux2_vae(), "transformer": net,
        "text_encoder": None, "tokenizer": None,
    }  # fmt: skip


def flux2(width: int = 32, layers: int = 1) -> Any:
    from diffusers import Flux2Pipeline

    return Flux2Pipeline(**_flux2_parts(width, layers))


def sd3(width: int = 32, layers: int = 1) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    net = SD3Transformer2DModel(
        sample_size=32, patch_size=1, in_channels=4, out_channels=4, num_layers=layers,
        attention_head_dim=8, num_attention_heads=width // 8, caption_projection_dim=width, joint_attention_dim=32,
        pooled_projection_dim=64,
    )  # fmt: skip
    encoders = {f"text_encoder{i}": _clip("CLIPTextModelWithProjection") for i in ("", "_2")}
    readers = {f"tokenizer{i}": _clip_tokenizer() for i in ("", "_2")}
    return StableDiffusion3Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=_kl(4), transformer=net, text_encoder_3=_t5(),
        tokenizer_3=_t5_tokenizer(), **encoders, **readers,
    )  # fmt: skip


def flux2_klein(distilled: bool = False) -> Any:
    from diffusers import Flux2KleinPipeline

    parts = _flux2_parts() | {"text_encoder": _qwen(layers=28), "tokenizer": _qwen_tokenizer()}
    return Flux2KleinPipeline(**parts, is_distilled=distilled)


def _qwen_vae() -> Any:
    from diffusers import AutoencoderKLQwenImage

    return AutoencoderKLQwenImage(
        base_dim=24, z_dim=4, dim_mult=[1, 2, 4], num_res_blocks=1, temperal_downsample=[False, True],
        latents_mean=[0.1, 0.2, -0.1, 0.0], latents_std=[1.0, 2.0, 0.5, 1.5],
    )  # fmt: skip


def qwen_image_21() -> Any:
    from diffusers import (
        AutoencoderKLQwenImage21,
        FlowMatchEulerDiscreteScheduler,
        QwenImage21Pipeline,
        QwenImage21Transformer2DModel,
    )
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(), tokenizer=_qwen_tokenizer(), chat_template=CHAT,
        video_processor=Qwen3VLVideoProcessor(),
    )  # fmt: skip
    net = QwenImage21Transformer2DModel(
        in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2, context_in_dim=16,
        axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    vae = AutoencoderKLQwenImage21(
        base_dim=8, decoder_base_dim=8, z_dim=4, dim_mult=[1] * 5, num_res_blocks=1,
        temperal_downsample=[False, True, True, True], latents_mean=[0.1, 0.2, -0.1, 0.0], latents_std=[1.0, 2.0, 0.5, 1.5],
    )  # fmt: skip
    return QwenImage21Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), vae=vae, transformer=net, processor=processor,
        text_encoder=_qwen3_vl("Qwen3VLForConditionalGeneration"),
    )  # fmt: skip


def qwen_image() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, QwenImagePipeline, QwenImageTransformer2DModel

    net = QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=3,
        joint_attention_dim=16, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    return QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02), vae=_qwen_vae(), transformer=net,
        text_encoder=_qwen_vl(), tokenizer=_qwen_tokenizer(),
    )  # fmt: skip


def z_image() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel

    net: Any = ZImageTransformer2DModel(
        all_patch_size=(2,), all_f_patch_size=(1,), in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2,
        n_kv_heads=2, qk_norm=True, cap_feat_dim=16, axes_dims=[8, 4, 4], axes_lens=[256, 32, 32],
    )  # fmt: skip
    with torch.no_grad():  # uninitialised memory otherwise
        net.x_pad_token.normal_()
        net.cap_pad_token.normal_()
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=_kl(4, 0.1159, 0.3611), transformer=net,
        text_encoder=_qwen(), tokenizer=_qwen_tokenizer(),
    )  # fmt: skip


def lumina2() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, Lumina2Transformer2DModel

    net = Lumina2Transformer2DModel(
        sample_size=4, patch_size=2, in_channels=4, hidden_size=8, num_layers=2, num_attention_heads=1, num_kv_heads=1,
        multiple_of=16, scaling_factor=1.0, axes_dim_rope=[4, 2, 2], axes_lens=(300, 64, 64), cap_feat_dim=8,
    )  # fmt: skip
    return Lumina2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), vae=_kl(4, levels=4), transformer=net,
        text_encoder=_gemma(), tokenizer=_gemma_tokenizer(),
    )  # fmt: skip


def auraflow() -> Any:
    from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel, FlowMatchEulerDiscreteScheduler

    net: Any = AuraFlowTransformer2DModel(
        sample_size=32, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8,
        num_attention_heads=4, caption_projection_dim=32, joint_attention_dim=32, out_channels=4, pos_embed_max_size=256,
    )  # fmt: skip
    with torch.no_grad():  # else its gates are nearly shut, and its texts hardly count
        for each in (*net.joint_transformer_blocks, *net.single_transformer_blocks):
            for weight in each.parameters():
                weight.mul_(2)
    return AuraFlowPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73), vae=_kl(4, None, 0.13025), transformer=net,
        text_encoder=_umt5(), tokenizer=_t5_tokenizer(),
    )  # fmt: skip


def sana(answers: int = 4) -> Any:
    from diffusers import AutoencoderDC, FlowMatchEulerDiscreteScheduler, SanaPipeline, SanaTransformer2DModel

    net = SanaTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=answers, num_layers=1, num_attention_heads=2, attention_head_dim=4,
        num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8, caption_channels=8, sample_size=32,
        timestep_scale=0.5,
    )  # fmt: skip
    vae = AutoencoderDC(
        in_channels=3, latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), downsample_block_type="conv",
        upsample_block_type="interpolate", decoder_norm_types="rms_norm", decoder_act_fns="silu", scaling_factor=0.41407,
    )  # fmt: skip
    return SanaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=vae, transformer=net, text_encoder=_gemma(),
        tokenizer=_gemma_tokenizer(),
    )  # fmt: skip


def chroma() -> Any:
    from diffusers import ChromaPipeline, ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler

    net = ChromaTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=(4, 4, 8), approximator_num_channels=8, approximator_hidden_dim=16,
        approximator_layers=1,
    )  # fmt: skip
    return ChromaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), vae=_kl(4), transformer=net,
        text_encoder=_t5(), tokenizer=_t5_tokenizer(),
    )  # fmt: skip


def hidream() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, HiDreamImagePipeline, HiDreamImageTransformer2DModel
    from transformers import LlamaConfig, LlamaForCausalLM

    net = HiDreamImageTransformer2DModel(
        patch_size=2, in_channels=4, out_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=8,
        num_attention_heads=4, caption_channels=[32, 16], text_emb_dim=64, num_routed_experts=4, num_activated_experts=2,
        axes_dims_rope=(4, 2, 2), max_resolution=(16, 16), llama_layers=[0, 1],
    )  # fmt: skip
    config = LlamaConfig(
        vocab_size=300, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
    )  # fmt: skip
    llama = LlamaForCausalLM(config)
    readers = {f"tokenizer{i}": _clip_tokenizer() for i in ("", "_2")}
    encoders = {f"text_encoder{i}": _clip("CLIPTextModelWithProjection", 128) for i in ("", "_2")}
    made: Any = HiDreamImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), vae=_kl(4), transformer=net, text_encoder_3=_t5(),
        tokenizer_3=_t5_tokenizer(), text_encoder_4=llama, tokenizer_4=_qwen_tokenizer(), **encoders, **readers,
    )  # fmt: skip
    made.default_sample_size = 16  # its call makes pictures of one area only
    return made


def cogview4() -> Any:
    from diffusers import CogView4Pipeline, CogView4Transformer2DModel, FlowMatchEulerDiscreteScheduler

    net = CogView4Transformer2DModel(
        patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=4, num_attention_heads=4,
        text_embed_dim=16, time_embed_dim=8, condition_dim=4, rope_axes_dim=(8, 8),
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75, base_image_seq_len=16, time_shift_type="linear"
    )
    return CogView4Pipeline(
        scheduler=scheduler, vae=_kl(4, None), transformer=net, text_encoder=_qwen(), tokenizer=_qwen_tokenizer()
    )


def hunyuan_image(distilled: bool = False) -> Any:
    from diffusers import (
        AdaptiveProjectedMixGuidance,
        AutoencoderKLHunyuanImage,
        FlowMatchEulerDiscreteScheduler,
        HunyuanImagePipeline,
        HunyuanImageTransformer2DModel,
    )  # fmt: skip
    from transformers import ByT5Tokenizer

    net = HunyuanImageTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, patch_size=(1, 1), text_embed_dim=16, text_embed_2_dim=32, rope_axes_dim=(8, 8),
        use_meanflow=distilled, guidance_embeds=distilled,
    )  # fmt: skip
    vae = AutoencoderKLHunyuanImage(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32, 32), layers_per_block=1,
        spatial_compression_ratio=2, sample_size=32, scaling_factor=0.75,
    )  # fmt: skip
    guiders = {
        name: AdaptiveProjectedMixGuidance(guidance_scale=3.5, enabled=not distilled)
        for name in ("guider", "ocr_guider")
    }
    return HunyuanImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0), vae=vae, transformer=net, text_encoder=_qwen_vl(),
        tokenizer=_qwen_tokenizer(), text_encoder_2=_t5(300), tokenizer_2=ByT5Tokenizer(extra_ids=0), **guiders,
    )  # fmt: skip


def ideogram4() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, Ideogram4Pipeline, Ideogram4Transformer2DModel

    nets = {
        name: Ideogram4Transformer2DModel(
            in_channels=16, num_layers=1, attention_head_dim=16, num_attention_heads=2, intermediate_size=32, adaln_dim=8,
            llm_features_dim=13 * 16, mrope_section=(4, 2, 2),
        )
        for name in ("transformer", "unconditional_transformer")
    }  # fmt: skip
    return Ideogram4Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=_flux2_vae(), tokenizer=_qwen_tokenizer(),
        text_encoder=_qwen3_vl("Qwen3VLModel", layers=36), **nets,
    )  # fmt: skip


def krea2() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, Krea2Pipeline, Krea2Transformer2DModel

    net = Krea2Transformer2DModel(
        in_channels=16, num_layers=1, attention_head_dim=16, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=32, timestep_embed_dim=16, text_hidden_dim=16, num_text_layers=2, text_num_attention_heads=2,
        text_num_key_value_heads=2, text_intermediate_size=32, num_layerwise_text_blocks=1, num_refiner_text_blocks=1,
        axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    return Krea2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), vae=_qwen_vae(), transformer=net,
        text_encoder=_qwen_vl(), tokenizer=_qwen_tokenizer(), text_encoder_select_layers=(1, 2),
    )  # fmt: skip


def longcat() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, LongCatImagePipeline, LongCatImageTransformer2DModel

    net = LongCatImageTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=[4, 4, 8],
    )  # fmt: skip
    return LongCatImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), vae=_kl(4), transformer=net,
        text_encoder=_qwen_vl(), tokenizer=_qwen_tokenizer(), text_processor=_qwen_tokenizer(),
    )  # fmt: skip


def ovis() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, OvisImagePipeline, OvisImageTransformer2DModel

    net = OvisImageTransformer2DModel(
        patch_size=1, in_channels=16, out_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=16, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    return OvisImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), vae=_kl(4), transformer=net,
        text_encoder=_qwen(), tokenizer=_qwen_tokenizer(),
    )  # fmt: skip


def _unet(**more: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4, **more,
    )  # fmt: skip


def _ddim(**more: Any) -> Any:
    """The schedule of Stable Diffusion, with the ends of its release: an offset of one label, and no last step to alpha = 1."""
    from diffusers import DDIMScheduler

    usual = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
    return DDIMScheduler(**usual | {"steps_offset": 1, "set_alpha_to_one": False} | more)


def sd(schedule: Mapping[str, Any] | None = None) -> Any:
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=_kl(4, None, 0.18215), unet=_unet(cross_attention_dim=32), scheduler=_ddim(**schedule or {}), safety_checker=None,
        text_encoder=_clip("CLIPTextModel"), tokenizer=_clip_tokenizer(), feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def sd_v() -> Any:
    """As the v-predictors with zero terminal signal: the first label holds noise alone."""
    trailing = {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True, "set_alpha_to_one": True}
    return sd({"prediction_type": "v_prediction"} | trailing)


def sdxl() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    net = _unet(
        cross_attention_dim=64, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32,
    )  # fmt: skip
    return StableDiffusionXLPipeline(
        vae=_kl(4, None, 0.13025), unet=net, text_encoder=_clip("CLIPTextModel"), tokenizer=_clip_tokenizer(),
        text_encoder_2=_clip("CLIPTextModelWithProjection"), tokenizer_2=_clip_tokenizer(), add_watermarker=False,
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1
        ),
    )  # fmt: skip


def _pixart(name: str, sample: int) -> Any:
    import diffusers

    net: Any = diffusers.PixArtTransformer2DModel(
        sample_size=sample, num_layers=1, patch_size=2, attention_head_dim=12, num_attention_heads=2, caption_channels=32,
        in_channels=4, cross_attention_dim=24, out_channels=8, use_additional_conditions=sample == 128,
    )  # fmt: skip
    torch.nn.init.normal_(net.proj_out.weight, std=0.1)
    return getattr(diffusers, name)(
        transformer=net, scheduler=diffusers.DPMSolverMultistepScheduler(), vae=_kl(4, None, 0.13025), text_encoder=_t5(),
        tokenizer=_t5_tokenizer(),
    )  # fmt: skip


def pixart_alpha() -> Any:
    return _pixart("PixArtAlphaPipeline", 128)


def pixart_sigma() -> Any:
    return _pixart("PixArtSigmaPipeline", 16)


def glm_image() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, GlmImagePipeline, GlmImageTransformer2DModel
    from transformers import ByT5Tokenizer

    net = GlmImageTransformer2DModel(
        patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        text_embed_dim=32, time_embed_dim=8, condition_dim=4, prior_vq_quantizer_codebook_size=50,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75, base_image_seq_len=16, time_shift_type="linear"
    )
    vae = _kl(4, None, 0.75)
    vae.register_to_config(latents_mean=[0.1, 0.2, -0.1, 0.0], latents_std=[1.0, 2.0, 0.5, 1.5])
    return GlmImagePipeline(
        scheduler=scheduler, vae=vae, transformer=net, text_encoder=_t5(300), tokenizer=ByT5Tokenizer(extra_ids=0),
        processor=None, vision_language_encoder=None,
    )  # fmt: skip


def embeddings(width: int, rows: int = 1, seed: int = 1) -> dict[str, Tensor]:
    """Of prompts, for pipelines made without a text encoder."""
    return {"prompt_embeds": torch.randn(rows, 6, width, generator=_seeded(seed))}


def _drawn(seed: int) -> dict[str, Tensor]:
    """A prompt of GLM-Image for `SIZE`: embeddings, and the tokens that its language model would draw."""
    tokens = torch.randint(50, (1, 4 * 8 * 4), generator=_seeded(seed))
    return embeddings(32, seed=seed) | {"prior_token_ids": tokens}


SIZE = (32, 64)
CASES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "flux": (flux, {"size": SIZE, "prompt": "a cat", "scale": 3.5}),
    "flux2": (flux2, {"size": SIZE, "prompt": embeddings(48)}),
    "flux2-klein": (flux2_klein, {"size": SIZE, "prompt": "a cat", "scale": 4.0}),
    "flux2-klein-distilled": (partial(flux2_klein, distilled=True), {"size": SIZE, "prompt": "a cat"}),
    "qwen-image": (qwen_image, {"size": SIZE, "prompt": "a black cat", "negative": "dog", "scale": 4.0}),
    "qwen-image-2.1": (qwen_image_21, {"size": (64, 96), "prompt": "a black cat", "negative": "dog", "scale": 4.0}),
    "z-image": (z_image, {"size": SIZE, "prompt": "a black cat", "negative": "dog", "scale": 5.0}),
    "z-image-turbo": (z_image, {"size": SIZE, "prompt": "a cat", "scale": 0.0}),
    "lumina2": (lumina2, {"size": (64, 96), "prompt": "a black cat", "negative": "dog", "scale": 4.0}),
    "auraflow": (auraflow, {"size": SIZE, "prompt": "a black cat", "negative": "dog", "scale": 3.5}),
    "sana": (sana, {"size": SIZE, "prompt": "a black cat", "negative": "dog", "scale": 4.5}),
    "sana-2c": (partial(sana, answers=8), {"size": SIZE, "prompt": "a cat", "scale": 1.0}),
    "chroma": (chroma, {"size": SIZE, "prompt": "a black cat", "negative": "dog", "scale": 5.0}),
    "hidream": (hidream, {"size": (16, 64), "prompt": "a black cat", "negative": "dog", "scale": 5.0}),
    "cogview4": (cogview4, {"size": SIZE, "prompt": "a black cat, asleep", "negative": "dog", "scale": 5.0}),
    "glm-image": (glm_image, {"size": SIZE, "prompt": _drawn(1), "negative": _drawn(2), "scale": 3.0}),
    "hunyuan-image": (hunyuan_image, {"size": SIZE, "prompt": "the word 'cat'", "negative": "dog", "scale": 3.5}),
    "hunyuan-image-distilled": (partial(hunyuan_image, distilled=True), {"size": SIZE, "prompt": "a black cat"}),
    "ideogram4": (ideogram4, {"size": SIZE, "prompt": "a black cat", "scale": 7.0}),
    "krea2": (krea2, {"size": SIZE, "prompt": "a black cat", "negative": "dog", "scale": 4.5}),
    "longcat": (longcat, {"size": SIZE, "prompt": "a black cat", "negative": "dog", "scale": 4.5}),
    "ovis": (ovis, {"size": SIZE, "prompt": "a black cat", "negative": "dog", "scale": 5.0}),
    "pixart_alpha": (pixart_alpha, {"size": (32, 48), "prompt": "a cat", "negative": "dog", "scale": 4.5}),
    "pixart_sigma": (pixart_sigma, {"size": SIZE, "prompt": "a cat", "scale": 4.5}),
    "sd": (sd, {"size": SIZE, "prompt": "a cat", "negative": "dog", "scale": 7.5}),
    "sd_v": (sd_v, {"size": SIZE, "prompt": "a cat", "scale": 3.0, "steps": 4}),
    "sdxl": (sdxl, {"size": (32, 48), "prompt": "a cat", "scale": 5.0}),
    "sd3": (sd3, {"size": SIZE, "prompt": "a cat", "negative": "dog", "scale": 5.0}),
}
"""name: (how to build it, arguments of `parity.compare`)."""
