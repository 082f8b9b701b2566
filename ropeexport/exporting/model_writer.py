"""From a finished model in memory to its file, and to the record of that file."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from ropeexport import atomic, manifest
from ropeexport.axes import sum_of
from ropeexport.errors import ExportError, ManifestError, UsageError
from ropeexport.exporting.passes import Work
from ropeexport.exporting.whole_graph import with_whole
from ropeexport.fusion.limits import Limits, limits_of
from ropeexport.manifest import Axis, Comparison, Forward, Manifest, ModelRecord, RopeCount, Weights
from ropeexport.onnx_files import contract, onnx_file
from ropeexport.onnx_files.shapes import is_unknown
from ropeexport.onnx_files.variants import attach_functions
from ropeexport.weights import references, safetensors_files
from ropeexport.weights.safetensors_files import weight_file

# A protobuf file ends at 2 GiB; and a runtime holds inline weights twice while it loads them, where
# it maps a file of their own
_INLINE_LIMIT_BYTES = 32 << 20
_INLINE_TENSOR_BYTES = 256  # a smaller tensor stays in the file, whatever the others do
_DATA_NAME = f"{manifest.MODEL_NAME}.data"

Companions = Callable[[Manifest, Container[str]], Mapping[str, bytes]]


@dataclass(frozen=True)
class Finished:
    """A model as it is written, and what the manifest says of how it was made.

    ``weights`` are those that it refers to in another's files, ``forward`` is the module's;
    ``tied`` and ``absent`` are the manifest's.
    """

    model: ir.Model
    count: RopeCount
    norms: RopeCount | None
    comparison: Comparison
    limits: Limits | None
    weights: Weights | None = None
    forward: Forward | None = None
    tied: dict[str, str] = field(default_factory=dict)
    absent: dict[str, Literal["unused", "computed"]] = field(default_factory=dict)


def finished(
    work: Work,
    before: ir.Model | None,
    single: Container[str] = (),
    weights: Weights | None = None,
) -> Finished:
    """Compare what the passes made with what they were given, see :func:`with_whole`."""
    fused = work.fused
    assert fused is not None  # what the passes did
    check_interface(fused.before, work.model, work.output_names)
    attach_functions(fused.before)
    comparison = with_whole(fused.comparison, before, fused.before, work.model, single)
    limits = limits_of(work.model)
    return Finished(work.model, fused.count, work.norms, comparison, limits, weights)


def write(
    made: Finished,
    folder: Path,
    describe: Callable[[ModelRecord], Manifest],
    *,
    force: bool = False,
    copied: Path | None = None,
    companions: Companions = lambda _, __: {},
) -> Manifest:
    """Write an output folder's files, which take their places together.

    Parameters
    ----------
    made : Finished
        Its external weights lie in ``folder``, or are copied there.
    folder : Path
        Where they take their places.
    describe : callable
        From the record of the written file to the manifest.
    force : bool
        Overwrite what is there; a former model's data file goes with that model.
    copied : Path, optional
        A folder whose safetensors files are copied, for the model to refer to.
    companions : callable
        From the manifest, and the names of such files of a former export, to the files that lie
        beside the model for other runtimes, by name.

    Returns
    -------
    Manifest
        What was written.
    """
    manifest.refuse_existing(folder, force)
    with atomic.together(folder, manifest.FILE_NAME) as files:
        path = files.place / manifest.MODEL_NAME
        if copied is not None:
            files.over_links |= safetensors_files.copy_weights(copied, files.place)
            references.relocate(made.model, files.place)
        beside = _save(made.model, path, folder)
        record = describe(_record_of(made, path, beside))
        former, engine = _former_files(folder)
        further = companions(record, former)
        for name, data in further.items():
            (files.place / name).write_bytes(data)
        # an engine of another model is nobody's any more
        files.dropped.extend(name for name in (*former, *engine) if name not in further)
        if record.cache is not None:
            record = record.changed(cache=record.cache.changed(files=tuple(sorted(further))))
        manifest.write(files.place, record)
        referred = {str(tensor.location) for tensor in onnx_file.external_tensors(made.model)}
        if beside is not None:
            atomic.refuse_existing(folder / _DATA_NAME, force)
        elif (folder / manifest.MODEL_NAME).exists() and _DATA_NAME not in referred:
            files.dropped.append(_DATA_NAME)
    return record


def _former_files(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the files that an earlier export has written beside its model, and its engine."""
    try:
        record = manifest.read(folder)
    except ManifestError:
        return (), ()

    def there(*names: str) -> tuple[str, ...]:
        # a manifest may come from anywhere: what it names lies in its folder, or is left alone
        plain = (name for name in names if Path(name).name == name)
        return tuple(name for name in plain if (folder / name).is_file())

    beside = record.cache.files if record.cache else ()
    engine = record.engine is not None and record.engine.file == manifest.ENGINE_NAME
    return there(*beside), there(manifest.ENGINE_NAME) if engine else ()


