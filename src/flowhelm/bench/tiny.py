"""Tiny random pipelines of every family, made offline: real classes of diffusers and transformers, small sizes, tokenizers of 45
characters. For parity (`python -m flowhelm.bench.parity`) and tests; their pictures mean nothing.
"""

from collections.abc import Callable
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


def _clip(kind: str) -> Any:
    import transformers

    config = transformers.CLIPTextConfig(
        bos_token_id=0, eos_token_id=2, pad_token_id=1, vocab_size=200, hidden_size=32, intermediate_size=37,
        num_attention_heads=4, num_hidden_layers=3, projection_dim=32, hidden_act="gelu",
    )  # fmt: skip
    return getattr(transformers, kind)(config)


def _t5_tokenizer() -> Any:
    import transformers

    tokenizer: Any = transformers.T5TokenizerFast  # type: ignore[attr-defined,unused-ignore]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return tokenizer(vocab=special + [(c, -3.0) for c in ALPHABET.strip()], extra_ids=0, model_max_length=512)


def _t5() -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(d_model=32, d_ff=37, d_kv=8, num_heads=4, num_layers=2, vocab_size=100, feed_forward_proj="gated-gelu")
    )


def _kl(channels: int, shift: float | None = 0.0609, scale: float = 1.5035) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        sample_size=32, in_channels=3, out_channels=3, block_out_channels=(8, 8), layers_per_block=1,
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2, latent_channels=channels,
        norm_num_groups=1, use_quant_conv=False, use_post_quant_conv=False, shift_factor=shift, scaling_factor=scale,
    )  # fmt: skip


def flux() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    net = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=[4, 4, 8], guidance_embeds=True,
    )  # fmt: skip
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), vae=_kl(4), transformer=net,
        text_encoder=_clip("CLIPTextModel"), tokenizer=_clip_tokenizer(), text_encoder_2=_t5(), tokenizer_2=_t5_tokenizer(),
    )  # fmt: skip


def _flux2_parts() -> Any:
    from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel

    net = Flux2Transformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=48, timestep_guidance_channels=256, axes_dims_rope=[4, 4, 4, 4],
    )  # fmt: skip
    vae: Any = AutoencoderKLFlux2(
        sample_size=32, in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, block_out_channels=(8, 8), layers_per_block=1, latent_channels=4,
        norm_num_groups=1, use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip
    with torch.no_grad():  # as after training, so that the latents' units matter
        vae.bn.running_mean.normal_()
        vae.bn.running_var.uniform_(0.5, 2)
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), "vae": vae, "transformer": net,
        "text_encoder": None, "tokenizer": None,
    }  # fmt: skip


def flux2() -> Any:
    from diffusers import Flux2Pipeline

    return Flux2Pipeline(**_flux2_parts())


def sd3() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    net = SD3Transformer2DModel(
        sample_size=32, patch_size=1, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8,
        num_attention_heads=4, caption_projection_dim=32, joint_attention_dim=32, pooled_projection_dim=64,
    )  # fmt: skip
    encoders = {f"text_encoder{i}": _clip("CLIPTextModelWithProjection") for i in ("", "_2")}
    readers = {f"tokenizer{i}": _clip_tokenizer() for i in ("", "_2")}
    return StableDiffusion3Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=_kl(4), transformer=net, text_encoder_3=_t5(),
        tokenizer_3=_t5_tokenizer(), **encoders, **readers,
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


def sd(schedule: dict[str, Any] | None = None) -> Any:
    """With changes of its schedule."""
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=_kl(4, None, 0.18215), unet=_unet(cross_attention_dim=32), scheduler=_ddim(**schedule or {}), safety_checker=None,
        text_encoder=_clip("CLIPTextModel"), tokenizer=_clip_tokenizer(), feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def sd_v() -> Any:
    """As the v-predictors with zero terminal signal: the first label holds noise alone."""
    return sd(
        {
            "prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True,
            "set_alpha_to_one": True,
        }
    )  # fmt: skip


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


def embeddings(width: int, rows: int = 1, seed: int = 1) -> dict[str, Tensor]:
    """Of prompts, for pipelines made without a text encoder."""
    return {"prompt_embeds": torch.randn(rows, 6, width, generator=_seeded(seed))}


SIZE = (32, 32)
CASES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "flux": (flux, {"size": SIZE, "prompt": "a cat", "scale": 3.5}),
    "flux2": (flux2, {"size": SIZE, "prompt": embeddings(48)}),
    "pixart_alpha": (pixart_alpha, {"size": (32, 48), "prompt": "a cat", "negative": "dog", "scale": 4.5}),
    "pixart_sigma": (pixart_sigma, {"size": SIZE, "prompt": "a cat", "scale": 4.5}),
    "sd": (sd, {"size": SIZE, "prompt": "a cat", "negative": "dog", "scale": 7.5}),
    "sd_v": (sd_v, {"size": SIZE, "prompt": "a cat", "scale": 3.0, "steps": 4}),
    "sdxl": (sdxl, {"size": (32, 48), "prompt": "a cat", "scale": 5.0}),
    "sd3": (sd3, {"size": SIZE, "prompt": "a cat", "negative": "dog", "scale": 5.0}),
}
"""name: (how to build it, arguments of `parity.compare`)."""
