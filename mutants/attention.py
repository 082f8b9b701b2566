"""Faults of the attention around the rope, and of single values."""

from __future__ import annotations

from mutants.edits import after, attribute, before, in_blocks, without
from mutants.mutant import HALVES, OUT, K, Mutant, Q

_ROLLED_HEADS = """
  one = Constant<value_ints = [1]>()
  zero = Constant<value_ints = [0]>()
  end = Constant<value_ints = [9223372036854775807]>()
  axis = Constant<value_ints = [1]>()
  rest = Slice(x, one, end, axis)
  first = Slice(x, zero, one, axis)
  wrong = Concat<axis = 1>(rest, first)
"""
_STALE_KEYS = """
  zero = Constant<value_ints = [0]>()
  traced = Constant<value_ints = [6]>()
  axis = Constant<value_ints = [2]>()
  wrong = Slice(x, zero, traced, axis)
"""
_TILED = "  wrong = Concat<axis = 1>(x, x)"
_MERGED = """
  shape = Shape(x)
  back = Transpose<perm = [0, 2, 1, 3]>(x)
  wrong = Reshape(back, shape)
"""
_BATCH_REVERSED = """
  start = Constant<value_ints = [-1]>()
  end = Constant<value_ints = [-9223372036854775807]>()
  axis = Constant<value_ints = [0]>()
  step = Constant<value_ints = [-1]>()
  wrong = Slice(x, start, end, axis, step)
"""
# one element, a third of the way through, takes a value made of its own
_ONE = """
  all = Constant<value_ints = [-1]>()
  flat = Reshape(x, all)
  count = Size(x)
  three = Constant<value_int = 3>()
  third = Div(count, three)
  place = Reshape(third, all)
  value = Gather<axis = 0>(flat, place)
  {change}
  put = ScatterElements<axis = 0>(flat, place, changed)
  shape = Shape(x)
  wrong = Reshape(put, shape)
"""
_NEGATED = _ONE.format(change="changed = Neg(value)")
_NAN = _ONE.format(
    change="nan = Constant<value_float = nan>()\n  nan_t = CastLike(nan, value)\n"
    "  changed = Add(value, nan_t)"
)
_INFINITE = _ONE.format(
    change="large = Constant<value_float = inf>()\n  large_t = CastLike(large, value)\n"
    "  changed = Add(value, large_t)"
)
_LANE_OF_ZEROS = """
  zero = Constant<value_ints = [0]>()
  seven = Constant<value_ints = [7]>()
  eight = Constant<value_ints = [8]>()
  end = Constant<value_ints = [9223372036854775807]>()
  axis = Constant<value_ints = [3]>()
  left = Slice(x, zero, seven, axis)
  lane = Slice(x, seven, eight, axis)
  right = Slice(x, eight, end, axis)
  less = Sub(lane, lane)
  wrong = Concat<axis = 3>(left, less, right)
"""
# 0.4 % more: two units in the last place of float16 or more, one or two of bfloat16
_NUDGED = _ONE.format(
    change="more = Constant<value_float = 1.004>()\n  more_t = CastLike(more, value)\n"
    "  changed = Mul(value, more_t)"
)
_OF_RANK_4 = """
  heads = Constant<value_ints = [0, 0, 4, -1]>()
  split = Reshape(x, heads)
  wrong = Transpose<perm = [0, 2, 1, 3]>(split)
"""

