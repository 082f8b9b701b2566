"""What is checked of a file before TensorRT sees it: an ONNX file to build, an engine to load.

Each check names what it found and the cure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import onnx_ir as ir

from ropeexport import atomic, errors
from ropeexport.artifact import Artifact
from ropeexport.axes import with_ranges
from ropeexport.machine import Gpu
from ropeexport.manifest import Axis, EngineRecord, Manifest, PluginRecord
from ropeexport.onnx_files.onnx_file import OnnxFile, rope_nodes
from ropeexport.operators import is_standard
from ropeexport.ops.names import PLUGIN_ATTRIBUTES
from ropeexport.trt import plugin_library
from ropeexport.trt.flavour import INSTALL, RTX, available_flavours
from ropeexport.trt.plugin_library import PluginLibrary

_DOUBLE = ir.DataType.DOUBLE
_NAMED = 5  # how many nodes an error names
_PE_RANK = 6
_LENGTHS = 6  # the input of Attention, from opset 24 on
_HEAD_AXIS = 1
_SHOWN = 12  # digits of a hash


def check_unchanged(artifact: Artifact) -> None:
    """Raise unless a file, and the weight files it refers to, are those of the manifest."""
    artifact.check_weights()
    artifact.require_exported_file("an engine of it would stand for another model; ")
    artifact.check_interface()


def check_types(file: OnnxFile) -> None:
    """Raise where the graph holds float64, which TensorRT would make float32 without a word."""
    places = list(dict.fromkeys(float64_places(file.graph)))
    if places:
        raise errors.BuildError(
            f"{file.path}: TensorRT has no float64 and would round to float32 without a word: "
            f"{_named(places)}; use float32 there (for the angles of positions, "
            "ropeexport's own op keeps them exact)",
            code="RX404",
        )


def _named(places: Sequence[str]) -> str:
    more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
    return f"{', '.join(places[:_NAMED])}{more}"


def check_attention(file: OnnxFile) -> None:
    """Raise where attention is limited in a way that TensorRT's parser drops without a word."""
    functions = file.graph.functions.values()
    nodes = (node for part in (file.graph.graph, *functions) for node in part.all_nodes())
    places = [node.name or str(node.outputs[0].name) for node in nodes if is_limit_dropped(node)]
    if places:
        raise errors.BuildError(
            f"{file.path}: {_named(places)}: TensorRT's parser leaves out "
            "the lengths (nonpad_kv_seqlen) and the window (left_window_size, right_window_size) "
            "of Attention without a word, so that padding and all keys are seen; write them as an "
            "explicit boolean mask",
            code="RX404",
        )


def is_limit_dropped(node: ir.Node) -> bool:
    """Say whether a node is attention with a limit that no network of TensorRT's has.

    So it is with TensorRT-RTX 1.7, which has either in its own attention, but parses neither.
    """
    if not is_standard(node, "Attention"):
        return False
    lengths = node.inputs[_LENGTHS] if len(node.inputs) > _LENGTHS else None
    windows = (node.attributes.get(name) for name in ("left_window_size", "right_window_size"))
    return lengths is not None or any(w is not None and w.value != -1 for w in windows)


