"""The op's table inputs, made from the tables that a model has."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ropeexport.fusion.applications import Application, tables_of
from ropeexport.fusion.building import Nodes, ints
from ropeexport.fusion.layout import Layout
from ropeexport.fusion.probe import Entry

_FLOAT = ir.DataType.FLOAT


@dataclass
class Tables:
    """One set of nodes for all ops that share a table."""

    nodes: Nodes = field(default_factory=Nodes)
    _entries: dict[tuple[Entry, Layout], ir.Value] = field(default_factory=dict)
    _inputs: dict[tuple[tuple[ir.Value, ...], bool], ir.Value] = field(default_factory=dict)

    def of(self, application: Application) -> tuple[ir.Value, ...]:
        """Return the inputs that say how an application's op rotates."""
        rotary, layout, tables = application.rotary, application.layout, tables_of(application)
        inputs = []
        for places in tables.inputs.values():
            entries = tuple(self._entry(rotary.entries[place], layout) for place in places)
            inputs.append(self._input(entries, tables.by_head and not layout.per_head))
        return tuple(inputs)

    def _input(self, entries: tuple[ir.Value, ...], lacks_heads: bool) -> ir.Value:
        """Return an entry as it is, or all as matrices; with an axis for heads where it lacks."""
        if (entries, lacks_heads) not in self._inputs:
            made = self._stacked(entries) if len(entries) > 1 else entries[0]
            if lacks_heads:
                made = self.nodes.add("Unsqueeze", made, ints([1]))
            self._inputs[entries, lacks_heads] = made
        return self._inputs[entries, lacks_heads]

    def _entry(self, entry: Entry, layout: Layout) -> ir.Value:
        """Return an entry as float32 (B or 1, L, P), or (B or 1, H, L, P) of tables by head."""
        if (entry, layout) not in self._entries:
            value = self._without_heads(entry, layout)
            if entry.table.dtype != _FLOAT:
                value = self.nodes.add("Cast", value, to=_FLOAT)
            if entry.factor != 1.0:
                value = self.nodes.add("Mul", value, ir.tensor(np.float32(entry.factor)))
            self._entries[entry, layout] = value
        return self._entries[entry, layout]

    def _without_heads(self, entry: Entry, layout: Layout) -> ir.Value:
        value, rank = self._selected(entry), _rank(entry)
        missing = layout.rank - rank  # broadcasting aligns the last axes
        if layout.head_axis is not None and layout.head_axis >= missing:
            value = self.nodes.add("Squeeze", value, ints([layout.head_axis - missing]))
            rank -= 1
        axes = range((4 if layout.per_head else 3) - rank)
        return self.nodes.add("Unsqueeze", value, ints(axes)) if axes else value

    def _selected(self, entry: Entry) -> ir.Value:
        chosen = entry.selection
        if chosen.kind == "index":
            return self.nodes.add("Gather", entry.table, ir.tensor(np.int64(chosen.start)), axis=-1)
        if chosen.kind == "slice":
            bounds = (ints([n]) for n in (chosen.start, chosen.end, -1, chosen.step))
            return self.nodes.add("Slice", entry.table, *bounds)
        return entry.table

    def _stacked(self, entries: tuple[ir.Value, ...]) -> ir.Value:
        """Return m00, m01, m10, m11 (..., P) as matrices (..., P, 2, 2)."""
        single = [self.nodes.add("Unsqueeze", entry, ints([-1, -2])) for entry in entries]
        rows = [self.nodes.add("Concat", *single[i : i + 2], axis=-1) for i in (0, 2)]
        return self.nodes.add("Concat", *rows, axis=-2)


def _rank(entry: Entry) -> int:
    assert entry.table.shape is not None  # it was evaluated at its shape
    return len(entry.table.shape) - (entry.selection.kind == "index")
