"""``ropeexport fuse``: an ONNX file of anyone's, its rotary applications as ops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

import ropeexport
from ropeexport import manifest
from ropeexport.axes import Sum, substituted, sum_of
from ropeexport.errors import ModelFileError
from ropeexport.exporting.foreign import may_hold_rope
from ropeexport.exporting.model_writer import check_count, check_smallest, finished, write
from ropeexport.exporting.passes import FUSE, ROPES, Say, Work, passed
from ropeexport.exporting.readers import read_less, readers_of
from ropeexport.exporting.whole_graph import is_compared
from ropeexport.manifest import (
    Axis,
    Manifest,
    ModelRecord,
    RopeCount,
    Source,
    TensorSpec,
    source_of_file,
)
from ropeexport.models.axes import Given, axes_of_file, range_of, with_given
from ropeexport.onnx_files.contract import input_specs, output_specs
from ropeexport.onnx_files.onnx_file import OnnxFile
from ropeexport.ops import names
from ropeexport.ops.rope_table import MAX_POSITION, check_limit

_DEFAULTS_FROM = 4  # version of the format


def fuse_file(  # noqa: PLR0913  (a user's choices, each by keyword)
    path: Path,
    folder: Path,
    *,
    force: bool = False,
    require_rope: int | None = None,
    max_position: int = MAX_POSITION,
    requested: Container[str] = names.BY_DEFAULT,
    axes: Mapping[str, Given] | None = None,
    static: bool = False,
    say: Say | None = None,
) -> tuple[Manifest | None, RopeCount]:
    """Write an ONNX file again with its rotary applications replaced by ops.

    Parameters
    ----------
    path : Path
        An ONNX file of opset 11 or later; its external data lies beside it.
    folder : Path
        The output folder.
    force : bool
        Overwrite what is there.
    require_rope : int or None
        How many rotary applications must be replaced.
    max_position : int
        The largest position that the tables of angles must hold; beyond, angles are NaN.
    requested : container of str
        Ops that are put into the file; others are not sought, or only where nothing asks.
    axes : dict of str to (min, opt, max) or Axis
        Sizes that the dynamic axes are meant for, in place of the usual ones.
    static : bool
        Write axes of one size as that size, and tables that follow from sizes alone as constants.
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
    manifest.refuse_existing(folder, force)
    check_limit(max_position)
    model = OnnxFile(path).whole
    _refuse_twice(path, model)
    if not may_hold_rope(model):
        check_count(RopeCount(), require_rope)
        return None, RopeCount()
    before = model.clone() if is_compared(model) else None
    source = source_of_file(path, folder)
    fixed = _of_one_size(axes or {}) if static else None
    given = Work(
        model, source, path.stem, max_position=max_position, requested=requested, fixed=fixed
    )
    defaults = _without_defaults(model)
    read = readers_of(model)
    work = passed(FUSE, given, say)
    _give_defaults(work.model, defaults)
    assert work.fused is not None  # what the passes did
    count = work.fused.count
    axes = {name: axis for name, axis in (axes or {}).items() if name not in (fixed or ())}
    ranges = with_given(axes_of_file(input_specs(work.model)), axes)
    relations = _related_axes(work.fused.relations, ranges, axes)
    check_count(count, require_rope)
    if not count.replaced:
        return None, count
    check_smallest(work.model, ranges, given=axes)
    output_specs(work.model)  # refuses what no manifest can say

    def describe(record: ModelRecord) -> Manifest:
        version = ropeexport.__version__
        inputs, outputs = (_with_related(s, relations) for s in (record.inputs, record.outputs))
        model = record.changed(inputs=inputs, outputs=outputs)
        return Manifest(
            ropeexport=version, source=source, model=model, axes=ranges, relations=relations
        )

    made = finished(work, before)
    computed = read_less(read, readers_of(made.model))
    made = replace(made, absent=dict.fromkeys(sorted(computed), "computed"))
    return write(made, folder, describe, force=force), count


def _without_defaults(model: ir.Model) -> Mapping[str, ir.TensorProtocol]:
    """Take the numbers of inputs that need not be fed out of a model, and return them.

    A caller may feed others, so no pass may take these for constants.  Before version 4 of the
    format every weight was listed as an input, and none could be fed: those are no inputs here.
    """
    graph = model.graph
    both = [value for value in graph.inputs if value.is_initializer()]
    if model.ir_version < _DEFAULTS_FROM:
        for value in both:
            graph.inputs.remove(value)
        model.ir_version = _DEFAULTS_FROM
        return {}
    defaults = {str(x.name): x.const_value for x in both if x.const_value is not None}
    for value in both:
        del graph.initializers[str(value.name)]
        value.const_value = None
    return defaults


def _give_defaults(model: ir.Model, defaults: Mapping[str, ir.TensorProtocol]) -> None:
    for value in model.graph.inputs:
        if value.name in defaults:
            value.const_value = defaults[value.name]
            model.graph.register_initializer(value)


def _related_axes(
    found: Mapping[str, str], ranges: dict[str, Axis], given: Mapping[str, Given]
) -> dict[str, str]:
    """Return the axes that are others, or of one size; in place those keep their ranges alone."""
    sizes = {name: to for name, to in found.items() if to in ranges or to.isdecimal()}
    relations = {name: to for name, to in sizes.items() if name in ranges}
    for name, to in relations.items():
        own = ranges.pop(name)
        if name in given and to in ranges and to not in given:
            ranges[to] = own
    return relations


def _with_related(
    specs: tuple[TensorSpec, ...], relations: Mapping[str, str]
) -> tuple[TensorSpec, ...]:
    sums = {name: sum_of(int(to) if to.isdecimal() else to) for name, to in relations.items()}
    return tuple(spec.changed(shape=tuple(_dim(d, sums) for d in spec.shape)) for spec in specs)


def _dim(dim: int | str, sums: Mapping[str, Sum]) -> int | str:
    made = str(substituted(dim, sums))
    return int(made) if made.isdecimal() else made


def _of_one_size(axes: Mapping[str, Given]) -> dict[str, int]:
    """Return the axes whose range is one size."""
    ranges = {name: range_of(name, given) for name, given in axes.items()}
    return {name: axis.min for name, axis in ranges.items() if axis.min == axis.max}


def _refuse_twice(path: Path, model: ir.Model) -> None:
    """Raise for an output that is listed again: a name in a manifest is of one tensor."""
    names = Counter(value.name for value in model.graph.outputs)
    inputs = {value.name for value in model.graph.inputs}
    for name, count in names.items():
        if count > 1:
            raise ModelFileError(
                f"{path}: expected each output once, got {name!r} twice; list it once", code="RX216"
            )
        if name in inputs:
            raise ModelFileError(
                f"{path}: expected outputs that a node makes, got {name!r}, which is an input; put "
                "an Identity between, or leave the output out",
                code="RX216",
            )


def replaced(file: OnnxFile) -> ir.Model:
    """Return a file's graph with its rotary applications as ops, and nothing else finished."""
    source = Source(kind="onnx", name=file.path.name)
    if not may_hold_rope(file.whole):
        return file.whole
    model = file.whole.clone()
    _without_defaults(model)
    return passed(FUSE[: FUSE.index(ROPES) + 1], Work(model, source, file.path.stem)).model
