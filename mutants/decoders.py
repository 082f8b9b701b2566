"""The language models that are broken: decoders of transformers with a cache, made small.

Their weights are large, so that what they say is no one token again and again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from ropeexport.manifest import CacheForm

_SIZES: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
_WINDOW = 8
_LARGER = 8.0


def _llama() -> Any:
    return LlamaForCausalLM(LlamaConfig(**_SIZES, num_hidden_layers=2))


def _gemma() -> Any:
    kinds = ["full_attention", "sliding_attention"]
    config = Gemma3TextConfig(
        **_SIZES, num_hidden_layers=2, head_dim=16, sliding_window=_WINDOW, layer_types=kinds
    )
    return Gemma3ForCausalLM(config)


DECODERS: dict[str, tuple[Callable[[], Any], CacheForm]] = {
    "llama": (_llama, "grow"),
    "llama-fixed": (_llama, "fixed"),
    "gemma3": (_gemma, "grow"),
}


def decoder(kind: str) -> nn.Module:
    """Return the decoder of a kind, the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made: nn.Module = DECODERS[kind][0]().eval()
    return larger(made, _LARGER)


@torch.no_grad()
def larger(module: nn.Module, factor: float) -> nn.Module:
    """Return a module whose matrices were multiplied by a number."""
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.mul_(factor)
    return module
