"""Exact angles for the tables of the ops: digit tables in the place of cos and sin of a product.

A float32 angle ``position * frequency`` is off by about ``position * 2^-24``, and TensorRT has no
float64.  So where an op's table comes, by movement and elementwise operators, from ``Cos`` or
``Sin`` of positions times constant frequencies, those are read from ``ropeexport::RopeTable``.
Cosine and movement commute, so the rewrite is exact algebra; what it computes is better than what
was written.  Whole positions that are multiplied by a number before they meet the frequencies
(position interpolation) stay whole: the number goes to the frequencies.  Positions that are not
known to be whole are split: the whole part goes through the table, the fraction is rotated on top;
with frequencies above 1 its angle is not small, and such angles are left as they were written.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ropeexport.fusion.movement import Movement, inputs_of, is_float
from ropeexport.fusion.rewrite import Nodes, ints
from ropeexport.operators import KEEP_ORDER, is_standard, that_keep
from ropeexport.ops import names
from ropeexport.ops.forms import Form, form_of
from ropeexport.ops.rope_table import MAX_POSITION, digit_tables

_FLOAT, _DOUBLE = ir.DataType.FLOAT, ir.DataType.DOUBLE
_WIDE = {_FLOAT, _DOUBLE}
_LAST = ints([-1])
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

    ``positions`` are moved from ``unscaled``, every element times ``scale``.
    """

    positions: ir.Value
    frequencies: ir.Value
    unscaled: ir.Value
    scale: float = 1.0


def make_exact(
    model: ir.Model, *, max_position: int = MAX_POSITION, leave: Container[str] = ()
) -> dict[ir.Node, frozenset[str]]:
    """Give the ops' tables exact angles, in place.

    Parameters
    ----------
    model : ir.Model
        With rotary ops, and the types and shapes of its values known.
    max_position : int
        The largest position that the tables must hold.
    leave : container of str
        Names of cosines and sines that stay as they are written.

    Returns
    -------
    dict
        For each rotary op, the names of the cosines and sines that were rewritten for it.
    """
    graph, movement = model.graph, Movement()
    builder = _Builder(movement, max_position)
    forms = {node: form_of(node.domain, node.op_type) for node in graph}
    waves = {op: _waves(op, form, movement) for op, form in forms.items() if form}
    rewritten: set[str] = set()
    for node in dict.fromkeys(wave for found in waves.values() for wave in found):
        old, angle = node.outputs[0], node.inputs[0]
        assert angle is not None  # a cosine has an input
        made = None if old.name in leave else builder.wave(angle, node.op_type)
        if made is not None:
            rewritten.add(str(old.name))
            made.shape = old.shape
            for reader, index in list(old.uses()):  # an output of the graph stays as it is
                reader.replace_input_with(index, made)
            _lower(made, builder.nodes, graph)
    graph.extend(builder.nodes.made)
    if builder.nodes.made:
        graph.sort()
    names_of = {op: {str(wave.outputs[0].name) for wave in found} for op, found in waves.items()}
    return {op: frozenset(found & rewritten) for op, found in names_of.items()}


def _waves(op: ir.Node, form: Form, movement: Movement) -> dict[ir.Node, None]:
    """Return the Cos and Sin nodes that an op's tables are made from, the last first."""
    pending = [x for x in op.inputs[form.tensors :] if x is not None]
    seen: set[ir.Value] = set()
    waves: dict[ir.Node, None] = {}
    while pending:
        value = pending.pop()
        node = value.producer()
        if node is not None and is_standard(node, "Cos", "Sin"):
            waves[node] = None
        elif value not in seen:
            seen.add(value)
            pending.extend(movement.deep_sources(value) or ())
    return waves


