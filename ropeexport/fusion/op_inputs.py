"""The nodes around an op: its tables, and its data in the op's layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from ropeexport.fusion.applications import Application, Layout, tables_of
from ropeexport.fusion.regions import Entry, Rows
from ropeexport.fusion.unify import Joined
from ropeexport.ops.forms import PAIRINGS

_FLOAT = ir.DataType.FLOAT


@dataclass
class Nodes:
    """A growing list of nodes that are in no graph yet."""

    made: list[ir.Node] = field(default_factory=list)

    def add(
        self, op_type: str, *inputs: ir.Value | ir.TensorProtocol, **attributes: Any
    ) -> ir.Value:
        """Append a node; a tensor among its inputs becomes a Constant before it."""
        values = [x if isinstance(x, ir.Value) else self.constant(x) for x in inputs]
        node = ir.node(op_type, values, attributes)
        self.made.append(node)
        output = node.outputs[0]
        output.dtype = attributes["to"] if op_type == "Cast" else values[0].dtype
        shape = values[0].shape
        if shape is not None and op_type == "Transpose":
            output.shape = ir.Shape(shape[axis] for axis in attributes["perm"])
        elif op_type in ("Cast", "Identity"):
            output.shape = shape
        return output

    def constant(self, tensor: ir.TensorProtocol) -> ir.Value:
        """Append a Constant."""
        node = ir.node("Constant", [], {"value": tensor})
        self.made.append(node)
        output = node.outputs[0]
        output.const_value = tensor
        output.dtype, output.shape = tensor.dtype, ir.Shape(tensor.shape)
        return output

    def cast(self, x: ir.Value, to: ir.DataType) -> ir.Value:
        """Return a value in a type."""
        return x if x.dtype == to else self.add("Cast", x, to=to)

    def to_op(self, x: ir.Value, layout: Layout, dtype: ir.DataType | None) -> ir.Value:
        """Bring data into the op's (B, H, L, D) and into the type that its result has."""
        shape = x.shape
        x = x if dtype is None else self.cast(x, dtype)
        if layout.head_size is not None:
            # a -1 would fail where nothing is reshaped
            heads = hidden_of(shape) // layout.head_size
            x = self.add("Reshape", x, ints([0, 0, heads, layout.head_size]))
            x.shape = ir.Shape([*(shape or ())[:-1], heads, layout.head_size])
        if not layout.keeps_order:
            x = self.add("Transpose", x, perm=layout.order)
        return self.add("Unsqueeze", x, ints(layout.inserted)) if layout.inserted else x

    def from_op(self, y: ir.Value, application: Application) -> ir.Value:
        """Bring the op's result into the layout that the model goes on with."""
        layout, rotary = application.layout, application.rotary
        if rotary.pairing != rotary.result:
            y = self._paired_otherwise(y, PAIRINGS[rotary.pairing].axes)
        if layout.inserted:
            y = self.add("Squeeze", y, ints(layout.inserted))
        if not layout.keeps_order:
            y = self.add("Transpose", y, perm=layout.inverse_order)
        if layout.head_size is None:
            return y
        return self.add("Reshape", y, ints([0, 0, hidden_of(application.x.shape)]))

    def _paired_otherwise(self, y: ir.Value, pairs: tuple[int, int]) -> ir.Value:
        """Exchange the two axes of pairs that the last axis of (B, H, L, D) holds."""
        apart = self.add("Reshape", y, ints([0, 0, 0, *pairs]))
        exchanged = self.add("Transpose", apart, perm=(0, 1, 2, 4, 3))
        return self.add("Reshape", exchanged, ints([0, 0, 0, -1]))


def hidden_of(shape: ir.Shape | None) -> int:
    """Return the number of elements of all heads."""
    assert shape is not None  # it was evaluated at its shape
    hidden = shape[-1]
    assert isinstance(hidden, int)  # asked when the layout was found
    return hidden


def ints(numbers: Sequence[int]) -> ir.TensorProtocol:
    """Return int64 numbers as a tensor of one axis."""
    return ir.tensor(np.array(numbers, dtype=np.int64))


