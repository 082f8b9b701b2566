"""Random calls of the norm and the rotation, by a form's name and sizes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from plugin.host_norm import Call
from plugin.norm_reference import DTYPES, Op

# (matrices, pairs of halves, a part of the row)
FORMS = {
    "matrices": (True, False, False),
    "matrices of each head": (True, False, False),
    "tables": (False, False, False),
    "tables, partial": (False, False, True),
    "tables, halves": (False, True, False),
    "tables, halves, partial": (False, True, True),
}
LAYOUTS = ("BHLD", "BLHD")


@dataclass(frozen=True)
class Sizes:
    """Of a call; ``k_heads`` of 0: one tensor alone; ``rotary_size`` of 0: half of the row, where
    the form is of a part.
    """

    batch: int = 2
    heads: int = 3
    k_heads: int = 2
    length: int = 7
    head_size: int = 64
    rotary_size: int = 0
    table_batch: int = 1


def numbers(shape: tuple[int, ...], kind: np.dtype, seed: int) -> NDArray:
    """Return normal numbers, whose products round in most places."""
    return np.random.default_rng(seed).standard_normal(shape).astype(kind)


def in_layout(x: NDArray, layout: str) -> NDArray:
    """Return a (B, H, L, D) array that lies in memory as (B, L, H, D), or as it is."""
    if layout == "BHLD":
        return np.ascontiguousarray(x)
    return np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2)


def make(
    form: str,
    dtype: str,
    sizes: Sizes,
    *,
    scale: str = "",
    layout: str = "BHLD",
    across_heads: bool = False,
    epsilon: float = 1e-6,
    seed: int = 0,
) -> Call:
    """Return a call; ``scale`` is a type, the data's where it is empty."""
    matrices, halves, partial = FORMS[form]
    kind, size = DTYPES[dtype], sizes.head_size
    rotary = (sizes.rotary_size or size // 4 * 2) if partial else size
    counts = [heads for heads in (sizes.heads, sizes.k_heads) if heads]
    if form == "matrices of each head":
        counts = [sizes.heads] * len(counts)
    data = [
        in_layout(numbers((sizes.batch, h, sizes.length, size), kind, seed + i), layout)
        for i, h in enumerate(counts)
    ]
    scales = [
        numbers((h, size) if across_heads else (size,), DTYPES[scale or dtype], seed + 10 + i)
        for i, h in enumerate(counts)
    ]
    rows = (sizes.table_batch, sizes.length, rotary // 2)
    float32 = DTYPES["float32"]
    if matrices:
        by_head = sizes.heads if form == "matrices of each head" else 1
        tables = [numbers((rows[0], by_head, *rows[1:], 2, 2), float32, seed + 20)]
    else:
        tables = [numbers(rows, float32, seed + 20 + i) for i in range(2)]
    op = Op(halves, rotary if partial else 0, across_heads, epsilon)
    return Call(op, data, scales, tables)


def beside(x: NDArray, elements: int) -> NDArray:
    """Return a dense copy that begins some elements beside an aligned address."""
    room = np.zeros(x.size + elements + 64, x.dtype)
    first = -room.ctypes.data % 64 // x.itemsize + elements
    copy = room[first : first + x.size].reshape(x.shape)
    copy[...] = x
    return copy


def again(call: Call) -> Call:
    """Return the same call with outputs of its own, which hold something else."""
    return replace(call, out=[np.full(x.shape, 3, x.dtype) for x in call.data])
