"""Ask a region by numbers what it does to each pair of ``x``, and where its coefficients lie."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ropeexport.fusion.evaluation import Array, Given, Trial, UnevaluableError, evaluate
from ropeexport.fusion.movement import Movement, is_float
from ropeexport.fusion.regions import Region
from ropeexport.operators import is_standard
from ropeexport.ops.apply_rope import rotate
from ropeexport.ops.forms import PAIRINGS

Run = Callable[[Array], Array]

_ENTRIES = ("m00", "m01", "m10", "m11")
# a region of a few additions, in float64
_ROUNDING = 64 * float(np.finfo(np.float64).eps)
# operators beyond movement through which equal table entries stay equal
_ELEMENTWISE = {"Cos", "Sin", "Neg", "Mul", "Add", "Sub", "Div", "Cast"}


@dataclass(frozen=True)
class Selection:
    """A part of a table's last axis, or all of it: ``table[..., start:end:step]`` or an index."""

    kind: str  # all, index, slice
    start: int = 0
    end: int = 0
    step: int = 1

    def of(self, table: Array) -> Array:
        """Select from an array."""
        if self.kind == "all":
            return table
        if self.kind == "index":
            selected: Array = table[..., self.start]
            return selected
        sliced: Array = table[..., self.start : self.end : self.step]
        return sliced


@dataclass(frozen=True)
class Entry:
    """Where an entry of the matrices lies: ``factor * selection(table)``."""

    table: ir.Value
    selection: Selection
    factor: float

    def of(self, table: Array) -> Array:
        """Compute the entry."""
        return self.factor * self.selection.of(table)


@dataclass(frozen=True)
class Rotary:
    """What a region is: each pair of ``x`` times a matrix of ``entries`` (m00, m01, m10, m11)."""

    region: Region
    pairing: str
    entries: tuple[Entry, ...]
    is_rotation: bool  # proven: m00 == m11 and m10 == -m01, whatever the tables' own sources


class NotRotaryError(Exception):
    """A region mixes pairs, and yet is no rotary application that an op can stand for."""


def probe(region: Region, trial: Trial, movement: Movement) -> Rotary | None:
    """Return what a region is; None where no element depends on its partner.

    Raises
    ------
    NotRotaryError
        Where it mixes elements in another way, with the reason.
    UnevaluableError
        Where it cannot be evaluated at trial sizes.
    """
    rng = np.random.default_rng(0)
    shape = trial.shape(region.x)
    tables = {t: _random(rng, t, trial) for t in region.tables}

    def run(x: Array) -> Array:
        result = evaluate(region.root, {**tables, region.x: x}, trial, {})
        if result.shape != shape:
            raise UnevaluableError("the result has another shape at trial sizes")
        return result

    if len(shape) < 2 or shape[-1] < 2 or shape[-1] % 2:
        return None
    x = rng.standard_normal(shape)
    expected = run(x)
    for pairing in PAIRINGS:
        matrices = _matrices(run, shape, pairing)
        if _close(rotate(x, pairing, *matrices), expected):
            if not (matrices[1].any() or matrices[2].any()):
                return None  # each element for itself: a scale
            entries = tuple(_find(m, tables, n) for m, n in zip(matrices, _ENTRIES, strict=True))
            return Rotary(region, pairing, entries, _is_rotation(entries, trial, movement))
    if _mixes(run, x, expected):
        known = " or ".join(PAIRINGS)
        raise NotRotaryError(f"its elements are mixed, but not in pairs that are {known}")
    return None


def _random(rng: np.random.Generator, value: ir.Value, trial: Trial) -> Array:
    return rng.standard_normal(trial.shape(value))


