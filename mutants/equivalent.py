"""Edits that change nothing where they are looked at, each with its proof; they do not count."""

from __future__ import annotations

from mutants.edits import after, attribute, before, in_turn
from mutants.mutant import EVERYWHERE, OUT, Equivalent
from mutants.rotation import REVERSED

_ONE_FURTHER = """
  row = Constant<value_floats = [0.6, -0.8, 0.8, 0.6]>()
  square = Constant<value_ints = [2, 2]>()
  turn = Reshape(row, square)
  wrong = MatMul(turn, x)
"""
_PAIRS_REVERSED = """
  split_shape = Constant<value_ints = [0, 0, 0, -1, 2]>()
  split = Reshape(x, split_shape)
  start = Constant<value_ints = [-1]>()
  end = Constant<value_ints = [-9223372036854775807]>()
  axis = Constant<value_ints = [3]>()
  step = Constant<value_ints = [-1]>()
  turned = Slice(split, start, end, axis, step)
  shape = Shape(x)
  wrong = Reshape(turned, shape)
"""
_EIGHTH = """
  eighth = Constant<value_float = 0.125>()
  factor = CastLike(eighth, x)
  wrong = Mul(x, factor)
"""
_OWN_BATCH = """
  zero = Constant<value_ints = [0]>()
  batch = Shape<start = 0, end = 1>(q)
  rest = Shape<start = 1>(x)
  shape = Concat<axis = 0>(batch, rest)
  wrong = Expand(x, shape)
"""

EQUIVALENTS = (
    Equivalent(
        "positions of q and k shifted alike",
        "With a further rotation S of every position, (S M q) . (S M' k) = (M q)^T S^T S (M' k) = "
        "(M q) . (M' k), for S^T S = I: every logit stays, whatever the matrices. The rope's own "
        "outputs change, and there the shift is caught (positions off by one).",
        before("ApplyRope", pe=_ONE_FURTHER),
        unseen_at=(OUT,),
    ),
    Equivalent(
        "pairs of q, k and pe in another order",
        "A logit is a sum over the pairs of q' . k'; the same permutation of the pairs on both "
        "sides reorders its terms.",
        before("ApplyRope", q=_PAIRS_REVERSED, k=_PAIRS_REVERSED, pe=REVERSED.format(axis=3)),
        unseen_at=(OUT,),
    ),
    Equivalent(
        "q and k negated",
        "(-q') . (-k') = q' . k', exactly.",
        after("ApplyRope", q="  wrong = Neg(x)", k="  wrong = Neg(x)"),
        unseen_at=(OUT,),
    ),
    Equivalent(
        "scale split between q and the softmax",
        "(q'/8) . k' times 8/sqrt(D) is q' . k' / sqrt(D); 1/8 is a power of two, so nothing is "
        "rounded but what was rounded before (no element is near the underflow).",
        in_turn(
            before("Attention", q=_EIGHTH),
            attribute("Attention", scale=8 * 40**-0.5),
        ),
        unseen_at=EVERYWHERE,
    ),
    Equivalent(
        "keys and values in another order",
        "Softmax and the weighted sum run over the set of keys: the same permutation of k' and v "
        "reorders their terms.",
        before("Attention", k=REVERSED.format(axis=2), v=REVERSED.format(axis=2)),
        unseen_at=EVERYWHERE,
    ),
    Equivalent(
        "pe expanded to the batch",
        "Broadcasting is copying.",
        before("ApplyRope", pe=_OWN_BATCH),
        unseen_at=EVERYWHERE,
    ),
    Equivalent(
        "norm scaled before it is rounded",
        "A float32 scale of half data leaves one of two roundings out: nearer to exact than what "
        "the model does, and within the bound of either (bit for bit it is held in tests/plugin).",
        before(
            "NormRope", q_scale="  wrong = Cast<to = 1>(x)", k_scale="  wrong = Cast<to = 1>(x)"
        ),
        unseen_at=EVERYWHERE,
        kind="normed",
        dtypes=("fp16",),
    ),
)
