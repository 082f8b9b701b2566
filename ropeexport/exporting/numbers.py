"""Python's own arithmetic of sizes, kept in the graph while a module is traced.

``len(x)``, ``int(0.5 * length)`` and ``float(length)`` make a plain number of a size, which fixes
the axis.  A module that holds a whole number as a buffer (a stride, with which transformers' codecs
compute how much to pad) makes a tensor of a size, whose value torch then takes for data.
"""

from __future__ import annotations

import builtins
import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ropeexport.exporting.guards import asks_for_none

_PLACES = "_ropeexport_places"  # an attribute of the result of nonzero
_LIBRARIES = ("diffusers", "transformers")
_SYMBOLIC = (torch.SymInt, torch.SymFloat)


@contextmanager
def lengths_kept(module: nn.Module) -> Iterator[None]:
    """Let ``len`` of a tensor be a size, in the files of a module's classes, for a while."""
    with _in_files_of(module, "len", _length):
        yield


@contextmanager
def sizes_kept(module: nn.Module) -> Iterator[None]:
    """Let ``int`` and ``float`` of a size follow from it, and whole numbers in buffers be numbers.

    A library's loop over the places at which something holds (the experts that some token chose)
    goes over all places, and what it skips where there are no rows is computed of none.  The first
    trace of a module has none of this: a file that asks whether a type ``is int`` would be misled.
    """
    with (
        _in_files_of(module, "int", _Int),
        _in_files_of(module, "float", _Float),
        _buffers_as_numbers(module),
        _every_place(),
        _never_empty(),
    ):
        yield


@contextmanager
def _in_files_of(module: nn.Module, name: str, value: Any) -> Iterator[None]:
    files = {type(part).__module__ for part in module.modules()}
    own = [vars(sys.modules[file]) for file in files if file in sys.modules]
    changed = [names for names in own if name not in names and _root_of(names) != "torch"]
    for names in changed:
        names[name] = value
    try:
        yield
    finally:
        for names in changed:
            del names[name]


def _root_of(names: dict[str, Any]) -> str:
    return str(names.get("__name__", "")).partition(".")[0]


def _length(x: Any) -> Any:
    return x.shape[0] if isinstance(x, Tensor) and x.ndim else builtins.len(x)


class _OfBase(type):
    """A class whose instances are all those of its base."""

    def __instancecheck__(cls, x: object) -> bool:
        return isinstance(x, cls.__bases__[0])


class _Int(int, metaclass=_OfBase):
    """``int``, of which a size is a size."""

    def __new__(cls, x: Any = 0, *base: Any) -> Any:
        if isinstance(x, Number):
            x = x.value
        is_size = isinstance(x, _SYMBOLIC)
        return torch.sym_int(x) if is_size else int(x, *base)  # type: ignore[no-untyped-call]


class _Float(float, metaclass=_OfBase):
    """``float``, of which a size is a number that follows from it."""

    def __new__(cls, x: Any = 0.0) -> Any:
        is_size = isinstance(x, _SYMBOLIC)
        return torch.sym_float(x) if is_size else float(x)  # type: ignore[no-untyped-call]


@contextmanager
def _buffers_as_numbers(module: nn.Module) -> Iterator[None]:
    kept = [(part, dict(part._buffers)) for part in module.modules() if part._buffers]
    found = [
        (part, name, int(value))
        for part, buffers in kept
        for name, value in buffers.items()
        if value is not None and _is_whole_number(value)
    ]
    try:
        for part, name, number in found:
            del part._buffers[name]
            part.__dict__[name] = Number(number)
        yield
    finally:
        for part, name, _ in found:
            part.__dict__.pop(name, None)
        for part, buffers in kept:  # in their order
            part._buffers.clear()
            part._buffers.update(buffers)


def _is_whole_number(value: Tensor) -> bool:
    if value.ndim or value.is_meta or type(value) is not Tensor:
        return False
    return not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)


@contextmanager
def _every_place() -> Iterator[None]:
    """Let loops over ``flags.nonzero()``, (length,) of a length that is fixed, go over all.

    Those of libraries alone, whose classes are compared one by one: another's loop may count.
    """
    tensor: Any = Tensor
    nonzero, iterate = tensor.nonzero, tensor.__iter__

    def places(x: Tensor, *given: Any, **named: Any) -> Any:
        found = nonzero(x, *given, **named)
        is_fixed = x.ndim == 1 and type(x.shape[0]) is int and x.dtype == torch.bool
        if is_fixed and isinstance(found, Tensor):
            vars(found)[_PLACES] = x.shape[0]
        return found

    def each(x: Tensor) -> Iterator[Any]:
        count = vars(x).get(_PLACES)
        is_library = _root_of(sys._getframe(1).f_globals) in _LIBRARIES
        return map(Place, range(count)) if count is not None and is_library else iterate(x)

    tensor.nonzero, tensor.__iter__ = places, each
    try:
        yield
    finally:
        del tensor.nonzero  # torch's own is its base's
        tensor.__iter__ = iterate


