"""Dimensions that are texts: names of axes, or expressions of them, which anybody may have written.

onnx_ir reads them and SymPy computes them, without a bound: ``9**9**9`` is a number of 370 million
digits, and a Max of 64 names takes a minute.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from functools import lru_cache, partial

import onnx_ir as ir

_LONGEST, _LONGEST_CHOICE = 512, 128  # characters; of one that compares its parts, two by two
_LONGEST_OF_TORCH = 1 << 14  # before what it writes twice is left out
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


def without_functions(text: str) -> str:
    """Return a dimension as torch writes it in the operators that ONNX's tools know.

    Source: torch 2.13, ``torch.utils._sympy.functions``.  Sizes are not negative, so what is cut
    off is rounded down.

    Examples
    --------
    >>> without_functions("length + (PythonMod(-length, 8))")
    'length + -length % 8'
    >>> without_functions("2*CeilToInt(IntTrueDiv(length, 4))")
    '2 * -(-length // 4)'
    >>> without_functions("((-length - (PythonMod(-length, 4)))//4)")
    '-length // 4'
    >>> without_functions("CeilToInt(FloatTrueDiv(ToFloat(length) - 0.5, 1.0))")
    'length'
    >>> without_functions("past+length")
    'past+length'
    """
    if "(" not in text or len(text) > _LONGEST_OF_TORCH:
        return text
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError):
        return text
    operators = _Operators()
    made = ast.unparse(operators.visit(tree))
    return made if operators.count else text


class _Operators(ast.NodeTransformer):
    """Calls of torch's functions as operators; how many there were."""

    count = 0

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        write = _WRITTEN.get(node.func.id) if isinstance(node.func, ast.Name) else None
        made = write(*node.args) if write is not None else None
        self.count += made is not None
        return made or node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        """Write ``(x - x % n) // n`` as ``x // n``."""
        self.generic_visit(node)
        match node:
            case ast.BinOp(
                ast.BinOp(x, ast.Sub(), ast.BinOp(y, ast.Mod(), n)), ast.FloorDiv(), m
            ) if ast.dump(x) == ast.dump(y) and ast.dump(n) == ast.dump(m):
                self.count += 1
                return ast.BinOp(x, ast.FloorDiv(), n)
        return node


def _quotient(x: ast.expr, y: ast.expr) -> ast.expr:
    """Return a division, by a whole number where it is one: ``x / 2`` for ``x / 2.0``."""
    match y:
        case ast.Constant(float() as value) if value.is_integer():
            y = ast.Constant(int(value))
    return ast.BinOp(x, ast.Div(), y)


def _down(x: ast.expr, y: ast.expr) -> ast.expr:
    return ast.BinOp(x, ast.FloorDiv(), y)


def _up(x: ast.expr, y: ast.expr) -> ast.expr:
    return ast.UnaryOp(ast.USub(), _down(ast.UnaryOp(ast.USub(), x), y))


def _of_quotient(rounded: Callable[..., ast.expr], x: ast.expr) -> ast.expr | None:
    """Return a quotient, rounded; None for what is no quotient."""
    match x:
        case ast.BinOp(over, ast.Div(), under):
            return rounded(over, under)
    return None


def _rounded_up(x: ast.expr) -> ast.expr | None:
    """Return a quotient rounded up, or a size less a part of one: ``torch.arange(0.5, size)``."""
    match x:
        case ast.BinOp(ast.BinOp(size, ast.Sub(), ast.Constant(float() as part)), ast.Div(), by):
            if 0 <= part < 1 and ast.unparse(by) == "1":
                return size
    return _of_quotient(_up, x)


# by the name of torch's function
_WRITTEN: dict[str, Callable[..., ast.expr | None]] = {
    "CeilDiv": _up,
    "CeilToInt": _rounded_up,
    "CleanDiv": _down,
    "FloatTrueDiv": _quotient,
    "FloorDiv": _down,
    "FloorToInt": partial(_of_quotient, _down),
    "Identity": lambda x: x,
    "IntTrueDiv": _quotient,
    "Mod": lambda x, y: ast.BinOp(x, ast.Mod(), y),
    "ModularIndexing": lambda x, y, z: ast.BinOp(_down(x, y), ast.Mod(), z),
    "PowByNatural": lambda x, y: ast.BinOp(x, ast.Pow(), y),
    "PythonMod": lambda x, y: ast.BinOp(x, ast.Mod(), y),
    "ToFloat": lambda x: x,
    "TruncToInt": partial(_of_quotient, _down),
}
