"""Whether a model ends: what its graph says before a runtime is left to compute it.

A runtime computes what a file says, in this process, and hears nothing meanwhile.  So a loop that
nothing stops, and a tensor of gigabytes that is made of constants, are refused before.  What
depends on the inputs is the model's own matter: no graph says how long that takes.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from ropeexport.errors import ModelFileError
from ropeexport.onnx_files.budget import MAKERS, counted, made
from ropeexport.onnx_files.onnx_file import OnnxFile, graphs_of
from ropeexport.onnx_files.uses import small_constant
from ropeexport.operators import is_standard

_MOST_ROUNDS = 1 << 32  # of loops within each other: hours, however little a round does
_LARGEST = 1 << 28  # elements: gigabytes


def require_ending(file: OnnxFile) -> None:
    """Raise where a model would compute without an end, or fill the memory, on any input.

    Raises
    ------
    ModelFileError
        With the node, and how much it makes.
    """
    model = file.graph
    version = model.opset_imports.get("", 1)
    for graph in (model.graph, *model.functions.values()):
        for fault in _faults(graph, 1, version):
            raise ModelFileError(f"{file.path}: {fault}, so it is not run", code="RX324")


def _faults(graph: ir.Graph | ir.Function, rounds: int, version: int) -> Iterator[str]:
    for node in graph:
        standard = is_standard(node)
        if standard and node.op_type in MAKERS and (size := _constant_size(node, version)):
            yield f"{_named(node)} makes {counted(size)} numbers of constants alone"
        inner = rounds * _rounds(node) if standard and node.op_type == "Loop" else rounds
        if inner > _MOST_ROUNDS:
            yield f"{_named(node)} goes on for {counted(inner)} rounds, and nothing stops it before"
        for body in graphs_of(node):
            yield from _faults(body, inner, version)


def _rounds(loop: ir.Node) -> int:
    """Return how many rounds a loop has on any input; 1 where that depends on what it computes."""
    count, condition = (*loop.inputs, None, None)[:2]
    if condition is not None and not _is_true(condition):
        return 1
    body = next(graphs_of(loop), None)
    if body is None or len(body.inputs) <= 1 or not body.outputs:
        return 1  # no loop of ONNX's: a runtime says so
    last = body.outputs[0]
    while (node := last.producer()) is not None and is_standard(node, "Identity"):
        last = node.inputs[0] or last
    if last is not body.inputs[1] and not _is_true(last):
        return 1
    if count is None:
        return 1 << 63  # as many as a count can say
    known = small_constant(count)
    return max(1, int(known.flat[0])) if known is not None and known.size else 1


def _is_true(value: ir.Value) -> bool:
    known = small_constant(value)
    return known is not None and known.size > 0 and bool(known.all())


def _constant_size(node: ir.Node, version: int) -> int:
    """Return how many elements a node makes of constants, where they are too many."""
    values = [small_constant(value) for value in node.inputs if value is not None]
    if any(value is None for value in values) or not values:
        return 0
    inputs = iter(values)
    given = [None if value is None else next(inputs) for value in node.inputs]
    largest = max((size or 0 for size in made(ir.to_proto(node), version, given)), default=0)
    return largest if largest > _LARGEST else 0


def _named(node: ir.Node) -> str:
    name = node.name or next((value.name for value in node.outputs if value.name), None)
    return f"its {node.op_type} ({name})" if name else f"its {node.op_type}"
