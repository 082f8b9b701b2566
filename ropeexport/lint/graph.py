"""An ONNX graph as the rules ask for it, looking through what only moves elements."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from ropeexport.onnx_files.onnx_file import is_rope, with_shapes
from ropeexport.onnx_files.variants import with_standard_attention
from ropeexport.operators import KEEP_ELEMENTS, is_standard, that_keep

_MOVERS = KEEP_ELEMENTS | that_keep("copies")


class Graph:
    """A model's main graph; the weights' values are not needed.

    Parameters
    ----------
    model : ir.Model
        It stays as it is; the types of a copy are inferred.
    """

    def __init__(self, model: ir.Model) -> None:
        self.model = with_shapes(with_standard_attention(model))
        self.nodes = list(self.model.graph)

    def of_type(self, *op_types: str) -> Iterator[ir.Node]:
        """Yield the nodes of standard operators."""
        return (node for node in self.nodes if is_standard(node, *op_types))

    def ropes(self) -> Iterator[ir.Node]:
        """Yield ropeexport's rotary ops."""
        return filter(is_rope, self.nodes)


def before(value: ir.Value | None) -> ir.Node | None:
    """Return the node behind a tensor and whatever only moves its elements."""
    node = value.producer() if value is not None else None
    while node is not None and is_standard(node, *_MOVERS):
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return node


def after(value: ir.Value) -> Iterator[ir.Node]:
    """Yield the nodes that read a tensor, looking through what only moves its elements."""
    for node in value.consumers():
        if is_standard(node, *_MOVERS):
            yield from after(node.outputs[0])
        else:
            yield node


def type_of(value: ir.Value | None) -> ir.DataType | None:
    """Return a tensor's type, as far as it is known."""
    return value.dtype if value is not None else None


def label(node: ir.Node) -> str:
    """Return what a finding calls a node."""
    return node.name or f"{node.op_type} of {node.outputs[0].name}"
