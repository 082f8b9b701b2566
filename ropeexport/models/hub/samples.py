"""Sample inputs of the libraries' models with RoPE, from their configs and their ``forward``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

Config = Mapping[str, Any]

# Sizes to trace with: unequal, so that no two axes are taken for one
BATCH, LENGTH, TEXT = 2, 12, 7
FRAMES, HEIGHT, WIDTH = 3, 8, 8
SIZES = {
    "batch": BATCH, "length": LENGTH, "text_length": TEXT, "frames": FRAMES, "height": 8,
    "width": 12,
}  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """An input of a model: its shape by the config, its type, its dynamic axes.

    Parameters
    ----------
    shape : tuple
        Sizes; a string is the name of a dynamic axis, of the size in :data:`SIZES`.
    kind : str
        ``float`` (in the model's type), ``float32``, ``int``, ``positions``, ``ids`` (floats),
        ``whole ids`` or ``ones``.
    high : int
        Integers are below it.
    """

    shape: tuple[int | str, ...]
    kind: str = "float"
    high: int = 2

    @property
    def axes(self) -> dict[int, str]:
        """The dynamic axes by their number."""
        return {axis: dim for axis, dim in enumerate(self.shape) if isinstance(dim, str)}

    def make(self, dtype: torch.dtype) -> Tensor:
        """Make a tensor, the same every time."""
        shape = tuple(SIZES[dim] if isinstance(dim, str) else dim for dim in self.shape)
        generator = torch.Generator().manual_seed(len(shape) + sum(shape))
        if self.kind == "int":
            return torch.randint(0, self.high, shape, generator=generator)
        if self.kind == "positions":
            return torch.arange(shape[-1]).expand(shape).contiguous()
        if self.kind in {"ids", "whole ids"}:  # positions on several axes, as FLUX has them
            ids = torch.arange(shape[-2])[:, None].expand(shape).contiguous()
            return ids.to(torch.float32) if self.kind == "ids" else ids
        if self.kind == "ones":
            return torch.ones(shape, dtype=torch.bool)
        made = torch.randn(shape, generator=generator)
        return made if self.kind == "float32" else made.to(dtype)


@dataclass(frozen=True)
class Samples:
    """All inputs of a model, and the arguments that are no tensors."""

    inputs: dict[str, Sample]
    constants: dict[str, Any]


_ONE_EACH = Sample(("batch",))
_STEP = Sample(("batch",), "float32")  # a pipeline's step up to 1000, too coarse in a half type
_TEXT_MASK = Sample(("batch", 7), "ones")


def _packed(config: Config) -> dict[str, Sample]:
    """Return the inputs of FLUX and its kin: packed latents and ids on several axes."""
    axes = len(config["axes_dims_rope"])
    inputs = {
        "hidden_states": Sample(("batch", "length", config["in_channels"])),
        "encoder_hidden_states": Sample(("batch", "text_length", config["joint_attention_dim"])),
        "timestep": _ONE_EACH,
        "img_ids": Sample(("length", axes), "ids"),
        "txt_ids": Sample(("text_length", axes), "ids"),
    }
    if config.get("pooled_projection_dim"):
        inputs["pooled_projections"] = Sample(("batch", config["pooled_projection_dim"]))
    if config.get("guidance_embeds"):
        inputs["guidance"] = _ONE_EACH
    return inputs


def _flux2(config: Config) -> dict[str, Sample]:
    """Return FLUX.2's: its pipelines give ids as integers, the same for each of the batch."""
    axes = len(config["axes_dims_rope"])
    return _packed(config) | {
        "img_ids": Sample(("batch", "length", axes), "whole ids"),
        "txt_ids": Sample(("batch", "text_length", axes), "whole ids"),
    }


def _qwen_image(config: Config) -> dict[str, Sample]:
    return {
        "hidden_states": Sample(("batch", HEIGHT * WIDTH // 4, config["in_channels"])),
        "encoder_hidden_states": Sample(("batch", 7, config["joint_attention_dim"])),
        "encoder_hidden_states_mask": _TEXT_MASK,
        "timestep": _ONE_EACH,
    }


def _video(config: Config) -> dict[str, Sample]:
    width: int = config.get("text_dim") or config["text_embed_dim"]
    return {
        "hidden_states": Sample(("batch", config["in_channels"], FRAMES, HEIGHT, WIDTH)),
        "timestep": _ONE_EACH,
        "encoder_hidden_states": Sample(("batch", 7, width)),
    }


def _wan(config: Config) -> dict[str, Sample]:
    return {
        "hidden_states": Sample(("batch", config["in_channels"], "frames", "height", "width")),
        "timestep": _STEP,
        "encoder_hidden_states": Sample(("batch", "text_length", config["text_dim"])),
    }


def _hunyuan_video(config: Config) -> dict[str, Sample]:
    inputs = _video(config) | {
        "encoder_attention_mask": _TEXT_MASK,
        "pooled_projections": Sample(("batch", config["pooled_projection_dim"])),
    }
    if config.get("guidance_embeds", True):
        inputs["guidance"] = _ONE_EACH
    return inputs


def _ltx_video(config: Config) -> dict[str, Sample]:
    return {
        "hidden_states": Sample(("batch", FRAMES * 4 * 4, config["in_channels"])),
        "encoder_hidden_states": Sample(("batch", 7, config["caption_channels"])),
        "timestep": _ONE_EACH,
        "encoder_attention_mask": _TEXT_MASK,
    }


def _lumina2(config: Config) -> dict[str, Sample]:
    return {
        "hidden_states": Sample((2, config["in_channels"], HEIGHT, WIDTH)),
        "timestep": Sample((2,)),
        "encoder_hidden_states": Sample((2, 7, config["cap_feat_dim"])),
        "encoder_attention_mask": Sample((2, 7), "ones"),
    }


def _cogview4(config: Config) -> dict[str, Sample]:
    return {
        "hidden_states": Sample(("batch", config["in_channels"], "height", "width")),
        "encoder_hidden_states": Sample(("batch", "text_length", config["text_embed_dim"])),
        "timestep": _STEP,
        "original_size": Sample(("batch", 2)),
        "target_size": Sample(("batch", 2)),
        "crop_coords": Sample(("batch", 2)),
    }


_INPUTS: dict[str, Callable[[Config], dict[str, Sample]]] = {
    "BriaTransformer2DModel": _packed,
    "ChromaTransformer2DModel": _packed,
    "CogView4Transformer2DModel": _cogview4,
    "Flux2Transformer2DModel": _flux2,
    "FluxTransformer2DModel": _packed,
    "HunyuanVideoTransformer3DModel": _hunyuan_video,
    "LTXVideoTransformer3DModel": _ltx_video,
    "Lumina2Transformer2DModel": _lumina2,
    "MochiTransformer3DModel": lambda config: (
        _video(config) | {"encoder_attention_mask": _TEXT_MASK}
    ),
    "QwenImageTransformer2DModel": _qwen_image,
    "SanaVideoTransformer3DModel": lambda config: _video(
        {**config, "text_dim": config["caption_channels"]}
    ),
    "WanTransformer3DModel": _wan,
}
_ARGUMENTS: dict[str, dict[str, Any]] = {  # that are no tensors
    "LTXVideoTransformer3DModel": {"num_frames": FRAMES, "height": 4, "width": 4},
    "QwenImageTransformer2DModel": {"img_shapes": [[(1, HEIGHT // 2, WIDTH // 2)]] * 2},
}
# classes whose code makes its batch a constant
_FIXED_BATCH = {"ChromaTransformer2DModel", "MochiTransformer3DModel"}
DIFFUSERS = tuple(_INPUTS)
# those whose sample inputs stand for every size that a pipeline gives them
EVERY_SIZE = (
    "BriaTransformer2DModel",
    "CogView4Transformer2DModel",
    "Flux2Transformer2DModel",
    "FluxTransformer2DModel",
    "SanaVideoTransformer3DModel",
    "WanTransformer3DModel",
)


def of_diffusers(name: str, config: Config) -> Samples:
    """Return the inputs of a class of diffusers, one of :data:`DIFFUSERS`."""
    inputs = _INPUTS[name](config)
    if name in _FIXED_BATCH:
        inputs = {
            name: replace(x, shape=tuple(BATCH if dim == "batch" else dim for dim in x.shape))
            for name, x in inputs.items()
        }
    return Samples(inputs, {"return_dict": False} | _ARGUMENTS.get(name, {}))


def of_transformers(module: nn.Module, config: Any) -> Samples | None:
    """Return the inputs of a text or vision model by what its ``forward`` takes, if it is known."""
    takes = inspect.signature(module.forward).parameters
    if "input_ids" in takes:
        return _text(takes, config)
    if "pixel_values" in takes and isinstance(getattr(config, "image_size", None), int):
        size = config.image_size
        return Samples({"pixel_values": Sample(("batch", config.num_channels, size, size))}, {})
    return None


def _text(takes: Any, config: Any) -> Samples:
    words = getattr(config, "text_config", config)
    inputs = {"input_ids": Sample(("batch", "length"), "int", high=words.vocab_size)}
    if "position_ids" in takes:
        sections = getattr(words, "rope_parameters", None) or {}
        lead = (3,) if "mrope_section" in sections else ()
        inputs["position_ids"] = Sample((*lead, "batch", "length"), "positions")
    constants = {"use_cache": False} if "use_cache" in takes else {}
    return Samples(inputs, constants)
