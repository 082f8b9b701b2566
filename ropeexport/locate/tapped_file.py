"""A copy of an output folder whose ONNX file returns further tensors."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx_ir as ir

from ropeexport import atomic
from ropeexport.artifact import Artifact
from ropeexport.manifest import MODEL_NAME, Manifest
from ropeexport.onnx_files.onnx_file import OnnxFile, with_shapes
from ropeexport.onnx_files.specs import output_specs

_WEIGHTS = "tapped.data"


def write(file: OnnxFile, record: Manifest, tensors: Iterable[str], folder: Path) -> Artifact:
    """Write ``model.onnx`` with further outputs, and its manifest, into ``folder``.

    Parameters
    ----------
    file : OnnxFile
        The file.
    record : Manifest
        What it is.
    tensors : iterable of str
        Names of tensors of the graph; those that the file lacks are left out.
    folder : Path
        An empty folder.

    Returns
    -------
    Artifact
        The copy: its outputs are the tensors in the order of the graph, then the file's own.
    """
    model = with_shapes(file.whole)
    wanted = set(tensors)
    further = [value for value in comparable(model) if value.name in wanted]
    model.graph.outputs[:] = [*further, *model.graph.outputs]
    path = folder / MODEL_NAME
    ir.save(model, path, external_data=_WEIGHTS)
    tapped = record.model.changed(
        file=MODEL_NAME, sha256=atomic.sha256_of(path), outputs=output_specs(model), weights=None
    )
    copy = record.changed(model=tapped, engine=None)
    return Artifact(folder, copy).write()


def comparable(model: ir.Model) -> list[ir.Value]:
    """Return the tensors between a graph's inputs and outputs that can be compared, in order."""
    own = set(model.graph.outputs)
    made = (value for node in model.graph for value in node.outputs if value not in own)
    return [value for value in made if is_comparable(value)]


def is_comparable(value: ir.Value) -> bool:
    """Say whether a tensor has a name, axes and a type of numbers."""
    return bool(value.name and value.shape) and value.dtype not in (None, ir.DataType.BOOL)
