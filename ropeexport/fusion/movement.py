"""What a value is made of: which nodes only move, negate or scale data, and which do the same.

Along the former a value stays linear; tables are followed through a few elementwise operators too.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

import onnx_ir as ir

from ropeexport.operators import MOVERS, Mover, is_standard

# beside what moves elements: what rounds or negates each
_LINEAR = {"Cast": Mover("order"), "Neg": Mover("order")}
FOLLOWED = MOVERS | _LINEAR
# what the arithmetic of shapes is made of
_SHAPE_OPS = MOVERS.keys() | {
    "Add", "Cast", "Ceil", "Constant", "ConstantOfShape", "Div", "Equal", "Floor", "Max", "Min",
    "Mod", "Mul", "Neg", "Range", "Shape", "Size", "Sub",
}  # fmt: skip
# operators beyond movement through which equal table entries stay equal
ELEMENTWISE = {"Cos", "Sin", "Neg", "Mul", "Add", "Sub", "Div", "Cast"}
_COMPARED_BYTES = 1 << 12  # constants up to this size are compared by value

T = TypeVar("T", bound=Hashable)


def closure(start: Iterable[T], onward: Callable[[T], Iterable[T]]) -> list[T]:
    """Return what is reached from a start by steps, each once, the nearest first."""
    found = list(dict.fromkeys(start))
    seen = set(found)
    for x in found:
        new = dict.fromkeys(y for y in onward(x) if y not in seen)
        found.extend(new)
        seen.update(new)
    return found


def in_order(start: T, onward: Callable[[T], Iterable[T]]) -> Iterator[T]:
    """Yield what a start needs by steps and then itself, each once, after all that it needs.

    A chain of nodes may be longer than Python's stack is deep.
    """
    seen, path = {start}, [(start, iter(onward(start)))]
    while path:
        value, rest = path[-1]
        new = next((y for y in rest if y not in seen), None)
        if new is None:
            yield value
            path.pop()
        else:
            seen.add(new)
            path.append((new, iter(onward(new))))


def inputs_of(value: ir.Value) -> list[ir.Value]:
    """Return the values that a value's node reads; none where nothing computes it."""
    node = value.producer()
    return [] if node is None else [x for x in node.inputs if x is not None]


def readers_of(value: ir.Value, graph: ir.Graph | ir.Function | None) -> list[ir.Node]:
    """Return the nodes of a graph that read a value, but for those in a graph inside it."""
    return [node for node in value.consumers() if node.graph is graph]


def is_read_inside(value: ir.Value) -> bool:
    """Say whether a node in a graph inside a value's own reads it, a branch or a loop's body."""
    node = value.producer()
    graph = node.graph if node is not None else value.graph
    return len(readers_of(value, graph)) < len(value.consumers())


def needs_of(value: ir.Value) -> list[ir.Value]:
    """Return the values that a value's node reads, those that are read in its branches too."""
    node = value.producer()
    graphs = [] if node is None else graphs_of(node).values()
    return inputs_of(value) + [x for graph in graphs for x in _read_in(graph)]


def graphs_of(node: ir.Node) -> dict[str, ir.Graph]:
    """Return the graphs that a node holds, branches and the body of a loop, by attribute."""
    attributes = node.attributes.items()
    return {name: a.as_graph() for name, a in attributes if a.type == ir.AttributeType.GRAPH}


