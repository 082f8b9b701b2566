"""Faults of the rotation: pairs, signs, positions, broadcasts, tails."""

from __future__ import annotations

from mutants.edits import after, before, for_k_alone, in_turn
from mutants.mutant import BOTH, EVERYWHERE, OUT, K, Mutant, Q

# the four entries of each matrix, a b / c d, put together again in another order
_ENTRIES = """
  rows = Constant<value_ints = [0, 0, 0, 0, 4]>()
  flat = Reshape(x, rows)
  a, b, c, d = Split<axis = -1, num_outputs = 4>(flat)
  minus_a = Neg(a)
  minus_c = Neg(c)
  again = Concat<axis = -1>({order})
  shape = Shape(x)
  wrong = Reshape(again, shape)
"""
_ROLLED = """
  one = Constant<value_ints = [1]>()
  zero = Constant<value_ints = [0]>()
  end = Constant<value_ints = [9223372036854775807]>()
  axis = Constant<value_ints = [2]>()
  rest = Slice(x, one, end, axis)
  first = Slice(x, zero, one, axis)
  wrong = Concat<axis = 2>(rest, first)
"""
REVERSED = """
  start = Constant<value_ints = [-1]>()
  end = Constant<value_ints = [-9223372036854775807]>()
  axis = Constant<value_ints = [{axis}]>()
  step = Constant<value_ints = [-1]>()
  wrong = Slice(x, start, end, axis, step)
"""
_FIRST = """
  zero = Constant<value_ints = [0]>()
  first = Gather<axis = {axis}>(x, zero)
  shape = Shape(x)
  wrong = Expand(first, shape)
"""
_EXCHANGED = """
  turned = Transpose<perm = [{perm}]>(x)
  shape = Shape(x)
  wrong = Reshape(turned, shape)
"""
_HALVES = """
  halves = Constant<value_ints = [0, 0, 0, 2, -1]>()
  split = Reshape(x, halves)
  pairs = Transpose<perm = [0, 1, 2, 4, 3]>(split)
  shape = Shape(x)
  wrong = Reshape(pairs, shape)
"""
_HALVES_BACK = """
  pairs = Constant<value_ints = [0, 0, 0, -1, 2]>()
  split = Reshape(x, pairs)
  halves = Transpose<perm = [0, 1, 2, 4, 3]>(split)
  shape = Shape(x)
  wrong = Reshape(halves, shape)
"""
# the elements beyond the last whole vector of 16 (32 of 40), as they were before the rotation
_TAIL = """
  zero = Constant<value_ints = [0]>()
  cut = Constant<value_ints = [{cut}]>()
  end = Constant<value_ints = [9223372036854775807]>()
  axis = Constant<value_ints = [3]>()
  head = Slice(x, zero, cut, axis)
  tail = Slice({source}, cut, end, axis)
  wrong = Concat<axis = 3>(head, tail)
"""
_ZERO_TAIL = _TAIL.format(cut=32, source="x").replace(
    "  wrong = Concat<axis = 3>(head, tail)",
    "  less = Sub(tail, tail)\n  wrong = Concat<axis = 3>(head, less)",
)
_LENGTH_TAIL = """
  zero = Constant<value_ints = [0]>()
  end = Constant<value_ints = [9223372036854775807]>()
  axis = Constant<value_ints = [2]>()
  vector = Constant<value_ints = [16]>()
  length = Shape<start = 2, end = 3>(x)
  whole = Div(length, vector)
  cut = Mul(whole, vector)
  head = Slice(x, zero, cut, axis)
  tail = Slice({source}, cut, end, axis)
  wrong = Concat<axis = 2>(head, tail)
"""
_TWICE = "  wrong, other = ropeexport.ApplyRope(x, k, pe)"
_STALE_POSITIONS = """
  zero = Constant<value_int = 0>()
  one = Constant<value_int = 1>()
  traced = Constant<value_int = 5>()
  axis = Constant<value_ints = [0]>()
  length = Shape<start = 2, end = 3>(x)
  last = Squeeze(length, axis)
  places = Range(zero, last, one)
  known = Min(places, traced)
  wrong = Gather<axis = 2>(x, known)
"""


def _tails(cut: int) -> dict[str, str]:
    return {place: _TAIL.format(cut=cut, source=place) for place in ("q", "k")}


