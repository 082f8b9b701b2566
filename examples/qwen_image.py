"""Export Qwen-Image: a model whose sizes are Python integers, as one file for all sizes.

A pipeline of diffusers gives this model its sizes as nested lists, ``img_shapes=[[(1, 64, 64)]]``,
of which it makes rows of complex tables.  A graph has neither: its inputs are tensors.  So the
export goes through a wrapper that takes what the sizes stand for, a position of each token on each
axis, and ``adapt`` makes the wrapper's arguments of the pipeline's::

    made = ropeexport.export(example(pipe.transformer), out="out")
    served = ropeexport.load("out")
    pipe.transformer = served.as_module(like=pipe.transformer, adapt=adapt)

With the pipeline as it was, ``ropeexport.check("out", pipeline=(pipe, calls, adapt))`` holds the
pictures to its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import ropeexport


class WithPositions(nn.Module):
    """The transformer with positions in place of sizes; its layers are those that it was given."""

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_mask: Tensor,
        timestep: Tensor,
        img_ids: Tensor,
        txt_ids: Tensor,
    ) -> tuple[Tensor]:
        """Do what the transformer does, with a rope of positions."""
        model = self.transformer
        image = model.img_in(hidden_states)
        text = model.txt_in(model.txt_norm(encoder_hidden_states))
        step = model.time_text_embed(timestep, image)
        rope = self.turns(img_ids), self.turns(txt_ids)
        for block in model.transformer_blocks:
            text, image = block(image, text, encoder_hidden_states_mask, step, rope)
        return (model.proj_out(model.norm_out(image, step)),)

    def turns(self, ids: Tensor) -> Tensor:
        """Return the rotations of positions, as the model's attention takes them."""
        rope, axes = self.transformer.pos_embed, []
        for axis, dim in enumerate(rope.axes_dim):
            powers = torch.arange(0, dim, 2, dtype=torch.float32) / dim
            axes.append(ids[:, axis, None] * rope.theta**-powers)
        angles = torch.cat(axes, dim=-1)
        return torch.complex(angles.cos(), angles.sin())


def example(transformer: Any) -> ropeexport.Example:
    """Return what is exported: the wrapper, inputs to trace it with, and the axes that may move."""
    config, dtype = transformer.config, transformer.dtype
    batch, words, tokens = 2, 7, 12
    img_ids, txt_ids = positions([(1, 3, 4)], words)
    inputs = {
        "hidden_states": torch.randn(batch, tokens, config.in_channels).to(dtype),
        "encoder_hidden_states": torch.randn(batch, words, config.joint_attention_dim).to(dtype),
        "encoder_hidden_states_mask": torch.ones(batch, words, dtype=torch.bool),
        "timestep": torch.rand(batch).to(dtype),
        "img_ids": img_ids,
        "txt_ids": txt_ids,
    }
    axes: dict[str, Mapping[int, str]] = {
        "hidden_states": {0: "batch", 1: "length"},
        "encoder_hidden_states": {0: "batch", 1: "text_length"},
        "encoder_hidden_states_mask": {0: "batch", 1: "text_length"},
        "timestep": {0: "batch"},
        "img_ids": {0: "length"},
        "txt_ids": {0: "text_length"},
    }
    return ropeexport.Example(WithPositions(transformer), inputs, axes)


def positions(shapes: Sequence[tuple[int, int, int]], words: int) -> tuple[Tensor, Tensor]:
    """Return each token's frame, row and column, as the model counts them, and each word's place.

    Rows and columns count from the middle; the text begins where the largest of them ends.
    """
    grids = [
        torch.cartesian_prod(
            torch.arange(first, first + frames),
            torch.arange(rows) - (rows - rows // 2),
            torch.arange(columns) - (columns - columns // 2),
        )
        for first, (frames, rows, columns) in enumerate(shapes)
    ]
    start = max(max(rows, columns) // 2 for _, rows, columns in shapes)
    text = torch.arange(start, start + words)
    return torch.cat(grids), text[:, None].expand(words, 3)


def adapt(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the export's arguments of those that the pipeline gives its transformer."""
    text, mask = given["encoder_hidden_states"], given.get("encoder_hidden_states_mask")
    if mask is None:  # as where all prompts are of one length
        mask = torch.ones(text.shape[:2], device=text.device)
    img_ids, txt_ids = positions(given["img_shapes"][0], text.shape[1])
    # what is left out stays out; what else is given, the export refuses by its name
    kept = {name: x for name, x in given.items() if isinstance(x, Tensor) or x}
    del kept["img_shapes"]
    return {
        **kept,
        "encoder_hidden_states_mask": mask.bool(),
        "img_ids": img_ids.to(text.device),
        "txt_ids": txt_ids.to(text.device),
    }