def sizes_of(nodes: Nodes, x: ir.Value, start: int, end: int) -> ir.Value:
    """Return the sizes of some axes."""
    sizes = nodes.add("Shape", x, start=start, end=end)
    sizes.dtype = ir.DataType.INT64
    return sizes


@dataclass
class Tables:
    """The ops' table inputs, made from the tables that a model has; ops may share one.

    ``results`` are what has taken the place of rotated values so far: another op may rotate them.
    Of axes that are ``joined``, data and tables may have one element where the other has more.
    """

    joined: Joined = field(default_factory=Joined)
    nodes: Nodes = field(default_factory=Nodes)
    results: dict[ir.Value, ir.Value] = field(default_factory=dict)
    _positions: dict[tuple[Rows, str], ir.Value] = field(default_factory=dict)
    _entries: dict[tuple[Entry, Layout, str], ir.Value] = field(default_factory=dict)
    _alike: dict[tuple[ir.Value, ir.Value], ir.Value] = field(default_factory=dict)
    _inputs: dict[tuple[tuple[ir.Value, ...], bool], ir.Value] = field(default_factory=dict)

    def of(self, application: Application) -> tuple[ir.Value, ...]:
        """Return the inputs that say how an application's op rotates."""
        rotary, layout, tables = application.rotary, application.layout, tables_of(application)
        read = {
            place: rotary.entries[place] for places in tables.inputs.values() for place in places
        }
        entries = tuple(read.values())
        values = self._as_large([self._entry(e, application) for e in entries], entries)
        made = dict(zip(read, values, strict=True))
        inputs = []
        for places in tables.inputs.values():
            parts = tuple(made[place] for place in places)
            inputs.append(self._input(parts, tables.by_head and not layout.per_head))
        return tuple(inputs)

    def widened(
        self, nodes: Nodes, x: ir.Value, application: Application, table: ir.Value
    ) -> ir.Value:
        """Let data of one batch or row have as many as its table, where it may have so few.

        ``x`` is the data as the op takes it, (B, H, L, D).
        """
        if not self.joined.is_in(application.x, application.layout.order[:-1]):
            return x
        by_head = tables_of(application).by_head
        batch, length = (
            sizes_of(nodes, table, axis, axis + 1) for axis in (0, 2 if by_head else 1)
        )
        heads = sizes_of(nodes, table, 1, 2) if by_head else ints([1])
        return nodes.add("Expand", x, nodes.add("Concat", batch, heads, length, ints([1]), axis=0))

    def _as_large(self, values: list[ir.Value], entries: Sequence[Entry]) -> list[ir.Value]:
        """Let entries of several tables have one shape, where one may have 1 for the other's."""
        sources = dict.fromkeys(e.table if e.rows is None else e.rows.ids for e in entries)
        sizes = {self._sizes_of(source) for source in sources}
        if len(sizes) == 1 or not any(
            self.joined.is_in(s, range(len(s.shape or ()))) for s in sources
        ):
            return values
        first = {entry.table: value for entry, value in zip(entries, values, strict=True)}
        for table, other in first.items():
            pairs = zip(entries, values, strict=True)
            values = [v if e.table is table else self._expanded_to(v, other) for e, v in pairs]
        return values

    def _sizes_of(self, value: ir.Value) -> tuple[str, ...]:
        return tuple(self.joined.size_of(value, axis) for axis in range(len(value.shape or ())))

    def _expanded_to(self, value: ir.Value, other: ir.Value) -> ir.Value:
        if (value, other) not in self._alike:
            shape = self.nodes.add("Concat", sizes_of(self.nodes, other, 0, -1), ints([1]), axis=0)
            self._alike[value, other] = self.nodes.add("Expand", value, shape)
        return self._alike[value, other]

    def _input(self, entries: tuple[ir.Value, ...], lacks_heads: bool) -> ir.Value:
        """Return an entry as it is, or all as matrices; with an axis for heads where it lacks."""
        if (entries, lacks_heads) not in self._inputs:
            made = self._stacked(entries) if len(entries) > 1 else entries[0]
            if lacks_heads:
                made = self.nodes.add("Unsqueeze", made, ints([1]))
            self._inputs[entries, lacks_heads] = made
        return self._inputs[entries, lacks_heads]

    def _entry(self, entry: Entry, application: Application) -> ir.Value:
        """Return an entry as float32 (B or 1, L, P), or (B or 1, H, L, P) of tables by head."""
        layout = application.layout
        length = "" if layout.length is None else self.joined.size_of(application.x, layout.length)
        if (entry, layout, length) not in self._entries:
            value = self.nodes.cast(self._without_heads(entry, layout), _FLOAT)
            if entry.factor != 1.0:
                value = self.nodes.add("Mul", value, ir.tensor(np.float32(entry.factor)))
            self._entries[entry, layout, length] = self._expanded(value, application)
        return self._entries[entry, layout, length]

    def _expanded(self, value: ir.Value, application: Application) -> ir.Value:
        """Let a table of one row be one of the data's length, where it may have so few."""
        x, layout = application.x, application.layout
        if layout.length is None or not self.joined.is_in(x, [layout.length]):
            return value
        length = sizes_of(self.nodes, x, layout.length, layout.length + 1)
        shape = self.nodes.add("Concat", ints([1]), length, ints([1]), axis=0)
        return self.nodes.add("Expand", value, shape)

    def _without_heads(self, entry: Entry, layout: Layout) -> ir.Value:
        assert entry.table.shape is not None  # it was evaluated at its shape
        rank = len(entry.table.shape) - {"index": 1, "entry": 2}.get(entry.selection.kind, 0)
        if entry.rows is not None:
            assert entry.rows.ids.shape is not None  # asked when it was found
            rank += len(entry.rows.ids.shape) - 1 if entry.rows.begins is None else 0
        value = self._selected(entry)
        missing = layout.rank - rank  # broadcasting aligns the last axes
        single = [axis - missing for axis in layout.single if axis >= missing]
        if single:
            value = self.nodes.add("Squeeze", value, ints(single))
            rank -= len(single)
        axes = range((4 if layout.per_head else 3) - rank)
        return self.nodes.add("Unsqueeze", value, ints(axes)) if axes else value

    def _selected(self, entry: Entry) -> ir.Value:
        chosen, table = entry.selection, entry.table
        if entry.rows is not None:
            table = self.nodes.add("Gather", table, self._ids(entry.rows), axis=0)
        if chosen.kind == "index":
            return self.nodes.add("Gather", table, ir.tensor(np.int64(chosen.start)), axis=-1)
        if chosen.kind == "entry":
            column = self.nodes.add("Gather", table, ir.tensor(np.int64(chosen.end)), axis=-1)
            return self.nodes.add("Gather", column, ir.tensor(np.int64(chosen.start)), axis=-1)
        if chosen.kind == "slice":
            bounds = (ints([n]) for n in (chosen.start, chosen.end, -1, chosen.step))
            return self.nodes.add("Slice", table, *bounds)
        return table

    def _ids(self, rows: Rows) -> ir.Value:
        """Return the positions of rows, counted on from the first where they are not listed."""
        key = rows, "" if rows.begins is None else self.joined.size_of(*rows.begins)
        if key not in self._positions:
            made = rows.ids
            if rows.begins is not None:
                data, axis = rows.begins
                length = sizes_of(self.nodes, data, axis, axis + 1)
                ends = ir.tensor(np.int64(0)), self.nodes.add("Squeeze", length)
                counted = self.nodes.add("Range", *ends, ir.tensor(np.int64(1)))
                counted.dtype = ir.DataType.INT64
                made = self.nodes.add("Add", counted, self.nodes.cast(rows.ids, counted.dtype))
            self._positions[key] = made
        return self._positions[key]

    def _stacked(self, entries: tuple[ir.Value, ...]) -> ir.Value:
        """Return m00, m01, m10, m11 (..., P) as matrices (..., P, 2, 2)."""
        single = [self.nodes.add("Unsqueeze", entry, ints([-1, -2])) for entry in entries]
        rows = [self.nodes.add("Concat", *single[i : i + 2], axis=-1) for i in (0, 2)]
        return self.nodes.add("Concat", *rows, axis=-2)
