"""What looks like a rotary application by its nodes alone, whatever is known of types and shapes.

Recognition proves by numbers, for which it needs types and shapes.  Where those are missing, or the
nodes lie in a branch, what is here says that there was something to judge.  Three marks tell a
rotation from other sums of products: data and its turned twin, a concatenation of its own parts;
two parts that are added in one row and subtracted in another; and tables made of cosines and sines.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, product

import onnx_ir as ir

from ropeexport.fusion.movement import (
    ELEMENTWISE,
    FOLLOWED,
    closure,
    graphs_of,
    inputs_of,
    is_scalar,
)
from ropeexport.manifest import Refusal
from ropeexport.operators import is_standard
from ropeexport.ops import names

SUMS = ("Add", "Sub", "Sum")
_PARTS = ("Slice", "Split", "Gather")
_ROUNDED = ("QuantizeLinear", "DequantizeLinear")
_WAVES = {"Cos", "Sin"}
_MOST_PRODUCTS = 8
_OTHERWISE = "it is no sum of data, moved, times tables, or a type is not known"

Pair = tuple[ir.Node, ir.Node]
Data = frozenset[ir.Value]


def refusal(node: ir.Node, reason: str) -> Refusal:
    """Return why a node is left as it is written."""
    return Refusal(node=str(node.name or node.outputs[0].name), reason=reason)


def not_judged(
    nodes: Iterable[ir.Node], judged: Container[ir.Node], reasons: Mapping[ir.Node, str]
) -> list[Refusal]:
    """Return what looks like a rotation and was not judged, and why.

    Parameters
    ----------
    nodes : iterable of Node
        Of one graph.
    judged : container of Node
        Products that were.
    reasons : dict
        Why other sums were not.
    """
    return [
        refusal(node, _unknown(node) or _quantised(products) or reasons.get(node, _OTHERWISE))
        for node, products in suspects(nodes).items()
        if not any(x in judged for x in products)
    ]


def graphs_inside(graph: ir.Graph) -> Iterator[tuple[ir.Graph, str]]:
    """Yield the graphs that nodes hold, branches and bodies of loops, and where each lies."""
    for node in graph:
        for name, body in graphs_of(node).items():
            yield body, f"inside the {name} of {node.op_type} {node.name!r}"
            yield from graphs_inside(body)


def fused_rotation(node: ir.Node) -> str | None:
    """Return why a rotation inside another's operator stays as it is; None where it has none."""
    name = f"{node.domain}::{node.op_type}"
    if is_standard(node) or node.domain == names.DOMAIN:
        return None
    if node.attributes.get_int("do_rotary", 0):
        return f"the rotation is inside the kernel of {name}, which stays as it is"
    return f"no meaning is known of {name}" if "rotary" in node.op_type.lower() else None


def _unknown(node: ir.Node) -> str | None:
    """Return the first value on the way to a sum whose type or shape is not known."""

    def before(value: ir.Value) -> Sequence[ir.Value]:
        is_near = not is_product(value) and not _lacks_shape(value)
        return [x for x in inputs_of(value) if is_near or _lacks_shape(x)]

    for value in closure([node.outputs[0]], before):
        if _lacks_shape(value) and not any(map(_lacks_shape, inputs_of(value))):
            return f"unknown shapes at {value.name}"
    return None


def _quantised(products: Iterable[ir.Node]) -> str | None:
    """Return which product of a rotation's data is rounded to few bits; None where none is."""
    factors = [x for node in products for x in inputs_of(node.outputs[0])]
    for reader in (node for x in factors for node in x.consumers() if is_standard(node, "Mul")):
        if any(is_standard(node, "QuantizeLinear") for node in reader.outputs[0].consumers()):
            return (
                f"{reader.outputs[0].name} is quantised inside the rotation; quantise matrix "
                'products alone (ModelOpt: op_types_to_quantize=["MatMul"])'
            )
    return None


def _lacks_shape(value: ir.Value) -> bool:
    return value.const_value is None and (value.dtype is None or value.shape is None)


def is_product(value: ir.Value) -> bool:
    """Say whether a value is a product of tensors, or computed by nothing."""
    node = value.producer()
    return node is None or (is_standard(node, "Mul") and not moved_from(value))


def suspects(nodes: Iterable[ir.Node]) -> dict[ir.Node, frozenset[ir.Node]]:
    """Return the sums that look like the last step of a rotation, and the products of each.

    Of the rows of one rotation there is the first alone.
    """
    products: dict[ir.Value, frozenset[ir.Node]] = {}
    rows: dict[Data, list[ir.Node]] = {}  # sums of the same two parts
    marked: dict[ir.Node, list[Data]] = {}
    for node in nodes:
        for output in node.outputs:
            made = _products(node, output, products)
            if made and len(made) <= _MOST_PRODUCTS:
                products[output] = made
        for pair in _pairs(node, products):
            parts = list(_parts_of(pair))
            for data in parts:
                rows.setdefault(data, []).append(node)
            if _is_turned(pair) or _has_waves(pair):
                marked.setdefault(node, []).extend(parts)
    for data, found in rows.items():
        if len({node.op_type == "Sub" for node in found}) == 2:
            marked.setdefault(found[0], []).append(data)
    kept: dict[ir.Node, frozenset[ir.Node]] = {}
    seen: set[Data | ir.Node] = set()
    for node, parts in marked.items():
        made = products[node.outputs[0]]
        if seen.isdisjoint([*parts, *made]):
            kept[node] = made
        seen.update(parts, made)
    return kept


