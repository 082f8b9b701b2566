"""What a trace holds the sizes of its inputs to, and the line of the module that asks for it.

torch's tracer follows one way through a module; where that hangs on a size (a table's rows, a view
into pairs, a branch), it notes a guard, an expression of sizes that has to be true.  It names the
line of its own code.  The line of the module's stands on the stack while a guard is added, which
torch logs; so a handler of that log looks there.
"""

from __future__ import annotations

import logging
import math
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from itertools import dropwhile, islice
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, TypeVar

import numpy as np
import sympy
import torch
from numpy.typing import NDArray
from torch.utils._sympy.functions import TruncToInt
from torch.utils._sympy.printers import PythonPrinter

from ropeexport.axes import Sum, sum_of
from ropeexport.exporting.places import is_own, line_in, line_of
from ropeexport.models.example import Example

_LOGGER = logging.getLogger("torch.fx.experimental.symbolic_shapes")
_ADDS = "_log_guard"  # torch's function that has a guard and its environment
# where torch.SymBool and its like are, which a decision calls, and what stands before them
_DECIDES = {torch.__file__, str(Path(__file__).with_name("numbers.py"))}
_OF_ARRAYS = {
    "math": math,
    "torch": torch,
    "max": lambda *given: reduce(np.maximum, given),
    "min": lambda *given: reduce(np.minimum, given),
}


@dataclass(frozen=True, eq=False)
class Guard:
    """A condition on sizes.

    Parameters
    ----------
    expression : Any
        torch's, of its symbols.
    sums : mapping of str to Sum
        What each symbol is, in names of axes.
    place : str
        The line of the module's code, empty where there is none.
    is_asked : bool
        Whether that line decides by it, rather than an operator of torch's.
    """

    expression: Any
    sums: Mapping[str, Sum]
    place: str
    is_asked: bool
    _code: CodeType

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes that it is about."""
        return tuple(dict.fromkeys(name for total in self.sums.values() for name in total.names))

    @property
    def is_unequal(self) -> bool:
        """Whether it only says that two sizes differ, as torch does of most that it compares."""
        return isinstance(self.expression, sympy.Ne)

    @property
    def is_equation(self) -> bool:
        """Whether it says that two sizes are equal."""
        return isinstance(self.expression, sympy.Eq)

    @property
    def cuts_off(self) -> bool:
        """Whether Python's ``int`` made a number of a fraction, and so fixed what it is of."""
        return self.is_equation and self.expression.has(TruncToInt)

    def above(self) -> Guard:
        """Return, of two that differ, that the first is the greater one."""
        expression = sympy.Gt(*self.expression.args, evaluate=False)
        return replace(self, expression=expression, _code=_code_of(expression))

    @property
    def asks_for(self) -> Any:
        """What a module's own line asks to be more than 0; None where it is no such question."""
        sides = self.expression.args
        if not self.is_asked or type(self.expression) not in (sympy.Gt, sympy.Lt, sympy.Ne):
            return None
        less, more = sides if isinstance(self.expression, sympy.Lt) else reversed(sides)
        return more if less == 0 else more - less

    def that(self, relation: Any, expression: Any, number: int) -> Guard:
        """Return a condition on an expression of the same sizes, ``sympy.Eq`` to a number, say."""
        made = relation(expression, number, evaluate=False)
        return replace(self, expression=made, _code=_code_of(made))

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Say whether it is true at some sizes of the axes."""
        values = {symbol: total.at(sizes) for symbol, total in self.sums.items()}
        try:
            return bool(eval(self._code, {"math": math, "torch": torch}, values))
        except ZeroDivisionError:
            return False

    def where(self, sizes: Mapping[str, Any]) -> NDArray[np.bool_]:
        """Say where it is true, of axes whose sizes are arrays of one length, or a number each."""
        try:
            with np.errstate(divide="raise", invalid="raise"):
                values = {symbol: total.at(sizes) for symbol, total in self.sums.items()}
                found = eval(self._code, _OF_ARRAYS, values)
            return np.broadcast_to(found, np.broadcast_shapes(*map(np.shape, sizes.values())))
        except (ArithmeticError, TypeError, ValueError, AttributeError):  # not of whole arrays
            lines = np.broadcast_arrays(*sizes.values())
            points = zip(*(line.tolist() for line in lines), strict=True)
            return np.array([self.holds(dict(zip(sizes, at, strict=True))) for at in points])

    def difference(self) -> dict[str, int] | None:
        """Return an equation of axes as factors that sum to 0, a constant's by no name.

        None for what is no equation of sums, or holds anyway.
        """
        if not self.is_equation:
            return None
        sums = {
            symbol: sum((f * sympy.Symbol(n) for n, f in x.terms), sympy.Integer(x.constant))
            for symbol, x in self.sums.items()
        }
        equation = sympy.sympify(self.expression.lhs - self.expression.rhs)
        plain = equation.xreplace({s: sums[s.name] for s in equation.free_symbols})
        found = plain.expand().as_coefficients_dict()
        if not all(key == 1 or key.is_Symbol for key in found):
            return None
        factors = {"" if key == 1 else str(key): int(value) for key, value in found.items()}
        return {name: factor for name, factor in factors.items() if factor} or None

    def __str__(self) -> str:
        text = PythonPrinter().doprint(self.expression)
        names = {s: str(x) if _is_name(x) else f"({x})" for s, x in self.sums.items()}
        return re.sub(r"\b\w+\b", lambda match: names.get(match[0], match[0]), text)


def _code_of(expression: Any) -> CodeType:
    return compile(PythonPrinter().doprint(expression), "<guard>", "eval")


def _is_name(total: Sum) -> bool:
    return len(total.terms) == 1 and total.terms[0][1] == 1 and not total.constant


class Guards(logging.Handler):
    """The guards of the trace that is under way."""

    def __init__(self) -> None:
        super().__init__()
        self._environment: Any = None
        self._places: dict[str, str] = {}
        self._asked: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Note a guard that torch is about to add, and the module's innermost line on the stack."""
        calls = traceback.walk_stack(sys._getframe())
        inside = list(dropwhile(lambda call: call[0].f_code.co_name != _ADDS, calls))
        if inside:
            noted = inside[0][0].f_locals
            self._environment = noted.get("self")
            self._places.setdefault(str(noted.get("g")), line_of(reversed(inside)))
            if _asker_is_own(frame for frame, _ in inside):
                self._asked.add(str(noted.get("g")))

    def found(self, example: Example) -> list[Guard]:
        """Return the guards that are about dynamic axes of an example alone."""
        environment = self._environment
        if environment is None:
            return []
        sums = _sums(environment, example)
        expressions = dict.fromkeys(guard.expr for guard in environment.guards)
        made = (
            _guard_of(x, sums, self._places.get(str(x), ""), is_asked=str(x) in self._asked)
            for x in expressions
        )
        return [guard for guard in made if guard is not None]


