"""A copy of an output folder whose ONNX file returns further tensors."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx

from ropeexport import atomic, manifest
from ropeexport.manifest import MODEL_NAME, Manifest
from ropeexport.onnx_files import onnx_file

_WEIGHTS = "tapped.data"
_BOOL = onnx.TensorProto.BOOL


def write(source: Path, record: Manifest, tensors: Iterable[str], folder: Path) -> Manifest:
    """Write ``model.onnx`` with further outputs, and its manifest, into ``folder``.

    Parameters
    ----------
    source : Path
        The output folder.
    record : Manifest
        Its manifest.
    tensors : iterable of str
        Names of tensors of the graph; those that the file lacks are left out.
    folder : Path
        An empty folder.

    Returns
    -------
    Manifest
        Of the copy: its outputs are the tensors in the order of the graph, then the file's own.
    """
    model = onnx_file.load(source / record.model.file)
    wanted = set(tensors)
    further = [value for value in comparable(source / record.model.file) if value.name in wanted]
    kept = list(model.graph.output)
    del model.graph.output[:]
    model.graph.output.extend([*further, *kept])
    path = folder / MODEL_NAME
    onnx.save(model, path, save_as_external_data=True, location=_WEIGHTS)
    tapped = record.model.model_copy(
        update={
            "file": MODEL_NAME,
            "sha256": atomic.sha256_of(path),
            "outputs": onnx_file.output_specs(model),
            "weights": None,
        }
    )
    copy = record.model_copy(update={"model": tapped, "engine": None})
    manifest.write(folder, copy)
    return copy


def producers(path: Path) -> dict[str, onnx.NodeProto]:
    """Return the node that makes each tensor of an ONNX file's graph."""
    model = onnx_file.load(path, external_data=False)
    return {name: node for node in model.graph.node for name in node.output}


def comparable(path: Path) -> list[onnx.ValueInfoProto]:
    """Return the tensors between a graph's inputs and outputs that can be compared, in order.

    What the file does not say of their types and shapes is inferred.
    """
    model = onnx_file.load(path, external_data=False)
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    known = {value.name: value for value in (*inferred, *model.graph.value_info)}
    own = {value.name for value in model.graph.output}
    made = (name for node in model.graph.node for name in node.output if name not in own)
    return [known[name] for name in made if name in known and _is_comparable(known[name])]


def _is_comparable(value: onnx.ValueInfoProto) -> bool:
    tensor = value.type.tensor_type
    return bool(tensor.shape.dim) and tensor.elem_type != _BOOL