ATTENTION = (
    Mutant(
        "softmax without scale",
        "the scale was folded into weights that were not exported",
        attribute("Attention", scale=1.0),
        seen_at=(OUT,),
    ),
    Mutant(
        "softmax scale 1/D",
        "the square root was lost",
        attribute("Attention", scale=1.0 / 40),
        seen_at=(OUT,),
    ),
    Mutant(
        "softmax scale of the padded head",
        "1/sqrt(48) after D = 40 was padded for a kernel",
        attribute("Attention", scale=48**-0.5),
        seen_at=(OUT,),
    ),
    Mutant(
        "causal flag",
        "the attention of a language model",
        attribute("Attention", is_causal=1),
        seen_at=(OUT,),
    ),
    Mutant(
        "soft cap",
        "logits limited as another model family does",
        attribute("Attention", softcap=5.0),
        seen_at=(OUT,),
    ),
    Mutant(
        "scale lost in blocks",
        "long attention has a kernel of its own, which was not given the scale",
        in_blocks("MultiHeadAttention", scale=1.0),
        seen_at=(OUT,),
        dtypes=("fp32", "fp16"),
    ),
    Mutant(
        "causal in blocks",
        "long attention has a kernel of its own, called as for a language model",
        in_blocks("MultiHeadAttention", unidirectional=1),
        seen_at=(OUT,),
        dtypes=("fp32", "fp16"),
    ),
    Mutant(
        "keys for values in blocks",
        "long attention has a kernel of its own, and its inputs were mixed up",
        in_blocks("MultiHeadAttention", inputs={2: "k_rows"}),
        seen_at=(OUT,),
        dtypes=("fp32", "fp16"),
    ),
    Mutant(
        "queries for keys in blocks",
        "long attention has a kernel of its own, which reads a packed projection at one offset",
        in_blocks("MultiHeadAttention", inputs={1: "q_rows"}),
        seen_at=(OUT,),
        dtypes=("fp32", "fp16"),
    ),
    Mutant(
        "stale length of the keys",
        "keeps the traced length: attends over the first 6 keys",
        before("Attention", k=_STALE_KEYS, v=_STALE_KEYS),
        seen_at=(OUT,),
    ),
    Mutant(
        "permuted heads of v",
        "the packed projection was split in another order",
        before("Attention", v=_ROLLED_HEADS),
        seen_at=(OUT,),
    ),
    Mutant(
        "permuted heads of k",
        "the rotated keys belong to the neighbouring head",
        after("ApplyRope", k=_ROLLED_HEADS),
        seen_at=(K, OUT),
    ),
    Mutant(
        "GQA heads tiled",
        "repeats the group (0 1 0 1) where each head serves its neighbours (0 0 1 1)",
        before("Attention", k=_TILED, v=_TILED),
        seen_at=(OUT,),
        kind="grouped",
    ),
    Mutant(
        "GQA groups exchanged",
        "the first half of the queries meets the second group's keys",
        before("Attention", k=_ROLLED_HEADS, v=_ROLLED_HEADS),
        seen_at=(OUT,),
        kind="grouped",
    ),
    Mutant(
        "heads merged without transpose",
        "(B, H, L, D) reshaped straight to (B, L, H*D)",
        after("Transpose", x=_MERGED),
        seen_at=(OUT,),
    ),
    Mutant(
        "batch in reverse",
        "outputs written to another entry of the batch",
        after("Reshape", out=_BATCH_REVERSED),
        seen_at=(OUT,),
    ),
    Mutant(
        "output not merged",
        "(B, H, L, D) returned where (B, L, H*D) is due",
        after("Reshape", out=_OF_RANK_4),
        seen_at=(OUT,),
    ),
    Mutant(
        "output missing",
        "an output was optimised away",
        without("k_rotated"),
        seen_at=(K,),
    ),
    Mutant(
        "one wrong element of a million, rope",
        "a race on one element of q",
        after("ApplyRope", q=_NEGATED),
        seen_at=(Q,),
        kind="million",
        lengths=(1024,),
        count=1,
    ),
    Mutant(
        "one wrong element of a million, attention",
        "a race on one element of the output",
        after("Reshape", out=_NEGATED),
        seen_at=(OUT,),
        kind="million",
        lengths=(1024,),
        count=1,
    ),
    Mutant(
        "one element off by units in the last place",
        "0.4 % too much in one element of q",
        after("ApplyRope", q=_NUDGED),
        seen_at=(Q,),
        dtypes=("fp32", "fp16"),
    ),
    Mutant(
        "NaN in one lane",
        "an element that no thread wrote",
        after("ApplyRope", q=_NAN),
        seen_at=(Q, OUT),
    ),
    Mutant(
        "NaN in one element of the output",
        "an element that no thread wrote",
        after("Reshape", out=_NAN),
        seen_at=(OUT,),
    ),
    Mutant(
        "infinity in one element",
        "half precision overflows",
        after("Reshape", out=_INFINITE),
        seen_at=(OUT,),
        dtypes=("fp32", *HALVES),
    ),
    Mutant(
        "one lane of zeros",
        "an element of each vector is never written",
        after("ApplyRope", q=_LANE_OF_ZEROS),
        seen_at=(Q, OUT),
    ),
)
