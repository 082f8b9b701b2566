"""Which sizes of its dynamic axes a module takes, from the guards of its trace.

torch suggests a fix for some of the guards that it cannot keep, and none for others.  Here guards
are evaluated: for every size of an axis where torch refused the trace, so that a longest run of
sizes or multiples around the example's is known; and over the ranges where it did not, since it
says nothing of conditions on several axes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sympy import divisors

from ropeexport.axes import Sum
from ropeexport.errors import AxisRangeError, ExportError
from ropeexport.exporting.guards import Guard
from ropeexport.manifest import Axis
from ropeexport.models.example import Example

_LEAST = 2  # torch takes every axis for that or longer
_FACTORS = range(1, 129)  # of what a size may have to be a multiple
_FEWEST = 3  # multiples: two of them may be squares, say
_GRID = 1 << 12  # points of small sizes with each other: 64 of each of two axes
_DRAWS = 512

Bounds = Mapping[str, tuple[int | None, int | None]]
Box = dict[str, tuple[int, int]]


def check_fits(example: Example, guards: Sequence[Guard], traced: Mapping[str, int]) -> None:
    """Raise unless guards on several axes hold wherever the axes' ranges go.

    Of one axis torch checks that itself, but for a multiple of which Python makes a number
    (``float(size // 8)``).

    Parameters
    ----------
    example : Example
        With the ranges of its axes.
    guards : sequence of Guard
        Of a trace that torch has accepted.
    traced : mapping of str to int
        The sizes of the axes in the trace.

    Raises
    ------
    AxisRangeError
        With the relations that axes have to each other, or the ranges that fit together.
    ExportError
        For a condition that no range says.
    """
    several = [g for g in guards if len(g.axes) > 1 and not _may_broadcast(g, example)]
    _check_equations(example, several)
    for guard in sorted(several, key=lambda g: (len(g.axes), len(str(g)))):
        if guard.is_asked or not guard.is_unequal:
            _check_box(example, guard, traced)
    for name in traced:
        about = [g for g in guards if g.axes == (name,) and g.is_asked and g.is_equation]
        if about:
            _check_axis(example, name, about, traced, "")


def check_decided(example: Example, guards: Sequence[Guard], traced: Mapping[str, int]) -> None:
    """Raise unless what operators were decomposed by holds wherever the axes' ranges go.

    Parameters are those of :func:`check_fits`.
    """
    for guard in guards:
        _check_box(example, guard, traced)


def _may_broadcast(guard: Guard, example: Example) -> bool:
    return any(example.axes[name].broadcasts_to is not None for name in guard.axes)


def explain(
    example: Example, guards: Sequence[Guard], traced: Mapping[str, int], suggested: str
) -> None:
    """Raise what is known of a trace that torch refused for its sizes; nothing is known: return.

    Parameters are those of :func:`check_fits`, and torch's own suggestion.
    """
    _check_equations(example, guards, suggested)
    for name in example.axes:
        about = [g for g in guards if name in g.axes and not (g.is_unequal and len(g.axes) > 1)]
        if about and name in traced:
            _check_axis(example, name, about, traced, suggested)


def _check_equations(example: Example, guards: Sequence[Guard], suggested: str = "") -> None:
    """Raise where an axis follows from others."""
    for guard in guards:
        found = guard.difference()
        solved = _solved(found, example.axes) if found is not None else None
        if solved is not None:
            name, total = solved
            raise AxisRangeError(
                f"{_class(example)}: the module takes {name} as {total} alone{_at(guard)}"
                f"{suggested}: {_named(name, total)}",
                {},
                {name: str(total)},
            )


def _named(name: str, total: Sum) -> str:
    if len(total.names) == 1 and total.names[0] == str(total):
        return f"give both axes one name in dynamic_axes, {total}, and one range"
    return f"name the axis {str(total)!r} in dynamic_axes, and give no range of {name}"


def _solved(factors: Mapping[str, int], axes: Mapping[str, Axis]) -> tuple[str, Sum] | None:
    """Return an axis as a sum of the others, one that nobody gave a range of where there is one."""
    names = [name for name in factors if name]
    choices = []
    for name in names:
        own = -factors[name]
        terms = [(n, f // own) for n, f in factors.items() if n and n != name and f % own == 0]
        constant = factors.get("", 0)
        is_whole = terms and len(terms) == len(names) - 1 and constant % own == 0
        if is_whole and constant // own >= 0 and all(factor > 0 for _, factor in terms):
            order = (axes[name].chosen_by != "caller", list(axes).index(name))
            choices.append((order, name, Sum(tuple(sorted(terms)), constant // own)))
    found = max(choices, default=None)
    return found[1:] if found is not None else None


def _check_axis(
    example: Example, name: str, guards: Sequence[Guard], traced: Mapping[str, int], suggested: str
) -> None:
    """Raise where guards do not let an axis have every size of its range."""
    axis, size = example.axes[name], traced[name]
    most = max(axis.max, 4 * size)  # an example's size may be all that a range allows
    places = [guard.where({**traced, name: np.arange(most + 1)}) for guard in guards]
    holds = np.logical_and.reduce([*places, np.arange(most + 1) >= _LEAST])
    factors = sorted({*_FACTORS, *divisors(size)})  # a codec's frame has thousands of samples
    runs = (_run(holds, size, factor) for factor in factors)
    low, high, factor = max(runs, key=lambda run: (_count(run), -run[2]))
    if factor > 1 and _count((low, high, factor)) < _FEWEST:
        low, high, factor = size, size, 1
    if low <= max(_LEAST, axis.min) and high >= axis.max and factor == 1:
        return
    broken = [g for g, where in zip(guards, places, strict=True) if not where[_LEAST:].all()]
    reason = _at(next((g for g in broken if g.place), broken[0]))
    if low == high:
        raise ExportError(
            f"{_class(example)}: the module takes {name} {size} alone{reason}{suggested}: leave it "
            f"out of dynamic_axes, and it is fixed at the example's size",
            code="RX203",
        )
    if factor > 1:
        total = Sum(((_free(name, example.axes), factor),), size % factor)
        raise AxisRangeError(
            f"{_class(example)}: the module takes {name} as {total} alone{reason}{suggested}: "
            f"{_named(name, total)}",
            {},
            {name: str(total)},
        )
    bounds: Bounds = {name: (low if low > _LEAST else None, high if high < axis.max else None)}
    raise range_error(example, bounds, f"{reason}{suggested}")


def range_error(example: Example, bounds: Bounds, reason: str) -> AxisRangeError:
    """Return the error of ranges that a module does not take, with the option that says others."""
    texts, options, ranges = [], [], []
    for name, (low, high) in bounds.items():
        axis = example.axes[name]
        least = max(axis.min, low or 0)
        most = min(axis.max, high or axis.max)
        best = min(max(axis.opt, least), most)
        texts.append(name + (f" from {low}" if low else "") + (f" to {high}" if high else ""))
        options.append(f"--axis {name}={least}:{best}:{most}")
        ranges.append(f"{name!r}: ({least}, {best}, {most})")
    return AxisRangeError(
        f"{_class(example)}: the module takes {', '.join(texts)}{reason}: {' '.join(options)}, in "
        f"Python axes={{{', '.join(ranges)}}}",
        bounds,
    )


def _run(holds: NDArray[np.bool_], size: int, factor: int) -> tuple[int, int, int]:
    """Return the first and the last of the multiples around a size at which guards hold."""
    low = high = size
    while low - factor >= 0 and holds[low - factor]:
        low -= factor
    while high + factor < len(holds) and holds[high + factor]:
        high += factor
    return low, high, factor


def _count(run: tuple[int, int, int]) -> int:
    low, high, factor = run
    return (high - low) // factor + 1


def _free(name: str, taken: Mapping[str, Axis]) -> str:
    """Return torch's name of what an axis is a multiple of."""
    name = f"_{name}"
    return name if name not in taken else _free(name, taken)


def _at(guard: Guard) -> str:
    return f" ({guard.place})" if guard.place else f" ({guard})"


def _class(example: Example) -> str:
    return type(example.module).__name__


def _check_box(example: Example, guard: Guard, traced: Mapping[str, int]) -> None:
    """Raise unless a guard holds over the ranges of its axes."""
    full = {name: _range(example.axes[name], traced[name]) for name in guard.axes}
    start = {name: (traced[name],) * 2 for name in full}
    bounds = cut(example, start, full, lambda box: _holds(guard, box, traced))
    if bounds is None:
        raise ExportError(
            f"{_class(example)}: the module takes {', '.join(guard.axes)} only where {guard}"
            f"{_at(guard) if guard.place else ''}, which no ranges of them say: leave one of them "
            "out of dynamic_axes, so that it is fixed at the example's size",
            code="RX203",
        )
    if bounds:
        place = _at(guard) if guard.place else ""
        raise range_error(example, bounds, f" together, for {guard}{place}")


def cut(example: Example, start: Box, full: Box, fits: Callable[[Box], bool]) -> Bounds | None:
    """Return the bounds of axes within which they fit together.

    Those whose ranges a caller has given stay as they are, unless nothing fits then.

    Parameters
    ----------
    example : Example
        With the ranges of its axes.
    start, full : dict of str to (int, int)
        Sizes of axes that fit, and all that they are meant for.
    fits : callable
        Says whether a module takes all sizes of a box.

    Returns
    -------
    dict or None
        Empty where all fit; None where no ranges do.
    """
    if fits(full):
        return {}
    given = {name: full[name] for name in full if example.axes[name].chosen_by == "caller"}
    found = _fitting(fits, start | given, full) or _fitting(fits, start, full)
    return found and {
        name: (low if low > full[name][0] else None, high if high < full[name][1] else None)
        for name, (low, high) in found.items()
        if (low, high) != full[name]
    }


def _fitting(fits: Callable[[Box], bool], start: Box, full: Box) -> Box | None:
    """Return a largest box that fits, unless an axis is left with one size."""
    found = _largest(fits, start, full)
    is_one = found is not None and any(
        low == high and full[name][0] < full[name][1] for name, (low, high) in found.items()
    )
    return None if is_one else found


def _range(axis: Axis, size: int) -> tuple[int, int]:
    return min(max(axis.min, _LEAST), axis.max), max(axis.max, min(size, _LEAST))


def _holds(guard: Guard, box: Box, sizes: Mapping[str, int]) -> bool:
    """Say whether a guard holds over a box, as far as points of it say.

    All of the smallest sizes with each other and the largest, all sizes alike, and some at random:
    of a remainder or a difference the corners say nothing.  Of two that differ one has to be the
    greater everywhere, as points may miss where the two cross.
    """
    at = _points(box, sizes)
    if not guard.where(at).all():
        return False
    return not guard.is_unequal or len(np.unique(guard.above().where(at))) == 1


def _points(box: Box, sizes: Mapping[str, int]) -> dict[str, Any]:
    count = round(_GRID ** (1 / len(box)))
    lines = [sorted({*range(low, min(low + count, high)), high}) for low, high in box.values()]
    grid = np.stack(np.meshgrid(*lines), -1).reshape(-1, len(box))
    lows, highs = np.array(list(box.values())).T
    alike = np.arange(lows.max(), min(highs.min(), lows.max() + _GRID) + 1)
    drawn = np.random.default_rng(0).integers(lows, highs + 1, (_DRAWS, len(box)))
    points = np.concatenate([grid, np.repeat(alike[:, None], len(box), 1), drawn])
    return {**sizes, **dict(zip(box, points.T, strict=True))}


def points_of(example: Example, guard: Guard, traced: Mapping[str, int]) -> dict[str, Any]:
    """Return sizes of axes over the ranges of a guard's own, as arrays, and of the others."""
    box = {name: _range(example.axes[name], traced[name]) for name in guard.axes}
    return _points(box, traced)


def _largest(fits: Callable[[Box], bool], start: Box, full: Box) -> Box | None:
    """Return a largest box between two that fits: all ends on their way at once, then each."""
    if not fits(start):
        return None
    steps = 1 << 12

    def between(name: str, step: int) -> tuple[int, int]:
        (low, high), (least, most) = start[name], full[name]
        return low - (low - least) * step // steps, high + (most - high) * step // steps

    reached = _last(steps, lambda step: fits({name: between(name, step) for name in full}))
    box = {name: between(name, reached) for name in full}
    for name in full:
        for end in (0, 1):
            box = _grown(fits, box, name, end, full[name][end])
    return box


def _grown(fits: Callable[[Box], bool], box: Box, name: str, end: int, to: int) -> Box:
    """Return a box with one end of an axis moved as far as it fits."""
    start = box[name]
    sign = 1 if to > start[end] else -1

    def moved(by: int) -> Box:
        place = start[end] + sign * by
        return {**box, name: (start[0], place) if end else (place, start[1])}

    return moved(_last(abs(to - start[end]), lambda by: fits(moved(by))))


def _last(most: int, holds: Callable[[int], bool]) -> int:
    """Return the last number up to which something holds, as it does for 0."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low
