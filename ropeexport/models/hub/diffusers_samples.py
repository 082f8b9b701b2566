"""Sample inputs of diffusers' transformers with RoPE, from their configs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ropeexport.models.hub.samples import BATCH, FRAMES, HEIGHT, WIDTH, Sample, Samples

Config = Mapping[str, Any]

_TIMESTEP = Sample(("batch",))
_STATIC = {"return_dict": False}


def _packed(config: Config) -> Samples:
    """Return the inputs of FLUX and its kin: packed latents and ids on several axes."""
    axes = len(config["axes_dims_rope"])
    inputs = {
        "hidden_states": Sample(("batch", "length", config["in_channels"])),
        "encoder_hidden_states": Sample(("batch", "text_length", config["joint_attention_dim"])),
        "timestep": _TIMESTEP,
        "img_ids": Sample(("length", axes), "ids"),
        "txt_ids": Sample(("text_length", axes), "ids"),
    }
    if config.get("pooled_projection_dim"):
        inputs["pooled_projections"] = Sample(("batch", config["pooled_projection_dim"]))
    if config.get("guidance_embeds"):
        inputs["guidance"] = Sample(("batch",))
    return Samples(inputs, _STATIC)


def _qwen_image(config: Config) -> Samples:
    inputs = {
        "hidden_states": Sample(("batch", HEIGHT * WIDTH // 4, config["in_channels"])),
        "encoder_hidden_states": Sample(("batch", 7, config["joint_attention_dim"])),
        "encoder_hidden_states_mask": Sample(("batch", 7), "ones"),
        "timestep": _TIMESTEP,
    }
    shapes = [[(1, HEIGHT // 2, WIDTH // 2)]] * 2
    return Samples(inputs, _STATIC | {"img_shapes": shapes})


def _video(config: Config) -> dict[str, Sample]:
    width: int = config.get("text_dim") or config["text_embed_dim"]
    return {
        "hidden_states": Sample(("batch", config["in_channels"], FRAMES, HEIGHT, WIDTH)),
        "timestep": _TIMESTEP,
        "encoder_hidden_states": Sample(("batch", 7, width)),
    }


def _wan(config: Config) -> Samples:
    return Samples(_video(config), _STATIC)


def _hunyuan_video(config: Config) -> Samples:
    inputs = _video(config) | {
        "encoder_attention_mask": Sample(("batch", 7), "ones"),
        "pooled_projections": Sample(("batch", config["pooled_projection_dim"])),
    }
    if config.get("guidance_embeds", True):
        inputs["guidance"] = Sample(("batch",))
    return Samples(inputs, _STATIC)


def _mochi(config: Config) -> Samples:
    mask = {"encoder_attention_mask": Sample(("batch", 7), "ones")}
    return Samples(_video(config) | mask, _STATIC)


def _ltx_video(config: Config) -> Samples:
    inputs = {
        "hidden_states": Sample(("batch", FRAMES * 4 * 4, config["in_channels"])),
        "encoder_hidden_states": Sample(("batch", 7, config["caption_channels"])),
        "timestep": _TIMESTEP,
        "encoder_attention_mask": Sample(("batch", 7), "ones"),
    }
    return Samples(inputs, _STATIC | {"num_frames": FRAMES, "height": 4, "width": 4})


def _lumina2(config: Config) -> Samples:
    inputs = {
        "hidden_states": Sample((2, config["in_channels"], HEIGHT, WIDTH)),
        "timestep": Sample((2,)),
        "encoder_hidden_states": Sample((2, 7, config["cap_feat_dim"])),
        "encoder_attention_mask": Sample((2, 7), "ones"),
    }
    return Samples(inputs, _STATIC)


def _cogview4(config: Config) -> Samples:
    inputs = {
        "hidden_states": Sample(("batch", config["in_channels"], HEIGHT, WIDTH)),
        "encoder_hidden_states": Sample(("batch", 7, config["text_embed_dim"])),
        "timestep": _TIMESTEP,
        "original_size": Sample(("batch", 2)),
        "target_size": Sample(("batch", 2)),
        "crop_coords": Sample(("batch", 2)),
    }
    return Samples(inputs, _STATIC)


def _sana_video(config: Config) -> Samples:
    inputs = _video(dict(config) | {"text_dim": config["caption_channels"]})
    return Samples(inputs, _STATIC)


def _with_fixed_batch(samples: Callable[[Config], Samples]) -> Callable[[Config], Samples]:
    """Return samples for a class whose code makes its batch a constant."""

    def fixed(config: Config) -> Samples:
        made = samples(config)
        inputs = {
            name: replace(x, shape=tuple(BATCH if dim == "batch" else dim for dim in x.shape))
            for name, x in made.inputs.items()
        }
        return replace(made, inputs=inputs)

    return fixed


SAMPLES: dict[str, Callable[[Config], Samples]] = {
    "BriaTransformer2DModel": _packed,
    "ChromaTransformer2DModel": _with_fixed_batch(_packed),
    "CogView4Transformer2DModel": _cogview4,
    "Flux2Transformer2DModel": _packed,
    "FluxTransformer2DModel": _packed,
    "HunyuanVideoTransformer3DModel": _hunyuan_video,
    "LTXVideoTransformer3DModel": _ltx_video,
    "Lumina2Transformer2DModel": _lumina2,
    "MochiTransformer3DModel": _with_fixed_batch(_mochi),
    "QwenImageTransformer2DModel": _qwen_image,
    "SanaVideoTransformer3DModel": _sana_video,
    "WanTransformer3DModel": _wan,
}
