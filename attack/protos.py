"""Edits of an ONNX file's graphs: edges, operators, types, sizes; all its edits by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor

from attack.fields import as_edit, drop, places, set_field, splice, twice
from attack.recipe import Edit

# operators whose sizes come from values, that hold graphs, or whose types are no tensors'
OPERATORS = (
    "Range", "ConstantOfShape", "Expand", "Tile", "Resize", "OneHot", "Loop", "Scan", "If",
    "SequenceEmpty", "SequenceAt", "SplitToSequence", "ConcatFromSequence", "Optional",
    "OptionalGetElement", "StringConcat", "StringNormalizer", "QuantizeLinear", "DequantizeLinear",
    "Cast", "CastLike", "NonZero", "Unique", "Compress", "RandomNormal", "Bernoulli", "Einsum",
    "Attention", "RotaryEmbedding", "ApplyRope", "Reshape", "Pad", "Gather", "ScatterND", "Shape",
    "TopK", "NoSuchOperator", "", "Constant", "LSTM", "Conv", "MatMul", "Split", "Concat", "Slice",
)  # fmt: skip


def _graphs(model: Any) -> list[Any]:
    """Return the graph, those inside of nodes, and functions."""
    inside = [
        place.get()
        for place in places(model)
        if place.field.type == FieldDescriptor.TYPE_MESSAGE
        and place.field.message_type.name in ("GraphProto", "FunctionProto")
    ]
    return [graph for graph in inside if len(graph.node)]


def _node(model: Any, at: int) -> tuple[Any, Any, int] | None:
    if not (graphs := _graphs(model)):
        return None
    at, index = divmod(at, len(graphs))
    at, node = divmod(at, len(graphs[index].node))
    return graphs[index], graphs[index].node[node], at


def _cycle(model: onnx.ModelProto, edit: Edit) -> None:
    """Let a node read what another computes, itself or a later one as well."""
    if (found := _node(model, edit.at)) is None:
        return
    graph, node, at = found
    outputs = [name for other in graph.node for name in other.output]
    if len(node.input) and outputs:
        at, place = divmod(at, len(node.input))
        node.input[place] = outputs[at % len(outputs)]


def _operator(model: onnx.ModelProto, edit: Edit) -> None:
    if (found := _node(model, edit.at)) is not None:
        found[1].op_type = OPERATORS[found[2] % len(OPERATORS)]


def _new_node(model: onnx.ModelProto, edit: Edit) -> None:
    """Add a node over values of the graph, whose result something reads."""
    if (found := _node(model, edit.at)) is None:
        return
    graph, node, at = found
    names = [name for other in graph.node for name in (*other.input, *other.output) if name]
    if not names or not len(node.input):
        return
    at, operator = divmod(at, len(OPERATORS))
    inputs = [names[at % len(names)], names[at // 7 % len(names)]][: 1 + at % 2]
    new = onnx.helper.make_node(OPERATORS[operator], inputs, ["attacked"])
    node.input[0] = "attacked"
    graph.node.insert(0, new)


def _big_range(model: onnx.ModelProto, edit: Edit) -> None:
    """Let a node read a range, a shape or an expansion of a size that is written in the file."""
    if (found := _node(model, edit.at)) is None or not len(found[1].input):
        return
    graph, node, at = found
    value = int(max(-1e18, min(1e18, edit.value))) if isinstance(edit.value, int) else 1 << 40
    scalar = onnx.helper.make_tensor("", onnx.TensorProto.INT64, [], [value])
    one = onnx.helper.make_tensor("", onnx.TensorProto.INT64, [], [1])
    vector = onnx.helper.make_tensor("", onnx.TensorProto.INT64, [2], [value, value])
    make = onnx.helper.make_node
    made = (
        [make("Constant", [], ["at_1"], value=one), make("Constant", [], ["at_n"], value=scalar),
         make("Range", ["at_1", "at_n", "at_1"], ["attacked"])],
        [make("Constant", [], ["at_n"], value=vector),
         make("ConstantOfShape", ["at_n"], ["attacked"])],
        [make("Constant", [], ["at_n"], value=vector), make("Constant", [], ["at_1"], value=one),
         make("Expand", ["at_1", "at_n"], ["attacked"])],
    )[at % 3]  # fmt: skip
    node.input[at % len(node.input)] = "attacked"
    for new in reversed(made):
        graph.node.insert(0, new)


def _chain(model: onnx.ModelProto, edit: Edit) -> None:
    """Put a long chain of nodes between a node and what it reads."""
    if (found := _node(model, edit.at)) is None or not len(found[1].input):
        return
    graph, node, at = found
    name = node.input[0]
    length = (100, 3_000, 30_000, 100_000)[at % 4]
    operator = ("Identity", "Neg", "Mul")[at // 4 % 3]
    if operator == "Mul":  # of products with themselves onnxruntime takes the square of the time
        length = min(length, 3_000)
    made = []
    for number in range(length):
        inputs = [name, name] if operator == "Mul" else [name]
        name = f"chain_{number}"
        made.append(onnx.helper.make_node(operator, inputs, [name]))
    node.input[0] = name
    rest = list(graph.node)
    del graph.node[:]
    index = rest.index(node)
    graph.node.extend([*rest[:index], *made, *rest[index:]])


def _nest(model: onnx.ModelProto, edit: Edit) -> None:
    """Put a graph into a graph into a graph, and so on."""
    if (found := _node(model, edit.at)) is None or not len(found[1].input):
        return
    graph, node, at = found
    body = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", [node.input[0]], ["deep"])], "g", [],
        [onnx.helper.make_value_info("deep", onnx.TypeProto())],
    )  # fmt: skip
    for _ in range((3, 10, 18)[at % 3]):  # protobuf reads no more than 100 messages deep
        branch = onnx.helper.make_node(
            "If", [node.input[0]], ["deep"], then_branch=body, else_branch=onnx.GraphProto()
        )
        body = onnx.helper.make_graph(
            [branch], "g", [], [onnx.helper.make_value_info("deep", onnx.TypeProto())]
        )
    new = onnx.helper.make_node(
        "If", [node.input[0]], ["attacked"], then_branch=body, else_branch=body
    )
    node.input[0] = "attacked"
    graph.node.insert(0, new)


def _recursive(model: onnx.ModelProto, edit: Edit) -> None:
    """Let a function call itself, or another that calls it."""
    if not len(model.functions):
        return
    function = model.functions[edit.at % len(model.functions)]
    other = model.functions[edit.at // 3 % len(model.functions)]
    for caller, called in ((function, other), (other, function)):
        node = caller.node[edit.at % len(caller.node)] if len(caller.node) else caller.node.add()
        node.op_type, node.domain = called.name, called.domain


def _external(model: onnx.ModelProto, edit: Edit) -> None:
    """Let a weight's data lie elsewhere."""
    tensors = [
        place.get()
        for place in places(model)
        if place.field.type == FieldDescriptor.TYPE_MESSAGE
        and place.field.message_type.name == "TensorProto"
    ]
    if not tensors:
        return
    tensor = tensors[edit.at % len(tensors)]
    location, offset, length = edit.value
    for field in ("raw_data", "float_data", "int64_data", "int32_data"):
        tensor.ClearField(field)
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value).encode("utf-8", "replace").decode()


