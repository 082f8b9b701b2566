"""Axes of different names that a rotation multiplies element by element: they are of one size.

Where dimensions have no names, or names of their own in each input, data of ``x_2`` rows meets
tables of ``cos_2`` rows, and no shape behind it is known.  The graph can only run where the two are
equal, or one is 1; so they are taken for one axis, and the shapes inferred from there on.  A table
that has one row after all is right too: it is expanded to the data's length before the op, and of
its other axes the op allows one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import TypeAlias

import onnx_ir as ir
from onnx_ir.passes import common as passes

from ropeexport.fusion import contrib
from ropeexport.fusion.movement import closure, inputs_of
from ropeexport.fusion.suspects import is_product, suspects
from ropeexport.onnx_files.shapes import INVENTED, is_unknown
from ropeexport.operators import is_standard

Dim: TypeAlias = int | ir.SymbolicDim
_MOST_ROUNDS = 4
_NAME = re.compile(r"[A-Za-z_]\w*")


def unify(model: ir.Model) -> frozenset[str]:
    """Give axes that meet in a rotation one name, in place, and infer the shapes again.

    Returns
    -------
    frozenset of str
        The names, or sizes, that stand for several axes now.
    """
    joined: set[str] = set()
    for _ in range(_MOST_ROUNDS):  # a shape that is known shows which axes meet next
        same: dict[str, Dim] = {}
        for dims in _meeting(model.graph):
            _join(*dims, same)
        if not same:
            break
        joined = {str(same.get(name, name)) for name in joined} | {str(d) for d in same.values()}
        _rename(model, same)
        _forget_invented(model)
        passes.ShapeInferencePass(strict_mode=False)(model)
        _forget_invented(model)
    return frozenset(joined)


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
