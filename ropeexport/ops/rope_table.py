"""``ropeexport::RopeTable``: exact rotation matrices of integer positions without float64.

TensorRT has no float64, and a float32 angle ``pos * frequency`` is off by about ``pos * 2^-24``.
So no angle is formed in the graph at all.  A position is split into two digits of base 1024,

    |pos| = 1024 a + b,      cos(pos w) = cos(1024 a w) cos(b w) - sin(1024 a w) sin(b w),

and cosine and sine of each digit's angle are read from tables computed in float64 at export.

Error.  Each entry is stored as ``hi + lo``: ``hi`` has 12 significant bits, ``lo`` is the float32
nearest to the rest, so an entry is known to 2^-37.  A product of two ``hi`` has 24 bits and is
exact, with or without fused multiply-add.  The leading difference is one rounding of a number that
may exceed 1 by 2^-11 (2^-24).  The correction is a sum of terms of at most 2^-12, rounded to under
2^-34, and adding it is one rounding more, of a number of at most 1 (2^-25).  Together: at most
1.5 * 2^-24 + 2^-33, absolute, three quarters of the 2^-23 that is promised.  Splitting a position
is exact, since every number in it is an integer below 2^24 or a multiple of 2^-10.

A position with a fraction is turned on from its whole part by ``cos(r w)`` and ``sin(r w)`` in
float32, ``r w`` at most 1 (``fusion/angles.py``).  In units of 2^-23, the table's error adds at
most 0.75 sqrt(2) there; the small angle, of two roundings, 0.5; its cosine and sine 0.35; two
products and a sum 0.75.  Together under 3 * 2^-23; what was found in draws is up to 1.6 * 2^-23.

The rows of the coarse table say how far positions go (:data:`MAX_POSITION` unless asked for more);
beyond, angles are NaN: they fail, they do not drift.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ropeexport.given import whole
from ropeexport.ops import names
from ropeexport.ops.op import INTEGERS, Array, Op, TorchOp, function_of

BASE = 1024
MAX_POSITION = BASE * 1025 - 1  # 1,049,599
LARGEST_POSITION = (1 << 24) - 1  # the last before float32 skips whole numbers
ERROR_BOUND = 1.5 * 2.0**-24 + 2.0**-33

_HI_BITS = 12
_FLOAT = onnx.TensorProto.FLOAT
_INT64 = onnx.TensorProto.INT64

CONTRACT = (
    f"float32 rotation matrices of integer positions below {BASE} times the rows of 'coarse' "
    "in size, within 2^-23 of exact; NaN beyond"
)

_NODES = f"""
  signed = Cast<to = {_FLOAT}>(pos)
  sign_1 = Sign(signed)
  size = Abs(signed)
  base = Constant<value_float = {float(BASE)}>()
  inverse_base = Constant<value_float = {1 / BASE}>()
  scaled = Mul(size, inverse_base)
  digit_a = Floor(scaled)
  whole = Mul(digit_a, base)
  digit_b = Sub(size, whole)
  rows_1 = Shape<start = 0, end = 1>(coarse)
  rows = Cast<to = {_FLOAT}>(rows_1)
  limit = Mul(rows, base)
  known_1 = Less(size, limit)
  zero_f = Constant<value_float = 0.0>()
  safe_a = Where(known_1, digit_a, zero_f)
  safe_b = Where(known_1, digit_b, zero_f)
  index_a = Cast<to = {_INT64}>(safe_a)
  index_b = Cast<to = {_INT64}>(safe_b)
  row_a_given = Gather<axis = 0>(coarse, index_a)
  row_b_given = Gather<axis = 0>(fine, index_b)
  row_a = Cast<to = {_FLOAT}>(row_a_given)
  row_b = Cast<to = {_FLOAT}>(row_b_given)
  cos_a, sin_a, cos_a_lo, sin_a_lo = Split<axis = -1, num_outputs = 4>(row_a)
  cos_b, sin_b, cos_b_lo, sin_b_lo = Split<axis = -1, num_outputs = 4>(row_b)
  cc = Mul(cos_a, cos_b)
  ss = Mul(sin_a, sin_b)
  sc = Mul(sin_a, cos_b)
  cs = Mul(cos_a, sin_b)
  cos_hi = Sub(cc, ss)
  sin_hi = Add(sc, cs)
  cc_1 = Mul(cos_a, cos_b_lo)
  cc_2 = Mul(cos_a_lo, cos_b)
  cc_3 = Mul(cos_a_lo, cos_b_lo)
  ss_1 = Mul(sin_a, sin_b_lo)
  ss_2 = Mul(sin_a_lo, sin_b)
  ss_3 = Mul(sin_a_lo, sin_b_lo)
  sc_1 = Mul(sin_a, cos_b_lo)
  sc_2 = Mul(sin_a_lo, cos_b)
  sc_3 = Mul(sin_a_lo, cos_b_lo)
  cs_1 = Mul(cos_a, sin_b_lo)
  cs_2 = Mul(cos_a_lo, sin_b)
  cs_3 = Mul(cos_a_lo, sin_b_lo)
  cc_lo = Sum(cc_1, cc_2, cc_3)
  ss_lo = Sum(ss_1, ss_2, ss_3)
  cos_lo = Sub(cc_lo, ss_lo)
  sin_lo = Sum(sc_1, sc_2, sc_3, cs_1, cs_2, cs_3)
  cos_all = Add(cos_hi, cos_lo)
  sin_size = Add(sin_hi, sin_lo)
  ends = Constant<value_ints = [-1, -2]>()
  sign = Unsqueeze(sign_1, ends)
  known = Unsqueeze(known_1, ends)
  sin_all = Mul(sin_size, sign)
  nan = Constant<value_float = nan>()
  cos = Where(known, cos_all, nan)
  sin = Where(known, sin_all, nan)
  minus_sin = Neg(sin)
  flat = Concat<axis = -1>(cos, minus_sin, sin, cos)
  flat_shape = Shape<end = -1>(flat)
  two_two = Constant<value_ints = [2, 2]>()
  shape = Concat<axis = 0>(flat_shape, two_two)
  pe_wide = Reshape(flat, shape)
  pe = CastLike(pe_wide, coarse)
