"""What a file holds: its rotary ops and, where an engine was built, what implements each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from ropeexport import atomic, manifest, reading
from ropeexport.artifact import Artifact
from ropeexport.errors import ManifestError, ModelFileError
from ropeexport.manifest import (
    CacheRecord,
    EngineRecord,
    Implementation,
    ModelRecord,
    Record,
    TensorSpec,
)
from ropeexport.onnx_files import contract, onnx_file
from ropeexport.onnx_files.onnx_file import OnnxFile


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
    cache: CacheRecord | None = None  # what a decoder keeps between calls, by the same


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


@dataclass(frozen=True)
class Subject:
    """An ONNX file, and the output folder that it lies in where that has a manifest of it."""

    file: OnnxFile
    artifact: Artifact | None


def subject_of(path: Path) -> Subject:
    """Return what a path stands for: an output folder, an ONNX file, or an engine.

    Raises
    ------
    ManifestError, ModelFileError
        Where there is nothing, or an engine lies without its manifest.
    """
    if path.is_dir():
        artifact = Artifact.read(path)
        return Subject(artifact.file, artifact)
    reading.check_regular(path, ModelFileError)
    is_model = path.suffix == ".onnx"
    if not (path.parent / manifest.FILE_NAME).is_file():
        if is_model:
            return Subject(OnnxFile(path), None)
        raise ManifestError(
            f"{path}: neither an .onnx file nor an engine with its {manifest.FILE_NAME} beside it",
            code="RX312",
        )
    artifact = Artifact.read(path.parent)
    if is_model:
        is_its = artifact.manifest.model.file == path.name
        return Subject(OnnxFile(path), artifact if is_its else None)
    engine = artifact.manifest.engine
    if engine is None or engine.file != path.name:
        raise ManifestError(
            f"{path}: expected the engine that {manifest.FILE_NAME} describes "
            f"({engine.file if engine else 'none'})",
            code="RX312",
        )
    return Subject(artifact.file, artifact)


def inspect(subject: Subject) -> Inspection:
    """Say what a file holds, and what implements it in the engine.

    No TensorRT is needed: the manifest holds what the engine's network proved when it was built.

    Raises
    ------
    ModelFileError
        Where the file cannot be read, or its weights are not those of the manifest.
    """
    file, artifact = subject.file, subject.artifact
    if artifact is not None:
        artifact.check_weights()
    model, engine = _model(file, artifact), _engine(artifact)
    # the manifest's proof is of the exported file and the built engine, and of nothing else
    proven = engine is not None and engine.is_built_file and model.is_exported_file
    built = engine.record.ropes if engine is not None and proven else {}
    ropes = tuple(
        Rope(
            node=str(node.name),
            op=f"{node.domain}::{node.op_type}",
            inputs=_names(node.inputs),
            outputs=_names(node.outputs),
            attributes={a.name: str(a.value) for a in node.attributes.values()},
            implementation=built.get(str(node.name)),
        )
        for node in onnx_file.rope_nodes(file.graph)
    )
    return Inspection(ropes=ropes, model=model, engine=engine)


def _model(file: OnnxFile, artifact: Artifact | None) -> Model:
    reading.check_message(file.path)
    sha256 = atomic.sha256_of(file.path)
    record = artifact.manifest.model if artifact is not None else None
    own = record if record is not None and sha256 == record.sha256 else None
    return Model(
        file=str(file.path),
        sha256=sha256,
        is_exported_file=None if record is None else own is not None,
        opset=onnx_file.opset(file.graph),
        inputs=own.inputs if own is not None else contract.input_specs(file.graph, any_type=True),
        outputs=own.outputs
        if own is not None
        else contract.output_specs(file.graph, any_type=True),
        metadata=dict(file.graph.metadata_props),
        record=own,
        cache=artifact.manifest.cache if artifact is not None and own is not None else None,
    )


def _engine(artifact: Artifact | None) -> Engine | None:
    if artifact is None or artifact.manifest.engine is None or artifact.engine_path is None:
        return None
    record, path = artifact.manifest.engine, artifact.engine_path
    is_file = path.is_file()
    return Engine(
        record=record,
        is_built_file=is_file and atomic.has_content(path, record.sha256, record.size),
        size_bytes=path.stat().st_size if is_file else 0,
    )


def _names(values: Sequence[ir.Value | None]) -> tuple[str, ...]:
    return tuple("" if value is None else str(value.name) for value in values)
