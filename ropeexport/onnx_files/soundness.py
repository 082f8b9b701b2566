"""What every stage takes for granted of a graph: checked once, where a file is read.

onnx_ir reads whatever a message holds; what is missing would be a fault of the first stage that
looks for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

import onnx
import onnx_ir as ir

from ropeexport.operators import STANDARD
from ropeexport.ops.registry import op_of


def faults(model: ir.Model) -> Iterator[str]:
    """Yield what is wrong with a model, each as what was found and what was expected."""
    if not any(domain in model.opset_imports for domain in STANDARD):
        yield "expected an opset of ONNX's own operators, got those of other domains alone"
    if not model.graph.outputs:
        yield "expected an output, got none"
    yield from _of_graph(model.graph, model.opset_imports, set())
    for function in model.functions.values():
        yield from _of_graph(function.graph, function.opset_imports, set())
    yield from _recursion(model)


def _of_graph(
    graph: ir.Graph, imports: dict[str, int], outer: set[ir.Value | None]
) -> Iterator[str]:
    """Yield what is wrong with a graph that sees the values of those around it."""
    known = {None, *outer, *graph.inputs, *graph.initializers.values()}
    yield from _twice([value.name for value in graph.inputs])
    made = [value.name for node in graph for value in node.outputs]
    yield from _twice([name for name in (*graph.initializers, *made) if name])
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.dtype == ir.DataType.UNDEFINED:
            yield f"initializer {name!r}: expected values of a known type"
        elif any(isinstance(size, int) and size < 0 for size in tensor.shape):
            yield f"initializer {name!r}: expected sizes of 0 or more, got {tensor.shape}"
    for node in graph:
        unknown = next((value for value in node.inputs if value not in known), None)
        if unknown is not None:
            yield f"{_name(node)} reads {unknown.name!r}, which nothing before it makes"
        least = _least_inputs(node, imports)
        if len(node.inputs) < least:
            yield f"{_name(node)}: expected at least {least} inputs, got {len(node.inputs)}"
        for inner in _graphs(node):
            yield from _of_graph(inner, imports, known)
        known.update(node.outputs)
    for value in graph.outputs:
        if value not in known:
            yield f"output {value.name!r}: nothing makes it"


def _twice(names: list[str | None]) -> Iterator[str]:
    seen: set[str | None] = set()
    for name in names:
        if name in seen:
            yield f"expected one tensor of each name, got several called {name!r}"
        seen.add(name)


def _least_inputs(node: ir.Node, imports: dict[str, int]) -> int:
    """Return how many inputs an operator has at least; 0 of one that nobody here knows."""
    op = op_of(node.domain, node.op_type)
    if op is not None:
        return len(op.inputs)
    version = next((imports[domain] for domain in STANDARD if domain in imports), None)
    if node.domain not in STANDARD or version is None:
        return 0
    try:
        return int(onnx.defs.get_schema(node.op_type, version).min_input)
    except onnx.defs.SchemaError:
        return 0


def _graphs(node: ir.Node) -> Iterator[ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def _recursion(model: ir.Model) -> Iterator[str]:
    calls = {
        name: {node.op_identifier() for node in function.all_nodes()} & model.functions.keys()
        for name, function in model.functions.items()
    }
    try:
        TopologicalSorter(calls).prepare()
    except CycleError as error:
        domain, name, _ = error.args[1][0]
        yield f"function {domain}::{name} calls itself"


def _name(node: ir.Node) -> str:
    return f"{node.op_type} {node.name!r}" if node.name else node.op_type
