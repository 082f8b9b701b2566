"""The same model for another reader: without function bodies, with other ones, as a message."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from ropeexport.onnx_files.onnx_file import opset
from ropeexport.ops import attention
from ropeexport.ops.apply_rope import Body, rope_function
from ropeexport.ops.forms import form_of


def inlined(model: ir.Model) -> ir.Model:
    """Return a model with its function bodies in the place of their calls.

    For runtimes that know ONNX's own operators only.
    """
    made = with_standard_attention(model)
    if made.functions:
        made = made.clone() if made is model else made
        InlinePass()(made)
    return made


def with_standard_attention(model: ir.Model) -> ir.Model:
    """Return ``model`` with ONNX's own Attention in place of the op; a copy, where it has the op.

    For TensorRT, which has a layer for it, for float64, and for runtimes without function bodies.
    """
    if not any(map(attention.is_op, model.graph)):
        return model
    standard = model.clone()
    for node in filter(attention.is_op, standard.graph):
        attention.make_standard(node)
    for identifier in attention.FUNCTIONS:
        standard.functions.pop((*identifier, ""), None)
    return standard


def with_body(model: ir.Model, body: Body) -> ir.Model:
    """Return a copy of ``model`` whose rotary ops have another body; weights are shared."""
    swapped = model.clone()
    for identifier in list(swapped.functions):
        form = form_of(*identifier[:2])
        if form is not None:
            function = rope_function(form, opset(model), body)
            swapped.functions[identifier] = ir.serde.deserialize_function(function)
    return swapped


def whole_message(model: ir.Model) -> onnx.ModelProto:
    """Return a model as a message, its weights inside; protobuf ends at 2 GiB."""
    inside = model.clone()
    ir.external_data.load_to_model(inside)
    message: onnx.ModelProto = ir.to_proto(inside)
    return message


def lengths_of_change(model: ir.Model) -> list[int]:
    """Return the S from which a model's attention is computed by another kernel, in order."""
    nodes = filter(attention.is_op, model.graph)
    return sorted({node.attributes[attention.FROM].as_int() for node in nodes})