@dataclass
class _Builder:
    movement: Movement
    max_position: int
    nodes: Nodes = field(default_factory=Nodes)
    tables: dict[Angle, tuple[ir.Value, ir.Value]] = field(default_factory=dict)
    _constants: dict[bytes, tuple[ir.Value, ir.Value]] = field(default_factory=dict)
    _moved: dict[tuple[ir.Value, str], ir.Value | None] = field(default_factory=dict)

    def wave(self, value: ir.Value, wave: str) -> ir.Value | None:
        """Return the exact cosine or sine of an angle; None where it is another's."""
        key = (value, wave)
        if key not in self._moved:
            angle = angle_of(value, self.movement)
            moved = self._moved_wave(value, wave) if angle is None else None
            self._moved[key] = moved if angle is None else self._table(angle)[wave == "Sin"]
        return self._moved[key]

    def _moved_wave(self, value: ir.Value, wave: str) -> ir.Value | None:
        """Move the wave of what a value is moved from, as the value is."""
        node, sources = value.producer(), self.movement.sources(value)
        if node is None or sources is None or node.op_type in ("Mul", "Div", "Neg", "Pad", "Split"):
            return None
        if not {x.dtype for x in (value, *sources)} <= _WIDE:  # a half type has rounded the angle
            return None
        parts = {x: made for x in sources if (made := self.wave(x, wave)) is not None}
        if len(parts) < len(set(sources)):
            return None
        return parts[sources[0]] if node.op_type == "Cast" else self._copied(node, parts, value)

    def _table(self, angle: Angle) -> tuple[ir.Value, ir.Value]:
        """Return cosine and sine (..., P) of an angle."""
        if angle not in self.tables:
            add, frequencies = self.nodes.add, angle.scale * exact_frequencies(_numbers(angle))
            if is_whole(angle.unscaled, self.movement):
                base = self._in_float32(angle.unscaled)
                pos = add("Squeeze", self._unscaled(angle.positions, angle.unscaled, base), _LAST)
                self.tables[angle] = self._whole(pos, frequencies)
            else:
                is_wide = angle.unscaled.dtype in _WIDE  # half types become float32
                base = angle.unscaled if is_wide else self._in_float32(angle.unscaled)
                moved = self._unscaled(angle.positions, angle.unscaled, base)
                floor = add("Floor", moved)
                parts = (floor, add("Sub", moved, floor))
                whole, rest = (self.nodes.cast(x, _FLOAT) for x in parts)
                table = self._whole(add("Squeeze", whole, _LAST), frequencies)
                self.tables[angle] = self._turned(*table, rest, angle)
        return self.tables[angle]

    def _unscaled(self, value: ir.Value, until: ir.Value, base: ir.Value) -> ir.Value:
        """Return ``base`` moved as ``value`` is moved from ``until``, but for its factors."""
        if value is until:
            return base
        node, sources = value.producer(), self.movement.sources(value)
        assert node is not None  # value comes from until by movement
        assert sources is not None
        moved = self._unscaled(sources[0], until, base)
        dropped = node.op_type in ("Cast", "Div", "Identity", "Mul", "Neg")
        return moved if dropped else self._copied(node, {sources[0]: moved}, value)

    def _in_float32(self, positions: ir.Value) -> ir.Value:
        """Return positions as float32; float64 ones are cast before they are moved."""
        node, sources = positions.producer(), self.movement.sources(positions)
        if positions.dtype == _FLOAT:
            return positions
        moved = sources is not None and node is not None and node.op_type not in ("Div", "Mul")
        is_cast = node is not None and is_standard(node, "Cast")
        if node is None or positions.dtype != _DOUBLE or not (moved or is_cast):
            return self.nodes.add("Cast", positions, to=_FLOAT)
        if is_cast:
            source = node.inputs[0]
            assert source is not None  # a Cast has an input
            return self.nodes.cast(source, _FLOAT)
        parts = {x: self._in_float32(x) for x in sources or ()}
        return self._copied(node, parts, positions)

    def _copied(self, node: ir.Node, parts: dict[ir.Value, ir.Value], like: ir.Value) -> ir.Value:
        """Repeat a movement on other data."""
        inputs = [x if x is None else parts.get(x, x) for x in node.inputs]
        copy = ir.Node("", node.op_type, inputs, node.attributes.values())
        copy.outputs[0].dtype = next(x.dtype for x in parts.values())
        copy.outputs[0].shape = like.shape
        self.nodes.made.append(copy)
        return copy.outputs[0]

    def _whole(self, pos: ir.Value, frequencies: NDArray[np.float64]) -> tuple[ir.Value, ir.Value]:
        tables = self._digits(frequencies)
        node = ir.Node(names.DOMAIN, names.ROPE_TABLE, [pos, *tables], version=1)
        matrices = node.outputs[0]
        matrices.dtype = _FLOAT
        self.nodes.made.append(node)
        first = self.nodes.add("Gather", matrices, ir.tensor(np.int64(0)), axis=-1)
        rows = (ir.tensor(np.int64(row)) for row in (0, 1))
        cos, sin = (self.nodes.add("Gather", first, row, axis=-1) for row in rows)
        return cos, sin

    def _turned(
        self, cos: ir.Value, sin: ir.Value, rest: ir.Value, angle: Angle
    ) -> tuple[ir.Value, ir.Value]:
        """Rotate on by the fraction of a position; where it is 0, nothing changes, bit for bit."""
        add = self.nodes.add
        frequencies = (angle.scale * _numbers(angle)).astype(np.float32)
        small = add("Mul", rest, ir.tensor(frequencies))  # (..., 1) times (P,)
        c, s = add("Cos", small), add("Sin", small)
        return (
            add("Sub", add("Mul", cos, c), add("Mul", sin, s)),
            add("Add", add("Mul", sin, c), add("Mul", cos, s)),
        )

    def _digits(self, frequencies: NDArray[np.float64]) -> tuple[ir.Value, ir.Value]:
        key = frequencies.tobytes()
        if key not in self._constants:
            tables = digit_tables(frequencies, self.max_position)
            coarse, fine = (self.nodes.constant(ir.tensor(table)) for table in tables)
            self._constants[key] = coarse, fine
        return self._constants[key]


