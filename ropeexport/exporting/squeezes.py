"""Axes that a module squeezes wherever they have one element: eager's result has fewer axes there.

torch takes a dynamic axis for 2 or longer and leaves it in; a file has one number of axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ropeexport.exporting.fitting import range_error
from ropeexport.models.example import Example

_SQUEEZE = torch.ops.aten.squeeze
_LEAST = 2


def check_squeezes(
    program: torch.export.ExportedProgram, example: Example, inputs: Mapping[str, str]
) -> None:
    """Raise where a dynamic axis that is squeezed may have one element.

    Parameters are those of :func:`~ropeexport.exporting.tables.check_tables`.

    Raises
    ------
    AxisRangeError
        With 2 as the least size of that axis.
    """
    labels: dict[Any, str] = {}
    for node in program.graph.find_nodes(op="placeholder"):
        for axis, label in example.tensor_axes.get(inputs.get(node.target, ""), {}).items():
            labels[_expression(node.meta["val"].shape[axis])] = label
    squeezes = (
        n for n in program.graph.nodes if getattr(n.target, "overloadpacket", 0) is _SQUEEZE
    )
    places = ((node, axis) for node in squeezes for axis in squeezed_axes(node))
    for node, axis in places:
        name = labels.get(_expression(node.args[0].meta["val"].shape[axis]))
        if name in example.axes and example.axes[name].min < _LEAST:
            reason = ", as it is squeezed, which leaves fewer axes where it is 1"
            raise range_error(example, {name: (_LEAST, None)}, reason)


def squeezed_axes(node: torch.fx.Node) -> list[int]:
    """Return the axes that a node squeezes where they have one element."""
    arguments: Any = node.args
    given = arguments[1] if len(arguments) > 1 else range(arguments[0].meta["val"].ndim)
    return [given] if isinstance(given, int) else list(given)


def _expression(size: Any) -> Any:
    return getattr(getattr(size, "node", None), "expr", None)
