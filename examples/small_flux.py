"""A FLUX pipeline of small random parts, whose picture depends on its rope: nothing to download.

``make`` is a factory for ``ropeexport check DIR --pipeline``: it returns the pipeline and the
arguments of the calls that are compared.
"""

from __future__ import annotations

from typing import Any

import diffusers
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

Pipeline = tuple[Any, list[dict[str, Any]]]

WORDS = 90
ENDS = {"pad_token_id": 90, "eos_token_id": 91, "bos_token_id": 93}
T5 = {"vocab_size": WORDS + 4, "d_model": 32, "d_ff": 48, "num_layers": 2, "num_heads": 4}
VAE = {
    "block_out_channels": (8,), "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 2,
    "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip
_PROMPT, _PROMPTS = "w1 w2 w3", ["w4 w5 w6 w7 w8", "w9 w10"]


def make(dtype: torch.dtype = torch.float32) -> Pipeline:
    """FLUX.1: CLIP and T5, ids as floats, a distilled guidance."""
    torch.manual_seed(0)
    clip = transformers.CLIPTextConfig(
        vocab_size=WORDS + 4, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, projection_dim=32, **ENDS,
    )  # fmt: skip
    pipe = diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        text_encoder=transformers.CLIPTextModel(clip),
        text_encoder_2=transformers.T5EncoderModel(transformers.T5Config(**T5, d_kv=8)),
        tokenizer=tokenizer(77),
        tokenizer_2=tokenizer(16),
        vae=diffusers.AutoencoderKL(**VAE, shift_factor=0.0, scaling_factor=1.0),
        transformer=diffusers.FluxTransformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32,
            axes_dims_rope=(4, 6, 6), guidance_embeds=True,
        ),
    )  # fmt: skip
    return ready(pipe, dtype, max_sequence_length=16)


def ready(pipe: Any, dtype: torch.dtype, **options: Any) -> Pipeline:
    """Return a pipeline in evaluation mode with its calls."""
    sharpen(pipe.transformer)
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.to(dtype).eval()
    pipe.set_progress_bar_config(disable=True)
    sizes = {"height": 16, "width": 16}, {"height": 16, "width": 32}, {"height": 32, "width": 16}
    prompts = _PROMPT, _PROMPT, _PROMPTS
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


def tokenizer(length: int) -> Any:
    """Return a tokenizer of the words w0 to w89."""
    words = {f"w{number}": number for number in range(WORDS)}
    words |= {"<pad>": 90, "</s>": 91, "<unk>": 92, "<bos>": 93}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        bos_token="<bos>", model_max_length=length,
    )  # fmt: skip
