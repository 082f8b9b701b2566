"""What a norm and a rotation make of q or k: in float64 with a bound, and in float32 bit by bit.

Both are written from the op's definition; the second adds the squares in the kernel's order, which
is a property of its results and so is spelt out here.

B batch, H heads, L length, D head size, R rotary size. Data is (B, H, L, D).
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from plugin.ptx.instructions import fused_multiply_add

DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
LANES = 32
MOST_SPAN_THREADS = 512


@dataclass(frozen=True)
class Op:
    """A form, and what its attributes say.

    ``matrices``: the tables are (B or 1, H or 1, L, R/2, 2, 2); of cosines and sines they are made.
    """

    halves: bool = False
    rotary_size: int = 0  # 0: all of the row
    across_heads: bool = False
    epsilon: float = 1e-6

    def pairs(self, head_size: int) -> tuple[slice, slice]:
        """Return the first and the second elements of all pairs."""
        size = self.rotary_size or head_size
        if self.halves:
            return slice(0, size // 2), slice(size // 2, size)
        return slice(0, size, 2), slice(1, size, 2)


def matrices_of(cos: NDArray[np.float32], sin: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (…, 2, 2) of tables (…, P)."""
    return np.stack([cos, -sin, sin, cos], axis=-1).reshape(*cos.shape, 2, 2)


def _along(scale: NDArray, op: Op) -> NDArray:
    """Return a scale (D,) or (H, D) beside (B, H, L, D)."""
    return scale[:, None] if op.across_heads else scale


def exact(
    op: Op, x: NDArray, scale: NDArray, matrices: NDArray[np.float32], additions: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the result in float64, and how far the kernel's may be from it.

    With u = 2^-24, and v half an epsilon of the data's type: a sum of squares is off by (additions
    + 1) u, the mean and epsilon's addition by 2 u, of which the root leaves half; the root and the
    inverse add 2 u, the product with x one, the product with the scale one. Each rounding to the
    type adds v, or half of its smallest number. The rotation carries the errors of two numbers, and
    adds 3 u of its products and a last rounding.

    ``additions``: the most that a square goes through.
    """
    u, kind = 2.0**-24, ml_dtypes.finfo(x.dtype)
    v, least = float(kind.eps) / 2, float(kind.smallest_subnormal) / 2
    is_rounded_twice = scale.dtype == x.dtype and x.dtype != np.float32
    data, wide_scale = x.astype(np.float64), _along(scale.astype(np.float64), op)
    mean = (data**2).mean(axis=(1, 3) if op.across_heads else 3, keepdims=True)
    y = data / np.sqrt(mean + np.float64(np.float32(op.epsilon))) * wide_scale
    relative = ((additions + 3) / 2 + 4) * u + (2 if is_rounded_twice else 1) * v
    off = 1.01 * (np.abs(y) * relative + least * (1 + is_rounded_twice * np.abs(wide_scale)))
    first, second = op.pairs(x.shape[-1])
    result, bound = y.copy(), off.copy()
    for row, place in ((0, first), (1, second)):
        a, b = (matrices[..., row, i].astype(np.float64) for i in (0, 1))
        result[..., place] = a * y[..., first] + b * y[..., second]
        carried = np.abs(a) * off[..., first] + np.abs(b) * off[..., second]
        size = np.abs(a * y[..., first]) + np.abs(b * y[..., second])
        before = 1.01 * (carried + 3 * u * size)
        bound[..., place] = before + v * (np.abs(result[..., place]) + before) + least
    return result, bound


def unit_elements(op: Op, head_size: int, width: int) -> NDArray[np.int64]:
    """Return (units, elements): which elements of a row a thread holds, in its order."""
    rotary = op.rotary_size or head_size
    accesses = 2 if op.halves or width == 1 else 1
    size = width * accesses
    step = np.arange(width)
    rows = []
    for unit in range(rotary // size):
        starts = (
            [access * (rotary // 2) + unit * width for access in range(accesses)]
            if op.halves
            else [unit * size + access * width for access in range(accesses)]
        )
        rows.append(np.concatenate([start + step for start in starts]))
    rows += [rotary + i * size + np.arange(size) for i in range((head_size - rotary) // size)]
    return np.array(rows)


def _squares(units: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the squares of (…, elements) added one after the other."""
    total = np.zeros(units.shape[:-1], np.float32)
    for i in range(units.shape[-1]):
        total = fused_multiply_add(units[..., i], units[..., i], total)
    return total


