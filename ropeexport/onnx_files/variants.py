"""The same model for another reader: without function bodies, with other ones, in other types.

``float32_twin`` of a bfloat16 model is for machines whose runtimes have no bfloat16 kernels: every
bfloat16 tensor becomes float32, and whatever an operator computes is rounded to bfloat16 where the
graph says that it is bfloat16.  The roundings between operators are the model's own, those inside
an operator are float32's.  So the twin tells whether the *graph* is right; it is no proof of any
runtime's bfloat16 kernels.

``float64_twin`` has no rounding but float64's: what the graph means, in exact numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import (
    InlinePass,
    RemoveUnusedFunctionsPass,
    RemoveUnusedNodesPass,
)

from ropeexport.dtypes import DOUBLE, EXPORTED, FOREIGN, HALVES, SINGLE
from ropeexport.errors import ModelFileError
from ropeexport.onnx_files.onnx_file import external_tensors, opset, rope_nodes
from ropeexport.onnx_files.shapes import infer
from ropeexport.operators import MOVERS, STANDARD, is_standard
from ropeexport.ops import attention, grouped_attention, names
from ropeexport.ops.apply_rope import Body, rope_function
from ropeexport.ops.forms import AXIS, EPSILON, PERM, form_of
from ropeexport.ops.op import Op
from ropeexport.ops.registry import used_by

_FOREIGN = tuple(kind.ir for kind in FOREIGN.values())
# attributes that say a type, and operators that have float32 where they say none
_TYPES = ("dtype", "output_datatype", "output_dtype", "softmax_precision", "to")
_SINGLE_UNSAID = {
    **dict.fromkeys(("BlackmanWindow", "HammingWindow", "HannWindow"), "output_datatype"),
    **dict.fromkeys(("RandomNormal", "RandomUniform", "SequenceEmpty"), "dtype"),
}
# they move elements, or hand on a branch's: what they return is rounded already
_ROUNDED = MOVERS.keys() | {"If", "Loop"}


def inlined(model: ir.Model) -> ir.Model:
    """Return a model with its function bodies in the place of their calls.

    For runtimes that know ONNX's own operators only.  A function of other versions of operators
    than the model's means something else in the model's graph: it stays, and what it calls.
    """
    made = with_standard_attention(model)
    if made.functions:
        made = made.clone() if made is model else made
        own = fitting(made)
        put_in_place(made, lambda function: function.identifier() in own)
        RemoveUnusedFunctionsPass()(made)
        order = TopologicalSorter({name: _called(body) for name, body in made.functions.items()})
        for name in order.static_order():  # onnx's reference evaluator wants what is called first
            if name in made.functions:
                made.functions[name] = made.functions.pop(name)
    return made


def put_in_place(model: ir.Model, criteria: Callable[[ir.Function], bool] | None = None) -> None:
    """Put functions, all or some, where they are called, in place.

    Nodes without a name get one before: onnx_ir looks for free ones one by one.
    """
    for function in model.functions.values():
        for number, node in enumerate(function.all_nodes()):
            node.name = node.name or f"{function.name}_{number}"
    InlinePass(criteria)(model)


def fitting(model: ir.Model) -> set[ir.OperatorIdentifier]:
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
    where the file was asked for with the op, or with onnxruntime's own over a cache.
    """
    if not any(attention.is_op(x) or grouped_attention.is_choice(x) for x in model.graph):
        return model
    standard = model.clone()
    for node in filter(attention.is_op, standard.graph):
        attention.make_standard(node)
    for node in filter(grouped_attention.is_choice, standard.graph):
        grouped_attention.make_standard(node)
    RemoveUnusedNodesPass()(standard)
    for identifier in attention.FUNCTIONS:
        standard.functions.pop((*identifier, ""), None)
    return standard


def with_every_head(model: ir.Model) -> ir.Model:
    """Return ``model`` with keys and values of attention repeated for each head of its queries.

    For runtimes that know no groups of heads.  A copy, which shares the weights; where all heads
    have their own, the model itself.
    """
    if not any(map(_group_of, model.graph)):
        return model
    made = model.clone()
    for node in list(made.graph):
        group = _group_of(node)
        for place in (1, 2) if group else ():
            _repeat_heads(made.graph, node, place, group)
    return made


