"""The positions of ``examples/qwen_image.py``: the angles are those of the model's own tables."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("diffusers")

from diffusers import QwenImageTransformer2DModel

from examples.qwen_image import WithPositions, positions

pytestmark = pytest.mark.pipelines  # minutes of them, see Makefile

SHAPES = {
    "one image": [(1, 4, 4)],
    "odd sizes": [(1, 5, 3)],
    "two images and frames": [(1, 3, 6), (2, 7, 4)],
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_position_has_the_row_of_the_models_tables(name) -> None:
    shapes, words = SHAPES[name], 9
    model = QwenImageTransformer2DModel(
        num_layers=1, attention_head_dim=16, num_attention_heads=1, axes_dims_rope=(4, 6, 6)
    )
    expected = model.pos_embed([shapes], max_txt_seq_len=words)
    ids = positions(shapes, words)
    for axes, rows in zip(ids, expected, strict=True):
        got = WithPositions(model).turns(axes)
        assert got.shape == rows.shape
        # an angle is a position times a power, each known to its last bits
        bound = float(axes.abs().max()) * 2.0**-21
        assert np.abs(got.numpy() - rows.numpy()).max() < bound
