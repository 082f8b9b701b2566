"""Small configs of classes: every kind of layer once or twice, random weights."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.models.discovery import Class
from benchmarks.models.small import small, small_arguments
from ropeexport.errors import UsageError
from ropeexport.models.builtin_models import DTYPES
from ropeexport.models.example import Example
from ropeexport.models.hub.configs import with_parts
from ropeexport.models.hub.load import diffusers_example, transformers_example

# what a default leaves open, or has too large for a laptop where its name does not say a size
_PATCHES = {"in_channels": 4, "out_channels": 4, "patch_size": 2}
_ROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [3, 2, 3]}
_COMPASS = {
    "layer_types": ["sliding_attention", "full_attention"],
    "rope_parameters": {"sliding_attention": _ROPE, "full_attention": _ROPE},
}
_INDEXER = {
    "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 8,
    "indexer_compress_ratio": 4,
}  # fmt: skip
_ATOMS = {"num_spatial_rope_pairs_per_axis": 1, "num_uid_rope_pairs": 3}
# what a row says of a part is added to what is made of the part
OWN: dict[str, dict[str, Any]] = {
    "AceStepTransformer1DModel": {"in_channels": 48, "audio_acoustic_hidden_dim": 16},
    "AllegroTransformer3DModel": {"attention_head_dim": 24, "cross_attention_dim": 96},
    "Apertus1p5Model": {
        "image_token_offset": 16, "audio_token_offset": 80, "audio_config": {"codebook_dim": 64},
    },
    "AutoencoderKLMiniMaxH3": {
        "block_out_channels": (32, 32, 32, 32, 64, 64), "latent_channels": 24,
    },
    "AutoencoderSAME": {
        "encoder_channels": 16, "encoder_transformer_depths": (2,), "dim_heads": 16,
    },
    "BltModel": {"encoder_hash_byte_group_vocab": 160},
    "ChameleonModel": {"vocabulary_map": {"<image>": 3}},
    "ClvpEncoder": {"num_attention_heads": 2},
    "CogVideoXTransformer3DModel": {"use_rotary_positional_embeddings": True},
    "CohereCompassModel": {"text_config": _COMPASS},
    "CohereCompassTextModel": _COMPASS,
    "ConsisIDTransformer3DModel": {"use_rotary_positional_embeddings": True},
    "CosmosControlNetModel": {"model_channels": 64},
    "CosmosTransformer3DModel": {"concat_padding_mask": False},
    "DbrxModel": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10_000.0, "clip_qkv": 8}},
    "DoryModel": {  # it halves the numbers of a list with mlp in it
        "layer_types": ["sliding_attention", "mlp", "sliding_attention", "mlp", "full_attention",
                        "mlp"],
        "num_hidden_layers": 6, "n_input_layers": 2, "n_recurrent_layers": 2, "n_output_layers": 2,
    },
    "Dots3NoteModel": {"text_config": {"head_dim": 24}},
    "Dots3NoteTextModel": {"head_dim": 24},
    "EasyAnimateTransformer3DModel": _PATCHES,
    "EfficientLoFTRModel": {
        "out_features": [16, 16, 32, 64], "stage_in_channels": [1, 16, 16, 32],
        "stage_num_blocks": [1, 1, 1, 1], "stage_block_stride": [[2], [1], [2], [2]],
        "stage_block_in_channels": [[1], [16], [16], [32]],
        "stage_block_out_channels": [[16], [16], [32], [64]], "fine_fusion_dims": [64, 32, 16],
        "intermediate_size": 128, "rope_parameters": {"partial_rotary_factor": 2.0},
    },
    "Emu3Model": {"vocabulary_map": {"<image>": 3, "<|extra_200|>": 4}},
    "EsmFold2Model": {
        "single_inputs_size": 131, "atom_encoder": _ATOMS,
        "structure_head": {"diffusion_module": {"atom_encoder": _ATOMS}},
    },
    "Granite4VisionModel": {"deepstack_layer_map": [[-1, 0]], "downsample_rate": "1/2"},
    "HiDreamImageTransformer2DModel": {
        **_PATCHES, "caption_channels": [64, 64], "llama_layers": (0, 0, 1, 1),
        "axes_dims_rope": (4, 6, 6),
    },
    "HunyuanDiT2DControlNetModel": {
        "in_channels": 4, "patch_size": 2, "transformer_num_layers": 6,
    },
    "HunYuanMoEV1Model": {"num_experts": 4, "moe_topk": 2},
    "HunyuanDiT2DModel": {"in_channels": 4, "patch_size": 2},
    "HunyuanVideoFramepackTransformer3DModel": {
        "has_image_proj": True, "image_proj_dim": 64, "has_clean_x_embedder": True,
    },
    "Ideogram4Transformer2DModel": {"mrope_section": (3, 3, 2)},
    "LTX2VideoDiffusionDecoderModel": {"decoder_stage_channels": (128, 64, 32, 32, 16)},
    "Lfm2MoeModel": {"layer_types": ["conv", "full_attention"]},
    "Llama4VisionModel": {
        "intermediate_size": 256, "projector_input_dim": 64, "projector_output_dim": 64,
    },
    "LongCatAudioDiTTransformer": {"dit_dim": 64},
    "LuminaNextDiT2DModel": {"num_kv_heads": 4},
    "MiniMaxH3Transformer3DModel": {"rope_freq_dim": 2},
    "MoonshineStreamingDecoder": {"num_key_value_heads": 4},
    "MoonshineStreamingModel": {"num_key_value_heads": 4},
    "MoshiDepthDecoder": {"num_codebooks": 32},
    "OmniGenTransformer2DModel": {
        "pad_token_id": 0, "rope_scaling": {"long_factor": [2.0] * 8, "short_factor": [1.0] * 8},
    },
    "PRXTransformer2DModel": {"axes_dim": [8, 8]},
    "Qwen3OmniMoeTalkerModel": {"shared_expert_intermediate_size": 96},
    "Qwen4ExpModel": {"text_config": _INDEXER},
    "Qwen4ExpTextModel": _INDEXER,
    "T5Gemma2Decoder": {"dropout_rate": 0.0},
    "T5Gemma2Encoder": {"text_config": {"dropout_rate": 0.0}},
    "T5Gemma2TextEncoder": {"dropout_rate": 0.0},
    "T5GemmaEncoderModel": {"is_encoder_decoder": False},
    "WanAnimateTransformer3DModel": {
        "in_channels": 12, "latent_channels": 4, "image_dim": 16, "motion_encoder_size": 16,
        "motion_encoder_channel_sizes": {"4": 16, "8": 16, "16": 16}, "motion_style_dim": 8,
        "motion_dim": 4, "motion_encoder_dim": 16, "inject_face_latents_blocks": 2,
    },
    "WanVACETransformer3DModel": {"vace_layers": [0, 1]},
    "Wav2Vec2ConformerModel": {"position_embeddings_type": "rotary", "conv_dim": [32] * 7},
    "ZImageControlNetModel": {
        "control_layers_places": [0], "control_refiner_layers_places": [0], "control_in_dim": 16,
        "n_kv_heads": 4, "axes_dims": [4, 6, 6], "cap_feat_dim": 64, "n_layers": 2,
    },
    "Zamba2Model": {
        "attention_hidden_size": 128, "attention_head_dim": 32, "hybrid_layer_ids": [1],
        "use_mem_rope": True,
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
        kind = _config_class(model)
        if kind is not None:
            made = small(kind(), model.path.read_text(encoding="utf-8"))
            return _merged(_with_half(model.name, made), OWN.get(model.name, {}))
    elif hasattr(model.imported(), "register_to_config"):
        return small_arguments(model.imported()) | OWN.get(model.name, {})
    raise UsageError(f"{model.model}: expected a class with a config of its own, got none")


def _config_class(model: Class) -> Any:
    """Return the class of a config of a class of transformers: the whole's if a part has no type.

    By its type transformers knows a file's class.
    """
    kind = getattr(model.imported(), "config_class", None)
    if kind is None or kind.model_type:
        return kind
    module = import_module(kind.__module__)
    wholes = (getattr(module, name) for name in module.__all__)
    return next((x for x in wholes if x.model_type and _has(x(), kind)), kind)


def _has(config: Any, kind: Any) -> bool:
    return any(type(part) is kind for part in with_parts(config))


def _with_half(name: str, made: Values) -> Values:
    """Return values with those of a half: its class may read them of the whole's config."""
    halves = (made.get(key) for key in ("encoder", "decoder") if name.lower().endswith(key))
    return next((half for half in halves if isinstance(half, dict)), {}) | made


def _merged(made: Values, own: Values) -> Values:
    """Return values with those that are a class's own, part by part."""
    parts = {key: _merged(made[key], value) for key, value in own.items()
             if isinstance(value, dict) and isinstance(made.get(key), dict)}  # fmt: skip
    return made | own | parts


def example_of(model: Class, values: Values, dtype: str) -> Example:
    """Return the example of a class with its small config and random weights."""
    if model.library == "diffusers":
        return diffusers_example(model.name, values, DTYPES[dtype])
    with TemporaryDirectory() as folder:
        _config_class(model)(**values).save_pretrained(folder)
        return transformers_example(Path(folder), DTYPES[dtype], name=model.name)


def transformer(config: dict[str, Any], dtype: str) -> Example:
    """Return the example of a config of transformers, its weights random."""
    with TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(config))
        return transformers_example(Path(folder), DTYPES[dtype])