def _save(model: ir.Model, path: Path, folder: Path) -> Weights | None:
    """Write the file; large weights go into a data file beside it, which is returned."""
    places = {Path(x.base_dir).resolve() for x in onnx_file.external_tensors(model)}
    if len(places) == 1 and places <= {folder.resolve(), path.parent.resolve()}:
        # the graph alone, checked where its weights lie: onnx looks for them beside it
        with atomic.replacing(path, beside=places.pop()) as file:
            file.write_bytes(ir.to_proto(model).SerializeToString())
            contract.check_file(file, folder / path.name)
        return None
    if places or onnx_file.weight_bytes(model) > _INLINE_LIMIT_BYTES:
        return _save_with_data(model, path, folder)
    message = ir.to_proto(model)
    contract.check(message)
    path.write_bytes(message.SerializeToString())
    return None


def _save_with_data(model: ir.Model, path: Path, folder: Path) -> Weights:
    """Write the graph, and its weights tensor by tensor into a file that is named after it."""
    ir.external_data.unload_from_model(
        model, path.parent, _DATA_NAME, size_threshold_bytes=_INLINE_TENSOR_BYTES
    )
    path.write_bytes(ir.to_proto(model).SerializeToString())
    contract.check_file(path, folder / path.name)
    lengths = [tensor.nbytes for tensor in onnx_file.external_tensors(model)]
    return Weights(
        files=(weight_file(path.with_name(_DATA_NAME)),),
        referenced_tensors=len(lengths),
        referenced_bytes=sum(lengths),
    )


def _record_of(made: Finished, path: Path, beside: Weights | None) -> ModelRecord:
    """Return the manifest's record of a written file and of the weights beside it."""
    model, limits = made.model, made.limits
    return ModelRecord(
        file=path.name,
        sha256=atomic.sha256_of(path),
        opset=onnx_file.opset(model),
        dtype=model.metadata_props["ropeexport.dtype"],
        inputs=contract.input_specs(model),
        outputs=contract.output_specs(model),
        ropes=tuple(str(node.name) for node in onnx_file.rope_nodes(model)),
        recognition=made.count,
        norms=made.norms,
        weights=made.weights or beside,
        tied=made.tied,
        absent=made.absent,
        table_limit=limits.tables if limits is not None else None,
        max_position=limits.inputs if limits is not None else None,
        comparison=made.comparison,
    )


def check_interface(before: ir.Model, after: ir.Model, output_names: Sequence[str] = ()) -> None:
    """Raise where an input or output is not what it was before ropes were looked for.

    ``output_names`` are those that the outputs get in the end; empty: those that they had.
    Dimensions are compared where both are known.
    """
    names = output_names or [str(value.name) for value in before.graph.outputs]
    sides = {
        "input": (before.graph.inputs, after.graph.inputs, [x.name for x in before.graph.inputs]),
        "output": (before.graph.outputs, after.graph.outputs, names),
    }
    for kind, (old, new, expected) in sides.items():
        if [value.name for value in new] != list(expected):
            raise _other_interface(f"{kind}s", ", ".join(map(str, expected)), new)
        for was, value in zip(old, new, strict=True):
            if was.dtype != value.dtype or not _agree(was.shape, value.shape):
                text = f"{was.dtype} {was.shape}"
                raise _other_interface(f"{kind} {value.name!r}", text, [value])


def _agree(one: ir.Shape | None, other: ir.Shape | None) -> bool:
    """Say whether two shapes may be of one tensor, an unknown dimension being any."""
    if one is None or other is None:
        return True
    texts = ([None if is_unknown(dim) else str(dim) for dim in shape] for shape in (one, other))
    pairs = list(zip_longest(*texts, fillvalue="none"))
    return all(None in pair or pair[0] == pair[1] for pair in pairs)


def _other_interface(what: str, expected: str, found: Sequence[ir.Value]) -> ExportError:
    names = ", ".join(f"{value.name} {value.dtype} {value.shape}" for value in found)
    return ExportError(
        f"{what}: expected {expected}, the rewritten graph has {names}; this is a fault of "
        "ropeexport, and nothing was written: report it with the model",
        code="RX211",
    )


def check_count(count: RopeCount, required: int | None) -> None:
    """Raise :class:`ExportError` unless as many applications were replaced as required."""
    if required is not None and count.replaced != required:
        left = [*count.refused, *count.not_judged]
        reasons = "".join(f"; {r.node}: {r.reason}" for r in left)
        raise ExportError(
            f"--require-rope: expected {required} rotary applications, replaced {count.replaced} "
            f"of {count.found} found{reasons}",
            code="RX212",
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
                    f"{sizes[names[0]]}: output {value.name} would be empty",
                    code="RX114",
                )