"""


def rope_table_function(opset: int) -> onnx.FunctionProto:
    """Return the model-local function: pos (..., L) and two tables to pe (..., L, P, 2, 2)."""
    return function_of(
        f'<domain: "{names.DOMAIN}", opset_import: ["" : {opset}]>\n'
        f"{names.ROPE_TABLE} (pos, coarse, fine) => (pe) {{ {_NODES} }}",
        CONTRACT,
    )


def digit_tables(
    frequencies: NDArray[np.float64], max_position: int = MAX_POSITION
) -> tuple[NDArray[np.float32], ...]:
    """Make the tables of the coarse and the fine digit.

    Parameters
    ----------
    frequencies : ndarray
        (P,) radians a position, float64.
    max_position : int
        The largest position that they must hold, see :func:`limit_of`.

    Returns
    -------
    tuple of ndarray
        float32 (1025, P, 4) and (1024, P, 4): hi of cosine and sine, then their lo; the first has
        as many rows as ``max_position`` asks for.
    """
    coarse = np.arange(max_position // BASE + 1, dtype=np.float64) * BASE
    fine = np.arange(BASE, dtype=np.float64)
    tables = []
    for digits in (coarse, fine):
        angles = digits[:, None] * frequencies
        exact = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        mantissa, exponent = np.frexp(exact)
        hi = np.ldexp(np.round(np.ldexp(mantissa, _HI_BITS)), exponent - _HI_BITS)
        tables.append(np.concatenate([hi, exact - hi], axis=-1).astype(np.float32))
    return tuple(tables)


def limit_of(coarse_rows: int) -> int:
    """Return the largest position that a coarse table of so many rows holds."""
    return BASE * coarse_rows - 1


def check_limit(max_position: int) -> None:
    """Raise :class:`UsageError` for a limit that tables cannot have."""
    what = "max position (float32 skips whole numbers beyond the largest)"
    whole(what, max_position, 1, LARGEST_POSITION)


def rope_table(positions: Array, coarse: Array, fine: Array) -> Array:
    """Run the table op on arrays: matrices (..., P, 2, 2) of positions (...), by two digits each.

    The tables are those of :func:`digit_tables`; no position is beyond them.
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


def _evaluate(_: Mapping[str, Any], inputs: Sequence[Array]) -> tuple[Array, ...]:
    positions, coarse, fine = inputs
    if np.abs(positions).max(initial=0) > limit_of(len(coarse)):
        raise ValueError("positions beyond the tables, which give NaN")
    return (rope_table(positions, coarse, fine),)


_TORCH = "ropeexport.ops.rope_table_torch"

OP = Op(
    op_type=names.ROPE_TABLE,
    contract=CONTRACT,
    inputs={"pos": "I", "coarse": "tensor(float)", "fine": "tensor(float)"},
    outputs={"pe": "tensor(float)"},
    types={"I": INTEGERS},
    functions=lambda opset: (rope_table_function(opset),),
    evaluate=_evaluate,
    roles={"pos": "positions"},
    results=("pe",),
    torch_ops=(
        TorchOp("rope_table", f"{_TORCH}:translation", "ropeexport.reference:rope_matrices"),
    ),
)
