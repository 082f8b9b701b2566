"""The classes of the table: small configs, every kind of layer once or twice, random weights."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.models.discovery import Class, discovered
from benchmarks.models.small import small
from ropeexport.errors import UsageError
from ropeexport.models.builtin_models import DTYPES
from ropeexport.models.example import Example
from ropeexport.models.hub.load import diffusers_example, transformers_example

_FLUX = {
    "in_channels": 4, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16,
    "num_attention_heads": 2, "joint_attention_dim": 32, "axes_dims_rope": (4, 4, 8),
}  # fmt: skip

DIFFUSERS: dict[str, dict[str, Any]] = {
    "FluxTransformer2DModel": {**_FLUX, "pooled_projection_dim": 32},
    "Flux2Transformer2DModel": {
        **_FLUX, "axes_dims_rope": (4, 4, 4, 4), "timestep_guidance_channels": 32,
    },
    "BriaTransformer2DModel": {**_FLUX, "pooled_projection_dim": None},
    "ChromaTransformer2DModel": {
        **_FLUX, "approximator_num_channels": 8, "approximator_hidden_dim": 32,
        "approximator_layers": 1,
    },
    "QwenImageTransformer2DModel": {
        "in_channels": 16, "out_channels": 4, "num_layers": 2, "attention_head_dim": 16,
        "num_attention_heads": 3, "joint_attention_dim": 16, "axes_dims_rope": (8, 4, 4),
    },
    "WanTransformer3DModel": {
        "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4,
        "text_dim": 16, "freq_dim": 256, "ffn_dim": 32, "num_layers": 2, "rope_max_seq_len": 32,
    },
    "HunyuanVideoTransformer3DModel": {
        "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 10,
        "num_layers": 1, "num_single_layers": 1, "num_refiner_layers": 1, "text_embed_dim": 16,
        "pooled_projection_dim": 8, "rope_axes_dim": (2, 4, 4),
    },
    "LTXVideoTransformer3DModel": {
        "in_channels": 8, "out_channels": 8, "num_attention_heads": 4, "attention_head_dim": 8,
        "cross_attention_dim": 32, "num_layers": 1, "caption_channels": 16,
    },
    "Lumina2Transformer2DModel": {
        "sample_size": 16, "in_channels": 4, "hidden_size": 24, "num_layers": 2,
        "num_refiner_layers": 1, "num_attention_heads": 3, "num_kv_heads": 1, "multiple_of": 2,
        "axes_dim_rope": (4, 2, 2), "axes_lens": (128, 128, 128), "cap_feat_dim": 32,
        "scaling_factor": 1.0,
    },
    "MochiTransformer3DModel": {
        "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2,
        "pooled_projection_dim": 16, "in_channels": 12, "text_embed_dim": 16, "time_embed_dim": 4,
        "max_sequence_length": 16,
    },
    "CogView4Transformer2DModel": {
        "in_channels": 4, "out_channels": 4, "num_layers": 2, "attention_head_dim": 8,
        "num_attention_heads": 4, "text_embed_dim": 32, "time_embed_dim": 8, "condition_dim": 4,
        "rope_axes_dim": (16, 16), "sample_size": 8,
    },
    "SanaVideoTransformer3DModel": {
        "in_channels": 16, "out_channels": 16, "num_attention_heads": 2, "attention_head_dim": 12,
        "num_layers": 2, "num_cross_attention_heads": 2, "cross_attention_head_dim": 12,
        "cross_attention_dim": 24, "caption_channels": 8, "sample_size": 8,
    },
}  # fmt: skip

_ENDS = {"bos_token_id": 1, "eos_token_id": 2}
_SMALL = {"vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_ENCODER = {**_SMALL, "intermediate_size": 64, "max_position_embeddings": 128}
_TEXT = {**_ENCODER, **_ENDS, "num_key_value_heads": 2, "pad_token_id": 0}
_GLM = {**_TEXT, "head_dim": 16}
_GPT = {
    **_ENDS, "vocab_size": 64, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128,
    "rotary_dim": 8,
}  # fmt: skip

TRANSFORMERS: dict[str, dict[str, Any]] = {
    "llama": _TEXT,
    "qwen2": _TEXT,
    "qwen3": _GLM,
    "mistral": _TEXT,
    "gemma3_text": {
        **_GLM, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"],
    },
    "phi3": _TEXT,
    "gpt_neox": _TEXT,
    "gptj": _GPT,
    "cohere": _TEXT,
    "glm": _GLM,
    "qwen2_vl_text": {
        **_TEXT, "rope_parameters": {
            "rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6,
        },
    },
    "modernbert": {
        **_ENCODER, **_ENDS, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2,
        "local_attention": 8, "reference_compile": False,
    },
    "dinov3_vit": {
        "image_size": 32, "patch_size": 8, "hidden_size": 64, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4,
    },
    "phi": _TEXT,
    "stablelm": _TEXT,
    "olmo2": _TEXT,
    "gemma2": _GLM,
    "granite": _TEXT,
    "starcoder2": _TEXT,
    "ernie4_5": _GLM,
    # tried when nothing had been written with them in mind
    "smollm3": _TEXT,
    "helium": _GLM,
    "persimmon": _TEXT,
    "glm4": _GLM,
    "cohere2": {**_TEXT, "sliding_window": 8},
    "olmo": _TEXT,
    "exaone4": {**_TEXT, "sliding_window": 8},
    "seed_oss": _GLM,
    "nemotron": _TEXT,
    "codegen": {**_GPT, "n_ctx": 128},
    "roformer": _ENCODER,
    "esm": {
        **_ENCODER, "pad_token_id": 1, "mask_token_id": 3, "position_embedding_type": "rotary",
    },
    "falcon": {**_SMALL, **_ENDS},
    "mixtral": {**_TEXT, "num_local_experts": 2, "num_experts_per_tok": 1},
}  # fmt: skip

NAMES = (*DIFFUSERS, *TRANSFORMERS)


def example_of(name: str, dtype: str) -> Example:
    """Return the example of a class with its small config and random weights.

    One that is not in these tables, but in a library that is installed, has a config that is made
    of the library's default.
    """
    if name in DIFFUSERS:
        return diffusers_example(name, DIFFUSERS[name], DTYPES[dtype])
    if name in TRANSFORMERS:
        return transformer({"model_type": name, **TRANSFORMERS[name]}, dtype)
    found = next((each for each in discovered() if each.name == name), None)
    if found is None or found.library != "transformers":
        raise UsageError(f"{name}: expected a class that --discover lists with a config, got none")
    return _by_default(found, dtype)


def _by_default(found: Class, dtype: str) -> Example:
    """Return the example of a class of transformers, with its default config made small."""
    module = f"transformers.models.{found.path.parent.name}.{found.path.stem}"
    kind = getattr(import_module(module), found.name).config_class
    values = small(kind(), found.path.read_text(encoding="utf-8"))
    with TemporaryDirectory() as folder:
        kind(**values).save_pretrained(folder)
        return transformers_example(Path(folder), DTYPES[dtype], name=found.name)


def transformer(config: dict[str, Any], dtype: str) -> Example:
    """Return the example of a config of transformers, its weights random."""
    with TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(config))
        return transformers_example(Path(folder), DTYPES[dtype])
