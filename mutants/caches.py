"""Faults of a cache: positions and slots off by one, windows, groups, what is held too late."""

from __future__ import annotations

from functools import partial

from mutants.edits import attribute, before, everywhere
from mutants.mutant import Mutant

# one where tokens are held, as in each call but the first of a text; else zero
_HELD = """
  all = Shape<start = 1, end = 2>(attention_mask)
  new = Shape<start = 1, end = 2>(input_ids)
  held = Sub(all, new)
  some = Sign(held)
"""
_ONE_MORE = "  one = Constant<value_ints = [1]>()\n  wrong = Add(x, one)"
_ONE_LESS = "  one = Constant<value_ints = [1]>()\n  wrong = Sub(x, one)"
_TWO_LESS = "  two = Constant<value_ints = [2]>()\n  wrong = Sub(x, two)"
_MORE_AT_STEPS = f"{_HELD}  wrong = Add(x, some)"
_ROLLED = """
  zero = Constant<value_ints = [0]>()
  last = Constant<value_ints = [-1]>()
  end = Constant<value_ints = [9223372036854775807]>()
  axis = Constant<value_ints = [1]>()
  tail = Slice(x, last, end, axis)
  rest = Slice(x, zero, last, axis)
  wrong = Concat<axis = 1>(tail, rest)
"""
_WITHOUT_THE_NEWEST = f"""{_HELD}
  one = Constant<value_int = 1>()
  zero = Constant<value_int = 0>()
  axes = Constant<value_ints = [0]>()
  count = Shape<start = 2, end = 3>(x)
  slots = Squeeze(count, axes)
  places = Range(zero, slots, one)
  newest = Sub(held, one)
  absent = Equal(places, newest)
  present = Not(absent)
  factor = CastLike(present, x)
  around = Constant<value_ints = [0, 1, 3]>()
  factors = Unsqueeze(factor, around)
  wrong = Mul(x, factors)
"""
LOGITS, LAST_KEY, LAST_VALUE = "logits", "present.1.key", "present.1.value"
_OfCache = partial(Mutant, kind="llama", dtypes=("fp32",), lengths=(), count=3)

CACHES = (
    _OfCache(
        "positions one too large at steps",
        "counted from the tokens that there are, the new one included",
        everywhere("position_ids", _MORE_AT_STEPS),
        seen_at=(LOGITS, LAST_KEY),
    ),
    _OfCache(
        "padding one slot late",
        "the mask of a former step: it hides a token, and shows a slot of padding",
        everywhere("attention_mask", _ROLLED),
        seen_at=(LOGITS, LAST_KEY),
    ),
    _OfCache(
        "token before the last hidden",
        "the mask ends two slots too early, and the token itself is put in",
        before("LessOrEqual", queries=_TWO_LESS),
        seen_at=(LOGITS,),
    ),
    _OfCache(
        "next token seen",
        "the mask ends one slot too late, in the prompt alone",
        before("LessOrEqual", queries=_ONE_MORE),
        seen_at=(LOGITS,),
    ),
    _OfCache(
        "window one too large",
        "counts the tokens before, where the token itself is one of the window",
        before("Greater", edge=_ONE_LESS),
        seen_at=(LOGITS,),
        kind="gemma3",
    ),
    _OfCache(
        "window one too small",
        "counts the token itself twice",
        before("Greater", edge=_ONE_MORE),
        seen_at=(LOGITS,),
        kind="gemma3",
    ),
    _OfCache(
        "groups of the cache exchanged",
        "the first half of the queries meets the second group's keys and values",
        before("Attention", k=_ROLLED, v=_ROLLED),
        seen_at=(LOGITS,),
    ),
    _OfCache(
        "scale of the attention",
        "the square root was lost",
        attribute("Attention", scale=1.0 / 16),
        seen_at=(LOGITS,),
    ),
    _OfCache(
        "written one slot too far",
        "at steps, behind the slot that the mask shows",
        before("TensorScatter", write=_MORE_AT_STEPS),
        seen_at=(LOGITS, LAST_VALUE),
        kind="llama-fixed",
    ),
    _OfCache(
        "past of the step before",
        "the newest slot that is held was not there yet",
        before("TensorScatter", past=_WITHOUT_THE_NEWEST),
        seen_at=(LOGITS, LAST_VALUE),
        kind="llama-fixed",
    ),
)