ROTATION = (
    Mutant(
        "swapped pairing",
        "rotates element i with i + D/2 (rotate-half, GPT-NeoX) where neighbours are pairs",
        in_turn(
            before("ApplyRope", q=_HALVES, k=_HALVES),
            after("ApplyRope", q=_HALVES_BACK, k=_HALVES_BACK),
        ),
    ),
    Mutant(
        "pairing not undone",
        "permutes q and k for rotate-half and forgets the way back",
        before("ApplyRope", q=_HALVES, k=_HALVES),
        seen_at=EVERYWHERE,
    ),
    Mutant(
        "swapped elements",
        "takes the second element of a pair for the first",
        before("ApplyRope", pe=_ENTRIES.format(order="b, a, d, c")),
    ),
    Mutant(
        "sign of sin",
        "transposes the matrices: rotates by the negative angle",
        before("ApplyRope", pe=_ENTRIES.format(order="a, c, b, d")),
        seen_at=BOTH,
    ),
    Mutant(
        "sign of sin, k alone",
        "fixes the sign for q and not for k",
        for_k_alone(_ENTRIES.format(order="a, c, b, d")),
        seen_at=(K, OUT),
    ),
    Mutant(
        "cos for sin",
        "fills the sine's places from the cosine's table",
        before("ApplyRope", pe=_ENTRIES.format(order="a, minus_a, a, d")),
    ),
    Mutant(
        "sin for cos",
        "takes the two tables in the wrong order",
        before("ApplyRope", pe=_ENTRIES.format(order="c, minus_a, a, c")),
        seen_at=BOTH,
    ),
    Mutant(
        "cos and sin only",
        "reads two of a matrix's four entries, which is right for rotations alone",
        before("ApplyRope", pe=_ENTRIES.format(order="a, minus_c, c, a")),
    ),
    Mutant(
        "positions off by one",
        "starts counting at 1: q and k alike, which the attention hides for true rotations",
        before("ApplyRope", pe=_ROLLED),
        seen_at=BOTH,
    ),
    Mutant(
        "positions of k off by one",
        "counts the keys from another start than the queries",
        for_k_alone(_ROLLED),
        seen_at=(K, OUT),
    ),
    Mutant(
        "positions reversed",
        "reads the table from its end",
        before("ApplyRope", pe=REVERSED.format(axis=2)),
        seen_at=BOTH,
    ),
    Mutant(
        "frequencies reversed",
        "gives the fastest pair the slowest angle",
        before("ApplyRope", pe=REVERSED.format(axis=3)),
    ),
    Mutant(
        "stale length of the table",
        "keeps the traced length: positions beyond it repeat the last one",
        before("ApplyRope", pe=_STALE_POSITIONS),
    ),
    Mutant(
        "matrices of the first entry for the batch",
        "drops pe's batch axis",
        before("ApplyRope", pe=_FIRST.format(axis=0)),
    ),
    Mutant(
        "matrices of the first head for all",
        "drops pe's head axis",
        before("ApplyRope", pe=_FIRST.format(axis=1)),
    ),
    Mutant(
        "heads and length of pe exchanged",
        "reads (B, H, L, ...) where (B, L, H, ...) was written",
        before("ApplyRope", pe=_EXCHANGED.format(perm="0, 2, 1, 3, 4, 5")),
        seen_at=BOTH,
    ),
    Mutant(
        "heads and length of q exchanged",
        "a reshape where a transpose was meant",
        before("ApplyRope", q=_EXCHANGED.format(perm="0, 2, 1, 3")),
        seen_at=(Q, OUT),
    ),
    Mutant(
        "first key of the batch for all",
        "reuses a buffer from one batch entry to the next",
        before("ApplyRope", k=_FIRST.format(axis=0)),
        seen_at=(K, OUT),
    ),
    Mutant(
        "one key head for all",
        "broadcasts the first head over the others",
        before("ApplyRope", k=_FIRST.format(axis=1)),
        seen_at=(K, OUT),
    ),
    Mutant(
        "dropped tail of D",
        "a kernel of vectors of 16 elements leaves 40 - 32 unrotated",
        after("ApplyRope", **_tails(32)),
    ),
    Mutant(
        "last pair not rotated",
        "a loop over pairs ends one too early",
        after("ApplyRope", **_tails(38)),
    ),
    Mutant(
        "partial rotation",
        "rotates half of the head, as models of another family do",
        after("ApplyRope", **_tails(20)),
    ),
    Mutant(
        "tail of D not written",
        "a kernel of vectors of 16 elements leaves 40 - 32 as zeros",
        after("ApplyRope", q=_ZERO_TAIL, k=_ZERO_TAIL),
    ),
    Mutant(
        "dropped tail of L",
        "a grid of blocks of 16 positions leaves the rest unrotated",
        after("ApplyRope", **{p: _LENGTH_TAIL.format(source=p) for p in ("q", "k")}),
    ),
    Mutant(
        "k not rotated",
        "the second output of the op is its second input",
        after("ApplyRope", k="  wrong = Identity(k)"),
        seen_at=(K, OUT),
    ),
    Mutant(
        "no rotation at all",
        "an op whose eager body is a copy, exported as such",
        after("ApplyRope", q="  wrong = Identity(q)", k="  wrong = Identity(k)"),
    ),
    Mutant(
        "q rotated twice",
        "the rope is both in the graph and in the attention's layer",
        after("ApplyRope", q=_TWICE),
        seen_at=(Q, OUT),
    ),
)
