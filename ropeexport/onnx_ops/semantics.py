"""What the rotary ops compute, in NumPy: the reference that a rewrite is checked with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ropeexport.onnx_ops.forms import Form, Pairing

Array = NDArray[Any]


def pair_slices(pairing: Pairing, pairs: int) -> tuple[slice, slice]:
    """Return the first and the second elements of all pairs, as slices of the last axis."""
    if pairing == "interleaved":
        return slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)
    return slice(0, pairs), slice(pairs, 2 * pairs)


def apply_form(form: Form, *inputs: Array) -> tuple[Array, ...]:
    """Run a rotary op on arrays: data (B, H, L, D), tables as :class:`Form` has them."""
    data, tables = inputs[: form.tensors], inputs[form.tensors :]
    if form.tables == "matrices":
        pe = tables[0]
        entries = (pe[..., 0, 0], pe[..., 0, 1], pe[..., 1, 0], pe[..., 1, 1])
    else:
        cos, sin = (table[:, None] for table in tables)
        entries = (cos, -sin, sin, cos)
    return tuple(rotate(x, form.pairing, *entries) for x in data)


def rotate(x: Array, pairing: Pairing, *entries: Array) -> Array:
    """Multiply each pair of the last axis by its matrix; what no pair covers passes."""
    m00, m01, m10, m11 = entries
    first, second = pair_slices(pairing, m00.shape[-1])
    rotated = np.array(x)
    rotated[..., first] = m00 * x[..., first] + m01 * x[..., second]
    rotated[..., second] = m10 * x[..., first] + m11 * x[..., second]
    return rotated


def rope_table(positions: Array, coarse: Array, fine: Array) -> Array:
    """Run the table op on arrays: matrices (..., P, 2, 2) of positions (...), by two digits each.

    The tables are those of :func:`ropeexport.onnx_ops.rope_table.digit_tables`; no position is
    beyond them.
    """
    size = np.abs(positions)
    rows = np.floor_divide(size, len(fine)).astype(np.int64)
    digits = coarse[rows], fine[(size - rows * len(fine)).astype(np.int64)]
    (cos_a, sin_a), (cos_b, sin_b) = (
        np.split(row[..., :2] + row[..., 2:], 2, axis=-1) for row in digits
    )
    cos = cos_a * cos_b - sin_a * sin_b
    sin = (sin_a * cos_b + cos_a * sin_b) * np.sign(positions)[..., None, None]
    flat = np.concatenate([cos, -sin, sin, cos], axis=-1)
    return flat.reshape(*flat.shape[:-1], 2, 2)
