"""Small configs of classes: every kind of layer once or twice, random weights."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.models.discovery import Class
from benchmarks.models.small import small, small_arguments
from ropeexport.errors import UsageError
from ropeexport.models.builtin_models import DTYPES
from ropeexport.models.example import Example
from ropeexport.models.hub.load import diffusers_example, transformers_example

# what a default leaves open, or has too large for a laptop where its name does not say a size
_PATCHES = {"in_channels": 4, "out_channels": 4, "patch_size": 2}
OWN: dict[str, dict[str, Any]] = {
    "AceStepTransformer1DModel": {"in_channels": 48, "audio_acoustic_hidden_dim": 16},
    "AllegroTransformer3DModel": {"attention_head_dim": 24, "cross_attention_dim": 96},
    "AutoencoderKLMiniMaxH3": {
        "block_out_channels": (32, 32, 32, 32, 64, 64), "latent_channels": 24,
    },
    "AutoencoderSAME": {
        "encoder_channels": 16, "encoder_transformer_depths": (2,), "dim_heads": 16,
    },
    "CogVideoXTransformer3DModel": {"use_rotary_positional_embeddings": True},
    "ConsisIDTransformer3DModel": {"use_rotary_positional_embeddings": True},
    "CosmosControlNetModel": {"model_channels": 64},
    "CosmosTransformer3DModel": {"concat_padding_mask": False},
    "EasyAnimateTransformer3DModel": _PATCHES,
    "HiDreamImageTransformer2DModel": {
        **_PATCHES, "caption_channels": [64, 64], "llama_layers": (0, 0, 1, 1),
        "axes_dims_rope": (4, 6, 6),
    },
    "HunyuanDiT2DControlNetModel": {
        "in_channels": 4, "patch_size": 2, "transformer_num_layers": 6,
    },
    "HunyuanDiT2DModel": {"in_channels": 4, "patch_size": 2},
    "HunyuanVideoFramepackTransformer3DModel": {
        "has_image_proj": True, "image_proj_dim": 64, "has_clean_x_embedder": True,
    },
    "Ideogram4Transformer2DModel": {"mrope_section": (3, 3, 2)},
    "LTX2VideoDiffusionDecoderModel": {"decoder_stage_channels": (128, 64, 32, 32, 16)},
    "Lfm2MoeModel": {"layer_types": ["conv", "full_attention"]},
    "LongCatAudioDiTTransformer": {"dit_dim": 64},
    "LuminaNextDiT2DModel": {"num_kv_heads": 4},
    "OmniGenTransformer2DModel": {
        "pad_token_id": 0, "rope_scaling": {"long_factor": [2.0] * 8, "short_factor": [1.0] * 8},
    },
    "PRXTransformer2DModel": {"axes_dim": [8, 8]},
    "WanAnimateTransformer3DModel": {
        "in_channels": 12, "latent_channels": 4, "image_dim": 16, "motion_encoder_size": 16,
        "motion_encoder_channel_sizes": {"4": 16, "8": 16, "16": 16}, "motion_style_dim": 8,
        "motion_dim": 4, "motion_encoder_dim": 16, "inject_face_latents_blocks": 2,
    },
    "WanVACETransformer3DModel": {"vace_layers": [0, 1]},
    "ZImageControlNetModel": {
        "control_layers_places": [0], "control_refiner_layers_places": [0], "control_in_dim": 16,
        "n_kv_heads": 4,
    },
}  # fmt: skip

Values = dict[str, Any]


def values_of(model: Class) -> Values:
    """Return the values of a small config of a class, made of its default.

    Raises
    ------
    UsageError
        For a class that has no default config.
    """
    if model.library == "transformers":
        kind = getattr(model.imported(), "config_class", None)
        if kind is not None:
            own = OWN.get(model.name, {})
            return small(kind(), model.path.read_text(encoding="utf-8")) | own
    elif hasattr(model.imported(), "register_to_config"):
        return small_arguments(model.imported()) | OWN.get(model.name, {})
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