def _guard_of(
    expression: Any, sums: Mapping[str, Sum], place: str, *, is_asked: bool
) -> Guard | None:
    """Return an expression as a guard; None where it is about other symbols than axes'."""
    symbols = sorted(symbol.name for symbol in expression.free_symbols)
    if not symbols or not all(symbol in sums for symbol in symbols):
        return None
    known = {symbol: sums[symbol] for symbol in symbols}
    return Guard(expression, known, place, is_asked, _code_of(expression))


def _asker_is_own(frames: Iterable[FrameType]) -> bool:
    """Say whether a module's code asks torch's number itself whether it holds, from the inside."""

    def decides(frame: FrameType) -> bool:
        return frame.f_code.co_filename in _DECIDES

    outside = dropwhile(decides, dropwhile(lambda frame: not decides(frame), frames))
    return any(map(is_own, islice(outside, 1)))


class Ignored(logging.Handler):
    """What operators are decomposed by after the trace: by the example's sizes, without a guard."""

    def __init__(self) -> None:
        super().__init__()
        self._decided: dict[str, tuple[Any, str]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Note what a decomposition asks, and the module's line that its operator is from."""
        if not str(record.msg).startswith(_IGNORED) or not isinstance(record.args, tuple):
            return
        frames = [frame for frame, _ in traceback.walk_stack(sys._getframe())]
        asker = next((x for x in frames if not x.f_code.co_filename.endswith(_MACHINERY)), None)
        if asker is not None and asker.f_code.co_filename.startswith(_DECOMPOSES):
            asked, found = record.args[:2]
            is_condition = getattr(asked, "is_Boolean", False)  # else a size, taken as it is
            expression = sympy.Eq(asked, found) if not is_condition else asked
            if is_condition and not found:
                expression = sympy.Not(asked)
            self._decided.setdefault(str(expression), (expression, _line_of_node(frames)))

    def found(self, sums: Mapping[str, Sum]) -> list[Guard]:
        """Return it as guards, as far as it is about symbols that are known."""
        made = (_guard_of(x, sums, place, is_asked=True) for x, place in self._decided.values())
        return [guard for guard in made if guard is not None]


_IGNORED = "Ignored guard"  # torch's own words, which go on: this could result in accuracy problems
_MACHINERY = ("guards.py", "symbolic_shapes.py", "sym_node.py", "recording.py",
              "logging/__init__.py", "torch/__init__.py")  # fmt: skip
_DECOMPOSES = tuple(
    f"{Path(torch.__file__).parent}/{name}" for name in ("_decomp/", "_refs/", "_ops.py")
)


def _line_of_node(frames: Iterable[FrameType]) -> str:
    """Return the module's line of the operator that an interpreter of torch's is at."""
    for frame in frames:
        node = frame.f_locals.get("n") if frame.f_code.co_name == "run_node" else None
        if node is not None:
            return line_in(node.meta.get("stack_trace") or "")
    return ""


@contextmanager
def listening() -> Iterator[Guards]:
    """Note the guards that are added meanwhile, whatever the program has done to its logging."""
    with _heard(Guards()) as guards:
        yield guards


@contextmanager
def hearing_ignored() -> Iterator[Ignored]:
    """Note meanwhile what operators are decomposed by."""
    with _heard(Ignored()) as ignored:
        yield ignored


Heard = TypeVar("Heard", bound=logging.Handler)


@contextmanager
def _heard(handler: Heard) -> Iterator[Heard]:
    level, disabled, off = _LOGGER.level, _LOGGER.disabled, logging.root.manager.disable
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(logging.INFO)
    _LOGGER.disabled = False
    logging.disable(logging.NOTSET)
    try:
        yield handler
    finally:
        logging.disable(off)
        _LOGGER.disabled = disabled
        _LOGGER.setLevel(level)
        _LOGGER.removeHandler(handler)


def symbols_of(
    program: torch.export.ExportedProgram, example: Example, inputs: Mapping[str, str]
) -> dict[str, tuple[str, int]]:
    """Return the axis that each symbol of a program is, and its size in the trace.

    ``inputs`` has the example's names of the program's inputs.
    """
    found: dict[str, tuple[str, int]] = {}
    for node in program.graph.nodes:
        labels = example.tensor_axes.get(inputs.get(node.name, ""), {})
        for axis, label in labels.items() if node.op == "placeholder" else ():
            size, total = node.meta["val"].shape[axis], sum_of(label)
            expression = sympy.sympify(getattr(getattr(size, "node", None), "expr", size))
            symbols, names = list(expression.free_symbols), total.names
            if len(symbols) == len(names) == 1 and _is_same(expression, symbols[0], total):
                hint = (size.node.hint - total.constant) // total.terms[0][1]
                found[symbols[0].name] = (names[0], int(hint))
    return found


def _is_same(expression: Any, symbol: Any, total: Sum) -> bool:
    """Say whether an expression is of a symbol what a sum is of its axis."""
    return bool(expression == total.terms[0][1] * symbol + total.constant)


def _sums(environment: Any, example: Example) -> dict[str, Sum]:
    """Return what torch's symbols are: sizes of the example's inputs, in their order."""
    inputs = [x.fake for x in environment.tracked_fakes or () if isinstance(x.fake, torch.Tensor)]
    found = {}
    for name, fake in zip(example.tensors, inputs, strict=False):
        for axis, label in example.tensor_axes.get(name, {}).items():
            symbol: Any = getattr(getattr(fake.shape[axis], "node", None), "_expr", None)
            if getattr(symbol, "is_Symbol", False):
                found[symbol.name] = sum_of(label)
    return found


def asks_for_none(node: Any) -> bool:
    """Say whether torch's node of a condition is ``x.numel() == 0``, of a size that data say."""
    expression = node.expr
    is_equality = isinstance(expression, sympy.Eq) and expression.rhs == 0
    return is_equality and expression.lhs in node.shape_env.size_like
