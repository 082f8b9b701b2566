"""Regions of a graph that are linear in one tensor with coefficients from others.

A rotary application, however it is written, adds products of moved data with moved tables.  So a
*seed* is an addition whose both sides are products, a *root* is a value reached from a seed by
movement, and a *region* is what lies between a root and a tensor ``x`` of the root's own shape
that every product reads.  What a region does to each pair of ``x``, and where its coefficients lie,
is asked by numbers, not by its nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import onnx_ir as ir

from ropeexport.fusion.evaluation import Array, Given, Trial, UnevaluableError, evaluate
from ropeexport.fusion.movement import Movement, closure, inputs_of, is_float, readers_of
from ropeexport.fusion.suspects import SUMS
from ropeexport.operators import is_standard
from ropeexport.ops.apply_rope import rotate
from ropeexport.ops.forms import PAIRINGS

Run = Callable[[Array], Array]

_MOST_PRODUCTS = 8
_MOST_STEPS = 12
_MOST_ROOTS = 32
_ENTRIES = ("m00", "m01", "m10", "m11")
# a region of a few additions, in float64
_ROUNDING = 64 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Region:
    """From ``x`` to ``root``, and the other factor of each product."""

    root: ir.Value
    x: ir.Value
    tables: tuple[ir.Value, ...]


class Regions:
    """The seeds of a graph and the regions around them."""

    def __init__(self, graph: ir.Graph, movement: Movement) -> None:
        self._movement = movement
        self._products: dict[ir.Value, frozenset[ir.Node]] = {}
        self._totals: set[ir.Value] = set()  # with a sum over an axis of products
        self.seeds: list[ir.Node] = []
        for node in graph:
            for output in node.outputs:
                products = self._products_of(node, output)
                if products and len(products) <= _MOST_PRODUCTS:
                    self._products[output] = products
                    if _is_total(node) or not self._totals.isdisjoint(self._parts(output)):
                        self._totals.add(output)
            if (is_standard(node, *SUMS) or _is_total(node)) and node.outputs[0] in self._products:
                self.seeds.append(node)

    def _products_of(self, node: ir.Node, output: ir.Value) -> frozenset[ir.Node]:
        is_moved = self._movement.sources(output) is not None
        if not is_moved and is_standard(node, "Mul") and is_float(output):
            return frozenset([node])
        parts = [self.products(x) for x in self._parts(output)]
        return frozenset().union(*parts) if is_moved or all(parts) else frozenset()

    def _parts(self, value: ir.Value) -> Sequence[ir.Value]:
        """Return what a value is moved or added from."""
        sources, node = self._movement.sources(value), value.producer()
        if sources is None and node is not None and is_standard(node, *SUMS):
            return inputs_of(value)
        if node is not None and _is_total(node):
            return inputs_of(value)[:1]
        return sources or ()

    def products(self, value: ir.Value | None) -> frozenset[ir.Node]:
        """Return the products that a value is moved and added from."""
        return frozenset() if value is None else self._products.get(value, frozenset())

    def roots(self, seed: ir.Node) -> Iterator[ir.Value]:
        """Yield the values that a seed reaches by movement, the nearest first."""
        reached = [(seed.outputs[0], 0)]
        seen = {seed.outputs[0]}
        for value, steps in reached:
            yield value
            for node in readers_of(value, seed.graph) if steps < _MOST_STEPS else ():
                for output in node.outputs:
                    moved = value in (self._movement.sources(output) or ())
                    if moved and output not in seen and len(seen) < _MOST_ROOTS:
                        seen.add(output)
                        reached.append((output, steps + 1))

    def around(self, root: ir.Value) -> Iterator[Region]:
        """Yield the regions that end in a root, the smallest first."""
        products = self.products(root)
        if root.shape is None or (len(products) < 2 and root not in self._totals):
            return
        factors = next(iter(products)).inputs
        for x in (x for factor in factors if factor for x in self._movement.ancestors(factor)):
            if x.shape == root.shape:
                tables = self._tables(root, x, products)
                if tables is not None:
                    yield Region(root, x, tables)

    def _tables(
        self, root: ir.Value, x: ir.Value, products: frozenset[ir.Node]
    ) -> tuple[ir.Value, ...] | None:
        """Return the factors that are not moved from ``x``; None where one product has no such."""
        tables: dict[ir.Value, None] = {}
        for node in products:
            left, right = node.inputs
            assert left is not None
            assert right is not None
            from_x = [self._movement.leaves(side, x) == {x} for side in (left, right)]
            if from_x[0] == from_x[1]:
                return None
            tables[right if from_x[0] else left] = None
        if any(self._is_part_of(x, table) for table in tables):
            return None
        return tuple(tables) if self._is_closed(root, x, products) else None

    def _is_part_of(self, x: ir.Value, table: ir.Value) -> bool:
        """Say whether data and a table are moved from one tensor, as in a product with itself."""
        common = {*self._movement.ancestors(x)}.intersection(self._movement.ancestors(table))
        return not all(map(self._movement.is_computable, common))

    def _is_closed(self, root: ir.Value, x: ir.Value, products: frozenset[ir.Node]) -> bool:
        """Say whether the root comes from the products and from ``x`` alone."""
        ends = {x, *(node.outputs[0] for node in products)}
        reached = closure([root], lambda value: () if value in ends else self._parts(value))
        return all(
            value in ends or self._parts(value) or self._movement.is_computable(value)
            for value in reached
        )


def _is_total(node: ir.Node) -> bool:
    """Say whether a node sums over the two elements of a pair: one axis, which a constant says."""
    if not is_standard(node, "ReduceSum") or len(node.inputs) < 2:
        return False
    data, axes = node.inputs[:2]
    if data is None or data.shape is None or axes is None or axes.const_value is None:
        return False
    numbers = axes.const_value.numpy().reshape(-1).tolist()
    return [data.shape[n] for n in numbers if -len(data.shape) <= n < len(data.shape)] == [2]


@dataclass(frozen=True)
class Selection:
    """A part of a table's last axis, or all of it: ``table[..., start:end:step]`` or an index.

    Of 2x2 matrices an entry: ``table[..., start, end]``.
    """

    kind: str  # all, index, slice, entry
    start: int = 0
    end: int = 0
    step: int = 1

    def of(self, table: Array) -> Array:
        """Select from an array."""
        places: dict[str, tuple[int | slice, ...]] = {
            "all": (),
            "index": (self.start,),
            "slice": (slice(self.start, self.end, self.step),),
            "entry": (self.start, self.end),
        }
        selected: Array = table[(..., *places[self.kind])]
        return selected


@dataclass(frozen=True)
class Rows:
    """Which rows of a table its entries are: those of ``ids``.

    With ``begins``, data and its axis of the length, ``ids`` is one number, where the rows begin.
    """

    ids: ir.Value
    begins: tuple[ir.Value, int] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Entry:
    """Where an entry of the matrices lies: ``factor * selection(table)``, or rows of that."""

    table: ir.Value
    selection: Selection
    factor: float
    rows: Rows | None = None

    def of(self, table: Array) -> Array:
        """Compute the entry."""
        return self.factor * self.selection.of(table)


@dataclass(frozen=True)
class Rotary:
    """What a region is: each pair of ``x`` times a matrix of ``entries`` (m00, m01, m10, m11).

    Pairs may lie in another way in the result than in ``x``: neighbours go in, halves come out.
    """

    region: Region
    pairing: str  # of x
    entries: tuple[Entry, ...]
    is_rotation: bool  # proven: m00 == m11 and m10 == -m01, whatever the tables' own sources
    result: str  # the pairing of the result


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
    for pairing, result in sorted(product(PAIRINGS, PAIRINGS), key=lambda two: two[0] != two[1]):
        matrices = _matrices(run, shape, pairing, result)
        if _close(_as_paired(rotate(x, pairing, *matrices), pairing, result), expected):
            if not (matrices[1].any() or matrices[2].any()):
                return None  # each element for itself: a scale, or moved
            entries = tuple(_find(m, tables, n) for m, n in zip(matrices, _ENTRIES, strict=True))
            is_rotation = _is_rotation(entries, trial, movement)
            return Rotary(region, pairing, entries, is_rotation, result)
    if _mixes(run, x, expected):
        known = " or ".join(PAIRINGS)
        raise NotRotaryError(f"its elements are mixed, but not in pairs that are {known}")
    return None


def _random(rng: np.random.Generator, value: ir.Value, trial: Trial) -> Array:
    return rng.standard_normal(trial.shape(value))


def _matrices(run: Run, shape: tuple[int, ...], pairing: str, result: str) -> list[Array]:
    """Return m00, m01, m10, m11 of a linear map: its results on the indicators of each side."""
    columns = []
    for side in PAIRINGS[pairing].slices(shape[-1] // 2):
        indicator = np.zeros(shape)
        indicator[..., side] = 1.0
        columns.append(run(indicator))
    rows = PAIRINGS[result].slices(shape[-1] // 2)
    return [columns[j][..., side] for side in rows for j in (0, 1)]


def _as_paired(x: Array, pairing: str, result: str) -> Array:
    """Return an array whose pairs lie in another way."""
    made = np.empty_like(x)
    sides = (PAIRINGS[name].slices(x.shape[-1] // 2) for name in (pairing, result))
    for source, target in zip(*sides, strict=True):
        made[..., target] = x[..., source]
    return made


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
    if shape[-3:] == (pairs, 2, 2):
        yield from (Selection("entry", row, column) for row in range(2) for column in range(2))


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
    made = closure(tables, lambda x: movement.deep_sources(x) or ())
    ends = [x for x in made if movement.deep_sources(x) is None]
    return {x: _random(rng, x, trial) for x in ends if not movement.is_computable(x)}
