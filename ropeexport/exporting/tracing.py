"""From a torch module to an unoptimised ONNX model, all its weights by their own names."""

from __future__ import annotations

import logging
import re
import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import onnx
import onnx_ir as ir
import onnxscript
import onnxscript.version_converter
import torch
from onnx_ir.tensor_adapters import from_torch_dtype
from torch import fx

from ropeexport.axes import names_of, sum_of
from ropeexport.errors import AxisRangeError, ExportError, UsageError, first_line
from ropeexport.exporting.lowering import translation_table, with_explicit_types, without_complex
from ropeexport.exporting.naming import name_inputs, name_outputs, output_names, user_outputs
from ropeexport.exporting.purity import check_function
from ropeexport.fusion.movement import closure
from ropeexport.manifest import Axis
from ropeexport.models.example import Example, example_sizes, traceable_arguments
from ropeexport.models.hub.load import traceable_ropes
from ropeexport.models.input_tree import shaped
from ropeexport.ops import names
from ropeexport.ops.rope_table import MAX_POSITION

_SIZE = torch.ops.aten.sym_size.int
# operators that look rows of a table up, by the axis of each and the node that says which
_LOOKUPS: dict[Any, Callable[[Any], list[tuple[int, fx.Node]]]] = {
    torch.ops.aten.embedding.default: lambda args: [(0, args[1])],
    torch.ops.aten.index_select.default: lambda args: [(args[1], args[2])],
    torch.ops.aten.index.Tensor: lambda args: [
        (axis, rows) for axis, rows in enumerate(args[1]) if rows is not None
    ],
}
# how many rows a table has, and the node that says which are asked for
Lookup = tuple[int, fx.Node]


def check_opset(opset: int) -> None:
    """Raise :class:`UsageError` unless torch's exporter can write an opset that the ops need."""
    if opset == names.MIN_OPSET:
        return
    if not names.MIN_OPSET < opset <= newest_opset():
        raise UsageError(
            f"opset: expected {names.MIN_OPSET} (the first with Attention and RotaryEmbedding) to "
            f"{newest_opset()} (the newest that torch {torch.__version__} writes with onnxscript "
            f"{onnxscript.__version__} and onnx {onnx.__version__}), got {opset}"
        )


@cache
def newest_opset() -> int:
    """Return the newest opset that torch's exporter writes.

    It lowers to an older one and leaves the rest to onnxscript's version converter, whose range
    is no public constant and ends before onnx's; so the converter is asked.
    """
    known = range(onnx.defs.onnx_opset_version(), names.MIN_OPSET, -1)
    return next((opset for opset in known if _is_reached(opset)), names.MIN_OPSET)


def _is_reached(opset: int) -> bool:
    model = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": names.MIN_OPSET}), ir_version=10)
    try:
        onnxscript.version_converter.convert_version(model, target_version=opset)
    except Exception:  # whatever it raises for what it does not know, an export would meet too
        return False
    return bool(model.opset_imports.get("") == opset)


@dataclass(frozen=True)
class Traced:
    """An ONNX model and the torch program that it was lowered from."""

    model: ir.Model
    program: torch.export.ExportedProgram
    inputs: dict[str, str]  # the program's name of each input, and its own


def trace(example: Example, opset: int, max_position: int = MAX_POSITION) -> Traced:
    """Trace an example; its module may hold fake tensors, its inputs then are fake too."""
    arguments, shapes = traceable_arguments(example), dynamic_shapes(example)
    with quiet(), torch.no_grad(), traceable_ropes(example.module):
        try:
            exported = torch.export.export(
                example.module, (), arguments, dynamic_shapes=shapes, strict=False
            )
            inputs = example.tree.names_in(exported)
            rows = bounds_of_tables(exported, example, inputs)
            if rows:
                raise AxisRangeError(
                    f"{type(example.module).__name__}: a table has fewer rows than an axis may be "
                    f"long {_allowed(rows)}",
                    rows,
                )
            program = torch.onnx.export(
                without_complex(with_explicit_types(exported)),
                dynamo=True,
                opset_version=opset,
                optimize=False,
                verbose=False,
                custom_translation_table=translation_table(max_position),
            )
        except (ExportError, UsageError):
            raise
        except Exception as error:  # torch's tracer lets errors of the module's own code through
            text = f"{type(example.module).__name__}: {_cause(error)}"
            bounds = _bounds(error, example.axes)
            if bounds:
                raise AxisRangeError(f"{text} {_allowed(bounds)}", bounds) from error
            raise ExportError(text) from error
    assert program is not None  # only the old exporter returns None
    written = program.model.opset_imports[""]
    if written != opset:
        raise UsageError(
            f"opset: torch {torch.__version__} and this onnxscript cannot write {opset} "
            f"(they wrote {written}); choose an older one, {names.MIN_OPSET} or later"
        )
    assert program.exported_program is not None  # what it was lowered from
    check_function(program.exported_program, inputs)
    name_inputs(program.model, example, exported)
    name_outputs(program.model, output_names(program.model, example, exported))
    _name_axes(program.model, example.tensor_axes)
    _keep_output_types(program.model, exported)
    return Traced(program.model, program.exported_program, inputs)


