"""The ops, each once: what a stage does for an op of the domain, it does for every row here."""

from __future__ import annotations

from collections.abc import Iterable

from ropeexport.manifest import Role
from ropeexport.ops import apply_rope, attention, names, norm_rope, rope_table
from ropeexport.ops.op import Op

OPS: tuple[Op, ...] = (*apply_rope.OPS, *norm_rope.OPS, rope_table.OP, attention.OP)

_BY_TYPE = {op.op_type: op for op in OPS}


def op_of(domain: str, op_type: str) -> Op | None:
    """Return the op of a node, or None where it is none of ropeexport's."""
    return _BY_TYPE.get(op_type) if domain == names.DOMAIN else None


def used_by(nodes: Iterable[tuple[str, str]]) -> list[Op]:
    """Return the ops of nodes, each given by its domain and op type, in the order of ``OPS``."""
    found = {op.op_type for node in nodes if (op := op_of(*node)) is not None}
    return [op for op in OPS if op.op_type in found]


def op_of_role(role: Role) -> Op | None:
    """Return the first op whose results have a role; None: it says nothing of what made them."""
    return next((op for op in OPS if role in map(op.roles.get, op.outputs)), None)