def _group_of(node: ir.Node) -> int:
    """Return how many heads of an attention's queries share a key; 0: each has its own."""
    shapes = [x.shape for x in node.inputs[:2] if x is not None]
    if not is_standard(node, "Attention") or any(s is None or len(s) != 4 for s in shapes):
        return 0
    queries, keys = (shape[1] if shape is not None else None for shape in shapes)
    if not isinstance(queries, int) or not isinstance(keys, int) or queries == keys:
        return 0
    return queries // keys


def _repeat_heads(graph: ir.Graph, node: ir.Node, place: int, group: int) -> None:
    """Put (B, heads * group, L, D) in the place of an input of (B, heads, L, D)."""
    x = node.inputs[place]
    assert x is not None
    assert x.shape is not None
    sizes = ([2], [1, 1, group, 1, 1], [0, x.shape[1] * group, -1, x.shape[3]])
    constants = [ir.node("Constant", [], {"value": ir.tensor(np.array(s))}) for s in sizes]
    axes, repeats, joined = (constant.outputs[0] for constant in constants)
    apart = ir.node("Unsqueeze", [x, axes])
    repeated = ir.node("Expand", [apart.outputs[0], repeats])
    whole = ir.node("Reshape", [repeated.outputs[0], joined])
    graph.insert_before(node, [*constants, apart, repeated, whole])
    node.replace_input_with(place, whole.outputs[0])


def with_equal_heads(model: ir.Model) -> ir.Model:
    """Return ``model`` with zeros where heads of values are narrower than the queries', or wider.

    For TensorRT, whose attention has one head size: zeros in queries and keys add nothing to a
    product, and columns of zeros in the values are cut off again.  A copy, which shares the
    weights; where all heads are as wide, or an attention returns its cache, the model itself.
    """
    if not any(map(_widths_of, model.graph)):
        return model
    made = model.clone()
    for node in list(made.graph):
        widths = _widths_of(node)
        if widths is not None:
            _widen_heads(made.graph, node, *widths)
    return made


def _widths_of(node: ir.Node) -> tuple[int, int] | None:
    """Return the head sizes of an attention's queries and values, where these are two numbers."""
    if not is_standard(node, "Attention") or len(node.outputs) > 1 or any(node.inputs[4:6]):
        return None
    shapes = [x.shape for x in node.inputs[:3] if x is not None]
    if len(shapes) < 3 or any(shape is None or len(shape) != 4 for shape in shapes):
        return None
    width, _, values = (shape[3] for shape in shapes if shape is not None)
    if not isinstance(width, int) or not isinstance(values, int) or width == values:
        return None
    return width, values


def _widen_heads(graph: ir.Graph, node: ir.Node, width: int, values: int) -> None:
    """Fill the last axes of an attention's inputs up to one size, and cut its output back."""
    if node.attributes.get("scale") is None:
        node.attributes["scale"] = ir.AttrFloat32("scale", width**-0.5)
    for place in (2,) if values < width else (0, 1):
        given = node.inputs[place]
        assert given is not None
        filled = _with_constants("Pad", given, [0] * 7 + [abs(width - values)])
        graph.insert_before(node, filled)
        node.replace_input_with(place, filled[-1].outputs[0])
    if values < width:
        cut = _with_constants("Slice", node.outputs[0], [0], [values], [3])
        old, new = node.outputs[0], cut[-1].outputs[0]
        new.name, new.type, new.shape = old.name, old.type, old.shape
        old.name, old.shape = f"{old.name}_wide", None
        graph.insert_after(node, cut)
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        cut[-1].replace_input_with(0, old)


def _with_constants(op: str, given: ir.Value, *constants: list[int]) -> list[ir.Node]:
    """Return a node of a value and of lists of whole numbers, with the nodes that make these."""
    made = [ir.node("Constant", [], {"value": ir.tensor(np.array(x))}) for x in constants]
    return [*made, ir.node(op, [given, *(x.outputs[0] for x in made)])]


def with_body(model: ir.Model, body: Body) -> ir.Model:
    """Return a copy of ``model`` whose rotary ops have another body; weights are shared."""
    swapped = model.clone()
    for identifier in list(swapped.functions):
        form = form_of(*identifier[:2])
        if form is not None and not form.normed:  # what norms first calls the op that rotates
            function = rope_function(form, opset(model), body)
            swapped.functions[identifier] = ir.serde.deserialize_function(function)
    return swapped


