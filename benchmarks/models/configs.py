"""Small configs of classes: every kind of layer once or twice, random weights."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.models.discovery import Class
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

Values = dict[str, Any]


def values_of(model: Class) -> Values:
    """Return the values of a small config of a class: of the table, else made of its default.

    Raises
    ------
    UsageError
        For a class that has no default config, and no line in the table.
    """
    if model.name in DIFFUSERS:
        return DIFFUSERS[model.name]
    if model.library == "transformers":
        kind = getattr(model.imported(), "config_class", None)
        if kind is not None:
            return small(kind(), model.path.read_text(encoding="utf-8"))
    raise UsageError(f"{model.model}: expected a class with a config of its own, got none")


def example_of(model: Class, values: Values, dtype: str) -> Example:
    """Return the example of a class with its small config and random weights."""
    if model.library == "diffusers":
        return diffusers_example(model.name, values, DTYPES[dtype])
    with TemporaryDirectory() as folder:
        model.imported().config_class(**values).save_pretrained(folder)
        return transformers_example(Path(folder), DTYPES[dtype], name=model.name)


def transformer(config: dict[str, Any], dtype: str) -> Example:
    """Return the example of a config of transformers, its weights random."""
    with TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(config))
        return transformers_example(Path(folder), DTYPES[dtype])
