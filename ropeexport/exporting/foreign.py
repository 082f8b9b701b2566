"""A graph of another exporter's, made such as ours are: its opset, its dimensions, its shapes.

Older exporters write the arithmetic of a shape out, which hides it until it is folded, and name an
output's dimensions anew, which are then taken for others.
"""

from __future__ import annotations

import onnx_ir as ir
import onnxscript.version_converter
from onnx_ir.passes import common as passes

from ropeexport.errors import ModelFileError
from ropeexport.exporting.simplify import simplify
from ropeexport.fusion.movement import is_float
from ropeexport.onnx_files.onnx_file import is_standard
from ropeexport.ops import names

OLDEST_OPSET = 17
_INVENTED = "unk__"  # what onnx calls a dimension that it cannot infer
_MOST_ROUNDS = 16


def bring_to_opset(model: ir.Model, file: str) -> None:
    """Bring a model to the first opset with the operators that the ops' bodies need, in place."""
    opset = model.opset_imports.get("", 0)
    if opset < OLDEST_OPSET:
        raise ModelFileError(
            f"{file}: opset {opset}: expected {OLDEST_OPSET} or later; export it with a later one"
        )
    if opset < names.MIN_OPSET:
        onnxscript.version_converter.convert_version(model, target_version=names.MIN_OPSET)
    reached = model.opset_imports.get("", 0)
    if reached < names.MIN_OPSET:
        raise ModelFileError(
            f"{file}: opset {opset} could not be brought to {names.MIN_OPSET}, which the bodies of "
            "the ops need; export it with opset 23"
        )


def name_dimensions(model: ir.Model) -> None:
    """Name the inputs' dimensions that have no name, so that each is a symbol."""
    for value in model.graph.inputs:
        if value.shape is not None and not value.is_initializer():
            dims = [
                f"{value.name}_{axis}" if not isinstance(dim, int) and dim.value is None else dim
                for axis, dim in enumerate(value.shape)
            ]
            value.shape = ir.Shape(dims)


def infer_shapes(model: ir.Model) -> None:
    """Let every shape follow from those of the inputs, in place; weights stay as they are."""
    weights = {name for name, value in model.graph.initializers.items() if is_float(value)}
    declared = {value: value.shape for value in model.graph.outputs}
    for value in declared:
        value.shape = None
    for _ in range(_MOST_ROUNDS):  # a shape that is known lets the next be folded
        before = _shapes(model)
        _fold_sizes(model)
        simplify(model, weights)
        _forget_invented(model)
        passes.ShapeInferencePass()(model)
        if _shapes(model) == before:
            break
    for value, shape in declared.items():
        if value.shape is None or _is_invented(value):
            value.shape = shape


def _shapes(model: ir.Model) -> dict[str | None, str]:
    values = (value for node in model.graph for value in node.outputs)
    return {value.name: str(value.shape) for value in values if not _is_invented(value)}


def _forget_invented(model: ir.Model) -> None:
    for node in model.graph:
        for value in node.outputs:
            if _is_invented(value):
                value.shape = None


def _is_invented(value: ir.Value) -> bool:
    return value.shape is not None and any(_INVENTED in str(dim) for dim in value.shape)


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
