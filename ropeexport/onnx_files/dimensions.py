"""Dimensions that are texts: names of axes, or expressions of them, which anybody may have written.

onnx_ir reads them and SymPy computes them, without a bound: ``9**9**9`` is a number of 370 million
digits, and a Max of 64 names takes a minute.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

import onnx_ir as ir

_LONGEST, _LONGEST_CHOICE = 512, 128  # characters; of one that compares its parts, two by two
_MOST_NAMES = 8
_CHOICES = {"Max", "Min", "max", "min"}
_FUNCTIONS = {"Mod", "floor", *_CHOICES}
_NAMES = re.compile(r"[^\W\d]\w*")
_LONG_NUMBER = re.compile(r"\d{19}")
_POWER = re.compile(r"\*\*\s*(?!\d(?![\d\s]*\*\*))|\*\*.*\*\*.*\*\*")  # all but a few small ones


def is_bounded(text: str) -> bool:
    """Say whether SymPy may compute with a text: powers of powers, say, would never end."""
    names = set(_NAMES.findall(text))
    longest = _LONGEST_CHOICE if names & _CHOICES else _LONGEST
    is_short = len(text) <= longest and len(names) <= _MOST_NAMES + len(names & _FUNCTIONS)
    return is_short and not _POWER.search(text) and not _LONG_NUMBER.search(text)


@lru_cache(maxsize=4096)
def symbols_of(text: str) -> frozenset[str] | None:
    """Return the names that an expression is made of; None for what is none, or has no bound.

    Examples
    --------
    >>> sorted(symbols_of("past + 2*length"))
    ['length', 'past']
    >>> symbols_of("9**9**9") is symbols_of("a b") is None
    True
    """
    if not is_bounded(text):
        return None
    try:
        return frozenset(ir.SymbolicDim(text).free_symbols())
    except (ValueError, ArithmeticError, RecursionError):
        return None


def size_at(text: str, sizes: Mapping[str, int]) -> int | None:
    """Return the size of a dimension where axes have some sizes; None where that does not say it.

    Examples
    --------
    >>> size_at("past + 2*length", {"past": 3, "length": 4})
    11
    >>> size_at("past % length", {"past": 3, "length": 0}) is None
    True
    """
    if symbols_of(text) is None:
        return None
    try:
        size = ir.SymbolicDim(text).evaluate(sizes)
    except (ValueError, ArithmeticError):
        return None
    return size if isinstance(size, int) else None
