"""Angles as what a table can hold: positions times constant frequencies; which are whole.

Which number whole positions are multiplied by, and whether they stay whole, follows from what each
operator does to whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ropeexport.fusion.movement import Movement, inputs_of, is_float
from ropeexport.operators import KEEP_ORDER, is_standard, that_keep

_DOUBLE = ir.DataType.DOUBLE
WIDE = {ir.DataType.FLOAT, _DOUBLE}
_SPACING = float(np.finfo(np.float32).eps)


# movements of one input alone: a factor of every element before them is one after them
_UNARY = that_keep("order", "elements", "some", "copies") - {"Split"}
_UNARY |= {"Cast", "Div", "Mul", "Neg"}
_KEEPS_ORDER = KEEP_ORDER | {"Cast"}
_ROUNDING = {"Ceil", "Floor", "Round", "Sign"}
_KEEPS_WHOLE = {"Abs", "Add", "Max", "Min", "Mul", "Range", "Sub", "Sum"}  # of whole numbers
_LARGEST_CONSTANT = 1 << 16  # elements; positions are no weights


@dataclass(frozen=True)
class Angle:
    """Positions (..., 1) times frequencies (P,).

    ``positions`` are moved from ``unscaled``; the product is that of ``unscaled``, times ``scale``.
    """

    positions: ir.Value
    frequencies: ir.Value
    unscaled: ir.Value
    scale: float = 1.0


@dataclass(frozen=True)
class Choice:
    """One of two angles: of the same positions, by frequencies that a condition chooses among."""

    condition: ir.Value
    angles: tuple[Angle, Angle]


def angle_of(value: ir.Value, movement: Movement) -> Angle | None:
    """Return a value as positions times frequencies; None where tables cannot hold its angles.

    A number that the product is multiplied by afterwards goes to the frequencies.
    """
    scale, product = 1.0, _product_of(value)
    while product is None:
        node, sources = value.producer(), movement.sources(value)
        if node is None or sources is None or not is_standard(node, "Div", "Mul", "Neg"):
            return None
        factor = _factor(node, sources[0])
        if value.dtype not in WIDE or not factor:
            return None
        value, scale = sources[0], factor * scale
        product = _product_of(value)
    return _angle(*product, movement, scale)


def choice_of(value: ir.Value, movement: Movement) -> Choice | None:
    """Return a value as positions times one of two rows of frequencies; None where it is not.

    So models with other frequencies for long sequences (longrope) are written.
    """
    node = value.producer()
    if node is None or not is_standard(node, "Mul") or value.shape is None:
        return None
    for positions, factor in (node.inputs, node.inputs[::-1]):
        chosen = factor.producer() if factor is not None else None
        if positions is None or chosen is None or not is_standard(chosen, "Where"):
            continue
        condition, *rows = chosen.inputs
        products = [_with_frequencies(value, positions, row) for row in rows]
        if condition is None or not _is_single(condition) or None in products:
            continue
        angles = [_angle(*product, movement) for product in products if product is not None]
        one, other = angles
        return Choice(condition, (one, other)) if one is not None and other is not None else None
    return None


def _is_single(value: ir.Value) -> bool:
    """Say whether a value is known to be one element, of no more axes than frequencies have."""
    return value.shape is not None and list(value.shape) in ([], [1])


def _angle(
    positions: ir.Value, frequencies: ir.Value, movement: Movement, then: float = 1.0
) -> Angle | None:
    """Return the angle of a product, times a number, that tables can hold."""
    whole, before = unscaled(positions, movement)
    angles = (
        Angle(positions, frequencies, whole, before * then),
        Angle(positions, frequencies, positions, then),
    )
    return next((angle for angle in angles if _fits(angle, movement)), None)


def _product_of(value: ir.Value) -> tuple[ir.Value, ir.Value] | None:
    node = value.producer()
    is_product = node is not None and is_standard(node, "Mul")
    if node is None or not is_product or value.shape is None or value.dtype not in WIDE:
        return None
    for positions, factor in (node.inputs, node.inputs[::-1]):
        found = _with_frequencies(value, positions, factor)
        if found is not None:
            return found
    return None


def _with_frequencies(
    value: ir.Value, positions: ir.Value | None, factor: ir.Value | None
) -> tuple[ir.Value, ir.Value] | None:
    """Return positions and the constant that a factor is, where it has one number for each pair."""
    frequencies = _constant_of(factor)
    if positions is None or frequencies is None or frequencies.const_value is None:
        return None
    if value.shape is None or positions.shape is None or value.dtype not in WIDE:
        return None
    pairs = value.shape[-1]
    one_each = frequencies.const_value.size == pairs and pairs != 1
    is_column = len(positions.shape) == len(value.shape) and positions.shape[-1] == 1
    return (positions, frequencies) if one_each and is_column else None


def why_not(angle: ir.Value, movement: Movement) -> str | None:
    """Return why no table holds an angle; None where it is float64, which is as exact."""
    moved = movement.ancestors(angle)
    if {x.dtype for x in moved} <= {_DOUBLE}:
        return None
    half = next((x for x in moved if x.dtype not in WIDE), None)
    if half is not None:
        return f"{half.name} is {half.dtype}"
    for end in (x for x in moved if movement.sources(x) is None):
        node = end.producer()
        if node is None or not is_standard(node, "Mul"):
            return f"{end.name} is no product of positions and frequencies"
        if _product_of(end) is None:
            return f"the frequencies in {end.name} are computed, not constants"
        if angle_of(end, movement) is None:
            return f"positions in {end.name} may have fractions, and a frequency is above 1"
    return "they are split or filled up behind the product"


def _constant_of(value: ir.Value | None) -> ir.Value | None:
    """Return the constant whose elements a value has, in their order; no weight is folded."""
    while value is not None and value.const_value is None:
        node = value.producer()
        moved = node is not None and is_standard(node, *_KEEPS_ORDER)
        if node is None or not (moved and is_float(value)):
            return None
        value = node.inputs[0]
    return value


def _fits(angle: Angle, movement: Movement) -> bool:
    """Say whether a fraction of a position stays a small angle; whole positions have none."""
    largest = float(np.abs(angle.scale * numbers_of(angle)).max())
    return bool(largest <= 1.0) or is_whole(angle.unscaled, movement)


def unscaled(value: ir.Value, movement: Movement) -> tuple[ir.Value, float]:
    """Return what a value is moved from, every element times one number, and that number."""
    scale = 1.0
    while True:
        node, sources = value.producer(), movement.sources(value)
        if node is None or sources is None or len(sources) != 1 or node.op_type not in _UNARY:
            return value, scale
        if not {value.dtype, sources[0].dtype} <= WIDE:  # a half type has rounded positions
            return value, scale
        factor = _factor(node, sources[0])
        if not factor:
            return value, scale
        value, scale = sources[0], factor * scale


def _factor(node: ir.Node, source: ir.Value) -> float:
    """Return what a movement multiplies its source by; 0.0 where a table cannot be of that."""
    if node.op_type not in ("Div", "Mul"):
        return -1.0 if node.op_type == "Neg" else 1.0
    other = next((x for x in node.inputs if x is not source), source)
    assert other is not None  # a factor of movement is one number
    assert other.const_value is not None
    rank = len(other.const_value.shape)
    if rank and (source.shape is None or rank > len(source.shape)):
        return 0.0  # it adds axes, which a table of the source would not have
    number = float(other.const_value.numpy().astype(np.float64).reshape(()))
    number = 1.0 / number if number and node.op_type == "Div" else number
    return number if np.isfinite(number) else 0.0


def is_whole(value: ir.Value, movement: Movement) -> bool:
    """Say whether a value consists of whole numbers, whatever the model is given."""
    pending = [value]
    for x in pending:
        parts = _whole_by(x, movement)
        if parts is None:
            return False
        pending.extend(part for part in parts if part not in pending)
    return True


def _whole_by(value: ir.Value, movement: Movement) -> Sequence[ir.Value] | None:
    """Return what has to be whole for a value to be so; None where it may have fractions."""
    node, tensor = value.producer(), value.const_value
    if tensor is not None and tensor.size <= _LARGEST_CONSTANT:
        numbers = tensor.numpy().astype(np.float64)
        return () if np.array_equal(numbers, np.rint(numbers)) else None
    if node is None or not is_standard(node):
        return None
    inputs = inputs_of(value)
    if node.op_type in _ROUNDING or (node.op_type == "Cast" and not is_float(inputs[0])):
        return ()
    if node.op_type in _KEEPS_WHOLE:
        return inputs
    sources = movement.sources(value)
    if sources is None or node.op_type == "Div":
        return None
    return (*sources, *inputs[2:3]) if node.op_type == "Pad" else sources


def exact_frequencies(stored: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``theta ** (-i/P)`` in float64 where float32 frequencies are those of a whole theta.

    Otherwise the stored numbers are the frequencies: scaled ones (linear, NTK, YaRN, Llama-3) are
    a model's own numbers, and are taken as it has them.
    """
    pairs = len(stored)
    if pairs < 2 or not (stored > 0).all():
        return stored
    theta = float(np.round(stored[-1] ** (-pairs / (pairs - 1))))
    exact: NDArray[np.float64] = theta ** (-np.arange(pairs) / pairs)
    is_exact = bool(np.all(np.abs(exact - stored) <= _SPACING * exact))
    return exact if is_exact else stored


def numbers_of(angle: Angle) -> NDArray[np.float64]:
    """Return an angle's frequencies, as they are stored."""
    tensor = angle.frequencies.const_value
    assert tensor is not None  # asked when the angle was found
    numbers: NDArray[np.float64] = tensor.numpy().astype(np.float64)
    return numbers.reshape(-1)
