"""Edits of an exported graph, written as ONNX text.

A snippet reads the tensor ``x`` that it changes and any other by its name in the graph, and ends by
defining ``wrong``, which takes the place of ``x``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx
import onnx_ir as ir
from onnx import AttributeProto, ModelProto, NodeProto

from ropeexport.onnx_files.variants import with_attention_in_blocks
from ropeexport.ops import names
from ropeexport.ops.attention import FROM

Edit = Callable[[ModelProto], None]

_DATA = {"float": 1, "float16": 10, "bfloat16": 16}


def before(op: str, **snippets: str) -> Edit:
    """Return an edit of what a node of type ``op`` reads, by the place's name: ``q="..."``."""

    def edit(model: ModelProto) -> None:
        for place, text in snippets.items():
            node = _node(model, op)
            index = _PLACES[op].index(place)
            made = _parsed(model, text, node.input[index], f"before_{op}_{place}")
            node.input[index] = made[-1].output[0]
            _insert(model, node, made)

    return edit


def after(op: str, **snippets: str) -> Edit:
    """Return an edit of what a node of type ``op`` returns, by the place's name."""

    def edit(model: ModelProto) -> None:
        for place, text in snippets.items():
            node = _node(model, op)
            index = _RESULTS[op].index(place)
            name = node.output[index]
            node.output[index] = f"{name}_right"
            made = _parsed(model, text, f"{name}_right", f"after_{op}_{place}")
            made[-1].output[0] = name
            _insert(model, node, made, behind=True)

    return edit


def for_k_alone(pe: str) -> Edit:
    """Return an edit of the matrices that k alone is rotated with."""

    def edit(model: ModelProto) -> None:
        node = _node(model, "ApplyRope")
        made = _parsed(model, pe, node.input[2], "k_alone")
        twin = NodeProto()
        twin.CopyFrom(node)
        twin.name = f"{node.name}_k"
        twin.input[2] = made[-1].output[0]
        twin.output[0], node.output[1] = "q_unused", "k_unused"
        _insert(model, node, [*made, twin])

    return edit


def attribute(op: str, **values: float) -> Edit:
    """Return an edit of a node's attributes."""

    def edit(model: ModelProto) -> None:
        node = _node(model, op)
        kept = [a for a in node.attribute if a.name not in values]
        made = [onnx.helper.make_attribute(name, value) for name, value in values.items()]
        del node.attribute[:]
        node.attribute.extend([*kept, *made])

    return edit


def exchanged(op: str, *places: int) -> Edit:
    """Return an edit that gives two nodes of a type each other's inputs of some places."""

    def edit(model: ModelProto) -> None:
        one, other = (node for node in model.graph.node if node.op_type == op)
        for place in places:
            one.input[place], other.input[place] = other.input[place], one.input[place]

    return edit


def in_blocks(op: str, *, inputs: Mapping[int, str] | None = None, **values: float) -> Edit:
    """Return an edit of a node of the attention's branch in blocks, which every length takes then.

    ``inputs`` are names by place, ``values`` attributes.
    """

    def edit(model: ModelProto) -> None:
        written = ir.to_proto(with_attention_in_blocks(ir.from_proto(model)))
        model.CopyFrom(written)
        node = _node(model, names.ATTENTION_IN_BLOCKS)
        next(a for a in node.attribute if a.name == FROM).i = 1
        body = next(f for f in model.functions if (f.domain, f.name) == (node.domain, node.op_type))
        choice = next(inner for inner in body.node if inner.op_type == "If")
        branch = next(a.g for a in choice.attribute if a.name == "then_branch")
        inner = next(each for each in branch.node if each.op_type == op)
        for place, name in (inputs or {}).items():
            inner.input[place] = name
        kept = [a for a in inner.attribute if a.name not in values]
        made = [onnx.helper.make_attribute(name, value) for name, value in values.items()]
        del inner.attribute[:]
        inner.attribute.extend([*kept, *made])

    return edit


