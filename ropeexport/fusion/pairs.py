"""Which applications are q and k of one attention, so that one op rotates both."""

from __future__ import annotations

import onnx_ir as ir

from ropeexport.fusion.applications import Application


def pair_up(found: list[Application], graph: ir.Graph) -> list[tuple[Application, ...]]:
    """Group neighbours that share tables, pairing and layout, where neither needs the other."""
    places = {node: place for place, node in enumerate(graph)}
    groups: list[tuple[Application, ...]] = []
    waiting: Application | None = None
    for application in found:
        if waiting is None:
            waiting = application
        elif _are_partners(waiting, application, places):
            groups.append((waiting, application))
            waiting = None
        else:
            groups.append((waiting,))
            waiting = application
    return [*groups, (waiting,)] if waiting is not None else groups


def _are_partners(q: Application, k: Application, places: dict[ir.Node, int]) -> bool:
    same = _likeness(q) == _likeness(k)
    return same and _sizes_agree(q, k) and not _needs(k.x, q.root, places)


def _likeness(a: Application) -> tuple[object, ...]:
    rotary = a.rotary
    return (
        rotary.pairing, rotary.entries, rotary.is_rotation, a.rotary_size, a.layout, a.x.dtype,
    )  # fmt: skip


def _sizes_agree(q: Application, k: Application) -> bool:
    """Say whether all but the heads agree; they too where the tables have an axis for them."""
    shapes = q.x.shape, k.x.shape
    if shapes[0] is None or shapes[1] is None:
        return False
    head = None if q.layout.per_head else q.layout.heads
    rest = [[dim for axis, dim in enumerate(shape) if axis != head] for shape in shapes]
    return rest[0] == rest[1]


def _needs(value: ir.Value, other: ir.Value, places: dict[ir.Node, int]) -> bool:
    """Say whether a value is computed from another; nodes before the other's are not walked."""
    start = other.producer()
    assert start is not None  # a root is computed
    pending, seen = [value], set()
    while pending:
        node = pending.pop().producer()
        if node is start:
            return True
        if node is not None and node not in seen and places[node] > places[start]:
            seen.add(node)
            pending.extend(x for x in node.inputs if x is not None)
    return False
