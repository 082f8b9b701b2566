"""Twins of an ONNX graph in other floating types.

``float32_twin`` of a bfloat16 model is for machines whose runtimes have no bfloat16 kernels: every
bfloat16 tensor becomes float32, and whatever an operator computes is rounded to bfloat16 where the
graph says that it is bfloat16.  The roundings between operators are the model's own, those inside
an operator are float32's.  So the twin tells whether the *graph* is right; it is no proof of any
runtime's bfloat16 kernels.

``float64_twin`` has no rounding but float64's: what the graph means, in exact numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from ropeexport.dtypes import EXPORTED
from ropeexport.errors import ModelFileError
from ropeexport.onnx_files.inlining import inlined

_BFLOAT16, _FLOAT, _DOUBLE = TensorProto.BFLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE
_NARROW = tuple(kind.onnx_type for kind in EXPORTED.values())
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
    """Return a bfloat16 model's twin: float32 tensors with bfloat16 values.

    Parameters
    ----------
    model : ModelProto
        With its weights loaded; functions of its own are inlined.

    Returns
    -------
    ModelProto
        Its bfloat16 inputs and outputs are float32 now; outputs hold bfloat16 values.
    """
    return _twin(model, _Retype({_BFLOAT16: _FLOAT}, rounds=True))


def float64_twin(model: ModelProto) -> ModelProto:
    """Return a model's twin in float64, inputs and outputs included; see :func:`float32_twin`."""
    return _twin(model, _Retype(dict.fromkeys(_NARROW, _DOUBLE), rounds=False))


def single_twin(model: ModelProto) -> ModelProto:
    """Return a model's twin in float32 where it has half types, which NumPy is slow in."""
    return _twin(model, _Retype(dict.fromkeys(_NARROW[:2], _FLOAT), rounds=False))


def _twin(model: ModelProto, retype: _Retype) -> ModelProto:
    typed = onnx.shape_inference.infer_shapes(inlined(model), data_prop=True)
    retype.graph(typed.graph, {})
    return typed


@dataclass(frozen=True)
class _Retype:
    """Changes types in place: ``into`` by type, and whether a changed result is rounded back."""

    into: Mapping[int, int]
    rounds: bool

    def graph(self, graph: GraphProto, outer: dict[str, int]) -> None:
        types = outer | _types(graph)
        for value in (*graph.input, *graph.output, *graph.value_info):
            self._value(value)
        for tensor in graph.initializer:
            self._tensor(tensor)
        nodes = [made for node in graph.node for made in self._node(node, types)]
        del graph.node[:]
        graph.node.extend(nodes)

    def _node(self, node: NodeProto, types: dict[str, int]) -> Iterator[NodeProto]:
        """Yield a node, and after it the rounding of each output that has another type now."""
        for attribute in node.attribute:
            self._attribute(attribute, types)
        rounded = self._rounded(node, types) if self.rounds else {}
        for index, name in enumerate(node.output):
            if name in rounded:
                node.output[index] = name + _WIDE
        yield node
        for name, own in rounded.items():
            yield onnx.helper.make_node("Cast", [name + _WIDE], [f"{name}__bits"], to=own)
            yield onnx.helper.make_node("Cast", [f"{name}__bits"], [name], to=self.into[own])

    def _rounded(self, node: NodeProto, types: dict[str, int]) -> dict[str, int]:
        named = [name for name in node.output if name]
        unknown = [name for name in named if name not in types]
        if unknown:
            raise ModelFileError(
                f"{node.op_type} {node.name!r}: the type of {unknown[0]!r} is unknown, so its "
                "rounding cannot be emulated; run it on a GPU"
            )
        if node.op_type in _MOVERS:
            return {}
        return {name: types[name] for name in named if types[name] in self.into}

    def _attribute(self, attribute: AttributeProto, types: dict[str, int]) -> None:
        if attribute.name in ("to", "dtype") and attribute.i in self.into:
            attribute.i = self.into[attribute.i]
        if attribute.type == AttributeProto.TENSOR:
            self._tensor(attribute.t)
        if attribute.type == AttributeProto.GRAPH:
            self.graph(attribute.g, types)
        if attribute.name in ("value_float", "value_floats") and _FLOAT in self.into:
            _to_tensor(attribute)
            self._tensor(attribute.t)

    def _value(self, value: ValueInfoProto) -> None:
        own = value.type.tensor_type.elem_type
        value.type.tensor_type.elem_type = self.into.get(own, own)

    def _tensor(self, tensor: TensorProto) -> None:
        if tensor.data_type in self.into:
            wide = onnx.helper.tensor_dtype_to_np_dtype(self.into[tensor.data_type])
            values = onnx.numpy_helper.to_array(tensor).astype(wide)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def _types(graph: GraphProto) -> dict[str, int]:
    values = (*graph.input, *graph.output, *graph.value_info)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def _to_tensor(attribute: AttributeProto) -> None:
    """Turn the number of a Constant, which is float32 by its name, into a tensor."""
    many = attribute.name == "value_floats"
    values = np.array(list(attribute.floats) if many else attribute.f, dtype=np.float32)
    tensor = onnx.numpy_helper.from_array(values)
    attribute.CopyFrom(onnx.helper.make_attribute("value", tensor))
