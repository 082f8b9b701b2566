"""What is measured beside the built-ins; ``ropeexport bench --module`` imports it by reference.

A factory's name is a model and a type, ``small_llama_fp32``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.models.configs import transformer
from ropeexport import apply_rope
from ropeexport.models.builtin_models import DTYPES, BuiltinOptions, flux_attention
from ropeexport.models.example import Example
from ropeexport.models.hub.load import diffusers_example

# FLUX.1-dev's head size and axes; fewer heads and blocks
_FLUX = {
    "attention_head_dim": 128, "axes_dims_rope": (16, 56, 56), "in_channels": 64,
    "joint_attention_dim": 512, "pooled_projection_dim": 256,
}  # fmt: skip
_LLAMA = {
    "model_type": "llama", "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 4,
    "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 4096,
    "max_position_embeddings": 8192,
}  # fmt: skip


class RopeAlone(nn.Module):
    """(q, k, pe) to the rotated q and k."""

    def forward(self, q: Tensor, k: Tensor, pe: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        return apply_rope(q, k, pe)


def _rope(dtype: str) -> Example:
    attention = flux_attention(BuiltinOptions(dtype=dtype))
    names = ("q", "k", "pe")
    return Example(
        RopeAlone().eval(),
        {name: attention.inputs[name] for name in names},
        {name: attention.dynamic_axes[name] for name in names},
        attention.axes,
        ("q_rotated", "k_rotated"),
    )


def _flux(dtype: str, **config: Any) -> Example:
    return diffusers_example("FluxTransformer2DModel", {**_FLUX, **config}, DTYPES[dtype])


_MODELS: dict[str, Callable[[str], Example]] = {
    "rope": _rope,
    "flux_block": partial(_flux, num_layers=0, num_single_layers=1, num_attention_heads=12),
    "small_flux": partial(_flux, num_layers=1, num_single_layers=2, num_attention_heads=8),
    "small_llama": partial(transformer, _LLAMA),
}


def __getattr__(name: str) -> Callable[[], Example]:
    model, _, dtype = name.rpartition("_")
    if model not in _MODELS or dtype not in DTYPES:
        raise AttributeError(name)

    def make() -> Example:
        torch.manual_seed(0)  # the same weights in every process
        return _MODELS[model](dtype)

    return make
