"""An ONNX graph as the rules ask for it: who makes a tensor, who reads it, of which type it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property

import onnx

from ropeexport import dtypes
from ropeexport.onnx_files.onnx_file import is_rope
from ropeexport.ops.attention import with_standard_attention

FLOAT, DOUBLE = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE
HALVES = tuple(kind.onnx_type for kind in dtypes.HALVES)
MOVERS = ("Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze", "Expand", "Flatten")
_STANDARD = ("", "ai.onnx")


class Graph:
    """A model's main graph; the weights' values are not needed.

    Parameters
    ----------
    model : ModelProto
        It is copied by the inference of its types.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = with_standard_attention(model)
        self.nodes = list(self.model.graph.node)
        self._makers = {name: node for node in self.nodes for name in node.output}

    @cached_property
    def _readers(self) -> dict[str, list[onnx.NodeProto]]:
        readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                readers[name].append(node)
        return readers

    @cached_property
    def types(self) -> dict[str, int]:
        """Element types by tensor, those of weights included."""
        try:
            known = onnx.shape_inference.infer_shapes(self.model).graph
        except (RuntimeError, ValueError):  # over 2 GB, or a graph that inference refuses
            known = self.model.graph
        values = (*known.input, *known.value_info, *known.output)
        typed = {value.name: value.type.tensor_type.elem_type for value in values}
        return typed | {weight.name: weight.data_type for weight in known.initializer}

    def type_of(self, name: str) -> int:
        """Return a tensor's element type; 0 where it is not known."""
        return self.types.get(name, 0)

    def maker(self, name: str) -> onnx.NodeProto | None:
        """Return the node that makes a tensor; None for an input or a weight."""
        return self._makers.get(name)

    def readers(self, name: str) -> list[onnx.NodeProto]:
        """Return the nodes that read a tensor."""
        return self._readers[name]

    def of_type(self, *op_types: str) -> Iterator[onnx.NodeProto]:
        """Yield the nodes of standard operators."""
        return (n for n in self.nodes if n.op_type in op_types and n.domain in _STANDARD)

    def ropes(self) -> Iterator[onnx.NodeProto]:
        """Yield ropeexport's rotary ops."""
        return (node for node in self.nodes if is_rope(node))

    def before(self, name: str) -> onnx.NodeProto | None:
        """Return the node behind a tensor and whatever only moves its elements."""
        node = self.maker(name)
        while node is not None and node.op_type in MOVERS and node.domain in _STANDARD:
            node = self.maker(node.input[0])
        return node

    def after(self, name: str) -> Iterator[onnx.NodeProto]:
        """Yield the nodes that read a tensor, looking through what only moves its elements."""
        for node in self.readers(name):
            if node.op_type in MOVERS and node.domain in _STANDARD:
                yield from self.after(node.output[0])
            else:
                yield node


def label(node: onnx.NodeProto) -> str:
    """Return what a finding calls a node."""
    return node.name or f"{node.op_type} of {node.output[0]}"
