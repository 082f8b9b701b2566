"""What a file holds: its rotary ops and, where an engine was built, what implements each."""

from __future__ import annotations

from pathlib import Path

import onnx

from ropeexport import atomic, manifest
from ropeexport.errors import ManifestError, ModelFileError
from ropeexport.manifest import (
    EngineRecord,
    Implementation,
    Manifest,
    ModelRecord,
    Record,
    TensorSpec,
)
from ropeexport.onnx_files import onnx_file
from ropeexport.weights.integrity import check_weights


class Rope(Record):
    """A rotary op: its node in the ONNX file, and what implements it in the engine."""

    node: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, str]
    implementation: Implementation | None  # None: no engine, or it is not of this file


class Model(Record):
    """An ONNX file."""

    file: str
    sha256: str
    is_exported_file: bool | None  # None: no manifest beside it to compare with
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: dict[str, str]
    record: ModelRecord | None  # what the export said of it; None: it is not the exported file


class Engine(Record):
    """An engine, as its manifest describes it."""

    record: EngineRecord
    is_built_file: bool
    size_bytes: int


class Inspection(Record):
    """What :func:`inspect` found."""

    ropes: tuple[Rope, ...]
    model: Model
    engine: Engine | None


def inspect(path: Path) -> Inspection:
    """Read an output folder, an ONNX file, or an engine with its manifest beside it.

    No TensorRT is needed: the manifest holds what the engine's network proved when it was built.

    Raises
    ------
    ManifestError, ModelFileError
        Where the file cannot be read, or an engine lies without its manifest.
    """
    if path.is_dir():
        record = manifest.read(path)
        return _inspect(path / record.model.file, path, record)
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file or folder")
    if path.suffix == ".onnx":
        return _inspect(path, path.parent, _manifest_of(path))
    return _inspect_engine(path)


def _inspect_engine(path: Path) -> Inspection:
    if not (path.parent / manifest.FILE_NAME).is_file():
        raise ManifestError(
            f"{path}: neither an .onnx file nor an engine with its {manifest.FILE_NAME} beside it"
        )
    record = manifest.read(path.parent)
    if record.engine is None or record.engine.file != path.name:
        named = record.engine.file if record.engine else "none"
        raise ManifestError(
            f"{path}: expected the engine that {manifest.FILE_NAME} describes ({named})"
        )
    return _inspect(path.parent / record.model.file, path.parent, record)


def _inspect(path: Path, folder: Path, record: Manifest | None) -> Inspection:
    check_weights(folder, record.model.weights if record is not None else None)
    proto = onnx_file.load(path, external_data=False)
    model = _model(path, proto, record)
    engine = _engine(folder, record)
    # the manifest's proof is of the exported file and the built engine, and of nothing else
    proven = engine is not None and engine.is_built_file and model.is_exported_file
    built = engine.record.ropes if engine is not None and proven else {}
    ropes = (_rope(node, built) for node in onnx_file.rope_nodes(proto))
    return Inspection(ropes=tuple(ropes), model=model, engine=engine)


def _model(path: Path, proto: onnx.ModelProto, record: Manifest | None) -> Model:
    sha256 = atomic.sha256_of(path)
    own = record.model if record is not None and sha256 == record.model.sha256 else None
    return Model(
        file=str(path),
        sha256=sha256,
        is_exported_file=None if record is None else own is not None,
        opset=onnx_file.opset(proto),
        inputs=own.inputs if own is not None else onnx_file.input_specs(proto),
        outputs=onnx_file.output_specs(proto),
        metadata=onnx_file.metadata(proto),
        record=own,
    )


def _engine(folder: Path, record: Manifest | None) -> Engine | None:
    if record is None or record.engine is None:
        return None
    path = folder / record.engine.file
    is_file = path.is_file()
    return Engine(
        record=record.engine,
        is_built_file=is_file and atomic.sha256_of(path) == record.engine.sha256,
        size_bytes=path.stat().st_size if is_file else 0,
    )


def _rope(node: onnx.NodeProto, built: dict[str, Implementation]) -> Rope:
    return Rope(
        node=node.name,
        op=f"{node.domain}::{node.op_type}",
        inputs=tuple(node.input),
        outputs=tuple(node.output),
        attributes={a.name: _text(a) for a in node.attribute},
        implementation=built.get(node.name),
    )


def _text(attribute: onnx.AttributeProto) -> str:
    value = onnx.helper.get_attribute_value(attribute)
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _manifest_of(path: Path) -> Manifest | None:
    """Return the manifest beside an ONNX file if it is that file's."""
    if not (path.parent / manifest.FILE_NAME).is_file():
        return None
    record = manifest.read(path.parent)
    return record if record.model.file == path.name else None
