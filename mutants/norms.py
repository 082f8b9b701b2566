"""Faults of the norm before a rope: what it divides by, what it scales with, and where."""

from __future__ import annotations

from mutants.edits import attribute, before, exchanged
from mutants.mutant import EVERYWHERE, OUT, K, Mutant, Q

NORMED = ("normed", "segments")  # kinds whose norms become one op with their ropes
_SINGLE = ("fp32",)
_WITHOUT_ONE = """
  one = Constant<value_float = 1.0>()
  one_t = CastLike(one, x)
  wrong = Sub(x, one_t)
"""
_REVERSED = """
  start = Constant<value_ints = [-1]>()
  end = Constant<value_ints = [-9223372036854775807]>()
  axis = Constant<value_ints = [0]>()
  step = Constant<value_ints = [-1]>()
  wrong = Slice(x, start, end, axis, step)
"""
_SQUARED = "  wrong = Mul(x, x)"

NORMS: tuple[Mutant, ...] = (
    Mutant(
        "epsilon of another default",
        "1e-5, onnx's default, where the model has 1e-6",
        attribute("NormRope", epsilon=1e-5),
        kind="normed", dtypes=_SINGLE,
    ),
    Mutant(
        "epsilon added to the root",
        "added behind the square root, as far as an epsilon can say it",
        attribute("NormRope", epsilon=1e-2),
        kind="normed", dtypes=("fp32", "fp16"),
    ),
    Mutant(
        "normed over all heads",
        "the axis of a norm of all heads, as Wan's, for one of each head",
        attribute("NormRope", axis=-2),
        kind="normed",
    ),
    Mutant(
        "scale without one",
        "Gemma scales by one and the weight; the weight alone was exported",
        before("NormRope", q_scale=_WITHOUT_ONE),
        seen_at=(Q, OUT), kind="normed",
    ),
    Mutant(
        "scale of k reversed",
        "a scale permuted with the weights of a projection, or not",
        before("NormRope", k_scale=_REVERSED),
        seen_at=(K, OUT), kind="normed",
    ),
    Mutant(
        "scaled twice",
        "the scale is folded into the projection too",
        before("NormRope", q_scale=_SQUARED, k_scale=_SQUARED),
        kind="normed",
    ),
    Mutant(
        "scales of the segments exchanged",
        "the image's scale for the text, and the text's for the image",
        exchanged("NormRope", 3, 4), seen_at=EVERYWHERE, kind="segments",
    ),
    Mutant(
        "segments rotated by each other's rows",
        "the tables are cut as if the image stood before the text",
        exchanged("NormRope", 2), seen_at=EVERYWHERE, kind="segments",
        lengths=(6,),  # both segments are as long there: at another, nothing would run
    ),
)  # fmt: skip
