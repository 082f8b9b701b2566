"""Write an outer product of positions and frequencies as a product, which angles are read from.

Older versions of transformers, and much that is written after them, multiply a column of
frequencies and a row of positions as matrices, and transpose the result.  With an inner size of 1
each element is one product, so an elementwise product computes the same, bit for bit.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ropeexport.operators import is_standard

_KEEP_VALUES = ("Cast", "Expand", "Identity")  # what may lie between a constant and the product
_LARGEST_BYTES = 1 << 16  # frequencies are few; more is a weight, which stays where it is


def write_products(model: ir.Model) -> int:
    """Put a product in the place of each outer product with a constant, in place; count them."""
    outer = [node for node in model.graph if is_standard(node, "MatMul") and _is_outer(node)]
    return sum(_by_a_row(node) or _by_a_column(node) for node in outer)


def _is_outer(node: ir.Node) -> bool:
    left, right = (x.shape if x is not None else None for x in node.inputs)
    if left is None or right is None or len(left) != len(right) or len(left) < 2:
        return False
    return bool(left[-1] == 1 and right[-2] == 1)


def _by_a_row(node: ir.Node) -> bool:
    """Write positions (..., L, 1) times a constant row (..., 1, P)."""
    positions, row = node.inputs
    assert positions is not None  # it has a shape
    constant = _constant(row, positions)
    if constant is not None:
        _put_product(node, positions, constant)
    return constant is not None


def _by_a_column(node: ir.Node) -> bool:
    """Write a constant column (..., P, 1) times positions (..., 1, L) that is transposed then."""
    column, positions = node.inputs
    assert positions is not None  # it has a shape
    assert positions.shape is not None
    constant, product = _constant(column, positions), node.outputs[0]
    *lead, one, length = positions.shape
    order = [*range(len(lead)), len(lead) + 1, len(lead)]
    turns = [n for n in product.consumers() if _order(n) == order]
    if constant is None or not turns or len(turns) < len(product.uses()):
        return False
    if product.is_graph_output():
        return False
    turned = ir.node("Transpose", [positions], {"perm": order})
    moved = turned.outputs[0]
    moved.dtype, moved.shape = positions.dtype, ir.Shape([*lead, length, one])
    node.prepend(turned)
    for turn in turns:
        _put_product(turn, moved, np.swapaxes(constant, -1, -2))
    return True


def _order(node: ir.Node) -> list[int] | None:
    perm = node.attributes.get("perm") if is_standard(node, "Transpose") else None
    return None if perm is None else list(perm.as_ints())


def _constant(value: ir.Value | None, other: ir.Value) -> NDArray[np.generic] | None:
    """Return the numbers that a factor repeats as often as the other has them already."""
    made = value
    while made is not None and made.const_value is None:
        node = made.producer()
        if node is None or not is_standard(node, *_KEEP_VALUES):
            return None
        made = node.inputs[0]
    if made is None or made.const_value is None or value is None or other.shape is None:
        return None
    numbers, lead = _numbers(made.const_value), other.shape[:-2]
    if (
        numbers is None
        or value.dtype is None
        or value.dtype != made.dtype
        or value.dtype != other.dtype
    ):
        return None
    assert value.shape is not None  # it is a factor of an outer product
    is_repeated = all(size in (1, dim) for size, dim in zip(value.shape[:-2], lead, strict=True))
    is_single = numbers.ndim == len(value.shape) and set(numbers.shape[:-2]) <= {1}
    return numbers if is_repeated and is_single else None


def _numbers(tensor: ir.TensorProtocol) -> NDArray[np.generic] | None:
    """Return a constant's values; None of a weight, or where it cannot be read yet."""
    if tensor.nbytes > _LARGEST_BYTES:
        return None
    try:
        numbers: NDArray[np.generic] = tensor.numpy()
    except (OSError, ValueError):  # external data that is not in its place
        return None
    return numbers


def _put_product(node: ir.Node, positions: ir.Value, constant: NDArray[np.generic]) -> None:
    """Let what reads a node read positions times a constant."""
    factor = ir.node("Constant", [], {"value": ir.tensor(constant)})
    product = ir.node("Mul", [positions, factor.outputs[0]])
    old, new, tensor = node.outputs[0], product.outputs[0], factor.outputs[0]
    tensor.dtype, tensor.shape = old.dtype, ir.Shape(constant.shape)
    tensor.const_value = ir.tensor(constant)
    new.dtype, new.shape = old.dtype, old.shape
    node.prepend([factor, product])
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
