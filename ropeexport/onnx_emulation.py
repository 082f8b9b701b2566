"""A bfloat16 model's twin in float32, for machines whose runtimes have no bfloat16 kernels.

Every bfloat16 tensor of the graph becomes float32, and whatever an operator computes is rounded to
bfloat16 where the graph says that it is bfloat16: the roundings between operators are the model's
own, those inside an operator are float32's.  So the twin tells whether the *graph* is right.  It is
no proof of any runtime's bfloat16 kernels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx.inliner
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from ropeexport.errors import ModelFileError

_BFLOAT16, _FLOAT = TensorProto.BFLOAT16, TensorProto.FLOAT
_WIDE = "__wide"

# they move elements, or hand on a branch's: what they return is rounded already
_MOVERS = frozenset({
    "Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "If", "Loop",
    "Pad", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where",
})  # fmt: skip


def has_bfloat16(model: ModelProto) -> bool:
    """Say whether an input or output of a model is bfloat16."""
    values = [*model.graph.input, *model.graph.output]
    return any(value.type.tensor_type.elem_type == _BFLOAT16 for value in values)


def float32_twin(model: ModelProto) -> ModelProto:
    """Return the twin of a model: float32 tensors with bfloat16 values.

    Parameters
    ----------
    model : ModelProto
        With its weights loaded; functions of its own are inlined.

    Returns
    -------
    ModelProto
        Its bfloat16 inputs and outputs are float32 now; outputs hold bfloat16 values.
    """
    inlined = onnx.inliner.inline_local_functions(model)
    typed = onnx.shape_inference.infer_shapes(inlined, data_prop=True)
    _widen_graph(typed.graph, {})
    return typed


def _widen_graph(graph: GraphProto, outer: dict[str, int]) -> None:
    types = outer | _types(graph)
    for value in (*graph.input, *graph.output, *graph.value_info):
        _widen_value(value)
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    nodes = [made for node in graph.node for made in _widened(node, types)]
    del graph.node[:]
    graph.node.extend(nodes)


def _types(graph: GraphProto) -> dict[str, int]:
    values = (*graph.input, *graph.output, *graph.value_info)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def _widened(node: NodeProto, types: dict[str, int]) -> Iterator[NodeProto]:
    """Yield a node in float32, and after it the rounding of each output that is bfloat16."""
    for attribute in node.attribute:
        _widen_attribute(attribute, types)
    rounded = [] if node.op_type in _MOVERS else _bfloat16_outputs(node, types)
    for index, name in enumerate(node.output):
        if name in rounded:
            node.output[index] = name + _WIDE
    yield node
    for name in rounded:
        yield onnx.helper.make_node("Cast", [name + _WIDE], [f"{name}__bits"], to=_BFLOAT16)
        yield onnx.helper.make_node("Cast", [f"{name}__bits"], [name], to=_FLOAT)


def _bfloat16_outputs(node: NodeProto, types: dict[str, int]) -> list[str]:
    named = [name for name in node.output if name]
    unknown = [name for name in named if name not in types]
    if unknown:
        raise ModelFileError(
            f"{node.op_type} {node.name!r}: the type of {unknown[0]!r} is unknown, so its rounding "
            "cannot be emulated; run it on a GPU"
        )
    return [name for name in named if types[name] == _BFLOAT16]


def _widen_attribute(attribute: AttributeProto, types: dict[str, int]) -> None:
    if attribute.name in ("to", "dtype") and attribute.i == _BFLOAT16:
        attribute.i = _FLOAT
    if attribute.type == AttributeProto.TENSOR:
        _widen_tensor(attribute.t)
    if attribute.type == AttributeProto.GRAPH:
        _widen_graph(attribute.g, types)


def _widen_value(value: ValueInfoProto) -> None:
    if value.type.tensor_type.elem_type == _BFLOAT16:
        value.type.tensor_type.elem_type = _FLOAT


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type == _BFLOAT16:
        values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
