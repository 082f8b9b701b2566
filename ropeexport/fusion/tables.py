"""The op's table inputs, made from the tables that a model has."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ropeexport.fusion.applications import Application, has_cos_sin
from ropeexport.fusion.building import Nodes, ints
from ropeexport.fusion.layout import Layout
from ropeexport.fusion.probe import Entry

_FLOAT = ir.DataType.FLOAT


@dataclass
class Tables:
    """One set of nodes for all ops that share a table."""

    nodes: Nodes = field(default_factory=Nodes)
    _entries: dict[tuple[Entry, Layout], ir.Value] = field(default_factory=dict)
    _matrices: dict[tuple[ir.Value, ...], ir.Value] = field(default_factory=dict)

    def of(self, application: Application) -> tuple[ir.Value, ...]:
        """Return cos and sin of an application, or pe where it is no proven rotation."""
        rotary, layout = application.rotary, application.layout
        if has_cos_sin(application):
            return self._entry(rotary.entries[0], layout), self._entry(rotary.entries[2], layout)
        entries = tuple(self._entry(entry, layout) for entry in rotary.entries)
        if entries not in self._matrices:
            stacked = self._stacked(entries)
            head_axis = ints([1])
            self._matrices[entries] = (
                stacked if layout.per_head else self.nodes.add("Unsqueeze", stacked, head_axis)
            )
        return (self._matrices[entries],)

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
