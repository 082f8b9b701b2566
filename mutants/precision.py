"""Faults of precision: tables, angles, positions and products in too few bits, casts left out."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from mutants import tables
from mutants.edits import after, before, everywhere, retyped
from mutants.mutant import BOTH, HALVES, OUT, Mutant, Q

_THROUGH = """
  narrow = Cast<to = {dtype}>(x)
  wrong = Cast<to = {back}>(narrow)
"""
_BF16_TABLE = _THROUGH.format(dtype=16, back=1)
_FP16_TABLE = _THROUGH.format(dtype=10, back=1)

# the rotation with every product rounded to the data's type before the sum
_HALF_PRODUCTS = """
  rows = Constant<value_ints = [0, 0, 0, 0, 4]>()
  flat = Reshape(pe, rows)
  a, b, c, d = Split<axis = -1, num_outputs = 4>(flat)
  last = Constant<value_ints = [-1]>()
  m00 = Squeeze(a, last)
  m01 = Squeeze(b, last)
  m10 = Squeeze(c, last)
  m11 = Squeeze(d, last)
  wide = Cast<to = 1>({x})
  pairs = Constant<value_ints = [0, 0, 0, -1, 2]>()
  split = Reshape(wide, pairs)
  zero = Constant<value_int = 0>()
  one = Constant<value_int = 1>()
  x0 = Gather<axis = -1>(split, zero)
  x1 = Gather<axis = -1>(split, one)
  p00 = Mul(m00, x0)
  p01 = Mul(m01, x1)
  p10 = Mul(m10, x0)
  p11 = Mul(m11, x1)
  h00 = Cast<to = <T>>(p00)
  h01 = Cast<to = <T>>(p01)
  h10 = Cast<to = <T>>(p10)
  h11 = Cast<to = <T>>(p11)
  w00 = Cast<to = 1>(h00)
  w01 = Cast<to = 1>(h01)
  w10 = Cast<to = 1>(h10)
  w11 = Cast<to = 1>(h11)
  row0 = Add(w00, w01)
  row1 = Add(w10, w11)
  col0 = Unsqueeze(row0, last)
  col1 = Unsqueeze(row1, last)
  both = Concat<axis = -1>(col0, col1)
  shape = Shape({x})
  rotated = Reshape(both, shape)
  wrong = Cast<to = <T>>(rotated)
"""
_CLAMPED = """
  limit = Constant<value_int = 4095>()
  wrong = Min(x, limit)
"""
_AXES_EXCHANGED = """
  order = Constant<value_ints = [0, 2, 1]>()
  wrong = Gather<axis = 2>(x, order)
"""


def _to_bfloat16(frequencies: np.ndarray) -> np.ndarray:
    return frequencies.astype(ml_dtypes.bfloat16).astype(np.float64)


PRECISION = (
    Mutant(
        "bf16 tables",
        "module.to(bfloat16) converts the cached table too",
        before("ApplyRope", pe=_BF16_TABLE),
        seen_at=BOTH,
    ),
    Mutant(
        "fp16 tables",
        "module.half() converts the cached table too",
        before("ApplyRope", pe=_FP16_TABLE),
        seen_at=BOTH,
        dtypes=("fp32", "fp16"),
    ),
    Mutant(
        "products in half precision",
        "rotates in the data's type rather than in float32",
        after("ApplyRope", q=_HALF_PRODUCTS.format(x="q"), k=_HALF_PRODUCTS.format(x="k")),
        seen_at=BOTH,
        dtypes=HALVES,
    ),
    Mutant(
        "fp32 data through fp16",
        "a cast to half on the way into the rope of a float32 model",
        before("ApplyRope", q=_THROUGH.format(dtype=10, back=1)),
        seen_at=(Q, OUT),
        dtypes=("fp32",),
    ),
    Mutant(
        "attention in fp16",
        "a float32 model whose values pass through half precision",
        before("Attention", v=_THROUGH.format(dtype=10, back=1)),
        seen_at=(OUT,),
        dtypes=("fp32",),
    ),
    Mutant(
        "missing cast back after the rope",
        "the rotated q stays in float32, which keeps the fused attention away",
        retyped("q_rotated"),
        seen_at=(Q,),
        dtypes=HALVES,
    ),
    Mutant(
        "missing cast back at the end",
        "the attention's output stays in float32",
        retyped("out"),
        seen_at=(OUT,),
        dtypes=HALVES,
    ),
    Mutant(
        "float32 angles at long positions",
        "float64 angles fall to float32 in the export, off by position * 2^-24",
        tables.angles_in_float32,
        kind="ids",
        seen_at=BOTH,
    ),
    Mutant(
        "bf16 positions",
        "module.to(bfloat16) converts the positions: integers beyond 256 are rounded",
        everywhere("ids", _THROUGH.format(dtype=16, back=7)),
        kind="ids",
    ),
    Mutant(
        "fp16 positions",
        "positions beyond 2048 are rounded, beyond 65504 infinite",
        everywhere(
            "ids",
            "  cap = Constant<value_int = 65503>()\n  low = Min(x, cap)\n"
            "  narrow = Cast<to = 10>(low)\n  wrong = Cast<to = 7>(narrow)",
        ),
        kind="ids",
    ),
    Mutant(
        "bf16 frequencies",
        "the buffer inv_freq was converted with the module",
        tables.of_frequencies(_to_bfloat16),
        kind="ids",
    ),
    Mutant(
        "fp32 frequencies at long positions",
        "the buffer inv_freq is float32, so exact angles are of the wrong frequencies",
        tables.of_frequencies(lambda f: f.astype(np.float32).astype(np.float64)),
        kind="ids",
        seen_at=BOTH,
        dtypes=("fp32", "fp16"),
    ),
    Mutant(
        "wrong theta",
        "the base of another model family, 500000 for 10000",
        tables.of_frequencies(lambda f: f ** (np.log(500000.0) / np.log(10000.0))),
        kind="ids",
    ),
    Mutant(
        "table without its remainders",
        "keeps the leading 12 bits of each entry",
        tables.of_entries(tables.without_remainders),
        kind="ids",
        seen_at=BOTH,
        dtypes=("fp32", "fp16"),
    ),
    Mutant(
        "fp16 digit tables",
        "a builder stores the tables of positions in half precision",
        tables.of_entries(tables.rounded("float16")),
        kind="ids",
        seen_at=BOTH,
        dtypes=("fp32", "fp16"),
    ),
    Mutant(
        "coarse digit off by one",
        "right up to position 1023 and wrong from there",
        tables.of_entries(tables.a_row_late, place=0),
        kind="ids",
    ),
    Mutant(
        "table of 4096 positions",
        "a cached table's length: positions beyond it are clamped to its end",
        everywhere("ids", _CLAMPED),
        kind="ids",
    ),
    Mutant(
        "rows and columns exchanged",
        "the image's position axes in another order",
        everywhere("ids", _AXES_EXCHANGED),
        kind="ids",
    ),
)
