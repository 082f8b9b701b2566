"""How many rows the tables have that a module looks up by positions of its own.

torch's tracer sees a table that is cut to a length, but not ``embedding(arange(length))``: the rows
that are asked for are values.  Where they follow from sizes alone, they are computed here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import fx

from ropeexport.fusion.movement import closure
from ropeexport.models.example import Example

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
