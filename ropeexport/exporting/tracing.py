"""From a torch module to an unoptimised ONNX model, all its weights by their own names."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import from_torch_dtype

from ropeexport.axes import names_of, sum_of
from ropeexport.errors import AxisRangeError, ExportError, UsageError, first_line
from ropeexport.exporting.complex_numbers import without_complex
from ropeexport.exporting.lengths import bounds_of_tables
from ropeexport.exporting.naming import name_inputs, name_outputs, output_names, user_outputs
from ropeexport.exporting.promotion import with_explicit_types
from ropeexport.exporting.purity import check_function
from ropeexport.manifest import Axis
from ropeexport.models.example import Example, example_sizes, traceable_arguments
from ropeexport.models.hub.dynamic_rope import traceable_ropes
from ropeexport.models.input_tree import shaped
from ropeexport.ops import names
from ropeexport.ops.rope_table import MAX_POSITION
from ropeexport.ops.translation import translation_table


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
                example.module,
                (),
                arguments,
                dynamic_shapes=shapes,
                strict=False,
            )
            inputs = example.tree.names_in(exported)
            _check_tables(example, exported, inputs)
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


def _check_tables(
    example: Example, exported: torch.export.ExportedProgram, inputs: Mapping[str, str]
) -> None:
    """Hold the ranges of the axes to the rows of the tables that the module looks up."""
    bounds = bounds_of_tables(exported, example, inputs)
    if bounds:
        raise AxisRangeError(
            f"{type(example.module).__name__}: a table has fewer rows than an axis may be long "
            f"{_allowed(bounds)}",
            bounds,
        )


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

        for value in _values(model.graph):
            _rename(value, renamed)


def _relabelled(text: str, pattern: re.Pattern[str], labels: Mapping[str, str]) -> str:
    """Return a dimension in the example's names; a sum in a larger expression is bracketed."""
    if text in labels:
        return labels[text]
    return pattern.sub(
        lambda m: labels[m[0]] if labels[m[0]].isidentifier() else f"({labels[m[0]]})", text
    )


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    for node in graph.all_nodes():
        yield from node.outputs


def _rename(value: ir.Value, renamed: Callable[[str], str]) -> None:
    if value.shape is not None:
        dims = [
            dim if isinstance(dim, int) or dim.value is None else renamed(dim.value)
            for dim in value.shape
        ]
        value.shape = ir.Shape(dims)


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
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


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
    texts = []
    for name, (low, high) in bounds.items():
        words = [name] + ([f"from {low}"] if low else []) + ([f"to {high}"] if high else [])
        texts.append(" ".join(words))
    return f"(the module takes {', '.join(texts)})"


def _cause(error: Exception) -> str:
    """Return the first line of the error at the root, which names what torch could not trace."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return f"cannot be traced: {first_line(error)}"
