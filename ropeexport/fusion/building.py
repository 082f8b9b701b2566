"""Nodes made one after another, with the types that are known of what they give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from ropeexport.fusion.layout import Layout


@dataclass
class Nodes:
    """A growing list of nodes that are in no graph yet."""

    made: list[ir.Node] = field(default_factory=list)

    def add(
        self, op_type: str, *inputs: ir.Value | ir.TensorProtocol, **attributes: Any
    ) -> ir.Value:
        """Append a node; a tensor among its inputs becomes a Constant before it."""
        values = [x if isinstance(x, ir.Value) else self.constant(x) for x in inputs]
        node = ir.node(op_type, values, attributes)
        self.made.append(node)
        output = node.outputs[0]
        output.dtype = attributes["to"] if op_type == "Cast" else values[0].dtype
        return output

    def constant(self, tensor: ir.TensorProtocol) -> ir.Value:
        """Append a Constant."""
        node = ir.node("Constant", [], {"value": tensor})
        self.made.append(node)
        output = node.outputs[0]
        output.const_value = tensor
        output.dtype, output.shape = tensor.dtype, ir.Shape(tensor.shape)
        return output

    def to_op(self, x: ir.Value, layout: Layout, dtype: ir.DataType | None) -> ir.Value:
        """Bring data into the op's (B, H, L, D) and into the type that its result has."""
        if dtype is not None and x.dtype != dtype:
            x = self.add("Cast", x, to=dtype)
        if not layout.keeps_order:
            x = self.add("Transpose", x, perm=layout.order)
        return self.add("Unsqueeze", x, ints(layout.inserted)) if layout.inserted else x

    def from_op(self, y: ir.Value, layout: Layout) -> ir.Value:
        """Bring the op's result into the layout that the model goes on with."""
        if layout.inserted:
            y = self.add("Squeeze", y, ints(layout.inserted))
        return y if layout.keeps_order else self.add("Transpose", y, perm=layout.inverse_order)


def ints(numbers: Sequence[int]) -> ir.TensorProtocol:
    """Return int64 numbers as a tensor of one axis."""
    return ir.tensor(np.array(numbers, dtype=np.int64))