def _typed(model: onnx.ModelProto, edit: Edit) -> None:
    """Give an input or output of a graph another type: a number, a sequence, none, a map."""
    graphs = [graph for graph in _graphs(model) if hasattr(graph, "initializer")]
    infos = [
        i
        for graph in graphs
        for part in (graph.input, graph.output, graph.value_info)
        for i in part
    ]
    if not infos:
        return
    at, index = divmod(edit.at, len(infos))
    info = infos[index]
    at, what = divmod(at, 5)
    former = onnx.TypeProto()
    former.CopyFrom(info.type)
    if what == 0:
        info.ClearField("type")
    elif what == 1:
        info.type.Clear()
        info.type.sequence_type.elem_type.CopyFrom(former)
    elif what == 2:
        info.type.Clear()
        info.type.optional_type.elem_type.CopyFrom(former)
    elif what == 3:
        info.type.Clear()
        info.type.map_type.key_type = 7
        info.type.map_type.value_type.CopyFrom(former)
    else:
        info.type.tensor_type.elem_type = at % 32


def _sized(model: onnx.ModelProto, edit: Edit) -> None:
    """Give a dimension of an input or output, or of a weight, another size or name."""
    dims = [
        place
        for place in places(model)
        if place.kind in ("TensorShapeProto.dim", "TensorProto.dims")
    ]
    if not dims:
        return
    place = dims[edit.at % len(dims)]
    value = edit.value if isinstance(edit.value, int) else None
    number = max(-(2**63), min(2**63 - 1, value)) if value is not None else None
    if place.kind == "TensorProto.dims":
        place.message.dims[place.index] = number if number is not None else 0
    elif number is not None:
        place.get().dim_value = number
    else:
        place.get().dim_param = str(edit.value).encode("utf-8", "replace").decode()


def _versions(model: onnx.ModelProto, edit: Edit) -> None:
    entries = [place.get() for place in places(model) if place.kind.endswith("opset_import")]
    if not entries:
        return
    at, index = divmod(edit.at, len(entries))
    if at % 3 == 0:
        value = edit.value if isinstance(edit.value, int) else 1
        entries[index].version = max(-(2**63), min(2**63 - 1, value))
    elif at % 3 == 1:
        entries[index].version = at // 3 % 40
    else:
        entries[index].domain = str(edit.value).encode("utf-8", "replace").decode()


EDITS: dict[str, Callable[[bytes, Edit], bytes]] = {
    f"onnx {name}": as_edit(change)
    for name, change in {
        "set": set_field,
        "drop": drop,
        "twice": twice,
        "splice": splice,
        "cycle": _cycle,
        "operator": _operator,
        "node": _new_node,
        "range": _big_range,
        "chain": _chain,
        "nest": _nest,
        "recursive": _recursive,
        "external": _external,
        "type": _typed,
        "size": _sized,
        "version": _versions,
    }.items()
}
