"""Put the op in an application's place: build it, prove it against what it replaces, swap it in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from ropeexport.fusion.applications import Application, tables_of
from ropeexport.fusion.evaluation import Trial, UnevaluableError, evaluate
from ropeexport.fusion.movement import Movement
from ropeexport.fusion.op_inputs import Nodes, Tables, hidden_of
from ropeexport.fusion.regions import Rows, deep_values
from ropeexport.ops import names
from ropeexport.ops.forms import ROTARY_SIZE, Form, form_of

# the few float64 operations of a rotation, on numbers of unit size
_ROUNDING = 64 * float(np.finfo(np.float64).eps)

Group = tuple[Application, ...]


@dataclass(frozen=True)
class Region:
    """A rotary op, and the part of the graph that it stands for.

    Parameters
    ----------
    op : Node
        The op.
    data, results : tuple of (str, Value)
        The rotated values and what became of them: the name that each had in the graph before
        anything was replaced, and the value that it is now.
    replaces : bool
        Whether the op stands in the place of other nodes; False: the graph had it already.
    """

    op: ir.Node
    data: tuple[tuple[str, ir.Value], ...]
    results: tuple[tuple[str, ir.Value], ...]
    replaces: bool = True

    @property
    def name(self) -> str:
        """The name of the first result, by which a region is known before and after."""
        return self.results[0][0]


def region_of(op: ir.Node) -> Region:
    """Return the region of an op that a graph has already: the op itself."""
    form = form_of(op.domain, op.op_type)
    assert form is not None  # it is asked of rotary ops alone
    data = [x for x in op.inputs[: form.tensors] if x is not None]
    return Region(op, _named(data, data), _named(op.outputs, op.outputs), replaces=False)


def _named(before: Sequence[ir.Value], now: Sequence[ir.Value]) -> tuple[tuple[str, ir.Value], ...]:
    return tuple((str(old.name), new) for old, new in zip(before, now, strict=True))


def swap_in(group: Group, tables: Tables, trial: Trial, movement: Movement) -> Region | str:
    """Replace an application, or two that share their tables, by one op; a reason if it may not.

    The graph is left as it was unless the op computes the same from the same random numbers.
    """
    nodes, names_before = Nodes(), [str(a.x.name) for a in group]
    group = tuple(replace(a, x=tables.results.get(a.x, a.x)) for a in group)
    shared = tables.of(group[0])
    data = [nodes.to_op(a.x, a.layout, a.root.dtype) for a in group]
    data = [tables.widened(nodes, x, a, shared[0]) for x, a in zip(data, group, strict=True)]
    op = _op(group, data, shared)
    _describe(op, group)
    nodes.made.append(op)
    results = [nodes.from_op(y, a) for y, a in zip(op.outputs, group, strict=True)]
    reason = _difference(group, results, trial, movement)
    if reason is not None:
        return reason
    rotated, roots = [a.x for a in group], [a.root for a in group]
    given = tuple(zip(names_before, rotated, strict=True))
    region = Region(op, given, _named(roots, results))
    tables.results.update(zip(roots, results, strict=True))
    _replace(group, results, [*tables.nodes.made, *nodes.made])
    tables.nodes.made.clear()
    return region


def _form(group: Group) -> Form:
    rotary = group[0].rotary
    return Form(
        tables=tables_of(group[0]).name,
        pairing=rotary.pairing,
        tensors=2 if len(group) == 2 else 1,
        partial=group[0].rotary_size is not None,
    )


def _op(group: Group, data: list[ir.Value], tables: tuple[ir.Value, ...]) -> ir.Node:
    form = _form(group)
    part = {ROTARY_SIZE: group[0].rotary_size} if form.partial else {}
    attributes = ir.convenience.convert_attributes(form.attributes | part)
    inputs = [*data, *tables]
    return ir.Node(names.DOMAIN, form.op_type, inputs, attributes, num_outputs=len(data), version=1)


def _describe(op: ir.Node, group: Group) -> None:
    """Give the op's outputs their types and shapes, which are those of its data."""
    for output, application in zip(op.outputs, group, strict=True):
        shape, layout = application.x.shape, application.layout
        assert shape is not None  # it was evaluated at its shape
        if layout.head_size is not None:
            heads = hidden_of(shape) // layout.head_size
            shape = ir.Shape([*shape[:-1], heads, layout.head_size])
        dims = [shape[axis] for axis in layout.order]
        for axis in layout.inserted:
            dims.insert(axis, 1)
        output.dtype, output.shape = application.root.dtype, ir.Shape(dims)


def _difference(
    group: Group, results: list[ir.Value], trial: Trial, movement: Movement
) -> str | None:
    """Compare what is and what would be; None where they agree."""
    given = deep_values((e.table for a in group for e in a.rotary.entries), trial, movement)
    rng = np.random.default_rng(2)
    given |= {a.x: rng.standard_normal(trial.shape(a.x)) for a in group}
    for entry in (e for a in group for e in a.rotary.entries):
        if entry.rows is not None:
            given[entry.rows.ids] = _positions(entry.table, entry.rows, trial)
            if entry.table not in given:  # a constant, perhaps of millions of elements
                given[entry.table] = rng.standard_normal(trial.shape(entry.table))
    for application, result in zip(group, results, strict=True):
        try:
            old = evaluate(application.root, given, trial, {})
            new = evaluate(result, given, trial, {})
        except UnevaluableError as error:
            return f"cannot be compared with the op: {error}"
        if old.shape != new.shape:
            return f"the op would give shape {new.shape}, the graph gives {old.shape}"
        worst = np.abs(old - new).max(initial=0.0)
        if not worst <= _ROUNDING * np.abs(old).max(initial=1.0):
            return f"the op would differ by {worst:.3g}"
    return None


def _positions(table: ir.Value, rows: Rows, trial: Trial) -> Any:
    """Return random positions whose rows a table has."""
    last = trial.shape(table)[0]
    if rows.begins is not None:
        data, axis = rows.begins
        last -= trial.shape(data)[axis]
    return np.random.default_rng(4).integers(0, max(last, 1), trial.shape(rows.ids))


def _replace(group: Group, results: list[ir.Value], nodes: list[ir.Node]) -> None:
    producer = group[0].root.producer()
    assert producer is not None  # a root is computed
    assert producer.graph is not None
    producer.graph.extend(nodes)
    for application, result in zip(group, results, strict=True):
        old = application.root
        result.dtype, result.shape = old.dtype, old.shape
        ir.convenience.replace_all_uses_with(old, result, replace_graph_outputs=True)
