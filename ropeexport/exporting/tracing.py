"""From a torch module to an unoptimised ONNX model, all its weights by their own names."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import from_torch_dtype
from torch.export.graph_signature import OutputKind

from ropeexport.axes import names_of, sum_of
from ropeexport.errors import AxisRangeError, ExportError, UsageError, first_line
from ropeexport.exporting.complex_numbers import without_complex
from ropeexport.exporting.lengths import bounds_of_tables
from ropeexport.exporting.promotion import with_explicit_types
from ropeexport.exporting.purity import check_function
from ropeexport.manifest import Axis, TreePath
from ropeexport.models.example import Example, example_sizes, traceable_arguments
from ropeexport.models.hub.dynamic_rope import traceable_ropes
from ropeexport.models.input_tree import joined, paths_of, shaped
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
            outputs = _output_names(example, exported, inputs)
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
    _name_inputs(program.model, inputs)
    _name_outputs(program.model, outputs)
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


def _output_names(
    example: Example, exported: torch.export.ExportedProgram, inputs: Container[str]
) -> tuple[str, ...]:
    """Return the names of the outputs: those given, else their paths in a tree; else none.

    What is an input too needs a name of its own, whatever it lies in.
    """
    paths = [path for path, _, _ in _user_outputs(exported)]
    has_input = any(name in inputs for _, name, _ in _user_outputs(exported))
    if example.outputs:
        _check_outputs(example, len(paths))
        return example.outputs
    if all(len(path) <= 1 for path in paths) and not has_input:
        return ()
    names = [joined(path) if path and isinstance(path[0], str) else "" for path in paths]
    if not all(names) or set(names) & {*example.tensors}:
        names = [joined(("out", *path)) for path in paths]
    return tuple(names)


def _name_inputs(model: ir.Model, inputs: Mapping[str, str]) -> None:
    for value in model.graph.inputs:
        value.name = inputs.get(str(value.name), value.name)


def _name_outputs(model: ir.Model, outputs: Sequence[str]) -> None:
    """Give outputs their names; what is an input too, or returned twice, gets a node to be both."""
    graph = model.graph
    seen: set[ir.Value] = set(graph.inputs)
    for index in range(len(outputs)):
        value = graph.outputs[index]
        if value in seen:
            copied = ir.node("Identity", [value]).outputs[0]
            copied.type, copied.shape = value.type, value.shape
            graph.append(copied.producer())
            graph.outputs[index] = copied
        seen.add(value)
    within = {str(value.name): value for value in _values(graph)}
    for value, name in zip(graph.outputs, outputs, strict=bool(outputs)):
        other = within.get(name, value)
        if other is not value and other not in graph.outputs:  # torch's name of what lies between
            other.name = next(n for i in count() if (n := f"{name}_{i}") not in within)
        value.name = name


def _check_outputs(example: Example, returned: int) -> None:
    """Hold the names of the outputs to what the module returns."""
    given = example.outputs
    if given and len(given) != returned:
        raise UsageError(
            f"output names: expected {returned}, one for each that the module returns, "
            f"got {len(given)}: {', '.join(given)}"
        )
    if len(set(given)) != len(given) or not all(given):
        raise UsageError(f"output names: expected different names, got {list(given)}")
    taken = next((name for name in given if name in example.tensors), None)
    if taken is not None:
        raise UsageError(f"output names: {taken!r} is an input")


def _keep_output_types(model: ir.Model, exported: torch.export.ExportedProgram) -> None:
    """Give each output the type that eager returns; torch computes a float16 sum in float32, say.

    Between two kinds of numbers a cast would hide that something else was computed.
    """
    for index, (_, name, dtype) in enumerate(_user_outputs(exported)):
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


def _user_outputs(
    exported: torch.export.ExportedProgram,
) -> Iterator[tuple[TreePath, str, torch.dtype]]:
    """Yield the paths, names and types of the tensors that the module returns."""
    nodes = exported.graph.output_node().args[0]
    specs = exported.graph_signature.output_specs
    returned = [n for s, n in zip(specs, nodes, strict=True) if s.kind is OutputKind.USER_OUTPUT]
    spec = exported.call_spec.out_spec
    assert spec is not None  # torch leaves it out of programs that it did not trace
    for path, node in zip(paths_of(spec), returned, strict=True):
        value = node.meta.get("val") if isinstance(node, torch.fx.Node) else None
        if isinstance(value, torch.Tensor):
            yield path, node.name, value.dtype


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