def _keep_output_types(model: ir.Model, exported: torch.export.ExportedProgram) -> None:
    """Give each output the type that eager returns; torch computes a float16 sum in float32, say.

    Between two kinds of numbers a cast would hide that something else was computed.
    """
    for index, (_, name, dtype) in enumerate(user_outputs(exported)):
        value, wanted = model.graph.outputs[index], from_torch_dtype(dtype)
        if value.dtype in (None, wanted):
            continue
        if value.dtype.is_floating_point() != wanted.is_floating_point():
            raise ExportError(
                f"output {name}: expected {wanted}, as the module returns, torch.onnx computes it "
                f"as {value.dtype}: cast the arguments of what makes it to one type in the module"
            )
        cast = ir.node("Cast", [value], {"to": wanted})
        output = cast.outputs[0]
        output.name, value.name = value.name, f"{value.name}_{value.dtype.name.lower()}"
        output.dtype, output.shape = wanted, value.shape
        model.graph.append(cast)
        model.graph.outputs[index] = output


def _name_axes(model: ir.Model, dynamic_axes: Mapping[str, Mapping[int, str]]) -> None:
    """Give torch's symbols (s0, s44) the example's names, and sums of them its words."""
    shapes = {value.name: value.shape for value in model.graph.inputs}
    labels: dict[str, str] = {}
    for name, axes in dynamic_axes.items():
        for axis, label in axes.items():
            symbol = shapes[name][axis] if shapes.get(name) else None
            if not isinstance(symbol, ir.SymbolicDim):
                continue
            if str(symbol).isidentifier():
                labels.setdefault(str(symbol), label)
            elif len(of := sum_of(str(symbol)).names) == len(sum_of(label).names) == 1:
                labels.setdefault(of[0], sum_of(label).names[0])  # 8*s0, of 8*blocks
    if labels:
        pattern = re.compile(rf"\b({'|'.join(map(re.escape, labels))})\b")
        own = {sum_of(label): label for axes in dynamic_axes.values() for label in axes.values()}

        def renamed(text: str) -> str:
            name = _relabelled(text, pattern, labels)
            return own.get(sum_of(name), name)  # 'past + length', not 'length + past'

        made = (value for node in model.graph.all_nodes() for value in node.outputs)
        for value in (*model.graph.inputs, *made):
            if value.shape is not None:
                value.shape = ir.Shape(
                    dim if isinstance(dim, int) or dim.value is None else renamed(dim.value)
                    for dim in value.shape
                )


def _relabelled(text: str, pattern: re.Pattern[str], labels: Mapping[str, str]) -> str:
    """Return a dimension in the example's names; a sum in a larger expression is bracketed."""
    if text in labels:
        return labels[text]
    return pattern.sub(
        lambda m: labels[m[0]] if labels[m[0]].isidentifier() else f"({labels[m[0]]})", text
    )


def dynamic_shapes(example: Example) -> dict[str, Any]:
    """Return torch.export's ``dynamic_shapes`` of an example, each axis with its own bounds."""
    labels = [label for axes in example.tensor_axes.values() for label in axes.values()]
    bounds = {name: _dim(name, example) for name in names_of(labels)}
    dims = {label: _sum(label, bounds) for label in labels}
    shapes = iter(
        {axis: dims[label] for axis, label in example.tensor_axes.get(name or "", {}).items()}
        or None
        for name in example.tree.names
    )
    made: dict[str, Any] = shaped(dict(example.inputs), lambda _: next(shapes))
    return made | {name: shaped(value, lambda _: None) for name, value in example.constants.items()}


def _dim(name: str, example: Example) -> Any:
    """Return a dynamic axis; its largest size lets a table of so many rows be cut to it.

    torch takes every axis for 2 or longer, so a smallest size below 3 says nothing.
    """
    limit, size = example.axes.get(name), max(2, example_sizes(example)[name])
    if limit is None or limit.max < size:
        return torch.export.Dim(name)
    smallest = limit.min if 2 < limit.min <= size else None
    return torch.export.Dim(name, min=smallest, max=limit.max)


