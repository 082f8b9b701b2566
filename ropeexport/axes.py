"""Axes and shapes: sums of axes' names, and what the command line gives.

A dimension of a tensor is a size, the name of an axis, or a sum such as ``past + length`` or
``8*blocks + 1``, with whole numbers.  Other exporters' names that are no sum of this form stand for
themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from ropeexport.errors import UsageError
from ropeexport.given import counted
from ropeexport.manifest import Axis, TensorSpec

Dim = int | str

_SIGNS = re.compile(r" ([+-]) ")
_TERM = re.compile(r"(?:(?P<factor>\d+)\*)?(?P<name>[^\W\d]\w*)|(?P<constant>\d+)")
_ITEM = re.compile(r"(?P<name>[^:,]+):(?P<shape>\d+(?:x\d+)*)")


@dataclass(frozen=True)
class Sum:
    """A size: factors of axes' names, in the order of the names, and a constant."""

    terms: tuple[tuple[str, int], ...]
    constant: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The axes that it is made of."""
        return tuple(name for name, _ in self.terms)

    def __str__(self) -> str:
        parts = [
            ("-" if factor < 0 else "+", name if abs(factor) == 1 else f"{abs(factor)}*{name}")
            for name, factor in self.terms
        ]
        if self.constant or not parts:
            parts.append(("-" if self.constant < 0 else "+", str(abs(self.constant))))
        return " ".join(part for pair in parts for part in pair).removeprefix("+ ")

    def at(self, sizes: Mapping[str, int]) -> int:
        """Return the size where each axis has the given one."""
        return self.constant + sum(factor * sizes[name] for name, factor in self.terms)


@cache
def sum_of(dim: Dim) -> Sum:
    """Return a dimension as a sum.

    Examples
    --------
    >>> sum_of("past + length")
    Sum(terms=(('length', 1), ('past', 1)), constant=0)
    >>> sum_of("8*blocks + 1").at({"blocks": 3})
    25
    """
    if isinstance(dim, int):
        return Sum((), dim)
    first, *rest = _SIGNS.split(dim)
    signed = [("+", first), *zip(rest[::2], rest[1::2], strict=True)]
    factors: dict[str, int] = {}
    constant = 0
    for sign, text in signed:
        match = _TERM.fullmatch(text)
        if match is None:
            return Sum(((dim, 1),))
        factor = int(match["factor"] or match["constant"] or 1) * (-1 if sign == "-" else 1)
        if match["constant"]:
            constant += factor
        else:
            factors[match["name"]] = factors.get(match["name"], 0) + factor
    return Sum(tuple(sorted((n, f) for n, f in factors.items() if f)), constant)


def names_of(dims: Iterable[Dim]) -> tuple[str, ...]:
    """Return the axes that dimensions are made of, in order of their first mention."""
    return tuple(dict.fromkeys(name for dim in dims for name in sum_of(dim).names))


def substituted(dim: Dim, sums: Mapping[str, Sum]) -> Dim:
    """Return a dimension with sums in the place of axes; one that has none of them as it is.

    Examples
    --------
    >>> substituted("past + length", {"length": sum_of("2*half")})
    '2*half + past'
    """
    total = sum_of(dim)
    if not set(total.names) & sums.keys():
        return dim
    factors: dict[str, int] = {}
    constant = total.constant
    for name, factor in total.terms:
        of = sums.get(name, Sum(((name, 1),)))
        constant += factor * of.constant
        for inner, each in of.terms:
            factors[inner] = factors.get(inner, 0) + factor * each
    return str(Sum(tuple(sorted((n, f) for n, f in factors.items() if f)), constant))


def same(one: Dim, other: Dim) -> bool:
    """Say whether two dimensions are the same sum: ``past + length`` is ``length + past``."""
    return sum_of(one) == sum_of(other)


def solve(found: Iterable[tuple[Dim, int, str]], where: str = "shapes") -> dict[str, int]:
    """Return the size of each axis from dimensions and their sizes.

    Parameters
    ----------
    found : iterable of (Dim, int, str)
        A dimension, its size, and the tensor that has it.
    where : str
        What the sizes were given as, for the message.

    Raises
    ------
    UsageError
        Where two tensors disagree, or no size of an axis makes a dimension so large.
    """
    pending = [one for one in found if not isinstance(one[0], int)]
    sizes: dict[str, int] = {}
    givers: dict[str, str] = {}
    while pending:
        unknown = {i: [n for n in sum_of(one[0]).names if n not in sizes]
                   for i, one in enumerate(pending)}  # fmt: skip
        index = min(unknown, key=lambda i: len(unknown[i]))
        dim, size, tensor = pending.pop(index)
        if len(unknown[index]) > 1:
            continue  # several axes, of which nothing else tells any
        for name in unknown[index]:
            sizes[name] = _solved(dim, size, name, sizes, f"{where}: {tensor}")
            givers[name] = tensor
        total = sum_of(dim)
        if total.at(sizes) != size:
            known = [f"{name} is {sizes[name]} in {givers[name]}" for name in total.names]
            if total.names == (dim,):
                raise UsageError(f"{where}: axis {known[0]} and {size} in {tensor}", code="RX601")
            raise UsageError(
                f"{where}: {tensor}: axis {dim!r}: expected {total.at(sizes)}, "
                f"as {', '.join(known)}; got {size}",
                code="RX601",
            )
    return sizes


def _solved(dim: Dim, size: int, name: str, sizes: Mapping[str, int], where: str) -> int:
    total = sum_of(dim)
    factor = dict(total.terms)[name]
    rest = size - Sum(tuple(t for t in total.terms if t[0] != name), total.constant).at(sizes)
    value, left = divmod(rest, factor)
    if left or value < 0:
        raise UsageError(f"{where}: expected {dim} for a whole {name}, got {size}", code="RX601")
    return value


Shapes = dict[str, tuple[int, ...]]


def parse_shapes(text: str, what: str = "shapes") -> Shapes:
    """Parse shapes as trtexec writes them: ``q:1x24x4096x128,k:1x24x4096x128``."""
    shapes: Shapes = {}
    for item in text.split(","):
        match = _ITEM.fullmatch(item.strip())
        if match is None:
            raise UsageError(
                f"{what}: expected NAME:1x24x4096x128[,NAME:...], got {item!r}", code="RX110"
            )
        name = match["name"]
        if name in shapes:
            raise UsageError(f"{what}: {name}: expected one shape, got two", code="RX110")
        shapes[name] = tuple(counted(f"{what}: {name}", n) for n in match["shape"].split("x"))
    return shapes


def shape_at(spec: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Return the shape of a tensor where each dynamic axis has the given size."""
    return tuple(sum_of(dim).at(sizes) for dim in spec.shape)


def axis_sizes(
    specs: Sequence[TensorSpec], shapes: Mapping[str, Sequence[int]], where: str = "shapes"
) -> dict[str, int]:
    """Return the size of each dynamic axis in ``shapes``; raise where two inputs disagree."""
    found = (
        (dim, size, spec.name)
        for spec in specs
        for dim, size in zip(spec.shape, shapes[spec.name], strict=True)
    )
    return solve(found, where)


def with_ranges(
    axes: Mapping[str, Axis], found: Mapping[str, tuple[int, int, int]]
) -> dict[str, Axis]:
    """Return axes with other sizes, the least, the usual and the most; others stay as they are."""
    ranges = {n: dict(zip(("min", "opt", "max"), sizes, strict=True)) for n, sizes in found.items()}
    return {name: axis.changed(**ranges.get(name, {})) for name, axis in axes.items()}
