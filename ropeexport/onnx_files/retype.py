"""Twins of an ONNX graph in other floating types.

``float32_twin`` of a bfloat16 model is for machines whose runtimes have no bfloat16 kernels: every
bfloat16 tensor becomes float32, and whatever an operator computes is rounded to bfloat16 where the
graph says that it is bfloat16.  The roundings between operators are the model's own, those inside
an operator are float32's.  So the twin tells whether the *graph* is right; it is no proof of any
runtime's bfloat16 kernels.

``float64_twin`` has no rounding but float64's: what the graph means, in exact numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from ropeexport.dtypes import DOUBLE, EXPORTED, FOREIGN, HALVES, SINGLE
from ropeexport.errors import ModelFileError
from ropeexport.onnx_files.variants import inlined
from ropeexport.operators import MOVERS, is_standard

_FOREIGN = tuple(kind.ir for kind in FOREIGN.values())
# they move elements, or hand on a branch's: what they return is rounded already
_ROUNDED = MOVERS.keys() | {"If", "Loop"}


def has_foreign(model: ir.Model) -> bool:
    """Say whether an input or output of a model is of a type that NumPy lacks: bfloat16."""
    return any(value.dtype in _FOREIGN for value in (*model.graph.inputs, *model.graph.outputs))


def float32_twin(model: ir.Model) -> ir.Model:
    """Return a bfloat16 model's twin: float32 tensors with bfloat16 values.

    Parameters
    ----------
    model : ir.Model
        It stays as it is; functions of its own are inlined.

    Returns
    -------
    ir.Model
        Its bfloat16 inputs and outputs are float32 now; outputs hold bfloat16 values.
    """
    return _twin(model, _Retype(dict.fromkeys(_FOREIGN, SINGLE.ir), rounds=True))


def float64_twin(model: ir.Model) -> ir.Model:
    """Return a model's twin in float64, inputs and outputs included; see :func:`float32_twin`."""
    narrow = (kind.ir for kind in EXPORTED.values())
    return _twin(model, _Retype(dict.fromkeys(narrow, DOUBLE.ir), rounds=False))


def single_twin(model: ir.Model) -> ir.Model:
    """Return a model's twin in float32 where it has half types, which NumPy is slow in."""
    halves = (kind.ir for kind in HALVES)
    return _twin(model, _Retype(dict.fromkeys(halves, SINGLE.ir), rounds=False))


def _twin(model: ir.Model, retype: _Retype) -> ir.Model:
    typed = inlined(model)
    typed = typed.clone() if typed is model else typed
    ShapeInferencePass(check_type=False, strict_mode=False)(typed)
    retype.graph(typed.graph)
    for function in typed.functions.values():  # those that could not be inlined
        retype.graph(function.graph)
    return typed


@dataclass(frozen=True)
class _Retype:
    """Changes types in place: ``into`` by type, and whether a changed result is rounded back."""

    into: Mapping[ir.DataType, ir.DataType]
    rounds: bool

    def graph(self, graph: ir.Graph) -> None:
        own = {value: value.dtype for node in graph for value in node.outputs}
        self._values((*graph.inputs, *graph.initializers.values(), *own))
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = self._tensor(value.const_value)
        for node in list(graph):
            for attribute in list(node.attributes.values()):
                self._attribute(node, attribute)
            if self.rounds and not is_standard(node, *_ROUNDED):
                self._round(graph, node, own)

    def _values(self, values: Iterable[ir.Value]) -> None:
        for value in values:
            if value.dtype in self.into:
                # another object: a clone shares the former
                value.type = ir.TensorType(self.into[value.dtype])

    def _round(
        self, graph: ir.Graph, node: ir.Node, types: Mapping[ir.Value, ir.DataType | None]
    ) -> None:
        """Cast each output that has another type now to the one it had, and back."""
        for value in node.outputs:
            own = types[value]
            if own is None and value.name:
                raise ModelFileError(
                    f"{node.op_type} {str(node.name)!r}: the type of {value.name!r} is unknown, so "
                    "its rounding cannot be emulated; run it on a GPU"
                )
            if own not in self.into:
                continue
            readers = list(value.uses())
            bits = ir.node("Cast", [value], {"to": own})
            back = ir.node("Cast", [bits.outputs[0]], {"to": self.into[own]})
            rounded = back.outputs[0]
            rounded.dtype, rounded.shape, rounded.name = value.dtype, value.shape, value.name
            value.name, bits.outputs[0].name = f"{value.name}__wide", f"{value.name}__bits"
            for reader, index in readers:
                reader.replace_input_with(index, rounded)
            for index, output in enumerate(graph.outputs):
                if output is value:
                    graph.outputs[index] = rounded
            graph.insert_after(node, [bits, back])

    def _attribute(self, node: ir.Node, attribute: ir.Attr) -> None:
        name = attribute.name
        if attribute.is_ref():
            _refuse_given(node, attribute)
        elif name in ("to", "dtype") and attribute.value in self.into:
            node.attributes[name] = ir.AttrInt64(name, self.into[ir.DataType(attribute.value)])
        elif attribute.type == ir.AttributeType.TENSOR:
            node.attributes[name] = ir.AttrTensor(name, self._tensor(attribute.as_tensor()))
        elif attribute.type == ir.AttributeType.GRAPH:
            self.graph(attribute.as_graph())
        elif name in ("value_float", "value_floats") and SINGLE.ir in self.into:
            del node.attributes[name]  # float32 by its name
            numbers = ir.tensor(np.array(attribute.value, dtype=np.float32))
            node.attributes["value"] = ir.AttrTensor("value", self._tensor(numbers))

    def _tensor(self, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if tensor.dtype not in self.into:
            return tensor
        wide = tensor.numpy().astype(self.into[tensor.dtype].numpy())
        return ir.tensor(wide, name=tensor.name)


def _refuse_given(node: ir.Node, attribute: ir.Attr) -> None:
    """Raise for an attribute that says a type and is left to the callers of a function."""
    if attribute.name in ("to", "dtype", "value_float", "value_floats"):
        raise ModelFileError(
            f"{node.op_type} {str(node.name)!r}: its attribute {attribute.name!r} is given by each "
            "call of its function, whose operators are of another version than the model's, so it "
            "cannot be computed in another type; bring the function to the model's opset"
        )
