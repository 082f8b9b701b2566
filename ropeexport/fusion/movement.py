"""Which nodes only move, negate or scale data: the paths on which a value stays linear."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from ropeexport.operators import MOVERS, Mover, is_standard

# beside what moves elements: what rounds or negates each
_LINEAR = {"Cast": Mover("order"), "Neg": Mover("order")}
_FOLLOWED = MOVERS | _LINEAR
# what the arithmetic of shapes is made of
_SHAPE_OPS = MOVERS.keys() | {
    "Add", "Cast", "Ceil", "Constant", "ConstantOfShape", "Div", "Equal", "Floor", "Max", "Min",
    "Mod", "Mul", "Neg", "Range", "Shape", "Size", "Sub",
}  # fmt: skip


class Movement:
    """Answers about one graph, remembered."""

    def __init__(self) -> None:
        self._computable: dict[ir.Value, bool] = {}
        self._sources: dict[ir.Value, tuple[ir.Value, ...] | None] = {}

    def is_computable(self, value: ir.Value | None) -> bool:
        """Say whether a value follows from constants and shapes alone."""
        if value is None:
            return True
        if value not in self._computable:
            self._computable[value] = False  # a cycle cannot be; this ends a deep recursion
            self._computable[value] = self._follows(value)
        return self._computable[value]

    def _follows(self, value: ir.Value) -> bool:
        node = value.producer()
        if node is None:
            return value.const_value is not None
        if is_standard(node, "Shape"):
            return True
        return is_standard(node, *_SHAPE_OPS) and all(map(self.is_computable, node.inputs))

    def sources(self, value: ir.Value) -> tuple[ir.Value, ...] | None:
        """Return the data that a value is moved, negated or scaled from; None where it is new."""
        if value not in self._sources:
            self._sources[value] = self._find_sources(value)
        return self._sources[value]

    def _find_sources(self, value: ir.Value) -> tuple[ir.Value, ...] | None:
        node = value.producer()
        if node is None or not is_standard(node) or not is_float(value):
            return None
        if node.op_type in ("Mul", "Div"):
            return self._scaled(node)
        if node.op_type not in _FOLLOWED:
            return None
        chosen = _FOLLOWED[node.op_type].data
        data = [x for i, x in enumerate(node.inputs) if x and (chosen is None or i in chosen)]
        others = [x for x in node.inputs if x is not None and x not in data]
        moves = all(map(self.is_computable, others)) and all(map(is_float, data))
        return tuple(data) if moves else None

    def _scaled(self, node: ir.Node) -> tuple[ir.Value, ...] | None:
        left, right = node.inputs
        assert left is not None
        assert right is not None
        if is_scalar(right):
            return (left,)
        return (right,) if node.op_type == "Mul" and is_scalar(left) else None

    def leaves(self, value: ir.Value, stop: ir.Value | None = None) -> set[ir.Value]:
        """Return where a value comes from by movement alone, constants left out."""
        found: set[ir.Value] = set()
        seen: set[ir.Value] = set()
        pending = [value]
        while pending:
            x = pending.pop()
            if x in seen:
                continue
            seen.add(x)
            sources = None if x is stop else self.sources(x)
            if sources is not None:
                pending.extend(sources)
            elif x is stop or not self.is_computable(x):
                found.add(x)
        return found

    def ancestors(self, value: ir.Value) -> Iterator[ir.Value]:
        """Yield a value and all that it is moved from, the nearest first."""
        seen = [value]
        for x in seen:
            yield x
            seen.extend(y for y in self.sources(x) or () if y not in seen)


def is_float(value: ir.Value) -> bool:
    """Say whether a value is known to be of a floating type."""
    return value.dtype is not None and value.dtype.is_floating_point()


def is_scalar(value: ir.Value) -> bool:
    """Say whether a value is one constant number."""
    tensor = value.const_value
    return tensor is not None and tensor.size == 1
