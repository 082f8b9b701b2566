"""Rotary embeddings that a file has as one operator: ONNX's own, and onnxruntime's.

Both may read their tables by position: then the entries are rows of tables.  An operator in which
something else is done too has no such meaning here, and is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ropeexport.fusion import contrib
from ropeexport.fusion.applications import Application, Found, Layout
from ropeexport.fusion.movement import Twins
from ropeexport.fusion.regions import Entry, Region, Rotary, Rows, Selection
from ropeexport.fusion.suspects import fused_rotation, refusal
from ropeexport.operators import is_standard
from ropeexport.ops.forms import ROTARY_SIZE, pairing_of_rotary

# tables of RotaryEmbedding are (B, L, P) and know no heads, as the op's
_BHLD = Layout(4, (0, 1, 2, 3), ())


@dataclass(frozen=True)
class _Operands:
    """The inputs of a rotary operator, in the order that ONNX's has."""

    x: ir.Value
    cos: ir.Value
    sin: ir.Value
    ids: ir.Value | None


def find_native(graph: ir.Graph, twins: Twins) -> Found:
    """Return the rotary operators of a graph, and those that no op can stand for."""
    found = Found()
    for node in graph:
        is_contrib = contrib.is_rotary(node)
        is_rotary = is_contrib or is_standard(node, "RotaryEmbedding")
        made = _of_native(node, is_contrib, twins) if is_rotary else fused_rotation(node)
        if isinstance(made, Application):
            found.applications.append(made)
        elif made is not None:
            found.refused.append(refusal(node, made))
    return found


def _of_native(node: ir.Node, is_contrib: bool, twins: Twins) -> Application | str:
    """Return a rotary operator as an application, or why no op can stand for it."""
    operands = _operands(node, is_contrib)
    if isinstance(operands, str):
        return f"RotaryEmbedding {operands}"
    x, cos, sin = operands.x, operands.cos, operands.sin
    size = node.attributes.get_int(ROTARY_SIZE, 0)
    layout = _layout(node, x, cos, size)
    if isinstance(layout, str):
        return f"RotaryEmbedding {layout}"
    assert x.shape is not None  # asked for with the operands
    rows = _rows(operands, twins)
    places = ((cos, 1.0), (sin, -1.0), (sin, 1.0), (cos, 1.0))
    entries = tuple(Entry(twins.first_of(t), Selection("all"), f, rows) for t, f in places)
    pairing = pairing_of_rotary(node.attributes.get_int("interleaved", 0))
    root = node.outputs[0]
    rotary = Rotary(Region(root, x, (cos, sin)), pairing, entries, True, pairing)
    whole = layout.head_size or x.shape[-1]
    return Application(rotary, layout, x, root, size if size not in (0, whole) else None)


def _operands(node: ir.Node, is_contrib: bool) -> _Operands | str:
    x, *others = (*node.inputs, None)[:4]
    ids, cos, sin = others if is_contrib else (others[2], *others[:2])
    if x is None or x.shape is None or len(x.shape) not in (3, 4):
        return "on data that is not known to be (B, H, L, D) or (B, L, H * D)"
    if cos is None or sin is None or cos.shape is None or sin.shape is None:
        return "with tables of unknown shape"
    if ids is not None and ids.shape is None:
        return "with position ids of unknown shape"
    if node.attributes.get_int("is_packed_batching", 0):
        return "of packed sequences, whose lengths no op of a (B, H, L, D) knows"
    scale = node.attributes.get_float("scale", 1.0)
    if scale != 1.0:
        return f"with scale {scale:g}, which the kernels of onnxruntime do not agree on"
    return _Operands(x, cos, sin, ids)


def _layout(node: ir.Node, x: ir.Value, cos: ir.Value, size: int) -> Layout | str:
    """Return how the data becomes (B, H, L, D), or why that is not known."""
    assert x.shape is not None  # asked by the caller
    assert cos.shape is not None
    if len(x.shape) == 4:
        return _BHLD
    heads, pairs, hidden = node.attributes.get_int("num_heads", 0), cos.shape[-1], x.shape[-1]
    if not isinstance(hidden, int) or not (heads or isinstance(pairs, int)):
        return "on heads of unknown size"
    whole = hidden // heads if heads else 2 * int(str(pairs))
    if hidden % whole or not (size or not heads or pairs == whole // 2):
        return f"of {heads} heads in {hidden} elements with tables for {pairs} pairs"
    return Layout(3, (0, 2, 1, 3), (), head_size=whole)


def _rows(operands: _Operands, twins: Twins) -> Rows | None:
    x, ids = operands.x, operands.ids
    if ids is None:
        return None
    assert x.shape is not None  # asked for with the operands
    assert ids.shape is not None
    axis = len(x.shape) - 2 if len(x.shape) == 4 else 1
    begins = (x, axis) if len(ids.shape) < 2 else None
    return Rows(twins.first_of(ids), begins)