def _products(
    node: ir.Node, output: ir.Value, known: Mapping[ir.Value, frozenset[ir.Node]]
) -> frozenset[ir.Node]:
    """Return the products that a value is moved and added from."""
    if is_standard(node, *SUMS):
        parts = [known.get(x, frozenset()) for x in inputs_of(output)]
        return frozenset().union(*parts) if all(parts) else frozenset()
    if is_standard(node, "Mul") and is_product(output):
        return frozenset([node])
    return frozenset().union(*(known.get(x, frozenset()) for x in moved_from(output)))


def moved_from(value: ir.Value) -> Sequence[ir.Value]:
    """Return what a value is moved from, with no regard to its type and to how it is moved."""
    node = value.producer()
    if node is None or not is_standard(node):
        return ()
    if node.op_type in ("Mul", "Div"):
        left, right = node.inputs
        scaled = [x for x, other in ((left, right), (right, left)) if other and is_scalar(other)]
        return [x for x in scaled if x is not None][:1]
    if node.op_type in _ROUNDED:
        return inputs_of(value)[:1]
    if node.op_type not in FOLLOWED:
        return ()
    chosen = FOLLOWED[node.op_type].data
    return [x for i, x in enumerate(node.inputs) if x and (chosen is None or i in chosen)]


def _pairs(node: ir.Node, products: Mapping[ir.Value, frozenset[ir.Node]]) -> list[Pair]:
    if not is_standard(node, *SUMS):
        return []
    return list(combinations(products.get(node.outputs[0], ()), 2))


def _factors(pair: Pair) -> Iterator[tuple[ir.Value, ir.Value, ir.Value, ir.Value]]:
    """Yield which factor of each product may be data, and the other of each, its table."""
    for (f, c), (g, d) in product(*map(_split, pair)):
        if f is not g and c is not f and d is not g:
            yield f, g, c, d


def _split(node: ir.Node, steps: int = 2) -> list[tuple[ir.Value, ir.Value]]:
    """Return each factor of a product with its other one, and those of factors that are products.

    Of a rotation that is scaled by a further tensor (xPos), the inner product holds the data.
    """
    left, right = node.inputs
    if left is None or right is None:
        return []
    inner = [x.producer() for x in (left, right) if steps and is_product(x)]
    parts = [part for n in inner if n is not None for part in _split(n, steps - 1)]
    return [(left, right), (right, left), *parts]


def _ancestors(value: ir.Value) -> set[ir.Value]:
    return set(closure([value], moved_from))


def _shared(values: Iterable[ir.Value]) -> set[ir.Value]:
    """Return what all of some values are moved from, constants left out."""
    reached = set.intersection(*map(_ancestors, values))
    return {x for x in reached if x.const_value is None}


def _is_turned(pair: Pair) -> bool:
    """Say whether data and parts of the same data in another order are both factors."""
    for f, g, _, _ in _factors(pair):
        shared = _shared([f, g])
        if shared and any(_turns(x, shared) for x in _ancestors(f) ^ _ancestors(g)):
            return True
    return False


def _turns(value: ir.Value, data: set[ir.Value]) -> bool:
    """Say whether a value joins several parts of data."""
    node = value.producer()
    if node is None or not is_standard(node, "Concat") or len(set(node.inputs)) < 2:
        return False
    inputs = inputs_of(value)
    return bool(_shared(inputs) & data) and all(map(_is_part, inputs))


def _is_part(value: ir.Value) -> bool:
    nodes = (x.producer() for x in _ancestors(value))
    return any(node is not None and is_standard(node, *_PARTS) for node in nodes)


def _has_waves(pair: Pair) -> bool:
    """Say whether parts of the same data meet tables that are made of a cosine and a sine."""
    return any(_operators([c, d]) >= _WAVES and _shared([f, g]) for f, g, c, d in _factors(pair))


def _operators(values: Iterable[ir.Value]) -> set[str]:
    """Return the types of the operators that tables are made by."""

    def made_of(value: ir.Value) -> Sequence[ir.Value]:
        node = value.producer()
        is_elementwise = node is not None and is_standard(node, *ELEMENTWISE)
        return moved_from(value) or (inputs_of(value) if is_elementwise else ())

    nodes = (x.producer() for x in closure(values, made_of))
    return {node.op_type for node in nodes if node is not None and is_standard(node)}


def _parts_of(pair: Pair) -> Iterator[Data]:
    """Yield two parts of the same data that a row may be made of."""
    for f, g, c, d in _factors(pair):
        are_parts = _shared([f, g]) and _is_part(f) and _is_part(g)
        is_data = are_parts and not _WAVES & _operators([f, g])
        if is_data or _operators([c, d]) >= _WAVES:
            yield frozenset([f, g])
