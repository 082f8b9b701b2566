"""Exact angles for the tables of the ops: digit tables in the place of cos and sin of a product.

A float32 angle ``position * frequency`` is off by about ``position * 2^-24``, and TensorRT has no
float64.  So where an op's table comes, by movement and elementwise operators, from ``Cos`` or
``Sin`` of positions times constant frequencies, those are read from ``ropeexport::RopeTable``.
Cosine and movement commute, so the rewrite is exact algebra; what it computes is better than what
was written.  Whole positions that are multiplied by a number before they meet the frequencies
(position interpolation) stay whole: the number goes to the frequencies.  Positions that are not
known to be whole are split: the whole part goes through the table, the fraction is rotated on top;
with frequencies above 1 its angle is not small, and such angles are left as they were written.
What stays float32 is named, with the reason.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ropeexport.fusion.movement import Movement, graphs_of, in_order, inputs_of
from ropeexport.fusion.op_inputs import Nodes, ints
from ropeexport.fusion.products import (
    WIDE,
    Angle,
    Choice,
    angle_of,
    choice_of,
    exact_frequencies,
    is_whole,
    numbers_of,
    why_not,
)
from ropeexport.operators import is_standard
from ropeexport.ops import names
from ropeexport.ops.forms import Form, form_of
from ropeexport.ops.rope_table import MAX_POSITION, digit_tables

_FLOAT, _DOUBLE = ir.DataType.FLOAT, ir.DataType.DOUBLE
_LAST = ints([-1])


@dataclass(frozen=True)
class Exact:
    """What became of the cosines and sines of a model's rotary ops.

    Parameters
    ----------
    rewritten : dict
        For each op, the names of those that were rewritten for it.
    left : dict
        Others, by name, in float32 or a half type as they are written, and why.
    """

    rewritten: dict[ir.Node, frozenset[str]]
    left: dict[str, str]


def make_exact(
    model: ir.Model, *, max_position: int = MAX_POSITION, leave: Container[str] = ()
) -> Exact:
    """Give the ops' tables exact angles, in place.

    Parameters
    ----------
    model : ir.Model
        With rotary ops, and the types and shapes of its values known.
    max_position : int
        The largest position that the tables must hold.
    leave : container of str
        Names of cosines and sines that stay as they are written.
    """
    graph, movement = model.graph, Movement()
    builder = _Builder(movement, max_position)
    forms = {node: form_of(node.domain, node.op_type) for node in graph}
    waves = {op: _waves(op, form, movement) for op, form in forms.items() if form}
    rewritten: set[str] = set()
    left: dict[str, str] = {}
    exact: list[ir.Value] = []
    for node in dict.fromkeys(wave for found in waves.values() for wave in found):
        if graphs_of(node):
            left[str(node.outputs[0].name)] = f"the angles lie inside of {node.op_type}"
            continue
        old, angle = node.outputs[0], node.inputs[0]
        assert angle is not None  # a cosine has an input
        made = None if old.name in leave else builder.wave(angle, node.op_type)
        if made is None:
            reason = None if old.name in leave else why_not(angle, movement)
            left |= {str(old.name): reason} if reason else {}
        else:
            rewritten.add(str(old.name))
            made.shape = old.shape
            for reader, index in list(old.uses()):  # an output of the graph stays as it is
                reader.replace_input_with(index, made)
            exact.append(made)
    _lower(exact, builder.nodes, graph)
    graph.extend(builder.nodes.made)
    if builder.nodes.made:
        graph.sort()
    names_of = {op: {str(wave.outputs[0].name) for wave in found} for op, found in waves.items()}
    return Exact({op: frozenset(found & rewritten) for op, found in names_of.items()}, left)


def _waves(op: ir.Node, form: Form, movement: Movement) -> dict[ir.Node, None]:
    """Return the Cos and Sin that an op's tables are made from, or what holds them, last first."""
    pending = [x for x in form.tables_of(op.inputs) if x is not None]
    seen: set[ir.Value] = set()
    waves: dict[ir.Node, None] = {}
    while pending:
        value = pending.pop()
        node = value.producer()
        if node is not None and (is_standard(node, "Cos", "Sin") or _holds_waves(node)):
            waves[node] = None
        elif value not in seen:
            seen.add(value)
            pending.extend(movement.deep_sources(value) or ())
    return waves


