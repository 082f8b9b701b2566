"""Pipelines of diffusers from small random parts, whose pictures depend on their rope.

Each function returns ``(pipe, calls)``: the pipeline, and the arguments of its calls, of two sizes
and of one and two prompts.  Nothing is downloaded: vocabulary, text encoder, transformer and VAE
are made here, from one seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

Pipeline = tuple[Any, list[dict[str, Any]]]

_WORDS = 90
_ENDS = {"pad_token_id": 90, "eos_token_id": 91, "bos_token_id": 93}
_LLM = {
    "vocab_size": _WORDS + 4, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, **_ENDS,
}  # fmt: skip
_T5 = {"vocab_size": _WORDS + 4, "d_model": 32, "d_ff": 48, "num_layers": 2, "num_heads": 4}
_VAE = {
    "block_out_channels": (8,), "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 2,
    "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip
_VIDEO_VAE = {
    "base_dim": 4, "z_dim": 4, "dim_mult": [1, 1], "num_res_blocks": 1,
    "temperal_downsample": [True], "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4,
}  # fmt: skip
_ONE, _TWO = "w1 w2 w3", ["w4 w5 w6 w7 w8", "w9 w10"]


def flux(dtype: torch.dtype = torch.float32) -> Pipeline:
    """FLUX.1: CLIP and T5, ids as floats, a distilled guidance."""
    torch.manual_seed(0)
    clip = transformers.CLIPTextConfig(
        vocab_size=_WORDS + 4, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, projection_dim=32, **_ENDS,
    )  # fmt: skip
    pipe = diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        text_encoder=transformers.CLIPTextModel(clip),
        text_encoder_2=transformers.T5EncoderModel(transformers.T5Config(**_T5, d_kv=8)),
        tokenizer=_tokenizer(77),
        tokenizer_2=_tokenizer(16),
        vae=diffusers.AutoencoderKL(**_VAE, shift_factor=0.0, scaling_factor=1.0),
        transformer=diffusers.FluxTransformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32,
            axes_dims_rope=(4, 6, 6), guidance_embeds=True,
        ),
    )  # fmt: skip
    return _ready(pipe, dtype, max_sequence_length=16)


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
        tokenizer=_Chat(_tokenizer(16)),
        vae=diffusers.AutoencoderKLFlux2(
            **_VAE, down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",)
        ),
        transformer=diffusers.Flux2Transformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=96, timestep_guidance_channels=32,
            axes_dims_rope=(4, 4, 4, 4),
        ),
    )  # fmt: skip
    return _ready(pipe, dtype, max_sequence_length=16, text_encoder_out_layers=(1, 2, 3))


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
        tokenizer=_tokenizer(64),
        vae=diffusers.AutoencoderKLQwenImage(**_VIDEO_VAE),
        transformer=diffusers.QwenImageTransformer2DModel(
            in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=32, axes_dims_rope=(4, 6, 6),
        ),
    )  # fmt: skip
    with torch.no_grad():
        pipe.vae.decoder.conv_out.weight *= 3  # else all is grey
    return _ready(pipe, dtype, negative_prompt="w40 w41", true_cfg_scale=2.0)


def wan(dtype: torch.dtype = torch.float32) -> Pipeline:
    """Wan: videos of two numbers of frames."""
    torch.manual_seed(0)
    pipe = diffusers.WanPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=transformers.UMT5EncoderModel(transformers.UMT5Config(**_T5, d_kv=8)),
        tokenizer=_tokenizer(16),
        vae=diffusers.AutoencoderKLWan(
            **_VIDEO_VAE, scale_factor_spatial=2, scale_factor_temporal=2
        ),
        transformer=diffusers.WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=18, in_channels=4, out_channels=4,
            text_dim=32, freq_dim=32, ffn_dim=48, num_layers=2, rope_max_seq_len=64,
        ),
    )  # fmt: skip
    frames = [{"num_frames": 3}, {"num_frames": 5}, {"num_frames": 5}]
    made, calls = _ready(pipe, dtype, negative_prompt="w40 w41", guidance_scale=3.0,
                         max_sequence_length=16)  # fmt: skip
    return made, [{**call, **more} for call, more in zip(calls, frames, strict=True)]


def cogview4(dtype: torch.dtype = torch.float32) -> Pipeline:
    """CogView4: a text without rope, rows and columns spread over a fixed range."""
    torch.manual_seed(0)
    pipe = diffusers.CogView4Pipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        text_encoder=transformers.GlmModel(transformers.GlmConfig(**_LLM)),
        tokenizer=_tokenizer(16),
        vae=diffusers.AutoencoderKL(**_VAE, scaling_factor=1.0),
        transformer=diffusers.CogView4Transformer2DModel(
            in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16,
            num_attention_heads=2, text_embed_dim=32, time_embed_dim=32, condition_dim=8,
            rope_axes_dim=(16, 16), sample_size=16,
        ),
    )  # fmt: skip
    return _ready(pipe, dtype, negative_prompt="w40 w41", guidance_scale=3.0)


PIPELINES: dict[str, Callable[..., Pipeline]] = {
    make.__name__: make for make in (flux, flux2, qwen_image, wan, cogview4)
}


def _ready(pipe: Any, dtype: torch.dtype, **options: Any) -> Pipeline:
    """Return a pipeline in evaluation mode with its calls."""
    sharpen(pipe.transformer)
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.to(dtype).eval()
    pipe.set_progress_bar_config(disable=True)
    sizes = {"height": 16, "width": 16}, {"height": 16, "width": 32}, {"height": 32, "width": 16}
    prompts = _ONE, _ONE, _TWO
    calls = []
    for size, prompt in zip(sizes, prompts, strict=True):
        call = {"prompt": prompt, **size, "num_inference_steps": 2, **options}
        if "negative_prompt" in call and isinstance(prompt, list):
            call["negative_prompt"] = [call["negative_prompt"]] * len(prompt)
        calls.append(call)
    return pipe, calls


def sharpen(transformer: nn.Module) -> None:
    """Give weights a size at which attention looks at few tokens, and its result matters."""
    with torch.no_grad():
        for name, weight in transformer.named_parameters():
            if weight.ndim > 1 and "table" not in name:
                nn.init.normal_(weight, std=weight[0].numel() ** -0.5)


class _Chat:
    """A tokenizer of messages: the words of a chat's last one."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def apply_chat_template(self, chats: Any, **options: Any) -> Any:
        texts = [chat[-1]["content"][0]["text"] for chat in chats]
        kept = ("padding", "truncation", "max_length", "return_tensors")
        return self.tokenizer(texts, **{name: options[name] for name in kept})


def _tokenizer(length: int) -> Any:
    words = {f"w{number}": number for number in range(_WORDS)}
    words |= {"<pad>": 90, "</s>": 91, "<unk>": 92, "<bos>": 93}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        bos_token="<bos>", model_max_length=length,
    )  # fmt: skip