@contextmanager
def _never_empty() -> Iterator[None]:
    """Let a library's question whether there are no rows, of as many as data say, be denied."""
    truth: Any = torch.SymBool.__bool__

    def answered(x: torch.SymBool) -> bool:
        is_library = _root_of(sys._getframe(1).f_globals) in _LIBRARIES
        return False if is_library and asks_for_none(x.node) else bool(truth(x))

    torch.SymBool.__bool__ = answered  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.SymBool.__bool__ = truth  # type: ignore[method-assign]


class Number:
    """A fraction where a module's code expects a tensor of no axes; it may follow from sizes.

    What is computed of whole numbers is a plain number, but for a quotient, which stays what a
    tensor can do until its type is a whole one.
    """

    shape = torch.Size()
    ndim = 0

    def __init__(self, numerator: _Whole, denominator: _Whole | None = None) -> None:
        self.numerator, self.denominator = numerator, denominator  # None: a whole number

    @property
    def value(self) -> Any:
        """The number as Python has it."""
        return self.numerator if self.denominator is None else self.numerator / self.denominator

    def item(self) -> Any:
        """Return the number."""
        return self.value

    def to(self, *given: Any, **named: Any) -> Any:
        """Return the number, cut off where a type of whole numbers is asked for."""
        types = [x for x in (*given, *named.values()) if isinstance(x, torch.dtype)]
        if not types or types[0].is_floating_point or types[0].is_complex:
            return self
        numerator, denominator = self.numerator, self.denominator
        is_whole = denominator is None or (isinstance(denominator, int) and denominator == 1)
        return numerator if is_whole else _Int(self.value)

    def long(self) -> Any:
        """Return the number, cut off."""
        return self.to(torch.int64)

    def ceil(self) -> Number:
        """Return the number rounded up."""
        numerator, denominator = _fraction(self)
        return Number(-(-numerator // denominator), 1)

    def floor(self) -> Number:
        """Return the number rounded down."""
        numerator, denominator = _fraction(self)
        return Number(numerator // denominator, 1)

    def __index__(self) -> int:
        return operator.index(self.value)

    def __int__(self) -> int:
        return int(self.value)

    def __float__(self) -> float:
        return float(self.value)

    def __bool__(self) -> bool:
        return bool(self.numerator)

    def __neg__(self) -> Any:
        is_whole = self.denominator is None
        return -self.numerator if is_whole else Number(-self.numerator, self.denominator)

    __hash__ = object.__hash__

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], _: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        own = {torch.ceil: cls.ceil, torch.floor: cls.floor}.get(function)
        if own is not None:
            return own(args[0])
        plain = torch.utils._pytree.tree_map_only(Number, operator.attrgetter("value"), args)
        return function(*plain, **(kwargs or {}))


class Place(Number):
    """A row of one index, and the index itself.

    One behind a table's end reads its last row: nothing chose it, or eager would fail.
    """

    def __getitem__(self, at: int) -> Place:
        return (self,)[at]

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is Tensor.__getitem__ and isinstance(args[1], Place):
            x, place = args
            return x[min(place.numerator, x.shape[0] - 1)]
        return super().__torch_function__(function, types, args, kwargs)


_Whole = int | torch.SymInt
_Fraction = tuple[_Whole, _Whole]


def _fraction(x: Number | _Whole) -> _Fraction:
    if isinstance(x, Number):
        return x.numerator, 1 if x.denominator is None else x.denominator
    return x, 1


def _is_whole(x: object) -> bool:
    return x.denominator is None if isinstance(x, Number) else isinstance(x, _Whole)


_FRACTIONS: dict[str, Callable[[_Fraction, _Fraction], _Fraction]] = {
    "add": lambda x, y: (x[0] * y[1] + y[0] * x[1], x[1] * y[1]),
    "sub": lambda x, y: (x[0] * y[1] - y[0] * x[1], x[1] * y[1]),
    "mul": lambda x, y: (x[0] * y[0], x[1] * y[1]),
    "truediv": lambda x, y: (x[0] * y[1], x[1] * y[0]),
}


def _operator(name: str, *, reflected: bool) -> Callable[[Number, Any], Any]:
    def computed(self: Number, other: Any) -> Any:
        left, right = (other, self) if reflected else (self, other)
        are_whole = _is_whole(left) and _is_whole(right) and name != "truediv"
        if name in _FRACTIONS and not are_whole and isinstance(other, Number | _Whole):
            return Number(*_FRACTIONS[name](_fraction(left), _fraction(right)))
        plain = (x.value if isinstance(x, Number) else x for x in (left, right))
        return getattr(operator, name)(*plain)

    return computed


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    setattr(Number, f"__{_name}__", _operator(_name, reflected=False))
    setattr(Number, f"__r{_name}__", _operator(_name, reflected=True))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(Number, f"__{_name}__", _operator(_name, reflected=False))