def check_plugin_attributes(file: OnnxFile, library: PluginLibrary) -> None:
    """Raise unless each rope carries what TensorRT finds it by."""
    registered = library.record.version, library.record.namespace
    expected = dict(zip(PLUGIN_ATTRIBUTES, registered, strict=True))
    for node in rope_nodes(file.graph):
        found = {a.name: str(a.value) for a in node.attributes.values()}
        for name, value in expected.items():
            if found.get(name) != value:
                got = repr(found[name]) if name in found else "none"
                raise errors.PluginError(
                    f"{file.path}: node {node.name}: {name}: expected {value!r}, which "
                    f"{library.path} registers, got {got}; export again, or compile the plugin of "
                    "this version with 'ropeexport plugin build'",
                    code="RX411",
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
            raise errors.UsageError(
                f"--impl native: {spec.name}: expected a head axis of 1, got {shape[_HEAD_AXIS]}; "
                "TensorRT's rotary layer has one table for all heads: use --impl decomposed",
                code="RX405",
            )


def float64_places(model: ir.Model) -> Iterator[str]:
    """Yield where a model has float64, which TensorRT lacks."""
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


def engine_record(folder: Path, manifest: Manifest) -> EngineRecord:
    """Return the record of the folder's engine; :class:`MissingError` where none was built."""
    if manifest.engine is None:
        raise errors.MissingError(
            f"{folder}: no engine was built; run: ropeexport build {folder}", code="RX502"
        )
    return manifest.engine


def read_verified(folder: Path, record: EngineRecord) -> bytes:
    """Return the bytes of an engine if they are those that were built.

    Raises
    ------
    EngineError
        With the hash expected and got.
    """
    path = folder / record.file
    again = f"build again: ropeexport build {folder} --force"
    what = f"{path}: not the engine of its manifest (truncated, or another file)"
    try:
        size = path.stat().st_size
        if record.size not in (None, size):  # it may be far larger than memory
            raise errors.EngineError(
                f"{what}: expected {record.size} bytes, got {size}; {again}", code="RX503"
            )
        data = path.read_bytes()
    except OSError as error:
        raise errors.EngineError(
            f"{path}: cannot be read ({error.strerror}); {again}", code="RX503"
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != record.sha256:
        raise errors.EngineError(
            f"{what}: expected sha256 {record.sha256[:_SHOWN]}…, got {found[:_SHOWN]}… "
            f"({len(data)} bytes); {again}",
            code="RX503",
        )
    return data


def check_budget(record: EngineRecord, budget: int | None) -> None:
    """Raise where an engine's weights cannot be bounded as a load asks for."""
    if budget is not None and not record.weight_streaming:
        raise errors.UsageError(
            f"memory_budget: {record.file} was built without weight streaming, so that all of its "
            "weights are in the GPU's memory; build it again with --weight-streaming",
            code="RX508",
        )


def check_weights_of(record: EngineRecord, artifact: Artifact) -> None:
    """Raise unless the file that an engine takes its weights from is there, and is its own."""
    if artifact.model_sha256 != record.model_sha256:
        raise errors.EngineError(
            f"{artifact.model_path}: not the file that {record.file} was built of, and whose "
            "weights it takes: build it again",
            code="RX506",
        )
    _ = artifact.file.whole  # which sees that the weights are there


def check_refits(record: EngineRecord, names: Iterable[str]) -> None:
    """Raise where weights of some names cannot be exchanged in an engine."""
    if not record.refittable:
        raise errors.UsageError(
            f"{record.file}: its weights cannot be exchanged; build it again with --refit",
            code="RX507",
        )
    for name in names:
        if name not in record.refits:
            why = record.fixed.get(name, "it has no weight of that name")
            raise errors.UsageError(
                f"{name}: {record.file} cannot exchange it: {why}", code="RX507"
            )


def check_flavour(record: EngineRecord) -> None:
    """Raise unless the flavour and version that built an engine are the ones installed.

    Raises
    ------
    MissingError
        Where no TensorRT is installed at all.
    EngineError
        Where another one is.
    """
    installed = available_flavours()
    if not installed:
        raise errors.MissingError(
            f"no TensorRT is installed; run: {INSTALL.get(record.flavour, INSTALL[RTX])}",
            code="RX901",
        )
    found = installed.get(record.flavour)
    if found != record.version:
        there = ", ".join(f"{name} {version}" for name, version in installed.items())
        raise errors.EngineError(
            f"{record.file}: expected {record.flavour} {record.version}, which built it, "
            f"got {there}; an engine loads in its own version only: install that, or build again",
            code="RX504",
        )


def check_gpu(record: EngineRecord, gpu: Gpu) -> None:
    """Raise unless an engine is for this GPU."""
    fits = record.compute_capabilities
    if fits and gpu.compute_capability not in fits:
        raise errors.EngineError(
            f"{record.file}: expected a GPU of compute capability {', '.join(fits)}, "
            f"got {gpu.compute_capability} ({gpu.name}); build again on this machine",
            code="RX505",
        )


def plugin_path(folder: Path, record: PluginRecord, given: Path | None = None) -> Path | None:
    """Return the library that an engine needs beside it, None where it carries its own.

    ``given`` is one that the caller names, in place of those that are found.

    Raises
    ------
    PluginError
        Where the library is not found, or is not the one that the engine was built with.
    """
    if record.embedded:
        return None
    beside = folder / record.file
    found = given or (beside if beside.is_file() else plugin_library.find())
    what = f"plugin {record.namespace}::{record.name} version {record.version} ({record.file})"
    if found is None:
        raise errors.PluginError(
            f"{folder}: the engine needs the {what}, which is neither beside it, nor in "
            f"{plugin_library.VARIABLE}, nor {plugin_library.cached_library()}",
            code="RX409",
        )
    if not found.is_file():
        raise errors.PluginError(f"{found}: expected the {what}, found no file", code="RX409")
    if not atomic.has_content(found, record.sha256, record.size):
        raise errors.PluginError(
            f"{found}: the engine was built with another {what}: expected the file of sha256 "
            f"{record.sha256[:_SHOWN]}…; build the engine again",
            code="RX411",
        )
    return found
