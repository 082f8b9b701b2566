"""A root mean square norm in a graph: onnx's own operator, or written out."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ropeexport.operators import is_standard

_FLOAT = ir.DataType.FLOAT
# norms of another kind, which no op computes
_OTHERS = ("LayerNormalization", "GroupNormalization", "LpNormalization", "InstanceNormalization")
_MOST_STEPS = 16  # from a weight to a scale: casts, an addition of 1, an expansion


class NoNormError(Exception):
    """No op norms so; the text says why."""


@dataclass(frozen=True)
class Norm:
    """A norm of ``x`` over its last axis, times ``scale``, which is None where there is none."""

    x: ir.Value
    scale: ir.Value | None
    epsilon: float
    rounds_first: bool | None  # before it is scaled; None: there is one type, or no scale
    result: ir.Value


def norm_of(value: ir.Value) -> Norm | None:
    """Return the norm that a value is the result of; None where it is of none.

    Raises
    ------
    NoNormError
        Where it is a norm of another kind.
    """
    node = value.producer()
    if node is None:
        return None
    if is_standard(node, *_OTHERS):
        raise NoNormError(f"its norm is {node.op_type}")
    if is_standard(node, "RMSNormalization"):
        return _by_operator(node)
    return _written_out(value)


def _by_operator(node: ir.Node) -> Norm:
    x, scale = node.inputs[:2]
    assert x is not None  # both are needed by the operator
    assert scale is not None
    rank = len(x.shape) if x.shape is not None else 0
    axis = node.attributes.get_int("axis", -1)
    if axis not in (-1, rank - 1):
        raise NoNormError("its norm goes over several axes")
    source = _uncast(x)
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    if _is_ones(scale):
        return Norm(source, None, epsilon, None, node.outputs[0])
    rounds_first = None if _is_one_type(source, scale) else scale.dtype == x.dtype != _FLOAT
    return Norm(source, scale, epsilon, rounds_first, node.outputs[0])


def _is_ones(scale: ir.Value) -> bool:
    """Say whether a scale is ones in the data's shape, as torch's exporter writes none."""
    node = scale.producer()
    if node is None or not is_standard(node, "ConstantOfShape") or "value" not in node.attributes:
        return False
    return bool((node.attributes["value"].as_tensor().numpy() == 1).all())


def _is_one_type(x: ir.Value, scale: ir.Value) -> bool:
    return {x.dtype, scale.dtype} == {_FLOAT}


def _written_out(value: ir.Value) -> Norm | None:
    """Return a norm of elementwise operators: (x * rsqrt(mean(x * x) + eps)) * scale."""
    inner = _uncast(value)
    node = inner.producer()
    if node is None or not is_standard(node, "Mul", "Div"):
        return None
    plain = _normalised(inner)
    if plain is not None:
        x, epsilon = plain
        return Norm(_uncast(x), None, epsilon, None, value)
    if node.op_type != "Mul":
        return None
    for scaled, scale in (node.inputs, tuple(reversed(node.inputs))):
        assert scaled is not None
        assert scale is not None
        normed = _uncast(scaled)
        plain = _normalised(normed)
        if plain is None or not _is_weight(scale):
            continue
        x, epsilon = plain
        source = _uncast(x)
        types = {t.dtype for t in (source, scaled, scale, value)}
        narrowed = normed is not scaled and scaled.dtype != _FLOAT
        first = None if len(types) == 1 else narrowed or _was_narrow(scaled)
        return Norm(source, scale, epsilon, first, value)
    return None


def _was_narrow(value: ir.Value) -> bool:
    """Say whether casts have rounded a value to a half type on the way."""
    while (node := value.producer()) is not None and is_standard(node, "Cast"):
        if value.dtype != _FLOAT:
            return True
        assert node.inputs[0] is not None
        value = node.inputs[0]
    return False


def _normalised(value: ir.Value) -> tuple[ir.Value, float] | None:
    """Return x and epsilon of ``x / sqrt(mean(x * x) + epsilon)``, over the last axis."""
    node = value.producer()
    if node is None or len(node.inputs) != 2:
        return None
    left, right = node.inputs
    if left is None or right is None:
        return None
    if is_standard(node, "Div"):
        pairs = [(left, _argument(right, "Sqrt"))]
    elif is_standard(node, "Mul"):
        pairs = [(left, _of_inverse_root(right)), (right, _of_inverse_root(left))]
    else:
        return None
    for x, inside in pairs:
        epsilon = None if inside is None else _epsilon_of(inside, x)
        if epsilon is not None:
            return x, epsilon
    return None


def _of_inverse_root(value: ir.Value) -> ir.Value | None:
    """Return what a value is one over the square root of."""
    node = value.producer()
    if node is None:
        return None
    if is_standard(node, "Reciprocal"):
        return None if node.inputs[0] is None else _argument(node.inputs[0], "Sqrt")
    if is_standard(node, "Div") and _number(node.inputs[0]) == 1.0:
        return None if node.inputs[1] is None else _argument(node.inputs[1], "Sqrt")
    if is_standard(node, "Pow") and _number(node.inputs[1]) == -0.5:
        return node.inputs[0]
    return None


def _epsilon_of(value: ir.Value, x: ir.Value) -> float | None:
    """Return what is added to the mean of the squares of ``x``; None: it is something else."""
    node = value.producer()
    epsilon = 0.0
    if node is not None and is_standard(node, "Add"):
        for mean, other in (node.inputs, tuple(reversed(node.inputs))):
            number = _number(other)
            if number is not None and mean is not None:
                epsilon, node = number, mean.producer()
                break
    if node is None or not is_standard(node, "ReduceMean"):
        return None
    axes = node.inputs[1].const_value if len(node.inputs) > 1 and node.inputs[1] else None
    rank = len(x.shape) if x.shape is not None else 0
    if axes is None or axes.numpy().tolist() not in ([-1], [rank - 1]):
        return None
    squared = node.inputs[0].producer() if node.inputs[0] is not None else None
    if squared is None or len(squared.inputs) != 2:
        return None
    is_power = is_standard(squared, "Pow") and _number(squared.inputs[1]) == 2.0
    is_product = is_standard(squared, "Mul") and squared.inputs[0] is squared.inputs[1]
    return epsilon if squared.inputs[0] is x and (is_power or is_product) else None


def _argument(value: ir.Value, op_type: str) -> ir.Value | None:
    node = value.producer()
    return node.inputs[0] if node is not None and is_standard(node, op_type) else None


def _number(value: ir.Value | None) -> float | None:
    tensor = None if value is None else value.const_value
    return float(tensor.numpy().item()) if tensor is not None and tensor.size == 1 else None


def _uncast(value: ir.Value) -> ir.Value:
    """Return what casts among floating types have made a value of."""
    while (node := value.producer()) is not None and is_standard(node, "Cast"):
        source = node.inputs[0]
        if source is None or source.dtype is None or not source.dtype.is_floating_point():
            break
        value = source
    return value


def _is_weight(value: ir.Value) -> bool:
    """Say whether a value follows from weights alone."""
    pending, seen = [value], set[ir.Value]()
    while pending:
        x = pending.pop()
        node = x.producer()
        if x in seen or x.const_value is not None:
            continue
        if node is None or len(seen) > _MOST_STEPS:
            return False
        seen.add(x)
        pending.extend(y for y in node.inputs if y is not None)
    return True