def _read_in(graph: ir.Graph) -> list[ir.Value]:
    read = [x for node in graph.all_nodes() for x in node.inputs]
    return [x for x in (*read, *graph.outputs) if x is not None]


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
            for x in in_order(value, self._unknown_inputs):
                self._computable[x] = self._follows(x)
        return self._computable[value]

    def _unknown_inputs(self, value: ir.Value) -> list[ir.Value]:
        """Return the inputs that say whether a value is computable, those not known yet."""
        node = value.producer()
        if node is None or is_standard(node, "Shape") or not is_standard(node, *_SHAPE_OPS):
            return []
        return [x for x in inputs_of(value) if x not in self._computable]

    def _follows(self, value: ir.Value) -> bool:
        node = value.producer()
        if node is None:
            return value.const_value is not None
        if is_standard(node, "Shape"):
            return True
        known = (self._computable.get(x, False) for x in inputs_of(value))
        return is_standard(node, *_SHAPE_OPS) and all(known)

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
        if node.op_type not in FOLLOWED:
            return None
        chosen = FOLLOWED[node.op_type].data
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

    def deep_sources(self, value: ir.Value) -> tuple[ir.Value, ...] | None:
        """Return what a table is made from; None where its values are to be taken as they are."""
        sources, node = self.sources(value), value.producer()
        if sources is not None or node is None or not is_standard(node, *ELEMENTWISE):
            return sources
        inputs = inputs_of(value)
        known = all(is_float(x) and x.shape is not None for x in inputs)
        return tuple(inputs) if known else None

    def ancestors(self, value: ir.Value) -> list[ir.Value]:
        """Return a value and all that it is moved from, the nearest first."""
        return closure([value], lambda x: self.sources(x) or ())

    def leaves(self, value: ir.Value, stop: ir.Value) -> set[ir.Value]:
        """Return where a value comes from by movement alone, constants left out."""
        reached = closure([value], lambda x: () if x is stop else self.sources(x) or ())
        ends = {x for x in reached if x is stop or self.sources(x) is None}
        return {x for x in ends if x is stop or not self.is_computable(x)}


def is_float(value: ir.Value) -> bool:
    """Say whether a value is known to be of a floating type."""
    return value.dtype is not None and value.dtype.is_floating_point()


def is_scalar(value: ir.Value) -> bool:
    """Say whether a value is one constant number."""
    tensor = value.const_value
    return tensor is not None and tensor.size == 1


def merge_twins(graph: ir.Graph) -> None:
    """Let data that is moved twice in the same way be moved once, in place.

    The nodes that nothing reads any more stay.
    """
    movement = Movement()
    twins = Twins(movement)
    for output in [output for node in graph for output in node.outputs]:
        first = twins.first_of(output) if movement.sources(output) else output
        if first is not output:  # which may be an output of the graph, and stays one
            for node, index in list(output.uses()):
                node.replace_input_with(index, first)


class Twins:
    """Tables that a graph computes twice, by structure: equal operators on equal inputs."""

    def __init__(self, movement: Movement) -> None:
        self._movement = movement
        self._keys: dict[ir.Value, Hashable] = {}
        self._first: dict[Hashable, ir.Value] = {}

    def first_of(self, value: ir.Value) -> ir.Value:
        """Return the first value seen that is computed in the same way, which may be this one."""
        if value not in self._keys:
            for x in in_order(value, self._unknown_inputs):
                self._keys[x] = self._structure(x)
                self._first.setdefault(self._keys[x], x)
        return self._first[self._keys[value]]

    def _unknown_inputs(self, value: ir.Value) -> list[ir.Value]:
        is_made = value.const_value is None and self._is_moved(value)
        return [x for x in inputs_of(value) if x not in self._keys] if is_made else []

    def _is_moved(self, value: ir.Value) -> bool:
        return self._movement.is_computable(value) or bool(self._movement.deep_sources(value))

    def _structure(self, value: ir.Value) -> Hashable:
        tensor, node = value.const_value, value.producer()
        if tensor is not None:
            # a weight stays its own; what lies in a file may not be there yet
            if tensor.nbytes > _COMPARED_BYTES or isinstance(tensor, ir.ExternalTensor):
                return id(value)
            return (str(tensor.dtype), tuple(tensor.shape), tensor.tobytes())
        if node is None or not self._is_moved(value):
            return id(value)
        inputs = tuple(None if x is None else id(self._first[self._keys[x]]) for x in node.inputs)
        attributes = tuple(sorted((name, str(a.value)) for name, a in node.attributes.items()))
        return (node.domain, node.op_type, attributes, inputs, value.index())
