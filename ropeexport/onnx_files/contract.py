"""The contract of a written file: its names, its checks, its dynamic axes."""

from __future__ import annotations

import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import onnx_ir as ir

import ropeexport
from ropeexport.axes import same
from ropeexport.errors import ExportError
from ropeexport.ops.registry import op_of


def name_nodes(model: ir.Model) -> None:
    """Give the nodes of ropeexport's ops readable names: ``ApplyRope_0`` and so on."""
    counts: dict[str, int] = {}
    for node in model.graph:
        op = op_of(node.domain, node.op_type)
        if op is not None and op.results:
            number = counts[node.op_type] = counts.get(node.op_type, -1) + 1
            node.name = f"{node.op_type}_{number}"
            for value, label in zip(node.outputs, op.results, strict=True):
                if not value.is_graph_output():  # those are the user's to name
                    value.name = f"{label}_{number}"


def make_paths_relative(model: ir.Model) -> None:
    """Cut the machine's folders from the source paths that the exporter leaves in metadata."""
    roots = sorted(
        {sysconfig.get_path("purelib"), str(Path(ropeexport.__file__).parents[1]), str(Path.cwd())},
        key=len,
        reverse=True,
    )
    for node in model.graph.all_nodes():
        for key, text in node.metadata_props.items():
            node.metadata_props[key] = _without(roots, text)


def _without(roots: Sequence[str], text: str) -> str:
    for root in roots:
        text = text.replace(f"{root}/", "")
    return text


def check(model: onnx.ModelProto) -> None:
    """Raise :class:`ExportError` unless the model passes onnx's checker and strict inference."""
    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph is not valid ONNX: {error}") from error


def check_file(path: Path, name: Path) -> None:
    """Check a file with external data, see :func:`check`; ``name`` is what it will be called."""
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{name}: the exported graph is not valid ONNX: {error}") from error


def check_dynamic(model: ir.Model, dynamic_axes: Mapping[str, Mapping[int, str]]) -> None:
    """Raise unless every axis that was asked to be dynamic is symbolic in the model.

    A comparison of sizes inside traced code makes an axis a constant without a word.
    """
    shapes = {value.name: value.shape for value in model.graph.inputs}
    for name, axes in dynamic_axes.items():
        for axis, label in axes.items():
            shape = shapes.get(name)
            if shape is None:
                raise ExportError(f"{name}: the module does not use this input; leave it out")
            found = shape[axis]
            if isinstance(found, int) or not same(str(found), label):
                raise ExportError(
                    f"{name}: axis {axis}: expected the dynamic axis {label!r} in the file, "
                    f"got {found!r}; look for a check or an arithmetic on its size in the module"
                )