def retyped(output: str) -> Edit:
    """Return an edit that lets an output stay in float32."""

    def edit(model: ModelProto) -> None:
        producer = next(n for n in model.graph.node if output in n.output)
        index = list(producer.output).index(output)
        inner = f"{output}_narrow"
        producer.output[index] = inner
        for node in model.graph.node:
            node.input[:] = [inner if name == output else name for name in node.input]
        model.graph.node.append(onnx.helper.make_node("Cast", [inner], [output], to=_DATA["float"]))
        value = next(v for v in model.graph.output if v.name == output)
        value.type.tensor_type.elem_type = _DATA["float"]

    return edit


def without(output: str) -> Edit:
    """Return an edit that drops an output of the model."""

    def edit(model: ModelProto) -> None:
        kept = [value for value in model.graph.output if value.name != output]
        del model.graph.output[:]
        model.graph.output.extend(kept)

    return edit


def everywhere(name: str, text: str) -> Edit:
    """Return an edit of an input of the model, for every node that reads it."""

    def edit(model: ModelProto) -> None:
        made = _parsed(model, text, name, f"every_{name}")
        for node in model.graph.node:
            node.input[:] = [made[-1].output[0] if n == name else n for n in node.input]
        kept = list(model.graph.node)
        del model.graph.node[:]
        model.graph.node.extend([*made, *kept])

    return edit


def in_turn(*edits: Edit) -> Edit:
    """Return an edit that makes several."""

    def edit(model: ModelProto) -> None:
        for one in edits:
            one(model)

    return edit


_PLACES = {
    "ApplyRope": ("q", "k", "pe"),
    "NormRope": ("q", "k", "pe", "q_scale", "k_scale"),
    "Attention": ("q", "k", "v"),
    "TensorScatter": ("past", "new", "write"),
    "LessOrEqual": ("keys", "queries"),
    "Greater": ("keys", "edge"),
}
_RESULTS = {"ApplyRope": ("q", "k"), "Attention": ("x",), "Transpose": ("x",), "Reshape": ("out",)}


def _node(model: ModelProto, op: str) -> NodeProto:
    """Return the last node of a type: what follows the attention, where there are several."""
    found = [node for node in model.graph.node if node.op_type == op]
    if not found:
        raise LookupError(f"no {op} in the graph")
    return found[-1]


def _insert(
    model: ModelProto, node: NodeProto, made: list[NodeProto], behind: bool = False
) -> None:
    nodes = list(model.graph.node)
    place = next(i for i, one in enumerate(nodes) if list(one.output) == list(node.output))
    nodes[place + behind : place + behind] = made
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _parsed(model: ModelProto, text: str, x: str, prefix: str) -> list[NodeProto]:
    opsets = ", ".join(f'"{e.domain}" : {e.version}' for e in model.opset_import)
    body = text.replace("<T>", str(_data_type(model)))
    function = onnx.parser.parse_function(
        f'<domain: "mutant", opset_import: [{opsets}]>\nedit (x) => (wrong) {{ {body} }}'
    )
    local = {name for node in function.node for name in node.output}
    names = {"x": x, **{name: f"{prefix}_{name}" for name in local}}
    nodes = list(function.node)
    for node in nodes:
        _rename(node, names)
    if nodes[-1].output[0] != f"{prefix}_wrong":
        raise ValueError(f"{prefix}: a snippet ends by defining wrong, got {nodes[-1].output[0]}")
    return nodes


def _rename(node: NodeProto, names: Mapping[str, str]) -> None:
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]
    for item in node.attribute:
        if item.type == AttributeProto.GRAPH:
            for inner in item.g.node:
                _rename(inner, names)


def _data_type(model: ModelProto) -> int:
    kinds = [value.type.tensor_type.elem_type for value in model.graph.input]
    return next(int(kind) for kind in kinds if kind in _DATA.values())
