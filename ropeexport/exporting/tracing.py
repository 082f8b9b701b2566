"""From a torch module to an unoptimised ONNX model, all its weights by their own names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import onnx
import onnx_ir as ir
import onnxscript
import onnxscript.version_converter
import torch
from onnx_ir.tensor_adapters import from_torch_dtype

from ropeexport.axes import sum_of
from ropeexport.errors import ExportError, UsageError, first_line
from ropeexport.exporting.chatter import quiet
from ropeexport.exporting.complex_numbers import without_complex
from ropeexport.exporting.constants import put_eager_constants
from ropeexport.exporting.fitting import check_decided
from ropeexport.exporting.guards import hearing_ignored, symbols_of
from ropeexport.exporting.lowering import with_explicit_types
from ropeexport.exporting.naming import name_inputs, name_outputs, output_names, user_outputs
from ropeexport.exporting.places import line_in, line_of_error
from ropeexport.exporting.programs import exported_program, suggestion, traceable
from ropeexport.exporting.purity import check_function
from ropeexport.exporting.squeezes import check_squeezes
from ropeexport.exporting.tables import check_tables
from ropeexport.exporting.translations import translation_table
from ropeexport.given import whole
from ropeexport.models.example import Example
from ropeexport.onnx_files.dimensions import without_functions
from ropeexport.ops import names
from ropeexport.ops.rope_table import MAX_POSITION


def check_opset(opset: int) -> None:
    """Raise :class:`UsageError` unless torch's exporter can write an opset that the ops need."""
    if whole("opset", opset) == names.MIN_OPSET:
        return
    if not names.MIN_OPSET < opset <= newest_opset():
        raise UsageError(
            f"opset: expected {names.MIN_OPSET} (the first with Attention and RotaryEmbedding) to "
            f"{newest_opset()} (the newest that torch {torch.__version__} writes with onnxscript "
            f"{onnxscript.__version__} and onnx {onnx.__version__}), got {opset}",
            code="RX111",
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
    exported: torch.export.ExportedProgram | None = None
    module = example.module
    with quiet() as heard, torch.no_grad(), traceable(module):
        try:
            exported = exported_program(example)
            inputs = example.tree.names_in(exported)
            _check_returns(exported, example)
            check_tables(exported, example, inputs)
            check_squeezes(exported, example, inputs)
            with hearing_ignored() as ignored:
                program = torch.onnx.export(
                    without_complex(with_explicit_types(exported)),
                    dynamo=True,
                    opset_version=opset,
                    optimize=False,
                    verbose=False,
                    custom_translation_table=translation_table(max_position),
                )
            symbols = symbols_of(exported, example, inputs)
            decided = ignored.found({symbol: sum_of(name) for symbol, (name, _) in symbols.items()})
            check_decided(example, decided, dict(symbols.values()))
        except (ExportError, UsageError):
            raise
        except Exception as error:  # torch's tracer lets errors of the module's own code through
            line = line_of_error(error) or _line_of_node(exported, error)
            raise ExportError(
                f"{type(example.module).__name__}: cannot be traced: {_cause(error)}"
                f"{f' ({line})' if line else ''}; all that torch says is in {heard.saved(error)}",
                code="RX201",
            ) from error
    assert program is not None  # only the old exporter returns None
    written = program.model.opset_imports[""]
    if written != opset:
        raise UsageError(
            f"opset: torch {torch.__version__} and this onnxscript cannot write {opset} "
            f"(they wrote {written}); choose an older one, {names.MIN_OPSET} or later",
            code="RX111",
        )
    assert program.exported_program is not None  # what it was lowered from
    check_function(program.exported_program, inputs)
    name_inputs(program.model, example, exported)
    name_outputs(program.model, output_names(program.model, example, exported))
    with torch.no_grad():
        put_eager_constants(program.model, program.exported_program)
    _name_axes(program.model, example.tensor_axes)
    _keep_output_types(program.model, exported)
    return Traced(program.model, program.exported_program, inputs)


def _check_returns(exported: torch.export.ExportedProgram, example: Example) -> None:
    if not list(user_outputs(exported)):
        raise ExportError(
            f"{type(example.module).__name__}: cannot be traced: expected a forward that returns "
            "tensors, got none; mend its config, or return one",
            code="RX201",
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
                f"as {value.dtype}: cast the arguments of what makes it to one type in the module",
                code="RX214",
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
            name = without_functions(_relabelled(text, pattern, labels))
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


def _cause(error: Exception) -> str:
    """Return the first line of the error at the root, which names what torch could not trace."""
    root = error
    while isinstance(root.__cause__, Exception):
        root = root.__cause__
    if _CACHE.search(str(root)):
        return "it returns a cache, no tensors: give use_cache=False, or see docs/running.md"
    named = _NODE.search(str(error.__cause__))
    operator = f"{named[2]}: " if named else ""
    return f"{operator}{first_line(root)}{suggestion(error)}"


# what torch says of an output of transformers that is no tree
_CACHE = re.compile(r"Found <class 'transformers\.cache_utils\.\w*Cache'> in output")
# how torch's exporter says what it could not write
_NODE = re.compile(r"translating node %(\w+) .*?target=torch\.ops\.([\w.]+)\]")


def _line_of_node(program: torch.export.ExportedProgram | None, error: Exception) -> str:
    """Return the line of the module that made the node that torch's exporter could not write."""
    named = _NODE.search(str(error.__cause__))
    if program is None or named is None:
        return ""
    traces = (n.meta.get("stack_trace") for n in program.graph.nodes if n.name == named[1])
    return next((line_in(trace) for trace in traces if trace), "")
