"""Faults of ropes, planted in an exported folder: its graph edited, its hash renewed.

An edit changes the tables that the rotary ops read, so it is one an exporter could have made: the
file is valid, loads, and computes a picture.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx_ir as ir
from onnx_ir.tape import Tape

from ropeexport import atomic
from ropeexport.artifact import Artifact
from ropeexport.ops.forms import form_of

Edit = Callable[[ir.Model], None]
_END = (1 << 63) - 1
_TOKENS, _PAIRS = 1, 2  # axes of a table (B or 1, L, P)


def planted(folder: Path, copy: Path, edit: Edit) -> Path:
    """Return a copy of an output folder with its graph edited, that passes verification."""
    artifact = Artifact.read(Path(shutil.copytree(folder, copy)))
    model = ir.load(artifact.model_path)
    edit(model)
    model.graph.sort()
    ir.save(model, artifact.model_path)
    sha256 = atomic.sha256_of(artifact.model_path)
    artifact.updated(model=artifact.manifest.model.changed(sha256=sha256)).write()
    return copy


def nothing(model: ir.Model) -> None:
    """Let signs be changed twice, which is exact."""
    _tables_through(model, lambda tape, _, table: tape.op("Neg", [tape.op("Neg", [table])]))


def sin_negated(model: ir.Model) -> None:
    """Turn the other way round."""
    _tables_through(
        model, lambda tape, name, table: tape.op("Neg", [table]) if name == "sin" else table
    )


def a_row_late(model: ir.Model) -> None:
    """Begin tables a row too late: a token has the position of the one before it."""

    def late(tape: Tape, _: str, table: ir.Value) -> ir.Value:
        first, rest = (_slice(tape, table, _TOKENS, *ends) for ends in ((0, 1), (0, -1)))
        return tape.op("Concat", [first, rest], {"axis": _TOKENS})

    _tables_through(model, late)


def text_and_image_exchanged(model: ir.Model) -> None:
    """Have tables with the image's rows before the text's, where data have the text's first."""
    words = next(x for x in model.graph.inputs if x.name == "encoder_hidden_states")

    def exchanged(tape: Tape, _: str, table: ir.Value) -> ir.Value:
        length = tape.op("Shape", [words], {"start": 1, "end": 2})
        text, image = _slice(tape, table, _TOKENS, 0, length), _slice(tape, table, _TOKENS, length)
        return tape.op("Concat", [image, text], {"axis": _TOKENS})

    _tables_through(model, exchanged)


def image_and_text_exchanged(model: ir.Model) -> None:
    """Do the same where each has an op of its own, the image's before the text's."""
    ropes = list(_ropes(model))
    for (image, image_places), (text, text_places) in zip(ropes[::2], ropes[1::2], strict=True):
        for name, place in image_places.items():
            tape, other = Tape(), text_places[name]
            tables = [image.inputs[place], text.inputs[other]]
            length = tape.op("Shape", [tables[1]], {"start": _TOKENS, "end": _TOKENS + 1})
            both = tape.op("Concat", tables, {"axis": _TOKENS})
            text.replace_input_with(other, _slice(tape, both, _TOKENS, 0, length))
            image.replace_input_with(place, _slice(tape, both, _TOKENS, length))
            model.graph.insert_before(image, tape.nodes)


def rows_and_columns_exchanged(before: int, pairs: int) -> Edit:
    """Return an edit that exchanges the pairs of rows and of columns, which follow ``before``."""

    def exchanged(tape: Tape, _: str, table: ir.Value) -> ir.Value:
        ends = (0, before), (before + pairs, _END), (before, before + pairs)
        parts = [_slice(tape, table, _PAIRS, *each) for each in ends if each != (0, 0)]
        return tape.op("Concat", parts, {"axis": _PAIRS})

    return lambda model: _tables_through(model, exchanged)


def _tables_through(model: ir.Model, make: Callable[[Tape, str, ir.Value], ir.Value]) -> None:
    """Give each rotary op other tables, made of its own."""
    for node, places in _ropes(model):
        tape = Tape()
        for name, place in places.items():
            node.replace_input_with(place, make(tape, name, node.inputs[place]))
        model.graph.insert_before(node, tape.nodes)


def _ropes(model: ir.Model) -> Iterator[tuple[ir.Node, dict[str, int]]]:
    """Yield the rotary ops, each with the places of its tables by name."""
    found = ((node, form_of(node.domain, node.op_type)) for node in list(model.graph))
    for node, form in found:
        if form is not None:
            first = len(form.data_inputs)
            yield node, {name: first + at for at, name in enumerate(form.table_inputs)}


def _slice(
    tape: Tape, x: ir.Value, axis: int, start: int | ir.Value, end: int | ir.Value = _END
) -> ir.Value:
    ends = [_constant(tape, x) if isinstance(x, int) else x for x in (start, end, axis)]
    return tape.op("Slice", [x, *ends])


def _constant(tape: Tape, number: int) -> ir.Value:
    return tape.op("Constant", [], {"value_ints": [number]})
