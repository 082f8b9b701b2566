"""Regions of a graph that are linear in one tensor with coefficients from others.

A rotary application, however it is written, adds products of moved data with moved tables.  So a
*seed* is an addition whose both sides are products, a *root* is a value reached from a seed by
movement, and a *region* is what lies between a root and a tensor ``x`` of the root's own shape
that every product reads.  What a region computes is asked by numbers, not by its nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from ropeexport.fusion.movement import Movement, is_float
from ropeexport.operators import is_standard

_MOST_PRODUCTS = 8
_MOST_STEPS = 12
_MOST_ROOTS = 32


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
        self.seeds: list[ir.Node] = []
        for node in graph:
            self._visit(node)

    def _visit(self, node: ir.Node) -> None:
        for output in node.outputs:
            products = self._products_of(node, output)
            if products and len(products) <= _MOST_PRODUCTS:
                self._products[output] = products
        if is_standard(node, "Add", "Sub", "Sum") and node.outputs[0] in self._products:
            self.seeds.append(node)

    def _products_of(self, node: ir.Node, output: ir.Value) -> frozenset[ir.Node]:
        sources = self._movement.sources(output)
        if sources is not None:
            return frozenset().union(*(self.products(x) for x in sources))
        if is_standard(node, "Mul") and is_float(output):
            return frozenset([node])
        if is_standard(node, "Add", "Sub", "Sum"):
            sides = [self.products(x) for x in node.inputs]
            return frozenset().union(*sides) if all(sides) else frozenset()
        return frozenset()

    def products(self, value: ir.Value | None) -> frozenset[ir.Node]:
        """Return the products that a value is moved and added from."""
        return frozenset() if value is None else self._products.get(value, frozenset())

    def roots(self, seed: ir.Node) -> Iterator[ir.Value]:
        """Yield the values that a seed reaches by movement, the nearest first."""
        reached = [(seed.outputs[0], 0)]
        seen = {seed.outputs[0]}
        for value, steps in reached:
            yield value
            for node in value.consumers() if steps < _MOST_STEPS else ():
                for output in node.outputs:
                    moved = value in (self._movement.sources(output) or ())
                    if moved and output not in seen and len(seen) < _MOST_ROOTS:
                        seen.add(output)
                        reached.append((output, steps + 1))

    def around(self, root: ir.Value) -> Iterator[Region]:
        """Yield the regions that end in a root, the smallest first."""
        products = self.products(root)
        if len(products) < 2 or root.shape is None:
            return
        first = next(iter(products))
        for x in (x for factor in first.inputs if factor for x in self._movement.ancestors(factor)):
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
        return tuple(tables) if self._is_closed(root, x, products) else None

    def _is_closed(self, root: ir.Value, x: ir.Value, products: frozenset[ir.Node]) -> bool:
        """Say whether the root comes from the products and from ``x`` alone."""
        outputs = {node.outputs[0] for node in products}
        pending, seen = [root], set()
        while pending:
            value = pending.pop()
            if value in seen or value in outputs or value is x:
                continue
            seen.add(value)
            sources, node = self._movement.sources(value), value.producer()
            if sources is not None:
                pending.extend(sources)
            elif node is not None and is_standard(node, "Add", "Sub", "Sum"):
                pending.extend(x for x in node.inputs if x is not None)
            elif not self._movement.is_computable(value):
                return False
        return True