def with_references(model: ir.Model, names: Iterable[str]) -> ir.Model:
    """Return a copy of ``model`` whose initializers of some names are said to lie elsewhere.

    Nothing lies there: a runtime is given their values beside the model.  The others are shared.
    """
    made = model.clone()
    for name in names:
        value = made.graph.initializers[name]
        tensor = value.const_value
        assert tensor is not None
        value.const_value = ir.ExternalTensor(
            name.replace("/", "_"), 0, tensor.nbytes, tensor.dtype,
            shape=ir.Shape(tensor.shape), name=name, base_dir="",
        )  # fmt: skip
    return made


def with_values(model: ir.Model, values: Mapping[str, NDArray[Any]]) -> ir.Model:
    """Return a copy of ``model`` whose initializers of some names have other values; or itself."""
    if not values:
        return model
    made = model.clone()
    for name, array in values.items():
        made.graph.initializers[name].const_value = ir.tensor(array, name=name)
    return made


def take_norms_apart(model: ir.Model) -> int:
    """Put the norm, the transpose and the rotary op in the place of what is all three, in place.

    Returns how many; the names of data and results stay.
    """
    count = 0
    for node in list(model.graph):
        form = form_of(node.domain, node.op_type)
        if form is None or not form.normed:
            continue
        data, scales = node.inputs[: form.tensors], form.scales_of(node.inputs)
        pairs = zip(data, scales, node.outputs, strict=True)
        normed = [_normed_of(node, *each) for each in pairs if None not in each[:2]]
        attributes = {name: node.attributes[name] for name in form.rotation.attribute_names}
        inputs = [made[-1].outputs[0] for made in normed] + [*form.tables_of(node.inputs)]
        rotation = ir.Node(
            node.domain, form.rotation.op_type, inputs, attributes.values(),
            num_outputs=len(node.outputs), version=node.version, name=node.name,
        )  # fmt: skip
        parts = [*(x for made in normed for x in made), rotation]
        for part in parts:  # the line of torch code that they stand for
            part.metadata_props.update(node.metadata_props)
        model.graph.insert_before(node, parts)
        for old, new in zip(node.outputs, rotation.outputs, strict=True):
            new.name, new.type, new.shape = old.name, old.type, old.shape
            old.name = None
            old.replace_all_uses_with(new, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
        count += 1
    return count


def _normed_of(node: ir.Node, x: ir.Value, scale: ir.Value, result: ir.Value) -> list[ir.Node]:
    """Return the nodes that norm a tensor and bring it into (B, H, L, D)."""
    made: list[ir.Node] = []

    def put(op_type: str, *inputs: ir.Value, like: ir.Value, **attributes: Any) -> ir.Value:
        made.append(ir.node(op_type, inputs, attributes))
        output = made[-1].outputs[0]
        output.name = f"{result.name}_{'normed' if op_type[0] == 'R' else op_type.lower()}"
        output.type, output.shape = like.type, like.shape
        return output

    said = {name: node.attributes[name].value for name in (EPSILON, AXIS)}
    is_wide = scale.dtype != x.dtype
    given = put("CastLike", x, scale, like=scale) if is_wide else x
    given.shape = x.shape
    normed = put("RMSNormalization", given, scale, like=given, **said)
    if is_wide:
        normed.name = f"{result.name}_wide"
        normed = put("CastLike", normed, x, like=x)
        normed.name = f"{result.name}_normed"
    perm = node.attributes[PERM].as_ints()
    if tuple(perm) != tuple(range(len(perm))):
        put("Transpose", normed, perm=perm, like=result)
    return made


def without_ropes(model: ir.Model) -> ir.Model:
    """Return a copy of ``model`` whose rotary ops hand on what they were to rotate.

    It shares the weights; where there is no such op, the model itself.
    """
    if not rope_nodes(model):
        return model
    made = model.clone()
    take_norms_apart(made)
    for rope in rope_nodes(made):
        kept = [ir.node("Identity", [x]) for x in rope.inputs[: len(rope.outputs)]]
        made.graph.insert_before(rope, kept)
        for own, node in zip(rope.outputs, kept, strict=True):
            handed = node.outputs[0]
            handed.name, handed.type, handed.shape = own.name, own.type, own.shape
            own.replace_all_uses_with(handed, replace_graph_outputs=True)
        made.graph.remove(rope, safe=True)
    return made


def whole_message(model: ir.Model) -> onnx.ModelProto:
    """Return a model as a message, its weights inside; protobuf ends at 2 GiB."""
    if external_tensors(model):
        model = model.clone()
        ir.external_data.load_to_model(model)
    message: onnx.ModelProto = ir.to_proto(model)
    return message


def lengths_of_change(model: ir.Model) -> list[int]:
    """Return the S from which onnxruntime computes attention by another kernel, in order."""
    ops = filter(attention.is_op, model.graph)
    own = {node.attributes[attention.FROM].as_int() for node in ops}
    return sorted(own | attention.limits(model))


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
    return _twin(model, _FOREIGN, SINGLE.ir, rounds=True)


def float64_twin(model: ir.Model) -> ir.Model:
    """Return a model's twin in float64, inputs and outputs included; see :func:`float32_twin`."""
    return _twin(model, (kind.ir for kind in EXPORTED.values()), DOUBLE.ir)


def single_twin(model: ir.Model) -> ir.Model:
    """Return a model's twin in float32 where it has half types, which NumPy is slow in."""
    return _twin(model, (kind.ir for kind in HALVES), SINGLE.ir)


def _twin(
    model: ir.Model, types: Iterable[ir.DataType], into: ir.DataType, rounds: bool = False
) -> ir.Model:
    retype = _Retype(dict.fromkeys(types, into), rounds)
    typed = inlined(model)
    typed = typed.clone() if typed is model else typed
    infer(typed, check_type=False, strict_mode=False, data_prop=False)  # types are all it needs
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
        for value in (*graph.inputs, *graph.initializers.values(), *own):
            if value.dtype in self.into:
                # another object: a clone shares the former
                value.type = ir.TensorType(self.into[value.dtype])
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = self._tensor(value.const_value)
        for node in list(graph):
            self._say_type(node)
            for attribute in list(node.attributes.values()):
                self._attribute(node, attribute)
            if self.rounds and not is_standard(node, *_ROUNDED):
                self._round(graph, node, own)

    def _round(
        self, graph: ir.Graph, node: ir.Node, types: Mapping[ir.Value, ir.DataType | None]
    ) -> None:
        """Cast each output that has another type now to the one it had, and back."""
        for value in node.outputs:
            own = types[value]
            if own is None and value.name:
                raise ModelFileError(
                    f"{node.op_type} {str(node.name)!r}: the type of {value.name!r} is unknown, so "
                    "its rounding cannot be emulated; run it on a GPU",
                    code="RX217",
                )
            if own not in self.into:
                continue
            bits = ir.node("Cast", [value], {"to": own})
            back = ir.node("Cast", [bits.outputs[0]], {"to": self.into[own]})
            rounded = back.outputs[0]
            rounded.dtype, rounded.shape, rounded.name = value.dtype, value.shape, value.name
            value.name, bits.outputs[0].name = f"{value.name}__wide", f"{value.name}__bits"
            value.replace_all_uses_with(rounded, replace_graph_outputs=True)
            bits.replace_input_with(0, value)
            graph.insert_after(node, [bits, back])

    def _say_type(self, node: ir.Node) -> None:
        """Write the type out that an operator has where its attribute is left out."""
        name = _SINGLE_UNSAID.get(node.op_type)
        if name is not None and is_standard(node) and name not in node.attributes:
            node.attributes[name] = ir.AttrInt64(name, SINGLE.ir)
        if is_standard(node, "ConstantOfShape") and "value" not in node.attributes:
            zero = ir.tensor(np.zeros(1, np.float32))
            node.attributes["value"] = ir.AttrTensor("value", zero)

    def _attribute(self, node: ir.Node, attribute: ir.Attr) -> None:
        name = attribute.name
        if attribute.is_ref():
            _refuse_given(node, attribute)
        elif name in _TYPES and attribute.value in self.into:
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
    if attribute.name in (*_TYPES, "value_float", "value_floats"):
        raise ModelFileError(
            f"{node.op_type} {str(node.name)!r}: its attribute {attribute.name!r} is given by each "
            "call of its function, whose operators are of another version than the model's, so it "
            "cannot be computed in another type; bring the function to the model's opset",
            code="RX217",
        )
