"""What onnxruntime's own rotary operator computes, as its kernel for CPUs does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference.ops.op_rotary_embedding import rotary_embedding

from ropeexport.ops.forms import ROTARY_SIZE

DOMAIN = "com.microsoft"


def is_rotary(node: ir.Node) -> bool:
    """Say whether a node is onnxruntime's rotary embedding."""
    return (node.domain, node.op_type) == (DOMAIN, "RotaryEmbedding")


def evaluate_rotary(
    attributes: Mapping[str, Any], x: NDArray[Any], ids: NDArray[Any], *tables: NDArray[Any]
) -> NDArray[Any]:
    """Rotate by ONNX's operator, whose positions are always (B, L); one number is where they begin.

    Where the number of heads is not said, their size is that of the tables.
    """
    length = x.shape[2 if x.ndim == 4 else 1]
    if ids.ndim < 2:
        ids = np.tile(ids.reshape(1) + np.arange(length), (len(x), 1))
    heads = attributes.get("num_heads") or x.shape[-1] // (2 * tables[0].shape[-1])
    rotated: NDArray[Any] = rotary_embedding(
        x,
        *tables,
        ids,
        interleaved=attributes.get("interleaved", 0),
        rotary_embedding_dim=attributes.get(ROTARY_SIZE, 0),
        num_heads=heads,
    )
    return rotated