def angle_of(value: ir.Value, movement: Movement) -> Angle | None:
    """Return a value as positions times frequencies; None where tables cannot hold its angles."""
    product = _product_of(value)
    if product is None:
        return None
    positions, frequencies = product
    angles = (
        Angle(positions, frequencies, *unscaled(positions, movement)),
        Angle(positions, frequencies, positions),
    )
    return next((angle for angle in angles if _fits(angle, movement)), None)


def _product_of(value: ir.Value) -> tuple[ir.Value, ir.Value] | None:
    node = value.producer()
    is_product = node is not None and is_standard(node, "Mul")
    if node is None or not is_product or value.shape is None or value.dtype not in _WIDE:
        return None
    pairs = value.shape[-1]
    for positions, factor in (node.inputs, node.inputs[::-1]):
        frequencies = _constant_of(factor)
        if positions is None or frequencies is None or frequencies.const_value is None:
            continue
        one_each = frequencies.const_value.size == pairs and pairs != 1
        if one_each and positions.shape is not None and len(positions.shape) == len(value.shape):
            return (positions, frequencies) if positions.shape[-1] == 1 else None
    return None


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
    largest = float(np.abs(angle.scale * _numbers(angle)).max())
    return bool(largest <= 1.0) or is_whole(angle.unscaled, movement)


def unscaled(value: ir.Value, movement: Movement) -> tuple[ir.Value, float]:
    """Return what a value is moved from, every element times one number, and that number."""
    scale = 1.0
    while True:
        node, sources = value.producer(), movement.sources(value)
        if node is None or sources is None or len(sources) != 1 or node.op_type not in _UNARY:
            return value, scale
        if not {value.dtype, sources[0].dtype} <= _WIDE:  # a half type has rounded positions
            return value, scale
        factor = _factor(node, sources[0])
        if not (np.isfinite(factor) and factor):
            return value, scale
        value, scale = sources[0], factor * scale


def _factor(node: ir.Node, source: ir.Value) -> float:
    """Return what a movement multiplies its source by."""
    if node.op_type not in ("Div", "Mul"):
        return -1.0 if node.op_type == "Neg" else 1.0
    other = next((x for x in node.inputs if x is not source), source)
    assert other is not None  # a factor of movement is one number
    assert other.const_value is not None
    number = float(other.const_value.numpy().astype(np.float64).reshape(()))
    if node.op_type == "Mul":
        return number
    return 1.0 / number if number else 0.0


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


def _numbers(angle: Angle) -> NDArray[np.float64]:
    tensor = angle.frequencies.const_value
    assert tensor is not None  # asked when the angle was found
    numbers: NDArray[np.float64] = tensor.numpy().astype(np.float64)
    return numbers.reshape(-1)


def _lower(value: ir.Value, nodes: Nodes, graph: ir.Graph) -> None:
    """Let what is moved from a float32 value be float32; elsewhere it is cast to what was there.

    An output of the graph keeps its type, and so does what is inside a branch.
    """
    movement = Movement()  # the graph is no longer what a former one remembers
    pending = [value]
    while pending:
        x = pending.pop()
        for node, index in list(x.uses()):
            output = node.outputs[0]
            if is_standard(node, "Cast") or output.dtype != _DOUBLE:
                continue
            types = {source.dtype for source in movement.sources(output) or ()}
            is_own = node.graph is graph and not output.is_graph_output()
            if is_own and types == {_FLOAT} and node.op_type not in ("Mul", "Div"):
                output.dtype = _FLOAT
                pending.append(output)
            else:
                wide = nodes.add("Cast", x, to=_DOUBLE)
                node.replace_input_with(index, wide)
