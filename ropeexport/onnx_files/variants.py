"""The same model for another reader: without function bodies, with other ones, as a message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import TopologicalSorter

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, RemoveUnusedFunctionsPass

from ropeexport.onnx_files.onnx_file import opset
from ropeexport.operators import STANDARD
from ropeexport.ops import attention, names
from ropeexport.ops.apply_rope import Body, rope_function
from ropeexport.ops.forms import form_of
from ropeexport.ops.op import Op
from ropeexport.ops.registry import used_by


def inlined(model: ir.Model) -> ir.Model:
    """Return a model with its function bodies in the place of their calls.

    For runtimes that know ONNX's own operators only.  A function of other versions of operators
    than the model's means something else in the model's graph: it stays, and what it calls.
    """
    made = with_standard_attention(model)
    if made.functions:
        made = made.clone() if made is model else made
        fitting = _fitting(made)
        InlinePass(lambda function: function.identifier() in fitting)(made)
        RemoveUnusedFunctionsPass()(made)
        order = TopologicalSorter({name: _called(body) for name, body in made.functions.items()})
        for name in order.static_order():  # onnx's reference evaluator wants what is called first
            if name in made.functions:
                made.functions[name] = made.functions.pop(name)
    return made


def _fitting(model: ir.Model) -> set[ir.OperatorIdentifier]:
    """Return the functions that can take their calls' places: the versions that they import."""
    imports = _versions(model.opset_imports)
    kept: list[ir.OperatorIdentifier] = []
    for identifier, function in model.functions.items():
        own = _versions(function.opset_imports)
        if any(imports.setdefault(domain, version) != version for domain, version in own.items()):
            kept.append(identifier)
    for identifier in kept:  # what a function that stays calls is read in that one's versions
        called = _called(model.functions[identifier])
        kept += [other for other in model.functions if other in called and other not in kept]
    return set(model.functions) - set(kept)


def _called(function: ir.Function) -> set[ir.OperatorIdentifier]:
    return {node.op_identifier() for node in function.all_nodes()}


def _versions(imports: Mapping[str, int]) -> dict[str, int]:
    return {"" if domain in STANDARD else domain: version for domain, version in imports.items()}


def attach_functions(model: ir.Model) -> list[str]:
    """Give a model, in place, the bodies of ropeexport's ops that it uses; return their names."""
    return _attach(model, used_by(node.op_identifier()[:2] for node in model.graph.all_nodes()))


def _attach(model: ir.Model, ops: Sequence[Op]) -> list[str]:
    bodies = [function for op in ops for function in op.functions(opset(model))]
    for body in bodies:
        function = ir.serde.deserialize_function(body)
        model.functions[function.identifier()] = function
    if ops:
        model.opset_imports[names.DOMAIN] = names.DOMAIN_VERSION
    return [body.name for body in bodies]


def with_attention_in_blocks(model: ir.Model) -> ir.Model:
    """Return ``model`` with the op in place of each Attention that it computes, for onnxruntime.

    A copy, which shares the weights; where there is nothing to change, the model itself.
    """
    if not attention.limits(model):
        return model
    made = model.clone()
    attention.put_in_blocks(made)
    _attach(made, [attention.OP])  # the bodies of others are the file's
    return made


def with_standard_attention(model: ir.Model) -> ir.Model:
    """Return ``model`` with ONNX's own Attention in place of the op; a copy, where it has the op.

    For TensorRT, which has a layer for it, for float64, and for runtimes without function bodies,
    where the file was asked for with the op.
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
    """Return the S from which onnxruntime computes attention by another kernel, in order."""
    ops = filter(attention.is_op, model.graph)
    own = {node.attributes[attention.FROM].as_int() for node in ops}
    return sorted(own | attention.limits(model))