def _butterfly(sums: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the sum of (…, lanes) by pairs half of the lanes apart, a quarter, and so on."""
    lanes = sums.shape[-1]
    while lanes > 1:
        lanes //= 2
        sums = sums[..., :lanes] + sums[..., lanes : 2 * lanes]
    return sums[..., 0]


def _padded(x: NDArray, axis: int, size: int) -> NDArray:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, size - x.shape[axis])
    return np.pad(x, widths)


def _of_row(units: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the squares of (…, units, elements) by the lanes of a warp."""
    sums = _squares(units)
    return _butterfly(_padded(sums, -1, 1 << (sums.shape[-1] - 1).bit_length()))


def _of_span(units: NDArray[np.float32], threads: int) -> NDArray[np.float32]:
    """Return the squares of (…, units, elements), dealt to the threads of a block."""
    rounds = -(-units.shape[-2] // threads)
    dealt = _padded(units, -2, rounds * threads)
    dealt = dealt.reshape(*units.shape[:-2], rounds, threads, units.shape[-1])
    dealt = np.moveaxis(dealt, -2, -3)
    own = _squares(dealt.reshape(*dealt.shape[:-2], -1))
    warps = _butterfly(own.reshape(*own.shape[:-1], threads // LANES, LANES))
    total = warps[..., 0]
    for i in range(1, warps.shape[-1]):
        total = total + warps[..., i]
    return total


def span_threads(op: Op, heads: int, row_units: int) -> int:
    """Return the threads of a block; ``heads`` of the tensor that has more."""
    units = row_units * (heads if op.across_heads else 1)
    return min(MOST_SPAN_THREADS, -(-units // LANES) * LANES)


def _sum_of_squares(op: Op, x: NDArray[np.float32], width: int, most_heads: int) -> NDArray:
    """Return the sum beside (B, H, L, D)."""
    elements = unit_elements(op, x.shape[-1], width)
    units = x[..., elements]
    threads = span_threads(op, most_heads, len(elements))
    if op.across_heads:
        by_token = np.moveaxis(units, 1, 2)
        by_token = by_token.reshape(*by_token.shape[:2], -1, units.shape[-1])
        return _of_span(by_token, threads)[:, None, :, None]
    of_row = _of_row(units) if len(elements) <= LANES else _of_span(units, threads)
    return of_row[..., None]


def bit_by_bit(
    op: Op,
    x: NDArray,
    scale: NDArray,
    matrices: NDArray[np.float32],
    width: int,
    most_heads: int,
) -> NDArray:
    """Return what the kernel must write, every bit.

    ``width`` elements an access; ``most_heads`` of q and k.
    """
    kind, data = x.dtype, x.astype(np.float32)
    with np.errstate(all="ignore"):
        count = np.float32(x.shape[-1] * (x.shape[1] if op.across_heads else 1))
        mean = _sum_of_squares(op, data, width, most_heads) / count
        inverse = np.float32(1) / np.sqrt(mean + np.float32(op.epsilon))
        normed = data * inverse
        if scale.dtype == kind:
            normed = normed.astype(kind).astype(np.float32)
        y = (normed * _along(scale.astype(np.float32), op)).astype(kind)
        wide = y.astype(np.float32)
        first, second = op.pairs(x.shape[-1])
        for row, place in ((0, first), (1, second)):
            products = (matrices[..., row, i] * wide[..., p] for i, p in ((0, first), (1, second)))
            y[..., place] = np.add(*products).astype(kind)
    return y


def most_additions(op: Op, head_size: int, width: int, most_heads: int) -> int:
    """Return the most additions that a square goes through: of a thread, a warp and a block."""
    elements = unit_elements(op, head_size, width)
    units = len(elements) * (most_heads if op.across_heads else 1)
    rounds = -(-units // span_threads(op, most_heads, len(elements)))
    return rounds * elements.shape[1] + 5 + MOST_SPAN_THREADS // LANES
