"""Which lengths the tables of a module hold: rows that it looks up by positions of its own making.

torch's tracer sees a table that is cut to a length, but not ``embedding(arange(length))``: the
rows that are asked for are values.  Where they follow from sizes alone, they are computed here.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ropeexport.models.example import Example

_SIZE = torch.ops.aten.sym_size.int
_EMBEDDING = torch.ops.aten.embedding.default
_SELECT = torch.ops.aten.index_select.default
_INDEX = torch.ops.aten.index.Tensor


@dataclass(frozen=True)
class _Lookup:
    """How many rows a table has, and the node that says which are asked for."""

    size: int
    rows: fx.Node


def bounds_of_tables(
    program: torch.export.ExportedProgram, example: Example, inputs: Mapping[str, str]
) -> dict[str, tuple[None, int]]:
    """Return the largest size of each dynamic axis whose range is beyond what some table holds.

    Parameters
    ----------
    program : ExportedProgram
        Of the example.
    example : Example
        With the ranges of its axes.
    inputs : mapping of str to str
        The program's name of each input, and the example's.
    """
    labels = _labels(program, example, inputs)
    known = _known(program, labels)
    lookups = [lookup for lookup in _lookups(program) if lookup.rows in known]
    sizes = {
        label: example.tensors[name].shape[axis]
        for name, named in example.tensor_axes.items()
        for axis, label in named.items()
    }
    found: dict[str, tuple[None, int]] = {}
    for label in sizes if lookups else ():
        low, high = 1, example.axes[label].max if label in example.axes else 1
        if _hold(lookups, known, {**sizes, label: high}):
            continue
        while high - low > 1:
            middle = (low + high) // 2
            holds = _hold(lookups, known, {**sizes, label: middle})
            low, high = (middle, high) if holds else (low, middle)
        found[label] = (None, low)
    return found


def _labels(
    program: torch.export.ExportedProgram, example: Example, inputs: Mapping[str, str]
) -> dict[fx.Node, str]:
    """Return the nodes that are the size of a dynamic axis, with its name."""
    found = {}
    for node in program.graph.nodes:
        if node.target is _SIZE and node.args[0].op == "placeholder":
            name = inputs.get(node.args[0].target, "")
            label = example.tensor_axes.get(name, {}).get(node.args[1])
            if label is not None:
                found[node] = label
    return found


def _known(
    program: torch.export.ExportedProgram, labels: Mapping[fx.Node, str]
) -> dict[fx.Node, str | None]:
    """Return, in order, the nodes that follow from sizes alone."""
    known: dict[fx.Node, str | None] = {}
    for node in program.graph.nodes:
        made = node.op == "call_function" and all(x in known for x in node.all_input_nodes)
        if node in labels or made:
            known[node] = labels.get(node)
    return known


def _lookups(program: torch.export.ExportedProgram) -> Iterator[_Lookup]:
    for node in program.graph.nodes:
        if node.target is _EMBEDDING:
            pairs = [(0, node.args[1])]
        elif node.target is _SELECT:
            pairs = [(node.args[1], node.args[2])]
        elif node.target is _INDEX:
            pairs = [(axis, rows) for axis, rows in enumerate(node.args[1]) if rows is not None]
        else:
            continue
        for axis, rows in pairs:
            size = node.args[0].meta["val"].shape[axis]
            if isinstance(size, int) and rows.meta["val"].dtype is not torch.bool:
                yield _Lookup(size, rows)


def _hold(
    lookups: list[_Lookup], known: Mapping[fx.Node, str | None], sizes: Mapping[str, int]
) -> bool:
    """Say whether each table has the rows that are asked for at some sizes."""
    values: dict[fx.Node, Any] = {}
    wanted = _ancestors(lookups, known)
    for node, label in known.items():
        if node not in wanted:
            continue
        if label is not None:
            values[node] = sizes[label]
            continue
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
        try:
            values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        except Exception:  # other sizes than these must go with it: nothing is said of the table
            return True
    asked = [(lookup.size, values[lookup.rows]) for lookup in lookups]
    return all(
        not rows.numel() or -size <= int(rows.min()) <= int(rows.max()) < size
        for size, rows in asked
    )


def _ancestors(lookups: list[_Lookup], known: Container[fx.Node]) -> set[fx.Node]:
    """Return what the rows are made of, down to the sizes."""
    found = {lookup.rows for lookup in lookups}
    pending = list(found)
    for node in pending:
        new = {x for x in node.all_input_nodes if x in known} - found
        found |= new
        pending.extend(new)
    return found
