"""A graph of another exporter's, made such as ours are: its opset, its dimensions, its shapes.

Older exporters write the arithmetic of a shape out, which hides it until it is folded, and name an
output's dimensions anew, which are then taken for others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, count

import numpy as np
import onnx
import onnx_ir as ir
import onnxscript.version_converter
from onnx_ir.passes import common as passes

from ropeexport.axes import sum_of
from ropeexport.errors import ModelFileError
from ropeexport.exporting.simplify import simplify
from ropeexport.fusion.movement import closure, is_float
from ropeexport.onnx_files.dimensions import symbols_of
from ropeexport.onnx_files.shapes import INVENTED, Inferred, infer, is_unknown, symbolic_shapes
from ropeexport.onnx_files.variants import fitting, put_in_place
from ropeexport.operators import is_standard
from ropeexport.ops import names

OLDEST_OPSET = 11
_ONNXSCRIPT_FROM = 18
_AXIS_FROM = 13  # an axis of Softmax, LogSoftmax and Hardmax is one axis
_JOINS = ("Add", "Concat", "Sub", "Sum")  # of the two products of a rotation
_HIDDEN = "ropeexport.hidden"
_MOST_ROUNDS = 16


def bring_to_opset(model: ir.Model, file: str) -> None:
    """Bring a model to the first opset with the operators that the ops' bodies need, in place.

    Functions of the file's own that may hold a rope are put where they are called; all of them,
    where the opset changes.

    Raises
    ------
    ModelFileError
        Where it is too old, or an operator has no later form, or a function is of another opset.
    """
    opset = model.opset_imports.get("", 0)
    if opset < OLDEST_OPSET:
        raise ModelFileError(
            f"{file}: opset {opset}: expected {OLDEST_OPSET} or later; export it with a later one",
            code="RX215",
        )
    if opset < names.MIN_OPSET:
        _inline_all(model, file)
        _convert(model, file, opset)
    else:
        inlined = {f.identifier() for f in model.functions.values() if _may_hold_rope(f, model)}
        inlined &= fitting(model)
        put_in_place(model, lambda function: function.identifier() in inlined)
    _standardise_norms(model)


def _convert(model: ir.Model, file: str, opset: int) -> None:
    if opset < _AXIS_FROM:
        _write_hardmax_by_rows(model)
    with _foreign_hidden(model, opset):
        # onnxscript's converter begins with 18; to there onnx's own is called by it
        for target in (_ONNXSCRIPT_FROM, names.MIN_OPSET):
            if model.opset_imports.get("", 0) < target:
                onnxscript.version_converter.convert_version(model, target, fallback=True)
    if model.opset_imports.get("", 0) < names.MIN_OPSET:
        raise ModelFileError(
            f"{file}: opset {opset} could not be brought to {names.MIN_OPSET}, which the bodies of "
            "the ops need; export it with opset 23",
            code="RX215",
        )
    _check_converted(model, file, opset)


def _inline_all(model: ir.Model, file: str) -> None:
    """Put every function where it is called: no converter goes into functions."""
    passes.RemoveUnusedFunctionsPass()(model)
    apart = next((model.functions[key] for key in set(model.functions) - fitting(model)), None)
    if apart is not None:
        own, whole = map(_listed, (apart.opset_imports, model.opset_imports))
        raise ModelFileError(
            f"{file}: function {apart.domain}::{apart.name}: expected it, and what calls it, to be "
            f"of the file's opsets, {whole}, got {own}; export all with opset {names.MIN_OPSET}",
            code="RX215",
        )
    put_in_place(model)


def _listed(imports: Mapping[str, int]) -> str:
    return ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in imports.items())


def _write_hardmax_by_rows(model: ir.Model) -> None:
    """Write Hardmax of all from an axis on together, as it was before opset 13, in place.

    onnx's converter does so for Softmax and LogSoftmax, and leaves Hardmax as it is.
    """
    for node in list(model.graph.all_nodes()):
        if is_standard(node, "Hardmax") and node.graph is not None:
            shape = ir.node("Shape", [node.inputs[0]])
            axis = node.attributes.get_int("axis", 1)
            rows = ir.node("Flatten", [node.inputs[0]], {"axis": axis})
            chosen = ir.node("Hardmax", rows.outputs, {"axis": -1})
            whole = ir.node("Reshape", [chosen.outputs[0], shape.outputs[0]])
            made = (shape, rows, chosen, whole)
            ir.convenience.replace_nodes_and_values(
                node.graph, node, [node], made, node.outputs, whole.outputs
            )


def _may_hold_rope(function: ir.Function, model: ir.Model) -> bool:
    """Say whether a function, or one that it calls, has what a rotation takes."""
    if function.domain == names.DOMAIN:
        return False
    called = closure([function], lambda f: (
        model.functions[key] for node in f.all_nodes() if (key := node.op_identifier())
        in model.functions
    ))  # fmt: skip
    return _can_rotate(node for f in called for node in f.all_nodes())


def may_hold_rope(model: ir.Model) -> bool:
    """Say whether a file has what a rotation takes, or operators of others that may rotate."""
    nodes = [x for part in (model.graph, *model.functions.values()) for x in part.all_nodes()]
    others = (x for x in nodes if not is_standard(x) and x.op_identifier() not in model.functions)
    return any(others) or _can_rotate(nodes)


def _can_rotate(nodes: Iterable[ir.Node]) -> bool:
    used = {node.op_type for node in nodes}
    return "RotaryEmbedding" in used or ("Mul" in used and not used.isdisjoint(_JOINS))


def _standardise_norms(model: ir.Model) -> None:
    """Give onnxruntime's norm the name that ONNX has for it since opset 23, in place.

    It stands in ONNX's domain, and its schema is RMSNormalization's, but for a second result.
    """
    for node in model.graph.all_nodes():
        if is_standard(node, "SimplifiedLayerNormalization") and not any(
            value.uses() or value.is_graph_output() for value in node.outputs[1:]
        ):
            node.op_type = "RMSNormalization"
            node.resize_outputs(1)


@contextmanager
def _foreign_hidden(model: ir.Model, opset: int) -> Iterator[None]:
    """Take what stands in ONNX's domain without being ONNX's (onnxruntime's own) out of it."""
    nodes = (node for node in model.graph.all_nodes() if is_standard(node))
    foreign = [node for node in nodes if not onnx.defs.has(node.op_type, opset)]
    for node in foreign:
        node.domain = _HIDDEN
    if foreign:
        model.opset_imports[_HIDDEN] = 1
    try:
        yield
    finally:
        for node in model.graph.all_nodes():  # a converter may have made them anew
            if node.domain == _HIDDEN:
                node.domain = ""
        model.opset_imports.pop(_HIDDEN, None)


def _check_converted(model: ir.Model, file: str, opset: int) -> None:
    """Raise :class:`ModelFileError` where an operator is not written as its new opset has it."""
    for node in model.graph.all_nodes():
        if not is_standard(node) or not onnx.defs.has(node.op_type, names.MIN_OPSET):
            continue
        schema = onnx.defs.get_schema(node.op_type, names.MIN_OPSET)
        unknown = [name for name in node.attributes if name not in schema.attributes]
        if unknown or not schema.min_input <= len(node.inputs) <= schema.max_input:
            raise ModelFileError(
                f"{file}: {node.op_type} {node.name!r}: opset {opset} could not be brought to "
                f"{names.MIN_OPSET}; export it with opset 23",
                code="RX215",
            )


def name_dimensions(model: ir.Model) -> None:
    """Let each dynamic dimension of an input be a symbol that can be computed with, in place.

    Another exporter's ``batch-size`` or ``?`` would be read as a difference, or not at all: it gets
    a name of letters, digits and underscores, the same one wherever the graph has it.
    """
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    for value in inputs:
        if value.shape is not None:
            value.shape = ir.Shape(
                dim if isinstance(dim, int) else dim.value or f"{value.name}_{axis}"
                for axis, dim in enumerate(value.shape)
            )
    made = (value for node in model.graph.all_nodes() for value in node.outputs)
    values = [*inputs, *model.graph.outputs, *made]
    safe = _safe_names(_symbols(inputs), _symbols(values))
    for value in values:
        if value.shape is not None and not safe.keys().isdisjoint(_symbols([value])):
            value.shape = ir.Shape(
                dim if isinstance(dim, int) else safe.get(str(dim.value), dim.value)
                for dim in value.shape
            )


def _symbols(values: Iterable[ir.Value]) -> dict[str, None]:
    """Return the dimensions that have a name, in order of their first mention."""
    dims = (dim for value in values for dim in value.shape or ())
    return {
        dim.value: None for dim in dims if isinstance(dim, ir.SymbolicDim) and dim.value is not None
    }


def _safe_names(given: Iterable[str], every: Iterable[str]) -> dict[str, str | None]:
    """Return another name for each dimension that cannot be computed with, an unknown for none."""
    safe: dict[str, str | None] = {"": None}
    taken = {name for dim in every for name in sum_of(dim).names}
    known = {dim for dim in given if symbols_of(dim) == frozenset({dim})}
    for dim in (*given, *(dim for dim in every if symbols_of(dim) is None)):
        if dim not in safe and not _is_computable(dim, known):
            stem = re.sub(r"[^A-Za-z0-9_]", "_", dim.replace(INVENTED, "axis_"))
            stem = stem if stem[0].isalpha() else f"axis_{stem.strip('_')}".rstrip("_")
            names = chain([stem], (f"{stem}_{number}" for number in count(2)))
            safe[dim] = next(name for name in names if name not in taken)
            taken.add(str(safe[dim]))
    return safe


def _is_computable(dim: str, known: Container[str]) -> bool:
    """Say whether a dimension is a name, a sum of names, or made of what other dimensions are."""
    symbols = symbols_of(dim)
    if symbols is None or INVENTED in dim:
        return False
    is_sum = sum_of(dim).names != (dim,) or symbols == frozenset({dim})
    return is_sum or all(symbol in known for symbol in symbols)


def infer_shapes(model: ir.Model) -> None:
    """Let every shape follow from those of the inputs, in place; weights stay as they are."""
    weights = {name for name, value in model.graph.initializers.items() if is_float(value)}
    declared = {value: value.shape for value in model.graph.outputs}
    for value in declared:
        value.shape = None
    for _ in range(_MOST_ROUNDS):  # a shape that is known lets the next be folded
        before = _shapes(model)
        _reshape_flattened(model)
        _fold_sizes(model)
        simplify(model, weights)
        for value in (value for node in model.graph for value in node.outputs):
            if _is_unknown(value):
                value.shape = None
        infer(model)
        _adopt(symbolic_shapes(model), model)
        if _shapes(model) == before:
            break
    for value, shape in declared.items():
        if value.shape is None or (shape is not None and _is_unknown(value)):
            value.shape = shape


def _reshape_flattened(model: ir.Model) -> None:
    """Write each Flatten to a row of known size as a Reshape, which inference follows, in place."""
    for node in model.graph:
        shape = node.inputs[0].shape if is_standard(node, "Flatten") and node.inputs[0] else None
        row = None if shape is None else shape[node.attributes.get_int("axis", 1) :]
        if row and all(isinstance(dim, int) and dim for dim in row):
            sizes = ir.tensor(np.array([-1, math.prod(map(int, row))], dtype=np.int64))
            constant = ir.node("Constant", [], {"value": sizes})
            model.graph.insert_before(node, constant)
            reshape = ir.node("Reshape", [node.inputs[0], constant.outputs[0]])
            model.graph.insert_before(node, reshape)
            made = reshape.outputs[0]
            made.dtype = node.outputs[0].dtype
            ir.convenience.replace_all_uses_with(node.outputs[0], made, replace_graph_outputs=True)


def _adopt(found: Mapping[str, Inferred], model: ir.Model) -> None:
    """Let the sizes and types that are not known yet be those that were found, in place."""
    for value in (value for node in model.graph for value in node.outputs):
        inferred = found.get(str(value.name))
        if inferred is None:
            continue
        dims, value.dtype = inferred.dims, value.dtype or inferred.dtype
        if value.shape is not None and len(value.shape) != len(dims):
            continue
        old = value.shape or [None] * len(dims)
        value.shape = ir.Shape(
            dim if new is None or not (dim is None or is_unknown(dim)) else new
            for dim, new in zip(old, dims, strict=True)
        )


def _shapes(model: ir.Model) -> dict[str | None, str]:
    values = (value for node in model.graph for value in node.outputs)
    return {value.name: str(value.shape) for value in values if not _is_unknown(value)}


def _is_unknown(value: ir.Value) -> bool:
    return any(map(is_unknown, value.shape or ()))


def _fold_sizes(model: ir.Model) -> None:
    """Make constants of sizes that are known and read from a shape by a scalar index.

    onnxscript's folding knows an index of one dimension alone; torch's older exporter writes none.
    """
    for node in model.graph:
        size = _size(node)
        if size is not None:
            constant = ir.node("Constant", [], {"value_int": size})
            model.graph.insert_before(node, constant)
            constant.outputs[0].dtype = ir.DataType.INT64
            constant.outputs[0].shape = ir.Shape([])
            ir.convenience.replace_all_uses_with(node.outputs[0], constant.outputs[0])


def _size(node: ir.Node) -> int | None:
    """Return the size that a node reads from a shape, where it is one number."""
    if not is_standard(node, "Gather") or node.inputs[0] is None or node.inputs[1] is None:
        return None
    source = node.inputs[0].producer()
    if source is None or not is_standard(source, "Shape") or source.attributes:
        return None
    index, shaped = ir.convenience.get_const_tensor(node.inputs[1]), source.inputs[0]
    if index is None or index.shape.rank() or shaped is None or shaped.shape is None:
        return None
    sizes, at = shaped.shape, int(index.numpy())
    size = sizes[at] if -len(sizes) <= at < len(sizes) else None
    return size if isinstance(size, int) else None
