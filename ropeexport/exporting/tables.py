"""How many rows the tables have that a module looks up by positions of its own.

torch's tracer sees a table that is cut to a length, but not ``embedding(arange(length))``: the rows
that are asked for are values.  Where they follow from sizes alone, they are computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

import torch
from torch import fx

from ropeexport.axes import names_of, sum_of
from ropeexport.errors import ExportError
from ropeexport.exporting.fitting import Box, cut, range_error
from ropeexport.fusion.movement import closure
from ropeexport.models.example import Example, example_sizes

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


def check_tables(
    program: torch.export.ExportedProgram, example: Example, inputs: Mapping[str, str]
) -> None:
    """Raise where axes may be so long together that a table has too few rows.

    Parameters
    ----------
    program : ExportedProgram
        Of the example.
    example : Example
        With the ranges of its axes.
    inputs : mapping of str to str
        The program's name of each input, and the example's.

    Raises
    ------
    AxisRangeError
        With the largest sizes that every table has rows for.
    ExportError
        Where no ranges say it.
    """
    known = _known(program, example, inputs)
    lookups = [(size, rows) for size, rows in _lookups(program) if rows in known]
    asked = [rows for _, rows in lookups]
    wanted = set(closure(asked, lambda node: (x for x in node.all_input_nodes if x in known)))
    known = {node: label for node, label in known.items() if node in wanted}
    sizes, axes = example_sizes(example), example.axes
    names = names_of(label for label in known.values() if label is not None)
    start = {name: (min(axes[name].min, sizes[name]), sizes[name]) for name in names}
    full = {name: (low, max(axes[name].max, size)) for name, (low, size) in start.items()}

    def fits(box: Box) -> bool:
        corners = product(*box.values())
        return all(_hold(lookups, known, dict(zip(box, each, strict=True))) for each in corners)

    bounds = cut(example, start, full, fits)
    if bounds is None:
        raise ExportError(
            f"{type(example.module).__name__}: a table has fewer rows than the sizes of "
            f"{', '.join(names)} ask for, which no ranges of them say: leave one of them out of "
            "dynamic_axes, so that it is fixed at the example's size",
            code="RX203",
        )
    if bounds:
        raise range_error(example, bounds, ", as a table has fewer rows than an axis may be long")


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
    for node, label in known.items():
        if label is not None:
            values[node] = sum_of(label).at(sizes)
        else:
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
