"""``ropeexport fuse``: an ONNX file of anyone's, its rotary applications as ops."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir
import onnxscript.version_converter

import ropeexport
from ropeexport import atomic, manifest
from ropeexport.errors import ModelFileError
from ropeexport.exporting import model_writer
from ropeexport.exporting.exporter import annotate, attach_functions, check_count
from ropeexport.exporting.foreign_shapes import infer_shapes
from ropeexport.exporting.simplify import clean
from ropeexport.exporting.whole_graph import with_whole
from ropeexport.fusion.fuse import Fused, fuse
from ropeexport.fusion.limits import limits_of
from ropeexport.manifest import Manifest, RopeCount, Weights, source_of_file
from ropeexport.models.axes import Given, axes_of_file, with_given
from ropeexport.onnx_files import onnx_file
from ropeexport.onnx_ops import names
from ropeexport.onnx_ops.rope_table import MAX_POSITION, check_limit

OLDEST_OPSET = 17


def fuse_file(
    path: Path,
    folder: Path,
    *,
    force: bool = False,
    require_rope: int | None = None,
    max_position: int = MAX_POSITION,
    axes: Mapping[str, Given] | None = None,
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
    axes : dict of str to (min, opt, max) or Axis
        Sizes that the dynamic axes are meant for, in place of the usual ones.

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
    onnx_file.check_external_data(path, onnx_file.load(path, external_data=False))
    check_limit(max_position)
    made = fused(path, max_position=max_position)
    model, count = made.model, made.count
    check_count(count, require_rope)
    if not count.replaced:
        return None, count
    clean(model)
    attach_functions(model)
    attach_functions(made.before)
    comparison = with_whole(made.comparison, ir.load(path), made.before, model)
    source = source_of_file(path, folder)
    annotate(model, source, path.stem)

    def describe(path: Path, weights: Weights | None) -> Manifest:
        written = model_writer.record_of(path, count, comparison, limits_of(model), weights)
        return Manifest(
            ropeexport=ropeexport.__version__,
            source=source,
            model=written,
            axes=with_given(axes_of_file(written.inputs), axes),
        )

    return model_writer.write(model, folder, describe, force=force), count


def fused(path: Path, *, max_position: int = MAX_POSITION) -> Fused:
    """Load an ONNX file and replace what is proven to be a rotary application, in memory."""
    onnx_file.load(path, external_data=False)  # whatever is wrong with it is one clear error
    model = _at_opset(ir.load(path), path)
    _name_dimensions(model)
    infer_shapes(model)
    return fuse(model, max_position=max_position)


def _at_opset(model: ir.Model, path: Path) -> ir.Model:
    """Bring a model to the first opset with the operators that the ops' bodies need."""
    opset = model.opset_imports.get("", 0)
    if opset < OLDEST_OPSET:
        raise ModelFileError(
            f"{path}: opset {opset}: expected {OLDEST_OPSET} or later; export it with a later one"
        )
    if opset < names.MIN_OPSET:
        onnxscript.version_converter.convert_version(model, target_version=names.MIN_OPSET)
    reached = model.opset_imports.get("", 0)
    if reached < names.MIN_OPSET:
        raise ModelFileError(
            f"{path}: opset {opset} could not be brought to {names.MIN_OPSET}, which the bodies of "
            "the ops need; export it with opset 23"
        )
    return model


def _name_dimensions(model: ir.Model) -> None:
    """Name the inputs' dimensions that have no name, so that each is a symbol."""
    for value in model.graph.inputs:
        if value.shape is not None and not value.is_initializer():
            dims = [
                f"{value.name}_{axis}" if not isinstance(dim, int) and dim.value is None else dim
                for axis, dim in enumerate(value.shape)
            ]
            value.shape = ir.Shape(dims)
