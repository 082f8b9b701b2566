"""Rules over an ONNX graph, whoever exported it."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from ropeexport.lint.graph import DOUBLE, FLOAT, HALVES, Graph, label
from ropeexport.lint.rule import Rule
from ropeexport.ops.forms import form_of

_FLOATS = (FLOAT, *HALVES)
_ROTARY = "RotaryEmbedding"  # ONNX's own from opset 23, and onnxruntime's before


def _double(graph: Graph) -> Iterator[str]:
    for node in graph.nodes:
        if any(graph.type_of(name) == DOUBLE for name in node.output):
            yield label(node)
    yield from (w.name for w in graph.model.graph.initializer if w.data_type == DOUBLE)


def _half_tables(graph: Graph) -> Iterator[str]:
    for node in graph.nodes:
        if any(_comes_from_half(graph, name) for name in _tables(node)):
            yield label(node)


def _tables(node: onnx.NodeProto) -> list[str]:
    """Return the names of the tables of angles that a rotary op reads."""
    form = form_of(node.domain, node.op_type)
    if form is not None:
        return list(node.input[form.tensors :])
    if node.op_type == _ROTARY:
        # com.microsoft: x, position_ids, cos, sin; ai.onnx: x, cos, sin, position_ids
        first = 2 if node.domain == "com.microsoft" else 1
        return list(node.input[first : first + 2])
    return []


def _comes_from_half(graph: Graph, name: str) -> bool:
    """Say whether a table is in half precision, or was before it was cast up."""
    if graph.type_of(name) in HALVES:
        return True
    node = graph.before(name)
    return node is not None and node.op_type == "Cast" and graph.type_of(node.input[0]) in HALVES


def _not_cast_back(graph: Graph) -> Iterator[str]:
    for node in graph.nodes:
        if node.op_type != _ROTARY and form_of(node.domain, node.op_type) is None:
            continue
        for data, rotated in zip(node.input, node.output, strict=False):
            cast = graph.before(data)
            widened = (
                cast is not None
                and cast.op_type == "Cast"
                and graph.type_of(cast.input[0]) in HALVES
                and graph.type_of(rotated) == FLOAT
            )
            if widened and any(_attends(reader) for reader in graph.after(rotated)):
                yield label(node)


def _attends(node: onnx.NodeProto) -> bool:
    return node.op_type in ("Attention", "MultiHeadAttention", "MatMul")


def _casts_around_attention(graph: Graph) -> Iterator[str]:
    for node in graph.of_type("Attention"):
        makers = (graph.before(name) for name in node.input[:3])
        up = [m for m in makers if m is not None and _is_cast(graph, m, HALVES, (FLOAT,))]
        down = [n for n in graph.after(node.output[0]) if _is_cast(graph, n, (FLOAT,), HALVES)]
        yield from map(label, (*up, *down))


def _casts_around_rope(graph: Graph) -> Iterator[str]:
    for node in graph.ropes():
        form = form_of(node.domain, node.op_type)
        assert form is not None  # it is a rope
        makers = (graph.before(name) for name in node.input[: form.tensors])
        readers = (reader for name in node.output for reader in graph.after(name))
        around = [n for n in (*makers, *readers) if n is not None]
        yield from (label(n) for n in around if _is_cast(graph, n, _FLOATS, _FLOATS))


def _is_cast(
    graph: Graph, node: onnx.NodeProto, source: tuple[int, ...], target: tuple[int, ...]
) -> bool:
    return (
        node.op_type == "Cast"
        and graph.type_of(node.input[0]) in source
        and graph.type_of(node.output[0]) in target
    )


def _turned_around_rope(graph: Graph) -> Iterator[str]:
    for node in graph.ropes():
        for data, rotated in zip(node.input, node.output, strict=False):
            turned, back = graph.maker(data), graph.readers(rotated)
            if turned is not None and turned.op_type == "Transpose" and _only(back, "Transpose"):
                yield label(node)


def _only(nodes: list[onnx.NodeProto], op_type: str) -> bool:
    return bool(nodes) and all(node.op_type == op_type for node in nodes)


def _attention_written_out(graph: Graph) -> Iterator[str]:
    for node in graph.of_type("Softmax"):
        scores = graph.before(node.input[0])
        while scores is not None and scores.op_type in ("Add", "Mul", "Div", "Where", "Cast"):
            at = 1 if scores.op_type == "Where" else 0
            scores = graph.before(scores.input[at])
        weighted = [n for n in graph.after(node.output[0]) if n.op_type in ("MatMul", "Cast")]
        if scores is not None and scores.op_type == "MatMul" and weighted:
            yield label(node)


def _without_plugin_attributes(graph: Graph) -> Iterator[str]:
    for node in graph.ropes():
        form = form_of(node.domain, node.op_type)
        needed = set(form.attribute_names) if form else set()
        if not needed <= {attribute.name for attribute in node.attribute}:
            yield label(node)


def _without_body(graph: Graph) -> Iterator[str]:
    bodies = {(f.domain, f.name) for f in graph.model.functions}
    return (label(n) for n in graph.ropes() if (n.domain, n.op_type) not in bodies)


def _frozen(graph: Graph) -> Iterator[str]:
    weights = {weight.name for weight in graph.model.graph.initializer}
    inputs = [value for value in graph.model.graph.input if value.name not in weights]
    dims = [dim for value in inputs for dim in value.type.tensor_type.shape.dim]
    if dims and all(dim.HasField("dim_value") for dim in dims):
        yield from (value.name for value in inputs)


GRAPH_RULES: tuple[Rule[Graph], ...] = (
    Rule(
        "float64",
        "error",
        "float64 in the graph, which TensorRT computes in float32 without a word",
        "compute angles with ropeexport.rope, or export the module with ropeexport, whose tables "
        "are exact without float64",
        _double,
    ),
    Rule(
        "half-tables",
        "error",
        "a table of angles in half precision: at position p a float16 angle is off by p * 2^-12",
        "keep cos, sin or pe in float32 up to the rotation",
        _half_tables,
    ),
    Rule(
        "not-cast-back",
        "error",
        "half data is rotated in float32 and never cast back, so attention runs in float32",
        "cast the rotated q and k to the type of v; ropeexport's op does so itself",
        _not_cast_back,
    ),
    Rule(
        "no-function-body",
        "error",
        "a rotary op without its function body: onnxruntime cannot run it",
        "export or fuse the file again with ropeexport",
        _without_body,
    ),
    Rule(
        "no-plugin-attributes",
        "error",
        "a rotary op without plugin_version and plugin_namespace: TensorRT takes its function body "
        "even where the plugin is loaded",
        "export or fuse the file again with ropeexport",
        _without_plugin_attributes,
    ),
    Rule(
        "attention-casts",
        "warning",
        "half data is cast to float32 for an attention, or its float32 result to half",
        "give the attention its data in half: it sums in float32 and scales by itself",
        _casts_around_attention,
    ),
    Rule(
        "attention-written-out",
        "warning",
        "an attention as MatMul, Softmax, MatMul, which writes all its scores to memory",
        "use torch.nn.functional.scaled_dot_product_attention, which exports as one Attention node",
        _attention_written_out,
    ),
    Rule(
        "frozen-shapes",
        "warning",
        "every input has a fixed shape, so batch and length are frozen",
        "name the dynamic axes at export",
        _frozen,
    ),
    Rule(
        "rope-casts",
        "note",
        "the data of a rotary op changes its type right around it: a pass over memory each",
        "give the op the data as it is: it rotates in float32 and returns the data's type",
        _casts_around_rope,
    ),
    Rule(
        "rope-transposes",
        "note",
        "a rotary op between two Transposes: a pass over memory each",
        "rotate in the layout that the attention reads, (batch, heads, length, head size)",
        _turned_around_rope,
    ),
)
