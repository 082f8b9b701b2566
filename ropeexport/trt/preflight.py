"""What is checked of an ONNX file before TensorRT sees it: each check names node and cure."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from ropeexport.artifact import Artifact
from ropeexport.errors import BuildError, ModelFileError, PluginError, UsageError
from ropeexport.manifest import Axis, Manifest
from ropeexport.onnx_files.onnx_file import OnnxFile, rope_nodes
from ropeexport.ops.names import PLUGIN_ATTRIBUTES
from ropeexport.profiles import with_ranges
from ropeexport.trt.plugin_library import PluginLibrary

_DOUBLE = ir.DataType.DOUBLE
_NAMED = 5  # how many nodes an error names
_PE_RANK = 6
_HEAD_AXIS = 1


def check_unchanged(artifact: Artifact) -> None:
    """Raise unless a file, and the weight files it refers to, are those of the manifest."""
    artifact.check_weights()
    if not artifact.is_exported_file:
        raise ModelFileError(
            f"{artifact.model_path}: not the file that was exported: expected sha256 "
            f"{artifact.manifest.model.sha256[:12]}…, got {artifact.model_sha256[:12]}…; "
            "an engine of it would stand for another model; export again with --force"
        )


def check_types(file: OnnxFile) -> None:
    """Raise where the graph holds float64, which TensorRT would make float32 without a word."""
    places = list(dict.fromkeys(_float64_places(file.graph)))
    if places:
        more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
        raise BuildError(
            f"{file.path}: TensorRT has no float64 and would round to float32 without a word: "
            f"{', '.join(places[:_NAMED])}{more}; use float32 there (for the angles of positions, "
            "ropeexport's own op keeps them exact)"
        )


def check_plugin_attributes(file: OnnxFile, library: PluginLibrary) -> None:
    """Raise unless each rope carries what TensorRT finds it by."""
    expected = dict(zip(PLUGIN_ATTRIBUTES, (library.version, library.namespace), strict=True))
    for node in rope_nodes(file.graph):
        found = {a.name: str(a.value) for a in node.attributes.values()}
        for name, value in expected.items():
            if found.get(name) != value:
                got = repr(found[name]) if name in found else "none"
                raise PluginError(
                    f"{file.path}: node {node.name}: {name}: expected {value!r}, which "
                    f"{library.path} registers, got {got}; export again, or compile the plugin of "
                    "this version with 'ropeexport plugin build'"
                )


def native_axes(manifest: Manifest) -> dict[str, Axis]:
    """Return the axes as TensorRT's rotary layer takes them: one head axis for all heads."""
    pes = [s for s in manifest.model.inputs if s.role == "matrices" and len(s.shape) == _PE_RANK]
    return with_ranges(manifest.axes, {str(pe.shape[_HEAD_AXIS]): (1, 1, 1) for pe in pes})


def check_native_shapes(manifest: Manifest, shapes: dict[str, tuple[int, ...]]) -> None:
    """Raise where a profile gives matrices a head axis, of which the layer would read one head."""
    for spec in manifest.model.inputs:
        shape = shapes[spec.name]
        if spec.role == "matrices" and len(shape) == _PE_RANK and shape[_HEAD_AXIS] != 1:
            raise UsageError(
                f"--impl native: {spec.name}: expected a head axis of 1, got {shape[_HEAD_AXIS]}; "
                "TensorRT's rotary layer has one table for all heads: use --impl decomposed"
            )


def _float64_places(model: ir.Model) -> Iterator[str]:
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.dtype == _DOUBLE:
            yield f"{value.name} (input or output)"
    for name, value in model.graph.initializers.items():
        if value.dtype == _DOUBLE:
            yield f"{name} (weight)"
    yield from _float64_nodes(model.graph)
    for function in model.functions.values():
        yield from _float64_nodes(function, f"{function.domain}::{function.name}, ")


def _float64_nodes(part: ir.Graph | ir.Function, where: str = "") -> Iterator[str]:
    """Yield the nodes that bring float64 into a graph, those of subgraphs too."""
    for node in part.all_nodes():
        if any(map(_brings_float64, node.attributes.values())):
            name = node.name or ", ".join(str(value.name) for value in node.outputs)
            yield f"{name} ({where}{node.op_type})"


def _brings_float64(attribute: ir.Attr) -> bool:
    if attribute.name in ("to", "dtype", "output_dtype") and attribute.value == _DOUBLE:
        return True
    is_tensor = attribute.type == ir.AttributeType.TENSOR
    return bool(is_tensor and attribute.as_tensor().dtype == _DOUBLE)
