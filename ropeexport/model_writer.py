"""From a finished model in memory to its file, and to the record of that file."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import onnx_ir as ir

from ropeexport import atomic, onnx_contract, onnx_file
from ropeexport.manifest import ModelRecord, RopeCount, Weights

_INLINE_LIMIT_BYTES = 1 << 30  # a protobuf file ends at 2 GiB


def save(model: ir.Model, path: Path) -> None:
    """Write the file whole or not at all; weights beyond a protobuf's reach go beside it."""
    external = [
        value.const_value
        for value in model.graph.initializers.values()
        if isinstance(value.const_value, ir.ExternalTensor)
    ]
    if external:
        beside = all(Path(x.base_dir).resolve() == path.parent.resolve() for x in external)
        (_save_with_references if beside else _save_with_data)(model, path)
        return
    size = sum(
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None
    )
    if size > _INLINE_LIMIT_BYTES:
        _save_with_data(model, path)
        return
    proto = ir.to_proto(model)
    onnx_contract.check(proto)
    atomic.write_bytes(path, proto.SerializeToString())


def _save_with_references(model: ir.Model, path: Path) -> None:
    """Write the graph alone: its weights lie in files of the same folder already."""
    with atomic.replacing(path) as written:
        written.write_bytes(ir.to_proto(model).SerializeToString())
        onnx_contract.check_file(written)


def _save_with_data(model: ir.Model, path: Path) -> None:
    data = f"{path.name}.data"
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".export-", dir=path.parent) as folder:
        written = Path(folder) / path.name
        ir.save(model, written, external_data=data)
        onnx_contract.check_file(written)
        written.with_name(data).replace(path.with_name(data))
        written.replace(path)


def record_of(path: Path, count: RopeCount, weights: Weights | None = None) -> ModelRecord:
    """Return the manifest's record of a written file."""
    model = onnx_file.load(path, external_data=False)
    return ModelRecord(
        file=path.name,
        sha256=atomic.sha256_of(path),
        opset=onnx_file.opset(model),
        dtype=onnx_file.metadata(model)["ropeexport.dtype"],
        inputs=onnx_file.input_specs(model),
        outputs=onnx_file.output_specs(model),
        ropes=tuple(node.name for node in onnx_file.rope_nodes(model)),
        recognition=count,
        weights=weights,
    )