def _holds_waves(node: ir.Node) -> bool:
    """Say whether there are cosines or sines in the branches of a node."""
    inner = (x for graph in graphs_of(node).values() for x in graph.all_nodes())
    return any(is_standard(x, "Cos", "Sin") for x in inner)


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
        if (value, wave) not in self._moved:
            for x in in_order(value, lambda x: self._unknown_sources(x, wave)):
                self._moved[x, wave] = self._made(x, wave)
        return self._moved[value, wave]

    def _unknown_sources(self, value: ir.Value, wave: str) -> list[ir.Value]:
        """Return what a value is moved from and whose wave is not known, if that says its own."""
        sources = () if self._product(value) else self._moved_from(value)
        return [x for x in sources if (x, wave) not in self._moved]

    def _product(self, value: ir.Value) -> Angle | Choice | None:
        return angle_of(value, self.movement) or choice_of(value, self.movement)

    def _made(self, value: ir.Value, wave: str) -> ir.Value | None:
        product = self._product(value)
        if product is None:
            return self._moved_wave(value, wave)
        if isinstance(product, Angle):
            return self._table(product)[wave == "Sin"]
        tables = (self._table(angle)[wave == "Sin"] for angle in product.angles)
        return self._chosen(product.condition, *tables)

    def _chosen(self, condition: ir.Value, one: ir.Value, other: ir.Value) -> ir.Value:
        made = self.nodes.add("Where", condition, one, other)
        made.dtype = one.dtype
        return made

    def _moved_from(self, value: ir.Value) -> tuple[ir.Value, ...]:
        """Return what a value is moved from in such a way that its wave is; nothing otherwise."""
        node, sources = value.producer(), self.movement.sources(value)
        if node is None or sources is None or node.op_type in ("Mul", "Div", "Neg", "Pad", "Split"):
            return ()
        # a half type has rounded the angle
        return sources if {x.dtype for x in (value, *sources)} <= WIDE else ()

    def _moved_wave(self, value: ir.Value, wave: str) -> ir.Value | None:
        """Move the wave of what a value is moved from, as the value is."""
        node, sources = value.producer(), self._moved_from(value)
        parts = {x: made for x in sources if (made := self._moved[x, wave]) is not None}
        if node is None or not parts or len(parts) < len(set(sources)):
            return None
        return parts[sources[0]] if node.op_type == "Cast" else self._copied(node, parts, value)

    def _table(self, angle: Angle) -> tuple[ir.Value, ir.Value]:
        """Return cosine and sine (..., P) of an angle."""
        if angle not in self.tables:
            add, frequencies = self.nodes.add, angle.scale * exact_frequencies(numbers_of(angle))
            if is_whole(angle.unscaled, self.movement):
                base = self._in_float32(angle.unscaled)
                pos = add("Squeeze", self._unscaled(angle.positions, angle.unscaled, base), _LAST)
                self.tables[angle] = self._whole(pos, frequencies)
            else:
                is_wide = angle.unscaled.dtype in WIDE  # half types become float32
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
        way = list(in_order(value, lambda x: () if x is until else self._data_of(x)))[1:]
        for source, moved in zip((until, *way), way, strict=False):
            node = moved.producer()
            assert node is not None  # it comes from until by movement
            if node.op_type not in ("Cast", "Div", "Identity", "Mul", "Neg"):
                base = self._copied(node, {source: base}, moved)
        return base

    def _data_of(self, value: ir.Value) -> tuple[ir.Value, ...]:
        sources = self.movement.sources(value)
        return () if sources is None else sources[:1]

    def _in_float32(self, positions: ir.Value) -> ir.Value:
        """Return positions as float32; float64 ones are cast before they are moved."""
        made: dict[ir.Value, ir.Value] = {}
        for x in in_order(positions, self._cast_before):
            node, sources = x.producer(), self._cast_before(x)
            if node is not None and sources:
                made[x] = self._copied(node, {source: made[source] for source in sources}, x)
            elif x.dtype == _DOUBLE and node is not None and is_standard(node, "Cast"):
                made[x] = self.nodes.cast(inputs_of(x)[0], _FLOAT)
            else:
                made[x] = x if x.dtype == _FLOAT else self.nodes.add("Cast", x, to=_FLOAT)
        return made[positions]

    def _cast_before(self, positions: ir.Value) -> tuple[ir.Value, ...]:
        """Return what positions are moved from, where that is cast in their place."""
        node = positions.producer()
        if node is None or positions.dtype != _DOUBLE or is_standard(node, "Cast", "Div", "Mul"):
            return ()
        return self.movement.sources(positions) or ()

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
        frequencies = (angle.scale * numbers_of(angle)).astype(np.float32)
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


def _lower(values: Sequence[ir.Value], nodes: Nodes, graph: ir.Graph) -> None:
    """Let what is moved from float32 values alone be float32; else they are cast to what was there.

    An output of the graph keeps its type, and so does what is inside a branch.
    """
    movement = Movement()  # the graph is no longer what a former one remembers
    low = list(dict.fromkeys(values))
    for x in low:  # what joins several is met with each, and follows the last
        for node in x.consumers():
            output = node.outputs[0]
            is_own = node.graph is graph and not output.is_graph_output()
            types = {source.dtype for source in movement.sources(output) or ()}
            is_moved = types == {_FLOAT} and not is_standard(node, "Cast", "Div", "Mul")
            if is_own and is_moved and output.dtype == _DOUBLE:
                output.dtype = _FLOAT
                low.append(output)
    for x in low:
        for node, index in list(x.uses()):
            if not is_standard(node, "Cast") and node.outputs[0].dtype == _DOUBLE:
                node.replace_input_with(index, nodes.add("Cast", x, to=_DOUBLE))
