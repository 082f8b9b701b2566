"""Decoders of transformers made small, one of each kind of cache, for tests of texts."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn

from mutants.decoders import larger

SIZES: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": False,
}  # fmt: skip
SWITCH, WINDOW = 64, 8
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": SWITCH,
    "short_factor": [1.0 + 0.1 * i for i in range(8)],
    "long_factor": [2.0 + 0.5 * i for i in range(8)],
}  # fmt: skip
KINDS = ("Llama", "Qwen3", "Gemma3", "GPTNeoX", "Phi3", "Mixtral")
_MORE: dict[str, dict[str, Any]] = {
    "Qwen3": {"head_dim": 16},
    "Gemma3": {
        "head_dim": 16, "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "GPTNeoX": {"rotary_pct": 0.5, "num_key_value_heads": None},
    "Phi3": {"rope_parameters": LONGROPE, "original_max_position_embeddings": SWITCH},
    "Mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
}  # fmt: skip
_LARGER = {"GPTNeoX": 12.0}


def small(kind: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return a decoder whose text is no token again and again."""
    given = {**SIZES, **_MORE.get(kind, {})}
    name = "Gemma3TextConfig" if kind == "Gemma3" else f"{kind}Config"
    config = getattr(transformers, name)(**{k: v for k, v in given.items() if v is not None})
    if kind == "Mixtral":
        config.sliding_window = None
    torch.manual_seed(1)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    return larger(model, _LARGER.get(kind, 8.0)).to(dtype)
