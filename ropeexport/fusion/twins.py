"""Tables that a graph computes twice: one of them stands for all."""

from __future__ import annotations

from collections.abc import Hashable

import onnx_ir as ir

from ropeexport.fusion.movement import Movement
from ropeexport.fusion.probe import deep_sources

_COMPARED_BYTES = 1 << 12  # constants up to this size are compared by value


class Twins:
    """Structural identity of tables: equal operators on equal inputs, down to their sources."""

    def __init__(self, movement: Movement) -> None:
        self._movement = movement
        self._keys: dict[ir.Value, Hashable] = {}
        self._first: dict[Hashable, ir.Value] = {}

    def first_of(self, value: ir.Value) -> ir.Value:
        """Return the first value seen that is computed in the same way, which may be this one."""
        return self._first.setdefault(self._key(value), value)

    def _key(self, value: ir.Value) -> Hashable:
        if value not in self._keys:
            self._keys[value] = self._structure(value)
        return self._keys[value]

    def _structure(self, value: ir.Value) -> Hashable:
        tensor, node = value.const_value, value.producer()
        if tensor is not None:
            if tensor.nbytes > _COMPARED_BYTES:
                return id(value)  # a text of its numbers leaves most of them out
            return (str(tensor.dtype), tuple(tensor.shape), tensor.tobytes())
        moved = self._movement.is_computable(value) or deep_sources(value, self._movement)
        if node is None or not moved:
            return id(value)
        inputs = tuple(None if x is None else self._number(x) for x in node.inputs)
        attributes = tuple(sorted((name, str(a.value)) for name, a in node.attributes.items()))
        return (node.domain, node.op_type, attributes, inputs, value.index())

    def _number(self, value: ir.Value) -> int:
        return id(self.first_of(value))
