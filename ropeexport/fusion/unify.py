"""Axes of different names that a rotation multiplies element by element: they are of one size.

Where dimensions have no names, or names of their own in each input, data of ``x_2`` rows meets
tables of ``cos_2`` rows, and no shape behind it is known.  The graph can only run where the two are
equal, or one is 1; so they are taken for one axis, and the shapes inferred from there on.  Data or
a table that has one row after all is right too: it is expanded to the other's before the op.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TypeAlias

import onnx_ir as ir

from ropeexport.fusion import contrib
from ropeexport.fusion.movement import closure, inputs_of
from ropeexport.fusion.suspects import is_product, suspects
from ropeexport.onnx_files.shapes import INVENTED, infer, is_unknown
from ropeexport.operators import is_standard

Dim: TypeAlias = int | ir.SymbolicDim
_MOST_ROUNDS = 4
_NAME = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class Joined:
    """Axes that are one.

    ``names`` has the names, or sizes, that stand for several, ``relations`` those that each axis
    has in place of its own, and ``shapes`` what was said before, by value.
    """

    names: frozenset[str] = frozenset()
    relations: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, tuple[Dim, ...]] = field(default_factory=dict)

    def is_in(self, value: ir.Value, axes: Iterable[int]) -> bool:
        """Say whether one of these axes of a value may be 1 where what it meets is larger."""
        return any(str(_dim(value, axis)) in self.names for axis in axes)

    def size_of(self, value: ir.Value, axis: int) -> str:
        """Return a text that is another's only where both axes are of one size, 1 or not."""
        dim = _dim(value, axis)
        if str(dim) not in self.names:
            return str(dim)
        before = self.shapes.get(str(value.name))
        own = before[axis] if before and len(before) > axis else None
        return f"{value.name} {axis}" if own is None or is_unknown(own) else str(own)

    def forget(self, model: ir.Model) -> None:
        """Drop the names from what a model computes: a runtime plans its memory by them."""
        if not self.names:
            return
        for value in (value for node in model.graph for value in node.outputs):
            if value.shape is not None:
                value.shape = ir.Shape(None if str(d) in self.names else d for d in value.shape)


def _dim(value: ir.Value, axis: int) -> Dim:
    assert value.shape is not None  # it was evaluated at its shape
    return value.shape[axis]


def unify(model: ir.Model) -> Joined:
    """Give axes that meet in a rotation one name, in place, and infer the shapes again."""
    computed = (value for node in model.graph for value in node.outputs)
    values = (*model.graph.inputs, *computed)
    shapes = {str(x.name): tuple(x.shape) for x in values if x.shape is not None}
    relations: dict[str, str] = {}
    for _ in range(_MOST_ROUNDS):  # a shape that is known shows which axes meet next
        same: dict[str, Dim] = {}
        for dims in _meeting(model.graph):
            _join(*dims, same)
        if not same:
            break
        relations = {name: str(same.get(now, now)) for name, now in relations.items()}
        relations |= {name: str(dim) for name, dim in same.items()}
        _rename(model, same)
        _forget_invented(model)
        infer(model, strict_mode=False)
        _forget_invented(model)
    return Joined(frozenset(relations.values()), relations, shapes)


def _meeting(graph: ir.Graph) -> Iterator[tuple[Dim, Dim]]:
    """Yield pairs of dimensions that must be equal unless one is 1."""
    for node in _nodes(graph):
        shapes = [x.shape for x in node.inputs if x is not None]
        known = [tuple(reversed(shape)) for shape in shapes if shape is not None]
        if _is_rotary(node):
            yield from _of_rotary(node)
        elif len(known) == len(shapes) == 2:
            yield from zip_longest(*known, fillvalue=1)


def _nodes(graph: ir.Graph) -> list[ir.Node]:
    """Return the nodes in which axes meet: of each rotation, and rotary operators."""
    found = [node for node in graph if _is_rotary(node)]
    for root in suspects(graph):
        for value in closure([root.outputs[0]], lambda x: () if is_product(x) else inputs_of(x)):
            node = value.producer()
            if node is not None and is_standard(node, "Mul", "Add", "Sub"):
                found.append(node)
    return found


def _is_rotary(node: ir.Node) -> bool:
    return contrib.is_rotary(node) or is_standard(node, "RotaryEmbedding")


def _of_rotary(node: ir.Node) -> Iterator[tuple[Dim, Dim]]:
    """Yield what has to agree in a rotary operator: batch and length, of data and the others."""
    x, *others = [value.shape if value is not None else None for value in node.inputs]
    if x is None or len(x) not in (3, 4):
        return
    batch_and_length = (x[0], x[len(x) - 2] if len(x) == 4 else x[1])
    ids = others[0] if contrib.is_rotary(node) else (*others, None)[2]
    for shape in [ids] if ids is not None else others[:2]:
        if shape is not None and len(shape) > 1:
            yield from zip(batch_and_length, shape, strict=False)


def _join(one: Dim, other: Dim, same: dict[str, Dim]) -> None:
    """Note which of two dimensions stands for the other: a size, else the first."""
    one, other = same.get(str(one), one), same.get(str(other), other)
    if str(one) == str(other) or 1 in (one, other):
        return
    if not _is_name(other):
        one, other = other, one
    if _is_name(other) and (isinstance(one, int) or _is_name(one)):
        same.update({name: one for name, dim in same.items() if str(dim) == str(other)})
        same[str(other)] = one


def _is_name(dim: Dim) -> bool:
    name = None if isinstance(dim, int) else dim.value
    return bool(name and _NAME.fullmatch(name) and not name.startswith(INVENTED))


def _forget_invented(model: ir.Model) -> None:
    """Drop shapes with a dimension that nothing is known of, for what is known now to follow."""
    for value in (value for node in model.graph for value in node.outputs):
        if any(map(is_unknown, value.shape or ())):
            value.shape = None


def _rename(model: ir.Model, same: Mapping[str, Dim]) -> None:
    """Let dimensions, and sums of them, have their one name wherever the graph has them."""
    computed = (value for node in model.graph.all_nodes() for value in node.outputs)
    for value in (*model.graph.inputs, *computed):
        if value.shape is not None:
            value.shape = ir.Shape(_renamed(dim, same) for dim in value.shape)


def _renamed(dim: Dim, same: Mapping[str, Dim]) -> Dim | str | None:
    if isinstance(dim, int) or dim.value is None:
        return dim
    if dim.value in same:
        return same[dim.value]
    text = _NAME.sub(lambda found: str(same.get(found[0], found[0])), dim.value)
    return text if text != dim.value else dim