def _sum(label: str, bounds: Mapping[str, Any]) -> Any:
    """Return the dynamic axis of a sum; torch has none of several and finds the relation."""
    total = sum_of(label)
    if len(total.terms) != 1:
        return torch.export.Dim.DYNAMIC
    ((name, factor),) = total.terms
    made = bounds[name] if factor == 1 else factor * bounds[name]
    return made + total.constant if total.constant else made


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporter's notes to its own developers; its errors are raised, not logged."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = {logger: logger.level for logger in loggers}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in levels:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in levels.items():
                logger.setLevel(level)


def bounds_of_tables(
    program: torch.export.ExportedProgram, example: Example, inputs: Mapping[str, str]
) -> dict[str, tuple[None, int]]:
    """Return the largest size of each dynamic axis whose range is beyond what some table holds.

    torch's tracer sees a table that is cut to a length, but not ``embedding(arange(length))``: the
    rows that are asked for are values.  Where they follow from sizes alone, they are computed here.

    Parameters
    ----------
    program : ExportedProgram
        Of the example.
    example : Example
        With the ranges of its axes.
    inputs : mapping of str to str
        The program's name of each input, and the example's.
    """
    known = _known(program, example, inputs)
    lookups = [(size, rows) for size, rows in _lookups(program) if rows in known]
    sizes = {
        label: example.tensors[name].shape[axis]
        for name, named in example.tensor_axes.items()
        for axis, label in named.items()
    }
    found: dict[str, tuple[None, int]] = {}
    for label in sizes if lookups else ():
        most = example.axes[label].max if label in example.axes else 1
        if not _hold(lookups, known, {**sizes, label: most}):
            longer = bisect_left(
                range(2, most),
                True,
                key=lambda size: not _hold(lookups, known, {**sizes, label: size}),
            )
            found[label] = (None, 1 + longer)
    return found


def _known(
    program: torch.export.ExportedProgram, example: Example, inputs: Mapping[str, str]
) -> dict[fx.Node, str | None]:
    """Return, in order, the nodes that follow from sizes alone; those of dynamic axes by name."""
    known: dict[fx.Node, str | None] = {}
    for node in program.graph.nodes:
        label = None
        if node.target is _SIZE and node.args[0].op == "placeholder":
            axes = example.tensor_axes.get(inputs.get(node.args[0].target, ""), {})
            label = axes.get(node.args[1])
        made = node.op == "call_function" and all(x in known for x in node.all_input_nodes)
        if label is not None or made:
            known[node] = label
    return known


def _lookups(program: torch.export.ExportedProgram) -> Iterator[Lookup]:
    for node in program.graph.nodes:
        places = _LOOKUPS[node.target](node.args) if node.target in _LOOKUPS else []
        for axis, rows in places:
            size = node.args[0].meta["val"].shape[axis]
            if isinstance(size, int) and rows.meta["val"].dtype is not torch.bool:
                yield size, rows


def _hold(
    lookups: list[Lookup], known: Mapping[fx.Node, str | None], sizes: Mapping[str, int]
) -> bool:
    """Say whether each table has the rows that are asked for at some sizes."""
    values: dict[fx.Node, Any] = {}
    asked = [rows for _, rows in lookups]
    wanted = set(closure(asked, lambda node: (x for x in node.all_input_nodes if x in known)))
    for node, label in known.items():
        if label is not None:
            values[node] = sizes[label]
        elif node in wanted:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            try:
                values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
            except (
                Exception
            ):  # other sizes than these must go with it: nothing is said of the table
                return True
    return all(
        not rows.numel() or -size <= int(rows.min()) <= int(rows.max()) < size
        for size, rows in ((size, values[rows]) for size, rows in lookups)
    )


# how torch says which sizes of an axis its trace holds for
_FIX = re.compile(r"^\s*(\w+) = Dim\('\w+'(?:, min=(\d+))?(?:, max=(\d+))?\)\s*$", re.MULTILINE)


def _bounds(error: Exception, axes: Mapping[str, Axis]) -> dict[str, tuple[int | None, int | None]]:
    """Return the sizes that a trace holds for, where that is why torch refused it."""
    return {
        name: (int(low) if low else None, int(high) if high else None)
        for name, low, high in _FIX.findall(str(error))
        if name in axes and (low or high)
    }


def _allowed(bounds: Mapping[str, tuple[int | None, int | None]]) -> str:
    texts = (
        name + (f" from {low}" if low else "") + (f" to {high}" if high else "")
        for name, (low, high) in bounds.items()
    )
    return f"(the module takes {', '.join(texts)})"


def _cause(error: Exception) -> str:
    """Return the first line of the error at the root, which names what torch could not trace."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return f"cannot be traced: {first_line(error)}"
