"""Export a language model of transformers with its cache, for ``generate`` and for other runtimes.

A cache is an object, which no graph has: the wrapper takes and returns its tensors, by the names
that optimum and onnxruntime-genai read::

    ropeexport.export(example(model), out="out")
    served = ropeexport.load("out").as_module(like=model)
    served.generate(tokens, max_new_tokens=100)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

import ropeexport


class Cached(nn.Module):
    """A model with the tensors of its cache in place of the cache."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        past_key_values: list[dict[str, Tensor]],
    ) -> dict[str, Any]:
        """Return logits, and the cache with the new tokens: ``present.0.key`` and so on."""
        cache = DynamicCache(config=self.model.config)
        for index, layer in enumerate(past_key_values):
            cache.update(layer["key"], layer["value"], index)
        made = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        present = [{"key": x.keys, "value": x.values} for x in made.past_key_values.layers]
        return {"logits": made.logits, "present": present}


def example(model: Any, past: int = 4096, length: int = 4096) -> ropeexport.Example:
    """Return what is exported: the wrapper, inputs to trace it with, the most that axes may be."""
    config = model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    batch, held, new = 2, 5, 3
    size = (batch, config.num_key_value_heads, held, width)

    def layer() -> dict[str, Tensor]:
        return {name: torch.randn(size, dtype=model.dtype) for name in ("key", "value")}

    steps = {0: "batch", 1: "length"}
    return ropeexport.Example(
        Cached(model).eval(),
        {
            "input_ids": torch.zeros(batch, new, dtype=torch.int64),
            "attention_mask": torch.ones(batch, held + new, dtype=torch.int64),
            "position_ids": torch.arange(held, held + new).expand(batch, new).contiguous(),
            "past_key_values": [layer() for _ in range(config.num_hidden_layers)],
        },
        {
            "input_ids": steps,
            "attention_mask": {0: "batch", 1: "past + length"},
            "position_ids": steps,
            "past_key_values": {0: "batch", 2: "past"},
        },
        axes={"past": ropeexport.Axis(min=0, opt=min(512, past), max=past),
              "length": ropeexport.Axis(min=1, opt=min(16, length), max=length)},
    )  # fmt: skip
