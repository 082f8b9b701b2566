"""What is checked of an ONNX file before TensorRT sees it: each check names node and cure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx

from ropeexport import atomic
from ropeexport.errors import BuildError, ModelFileError, PluginError, UsageError
from ropeexport.manifest import Axis, Manifest
from ropeexport.onnx_files import onnx_file
from ropeexport.ops.names import PLUGIN_ATTRIBUTES
from ropeexport.trt.plugin_library import PluginLibrary
from ropeexport.weights.integrity import check_weights

_DOUBLE = onnx.TensorProto.DOUBLE
_NAMED = 5  # how many nodes an error names
_PE_RANK = 6
_HEAD_AXIS = 1


def check_unchanged(path: Path, manifest: Manifest) -> None:
    """Raise unless a file, and the weight files it refers to, are those of the manifest."""
    check_weights(path.parent, manifest.model.weights)
    found = atomic.sha256_of(path)
    if found != manifest.model.sha256:
        raise ModelFileError(
            f"{path}: not the file that was exported: expected sha256 "
            f"{manifest.model.sha256[:12]}…, got {found[:12]}…; "
            "an engine of it would stand for another model; export again with --force"
        )


def check_types(path: Path, model: onnx.ModelProto) -> None:
    """Raise where the graph holds float64, which TensorRT would make float32 without a word."""
    places = list(dict.fromkeys(_float64_places(model)))
    if places:
        more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
        raise BuildError(
            f"{path}: TensorRT has no float64 and would round to float32 without a word: "
            f"{', '.join(places[:_NAMED])}{more}; use float32 there (for the angles of positions, "
            "ropeexport's own op keeps them exact)"
        )


def check_plugin_attributes(path: Path, model: onnx.ModelProto, library: PluginLibrary) -> None:
    """Raise unless each rope carries what TensorRT finds it by."""
    expected = dict(zip(PLUGIN_ATTRIBUTES, (library.version, library.namespace), strict=True))
    for node in onnx_file.rope_nodes(model):
        found = {a.name: a.s.decode(errors="replace") for a in node.attribute}
        for name, value in expected.items():
            if found.get(name) != value:
                got = repr(found[name]) if name in found else "none"
                raise PluginError(
                    f"{path}: node {node.name}: {name}: expected {value!r}, which {library.path} "
                    f"registers, got {got}; export again, or compile the plugin of this version "
                    "with 'ropeexport plugin build'"
                )


def native_axes(manifest: Manifest) -> dict[str, Axis]:
    """Return the axes as TensorRT's rotary layer takes them: one head axis for all heads."""
    axes = dict(manifest.axes)
    for spec in manifest.model.inputs:
        if spec.role == "matrices" and len(spec.shape) == _PE_RANK:
            label = spec.shape[_HEAD_AXIS]
            if isinstance(label, str) and label in axes:
                axes[label] = axes[label].model_copy(update={"min": 1, "opt": 1, "max": 1})
    return axes


def check_native_shapes(manifest: Manifest, shapes: dict[str, tuple[int, ...]]) -> None:
    """Raise where a profile gives matrices a head axis, of which the layer would read one head."""
    for spec in manifest.model.inputs:
        shape = shapes[spec.name]
        if spec.role == "matrices" and len(shape) == _PE_RANK and shape[_HEAD_AXIS] != 1:
            raise UsageError(
                f"--impl native: {spec.name}: expected a head axis of 1, got {shape[_HEAD_AXIS]}; "
                "TensorRT's rotary layer has one table for all heads: use --impl decomposed"
            )


def _float64_places(model: onnx.ModelProto) -> Iterator[str]:
    graph = model.graph
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == _DOUBLE:
            yield f"{value.name} (input or output)"
    for tensor in graph.initializer:
        if tensor.data_type == _DOUBLE:
            yield f"{tensor.name} (weight)"
    yield from _float64_nodes(graph.node)
    for function in model.functions:
        yield from _float64_nodes(function.node, f"{function.domain}::{function.name}, ")


def _float64_nodes(nodes: Iterator[onnx.NodeProto], where: str = "") -> Iterator[str]:
    """Yield the nodes that bring float64 into a graph, those of subgraphs too."""
    for node in nodes:
        if any(_brings_float64(attribute) for attribute in node.attribute):
            name = node.name or ", ".join(node.output)
            yield f"{name} ({where}{node.op_type})"
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _float64_nodes(graph.node, where)


def _brings_float64(attribute: onnx.AttributeProto) -> bool:
    if attribute.name in ("to", "dtype", "output_dtype") and attribute.i == _DOUBLE:
        return True
    return bool(attribute.t.data_type == _DOUBLE)
