"""From a finished model in memory to its file, and to the record of that file."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import onnx_ir as ir

from ropeexport import atomic
from ropeexport.manifest import ModelRecord, RopeCount, Weights
from ropeexport.onnx_files import onnx_contract, onnx_file
from ropeexport.weights.integrity import weight_file

# A protobuf file ends at 2 GiB; and a runtime holds inline weights twice while it loads them, where
# it maps a file of their own
_INLINE_LIMIT_BYTES = 32 << 20


def save(model: ir.Model, path: Path) -> Weights | None:
    """Write the file whole or not at all; large weights go into a data file beside it.

    Returns
    -------
    Weights or None
        What was written beside the file.
    """
    external = [
        value.const_value
        for value in model.graph.initializers.values()
        if isinstance(value.const_value, ir.ExternalTensor)
    ]
    if external:
        beside = all(Path(x.base_dir).resolve() == path.parent.resolve() for x in external)
        if beside:
            _save_with_references(model, path)
            return None
        return _save_with_data(model, path)
    size = sum(
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None
    )
    if size > _INLINE_LIMIT_BYTES:
        return _save_with_data(model, path)
    proto = ir.to_proto(model)
    onnx_contract.check(proto)
    atomic.write_bytes(path, proto.SerializeToString())
    return None


def _save_with_references(model: ir.Model, path: Path) -> None:
    """Write the graph alone: its weights lie in files of the same folder already."""
    with atomic.replacing(path) as written:
        written.write_bytes(ir.to_proto(model).SerializeToString())
        onnx_contract.check_file(written)


def _save_with_data(model: ir.Model, path: Path) -> Weights:
    """Write the graph, and its weights tensor by tensor into a file that is named after it."""
    data = f"{path.name}.data"
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".export-", dir=path.parent) as folder:
        written = Path(folder) / path.name
        ir.save(model, written, external_data=data)
        onnx_contract.check_file(written)
        lengths = onnx_file.external_lengths(onnx_file.load(written, external_data=False))
        written.with_name(data).replace(path.with_name(data))
        written.replace(path)
    return Weights(
        files=(weight_file(path.with_name(data)),),
        referenced_tensors=len(lengths),
        referenced_bytes=sum(lengths),
    )


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
