"""ONNX's own operators: which nodes are of them, and what those that only move elements keep.

Every stage that looks through operators that move (recognition, roles of inputs, types, lint) asks
the one table here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import onnx_ir as ir

STANDARD = ("", "ai.onnx")  # their domain


def is_standard(node: ir.Node, *op_types: str) -> bool:
    """Say whether a node is one of ONNX's own operators, of these types where any are given."""
    return node.domain in STANDARD and (not op_types or node.op_type in op_types)


Keeps = Literal["order", "elements", "some", "copies", "joined"]


@dataclass(frozen=True)
class Mover:
    """An operator whose outputs consist of elements of its data.

    Parameters
    ----------
    keeps : str
        ``order``: each element once, in the order in which they lie; ``elements``: each once, in
        another order; ``some``: a selection; ``copies``: each, perhaps several times; ``joined``:
        elements of several tensors, or of one and a filling.
    data : tuple of int or None
        Which inputs are data, the others say how it moves; None: all of them.
    """

    keeps: Keeps
    data: tuple[int, ...] | None = (0,)


MOVERS = {
    **dict.fromkeys(("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"), Mover("order")),
    "Transpose": Mover("elements"),
    **dict.fromkeys(("Gather", "GatherElements", "GatherND", "Slice", "Split"), Mover("some")),
    **dict.fromkeys(("Expand", "Tile"), Mover("copies")),
    "Concat": Mover("joined", None),
    "Pad": Mover("joined"),
    "ScatterElements": Mover("joined", (0, 2)),
    "ScatterND": Mover("joined", (0, 2)),
    "Where": Mover("joined", (1, 2)),
}


def that_keep(*kept: Keeps) -> frozenset[str]:
    """Return the operators that keep so much of their data.

    Examples
    --------
    >>> sorted(that_keep("copies"))
    ['Expand', 'Tile']
    """
    return frozenset(name for name, mover in MOVERS.items() if mover.keeps in kept)


KEEP_ORDER = that_keep("order")
KEEP_ELEMENTS = that_keep("order", "elements")
