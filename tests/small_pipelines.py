"""Pipelines of diffusers from small random parts, whose pictures depend on their rope.

Each function returns ``(pipe, calls)``: the pipeline, and the arguments of its calls, of two sizes
and of one and two prompts.  Nothing is downloaded: vocabulary, text encoder, transformer and VAE
are made here, from one seed.  FLUX's is an example of the documentation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
import transformers

from examples.small_flux import ENDS, T5, VAE, WORDS, Pipeline, ready, tokenizer
from examples.small_flux import make as flux

_LLM = {
    "vocab_size": WORDS + 4, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, **ENDS,
}  # fmt: skip
_VIDEO_VAE = {
    "base_dim": 4, "z_dim": 4, "dim_mult": [1, 1], "num_res_blocks": 1,
    "temperal_downsample": [True], "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4,
}  # fmt: skip


def flux2(dtype: torch.dtype = torch.float32) -> Pipeline:
    """FLUX.2: a Mistral of three layers, ids as integers on four axes with a batch."""
    torch.manual_seed(0)
    layers = {**_LLM, "num_hidden_layers": 3}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
              "num_attention_heads": 2, "image_size": 8, "patch_size": 4}  # fmt: skip
    text = transformers.Mistral3Config(
        text_config={"model_type": "mistral", **layers},
        vision_config={"model_type": "pixtral", **vision},
    )
    pipe = diffusers.Flux2Pipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        text_encoder=transformers.Mistral3ForConditionalGeneration(text),
        tokenizer=_Chat(tokenizer(16)),
        vae=diffusers.AutoencoderKLFlux2(
            **VAE, down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",)
        ),
        transformer=diffusers.Flux2Transformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=96, timestep_guidance_channels=32,
            axes_dims_rope=(4, 4, 4, 4),
        ),
    )  # fmt: skip
    return ready(pipe, dtype, max_sequence_length=16, text_encoder_out_layers=(1, 2, 3))


def qwen_image(dtype: torch.dtype = torch.float32) -> Pipeline:
    """Qwen-Image: sizes as Python integers, a mask where prompts differ in length."""
    torch.manual_seed(0)
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2,
              "out_hidden_size": 32}  # fmt: skip
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    text = transformers.Qwen2_5_VLConfig(
        text_config={**_LLM, "rope_parameters": rope}, vision_config=vision
    )
    pipe = diffusers.QwenImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        text_encoder=transformers.Qwen2_5_VLForConditionalGeneration(text),
        tokenizer=tokenizer(64),
        vae=diffusers.AutoencoderKLQwenImage(**_VIDEO_VAE),
        transformer=diffusers.QwenImageTransformer2DModel(
            in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=32, axes_dims_rope=(4, 6, 6),
        ),
    )  # fmt: skip
    with torch.no_grad():
        pipe.vae.decoder.conv_out.weight *= 3  # else all is grey
    return ready(pipe, dtype, negative_prompt="w40 w41", true_cfg_scale=2.0)


def wan(dtype: torch.dtype = torch.float32) -> Pipeline:
    """Wan: videos of two numbers of frames."""
    torch.manual_seed(0)
    pipe = diffusers.WanPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=transformers.UMT5EncoderModel(transformers.UMT5Config(**T5, d_kv=8)),
        tokenizer=tokenizer(16),
        vae=diffusers.AutoencoderKLWan(
            **_VIDEO_VAE, scale_factor_spatial=2, scale_factor_temporal=2
        ),
        transformer=diffusers.WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=18, in_channels=4, out_channels=4,
            text_dim=32, freq_dim=32, ffn_dim=48, num_layers=2, rope_max_seq_len=64,
        ),
    )  # fmt: skip
    frames = [{"num_frames": 3}, {"num_frames": 5}, {"num_frames": 5}]
    made, calls = ready(pipe, dtype, negative_prompt="w40 w41", guidance_scale=3.0,
                         max_sequence_length=16)  # fmt: skip
    return made, [{**call, **more} for call, more in zip(calls, frames, strict=True)]


def cogview4(dtype: torch.dtype = torch.float32) -> Pipeline:
    """CogView4: a text without rope, rows and columns spread over a fixed range."""
    torch.manual_seed(0)
    pipe = diffusers.CogView4Pipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        text_encoder=transformers.GlmModel(transformers.GlmConfig(**_LLM)),
        tokenizer=tokenizer(16),
        vae=diffusers.AutoencoderKL(**VAE, scaling_factor=1.0),
        transformer=diffusers.CogView4Transformer2DModel(
            in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16,
            num_attention_heads=2, text_embed_dim=32, time_embed_dim=32, condition_dim=8,
            rope_axes_dim=(16, 16), sample_size=16,
        ),
    )  # fmt: skip
    return ready(pipe, dtype, negative_prompt="w40 w41", guidance_scale=3.0)


PIPELINES: dict[str, Callable[..., Pipeline]] = {
    "flux": flux,
    **{make.__name__: make for make in (flux2, qwen_image, wan, cogview4)},
}


class _Chat:
    """A tokenizer of messages: the words of a chat's last one."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def apply_chat_template(self, chats: Any, **options: Any) -> Any:
        texts = [chat[-1]["content"][0]["text"] for chat in chats]
        kept = ("padding", "truncation", "max_length", "return_tensors")
        return self.tokenizer(texts, **{name: options[name] for name in kept})
