"""From a finished model in memory to its file, and to the record of that file."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from ropeexport import atomic, manifest
from ropeexport.axes import sum_of
from ropeexport.errors import ExportError, UsageError
from ropeexport.fusion.limits import Limits
from ropeexport.manifest import Axis, Comparison, Manifest, ModelRecord, RopeCount, Weights
from ropeexport.onnx_files import contract, onnx_file, specs
from ropeexport.weights import copying, references
from ropeexport.weights.integrity import weight_file

# A protobuf file ends at 2 GiB; and a runtime holds inline weights twice while it loads them, where
# it maps a file of their own
_INLINE_LIMIT_BYTES = 32 << 20
_INLINE_TENSOR_BYTES = 256  # a smaller tensor stays in the file, whatever the others do
_DATA_NAME = f"{manifest.MODEL_NAME}.data"


@dataclass(frozen=True)
class Written:
    """A file, the model that it holds, and the weights that were written beside it."""

    path: Path
    model: ir.Model
    weights: Weights | None = None


def write(
    model: ir.Model,
    folder: Path,
    describe: Callable[[Written], Manifest],
    *,
    force: bool = False,
    copied: Path | None = None,
) -> Manifest:
    """Write an output folder's files, which take their places together.

    Parameters
    ----------
    model : ir.Model
        Finished; its external weights lie in ``folder``, or are copied there.
    folder : Path
        Where they take their places.
    describe : callable
        From what was written to the manifest.
    force : bool
        Overwrite what is there; a former model's data file goes with that model.
    copied : Path, optional
        A folder whose safetensors files are copied, for the model to refer to.

    Returns
    -------
    Manifest
        What was written.
    """
    atomic.refuse_existing(folder / manifest.MODEL_NAME, force)
    with atomic.together(folder, manifest.FILE_NAME) as files:
        path = files.place / manifest.MODEL_NAME
        if copied is not None:
            copying.copy_weights(copied, files.place)
            references.relocate(model, files.place)
        written = _save(model, path, folder)
        record = describe(written)
        manifest.write(files.place, record)
        if written.weights is not None:
            atomic.refuse_existing(folder / _DATA_NAME, force)
        elif (folder / manifest.MODEL_NAME).exists() and _DATA_NAME not in _files_of(written.model):
            files.dropped.append(_DATA_NAME)
    return record


def _save(model: ir.Model, path: Path, folder: Path) -> Written:
    """Write the file; large weights go into a data file beside it."""
    external = onnx_file.external_tensors(model)
    if external:
        places = {Path(tensor.base_dir).resolve() for tensor in external}
        if len(places) == 1 and places <= {folder.resolve(), path.parent.resolve()}:
            return _save_with_references(model, path, folder, places.pop())
        return _save_with_data(model, path, folder)
    if onnx_file.weight_bytes(model) > _INLINE_LIMIT_BYTES:
        return _save_with_data(model, path, folder)
    message = ir.to_proto(model)
    contract.check(message)
    path.write_bytes(message.SerializeToString())
    return Written(path, model)


def _save_with_references(model: ir.Model, path: Path, folder: Path, weights: Path) -> Written:
    """Write the graph alone, checked where its weights lie: onnx looks for them beside it."""
    with atomic.replacing(path, beside=weights) as file:
        file.write_bytes(ir.to_proto(model).SerializeToString())
        contract.check_file(file, folder / path.name)
    return Written(path, model)


def _save_with_data(model: ir.Model, path: Path, folder: Path) -> Written:
    """Write the graph, and its weights tensor by tensor into a file that is named after it."""
    ir.external_data.unload_from_model(
        model, path.parent, _DATA_NAME, size_threshold_bytes=_INLINE_TENSOR_BYTES
    )
    path.write_bytes(ir.to_proto(model).SerializeToString())
    contract.check_file(path, folder / path.name)
    lengths = [tensor.nbytes for tensor in onnx_file.external_tensors(model)]
    weights = Weights(
        files=(weight_file(path.with_name(_DATA_NAME)),),
        referenced_tensors=len(lengths),
        referenced_bytes=sum(lengths),
    )
    return Written(path, model, weights)


def _files_of(model: ir.Model) -> set[str]:
    """Return the names of the files that a model refers to."""
    return {str(tensor.location) for tensor in onnx_file.external_tensors(model)}


def record_of(
    written: Written,
    count: RopeCount,
    comparison: Comparison,
    limits: Limits | None,
    referred: Weights | None = None,
) -> ModelRecord:
    """Return the manifest's record of a written file; ``referred``: weights of another's."""
    model = written.model
    return ModelRecord(
        file=written.path.name,
        sha256=atomic.sha256_of(written.path),
        opset=onnx_file.opset(model),
        dtype=model.metadata_props["ropeexport.dtype"],
        inputs=specs.input_specs(model),
        outputs=specs.output_specs(model),
        ropes=tuple(str(node.name) for node in onnx_file.rope_nodes(model)),
        recognition=count,
        weights=referred or written.weights,
        table_limit=limits.tables if limits is not None else None,
        max_position=limits.inputs if limits is not None else None,
        comparison=comparison,
    )


def check_count(count: RopeCount, required: int | None) -> None:
    """Raise :class:`ExportError` unless as many applications were replaced as required."""
    if required is not None and count.replaced != required:
        reasons = "".join(f"; {r.node}: {r.reason}" for r in count.refused)
        raise ExportError(
            f"--require-rope: expected {required} rotary applications, replaced {count.replaced} "
            f"of {count.found} found{reasons}"
        )


def check_smallest(
    model: ir.Model, axes: Mapping[str, Axis], given: Container[str] | None = None
) -> None:
    """Raise where an output is empty at the smallest sizes, of which no comparison says a thing.

    Parameters
    ----------
    model : ir.Model
        Finished.
    axes : mapping of str to Axis
        The ranges of its dynamic axes.
    given : container of str, optional
        Look at what has one of these axes alone.
    """
    sizes = {name: axis.min for name, axis in axes.items()}
    for value in model.graph.outputs:
        for dim in value.shape or ():
            total = sum_of(dim if isinstance(dim, int) else str(dim))
            names = [name for name in total.names if given is None or name in given]
            if names and sizes.keys() >= set(total.names) and total.at(sizes) == 0:
                raise UsageError(
                    f"axis {names[0]!r}: expected a min of at least {sizes[names[0]] + 1}, got "
                    f"{sizes[names[0]]}: output {value.name} would be empty"
                )
