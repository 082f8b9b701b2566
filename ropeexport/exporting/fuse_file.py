"""``ropeexport fuse``: an ONNX file of anyone's, its rotary applications as ops."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

import ropeexport
from ropeexport import atomic, manifest
from ropeexport.axes import names_of
from ropeexport.exporting import model_writer
from ropeexport.exporting.model_writer import Written, check_count
from ropeexport.exporting.passes import FUSE, ROPES, Say, Work, attach_functions, run
from ropeexport.exporting.whole_graph import is_compared, with_whole
from ropeexport.fusion.limits import limits_of
from ropeexport.manifest import Axis, Manifest, RopeCount, Source, TensorSpec
from ropeexport.onnx_files import onnx_file
from ropeexport.onnx_ops.rope_table import MAX_POSITION, check_limit

# sizes that a dynamic axis of a foreign file is meant for, until a build is told others
_AXIS = Axis(min=1, opt=16, max=64)


def fuse_file(
    path: Path,
    folder: Path,
    *,
    force: bool = False,
    require_rope: int | None = None,
    max_position: int = MAX_POSITION,
    say: Say | None = None,
) -> tuple[Manifest | None, RopeCount]:
    """Write an ONNX file again with its rotary applications replaced by ops.

    Parameters
    ----------
    path : Path
        An ONNX file of opset 17 or later; its external data lies beside it.
    folder : Path
        The output folder.
    force : bool
        Overwrite what is there.
    require_rope : int or None
        How many rotary applications must be replaced.
    max_position : int
        The largest position that the tables of angles must hold; beyond, angles are NaN.
    say : callable, optional
        Told the name of each pass, and what it did.

    Returns
    -------
    manifest : Manifest or None
        What was written; None where there was nothing to replace and nothing was written.
    count : RopeCount
        What was found, replaced and refused.

    Raises
    ------
    ModelFileError, ExportError, UsageError
        With what was expected, what was found and the next step.
    """
    atomic.refuse_existing(folder / manifest.MODEL_NAME, force)
    check_limit(max_position)
    model = read(path)
    before = model.clone() if is_compared(model) else None
    work = run(FUSE, _work(model, path, max_position), say)
    assert work.fused is not None  # what the passes did
    count = work.fused.count
    check_count(count, require_rope)
    if not count.replaced:
        return None, count
    attach_functions(work.fused.before)
    comparison = with_whole(work.fused.comparison, before, work.fused.before, work.model)
    limits = limits_of(work.model)

    def describe(written: Written) -> Manifest:
        record = model_writer.record_of(written, count, comparison, limits)
        return Manifest(
            ropeexport=ropeexport.__version__,
            source=work.source,
            model=record,
            axes=_axes(record.inputs),
        )

    return model_writer.write(work.model, folder, describe, force=force), count


def read(path: Path) -> ir.Model:
    """Read an ONNX file; whatever is wrong with it, or with its data, is one clear error."""
    proto = onnx_file.load(path, external_data=False)
    onnx_file.check_external_data(path, proto)
    model = ir.from_proto(proto)
    ir.external_data.set_base_dir(model.graph, path.parent)
    return model


def replaced(path: Path) -> ir.Model:
    """Return a file's graph with its rotary applications as ops, and nothing else finished."""
    passes = FUSE[: FUSE.index(ROPES) + 1]
    return run(passes, _work(read(path), path, MAX_POSITION)).model


def _work(model: ir.Model, path: Path, max_position: int) -> Work:
    source = Source(kind="onnx", name=path.name)
    return Work(model, source, path.stem, max_position=max_position)


def _axes(inputs: tuple[TensorSpec, ...]) -> dict[str, Axis]:
    return dict.fromkeys(names_of(dim for spec in inputs for dim in spec.shape), _AXIS)