def _matrices(run: Run, shape: tuple[int, ...], pairing: str) -> list[Array]:
    """Return m00, m01, m10, m11 of a linear map: its results on the indicators of each side."""
    first, second = PAIRINGS[pairing].slices(shape[-1] // 2)
    columns = []
    for side in (first, second):
        indicator = np.zeros(shape)
        indicator[..., side] = 1.0
        columns.append(run(indicator))
    return [columns[j][..., side] for side in (first, second) for j in (0, 1)]


def _close(a: Array, b: Array) -> bool:
    return bool(np.abs(a - b).max(initial=0.0) <= _ROUNDING * np.abs(b).max(initial=1.0))


def _mixes(run: Run, x: Array, expected: Array) -> bool:
    """Say whether an element of the last axis has influence beyond itself."""
    changed = x.copy()
    changed[..., 0] += 1.0
    return bool((run(changed) != expected)[..., 1:].any())


def _find(entry: Array, tables: Given, name: str) -> Entry:
    """Return where an entry's values come from; exact equality of random numbers is the proof."""
    for table, values in tables.items():
        for selection in _selections(values.shape, entry.shape[-1]):
            part = selection.of(values)
            factor = _factor(part, entry)
            if factor is not None:
                return Entry(table, selection, factor)
    raise NotRotaryError(f"its coefficient {name} is no slice of a table")


def _selections(shape: tuple[int, ...], pairs: int) -> Iterator[Selection]:
    if not shape:
        return
    last = shape[-1]
    if last == pairs:
        yield Selection("all")
    if last == 2 * pairs:
        yield Selection("slice", 0, pairs)
        yield Selection("slice", pairs, 2 * pairs)
        yield Selection("slice", 0, 2 * pairs, 2)
        yield Selection("slice", 1, 2 * pairs, 2)
    if len(shape) > 1 and shape[-2] == pairs and last <= 4:
        yield from (Selection("index", i) for i in range(last))


def _factor(part: Array, entry: Array) -> float | None:
    if part.ndim > entry.ndim or part.shape[-1] != entry.shape[-1]:
        return None
    if any(p not in (1, e) for p, e in zip(part.shape[::-1], entry.shape[::-1], strict=False)):
        return None
    factor = float(entry.flat[0] / part.flat[0])
    for candidate in (1.0, -1.0, factor):
        if _close(candidate * np.broadcast_to(part, entry.shape), entry) and candidate:
            return candidate
    return None


def _is_rotation(entries: tuple[Entry, ...], trial: Trial, movement: Movement) -> bool:
    """Say whether each matrix is a rotation: m00 is m11, and m10 is -m01.

    Random numbers stand where the tables come from, so equality is by structure and not by chance.
    """
    given = deep_values((e.table for e in entries), trial, movement)
    memo: dict[ir.Value, Array] = {}
    try:
        m00, m01, m10, m11 = (e.of(evaluate(e.table, given, trial, memo)) for e in entries)
    except UnevaluableError:
        return False
    return all(a.shape == b.shape and np.array_equal(a, b) for a, b in ((m00, m11), (m10, -m01)))


def deep_values(
    tables: Iterable[ir.Value], trial: Trial, movement: Movement
) -> dict[ir.Value, Array]:
    """Return random numbers for what tables are made from, through elementwise operators too."""
    rng = np.random.default_rng(1)
    given: dict[ir.Value, Array] = {}
    pending, seen = list(dict.fromkeys(tables)), set()
    while pending:
        value = pending.pop()
        if value in seen:
            continue
        seen.add(value)
        sources = deep_sources(value, movement)
        if sources is not None:
            pending.extend(sources)
        elif not movement.is_computable(value):
            given[value] = _random(rng, value, trial)
    return given


def deep_sources(value: ir.Value, movement: Movement) -> tuple[ir.Value, ...] | None:
    """Return what a table is made from; None where its values are to be taken as they are."""
    sources = movement.sources(value)
    node = value.producer()
    if sources is not None or node is None:
        return sources
    inputs = [x for x in node.inputs if x is not None]
    elementwise = is_standard(node, *_ELEMENTWISE)
    known = all(is_float(x) and x.shape is not None for x in inputs)
    return tuple(inputs) if elementwise and known else None
