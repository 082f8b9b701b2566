"""Exact angles for the tables of the ops: digit tables in the place of cos and sin of a product.

A float32 angle ``position * frequency`` is off by about ``position * 2^-24``, and TensorRT has no
float64.  So where an op's table comes, by movement and elementwise operators, from ``Cos`` or
``Sin`` of positions times constant frequencies, those are read from ``ropeexport::RopeTable``.
Cosine and movement commute, so the rewrite is exact algebra; what it computes is better than what
was written.  Positions that are not known to be whole numbers are split: the whole part goes
through the table, the fraction is rotated on top; with frequencies above 1 its angle is not small,
and such angles are left as they were written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ropeexport.fusion.building import Nodes, ints
from ropeexport.fusion.movement import Movement, is_float
from ropeexport.fusion.probe import deep_sources
from ropeexport.onnx_ops import names
from ropeexport.onnx_ops.forms import form_of
from ropeexport.onnx_ops.rope_table import digit_tables

_FLOAT, _DOUBLE = ir.DataType.FLOAT, ir.DataType.DOUBLE
_SPACING = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Angle:
    """Positions (..., 1) times frequencies (P,)."""

    positions: ir.Value
    frequencies: ir.Value


def make_exact(model: ir.Model) -> int:
    """Give the ops' tables exact angles, in place; return how many angles were rewritten."""
    graph, movement = model.graph, Movement()
    builder = _Builder(movement)
    waves = list(dict.fromkeys(_waves(graph, movement)))
    for node in waves:
        made = builder.wave(node)
        if made is not None:
            old = node.outputs[0]
            made.shape = old.shape
            ir.convenience.replace_all_uses_with(old, made)
            _lower(made, builder.nodes)
    graph.extend(builder.nodes.made)
    if builder.nodes.made:
        graph.sort()
    return len(builder.tables)


def _waves(graph: ir.Graph, movement: Movement) -> Iterator[ir.Node]:
    """Yield the Cos and Sin nodes that the ops' tables are made from."""
    pending: list[ir.Value] = []
    for node in graph:
        form = form_of(node.domain, node.op_type)
        if form is not None:
            pending += [x for x in node.inputs[form.tensors :] if x is not None]
    seen: set[ir.Value] = set()
    while pending:
        value = pending.pop()
        if value in seen:
            continue
        seen.add(value)
        node = value.producer()
        if node is not None and node.domain == "" and node.op_type in ("Cos", "Sin"):
            yield node
        else:
            pending.extend(deep_sources(value, movement) or ())


@dataclass
class _Builder:
    movement: Movement
    nodes: Nodes = field(default_factory=Nodes)
    tables: dict[Angle, tuple[ir.Value, ir.Value]] = field(default_factory=dict)
    _constants: dict[bytes, tuple[ir.Value, ir.Value]] = field(default_factory=dict)
    _moved: dict[tuple[ir.Value, str], ir.Value | None] = field(default_factory=dict)

    def wave(self, node: ir.Node) -> ir.Value | None:
        """Return the exact cosine or sine in a node's place; None where its angle is another."""
        angle = node.inputs[0]
        return None if angle is None else self._rebuilt(angle, node.op_type)

    def _rebuilt(self, value: ir.Value, wave: str) -> ir.Value | None:
        key = (value, wave)
        if key not in self._moved:
            angle = angle_of(value)
            if angle is not None and self._can_be_exact(angle):
                self._moved[key] = self._table(angle)[wave == "Sin"]
            else:
                self._moved[key] = self._moved_wave(value, wave)
        return self._moved[key]

    def _can_be_exact(self, angle: Angle) -> bool:
        """Say whether a fraction of a position stays a small angle; whole positions always are."""
        is_small = bool(np.abs(_numbers(angle.frequencies)).max() <= 1.0)
        return is_small or is_whole(angle.positions, self.movement)

    def _moved_wave(self, value: ir.Value, wave: str) -> ir.Value | None:
        """Move the wave of what a value is moved from, as the value is."""
        node, sources = value.producer(), self.movement.sources(value)
        if node is None or sources is None or node.op_type in ("Mul", "Div", "Neg", "Pad", "Split"):
            return None
        parts = {x: made for x in sources if (made := self._rebuilt(x, wave)) is not None}
        if len(parts) < len(set(sources)):
            return None
        return parts[sources[0]] if node.op_type == "Cast" else self._copied(node, parts, value)

    def _table(self, angle: Angle) -> tuple[ir.Value, ir.Value]:
        """Return cosine and sine (..., P) of an angle."""
        if angle not in self.tables:
            add = self.nodes.add
            pos = add("Squeeze", self._in_float32(angle.positions), ints([-1]))
            if is_whole(angle.positions, self.movement):
                self.tables[angle] = self._whole(pos, angle)
            else:
                floor = add("Floor", pos)
                rest = add("Unsqueeze", add("Sub", pos, floor), ints([-1]))
                self.tables[angle] = self._turned(*self._whole(floor, angle), rest, angle)
        return self.tables[angle]

    def _in_float32(self, positions: ir.Value) -> ir.Value:
        """Return positions as float32, cast from what they are before they are moved."""
        node, sources = positions.producer(), self.movement.sources(positions)
        if positions.dtype == _FLOAT:
            return positions
        if node is None or (sources is None and node.op_type != "Cast"):
            return self.nodes.add("Cast", positions, to=_FLOAT)
        if node.op_type == "Cast":
            source = node.inputs[0]
            assert source is not None  # a Cast has an input
            return source if source.dtype == _FLOAT else self.nodes.add("Cast", source, to=_FLOAT)
        parts = {x: self._in_float32(x) for x in sources or ()}
        return self._copied(node, parts, positions)

    def _copied(self, node: ir.Node, parts: dict[ir.Value, ir.Value], like: ir.Value) -> ir.Value:
        """Repeat a movement on other data."""
        inputs = [x if x is None else parts.get(x, x) for x in node.inputs]
        copy = ir.Node("", node.op_type, inputs, node.attributes.values())
        copy.outputs[0].dtype, copy.outputs[0].shape = _FLOAT, like.shape
        self.nodes.made.append(copy)
        return copy.outputs[0]

    def _whole(self, pos: ir.Value, angle: Angle) -> tuple[ir.Value, ir.Value]:
        tables = self._digits(exact_frequencies(_numbers(angle.frequencies)))
        node = ir.Node(names.DOMAIN, names.ROPE_TABLE, [pos, *tables], version=1)
        matrices = node.outputs[0]
        matrices.dtype = _FLOAT
        self.nodes.made.append(node)
        first = self.nodes.add("Gather", matrices, ir.tensor(np.int64(0)), axis=-1)
        cos, sin = (
            self.nodes.add("Gather", first, ir.tensor(np.int64(row)), axis=-1) for row in (0, 1)
        )
        return cos, sin

    def _turned(
        self, cos: ir.Value, sin: ir.Value, rest: ir.Value, angle: Angle
    ) -> tuple[ir.Value, ir.Value]:
        """Rotate on by the fraction of a position; where it is 0, nothing changes, bit for bit."""
        add = self.nodes.add
        small = add("Mul", rest, ir.tensor(_numbers(angle.frequencies).astype(np.float32)))
        c, s = add("Cos", small), add("Sin", small)
        return (
            add("Sub", add("Mul", cos, c), add("Mul", sin, s)),
            add("Add", add("Mul", sin, c), add("Mul", cos, s)),
        )

    def _digits(self, frequencies: NDArray[np.float64]) -> tuple[ir.Value, ir.Value]:
        key = frequencies.tobytes()
        if key not in self._constants:
            coarse, fine = (self.nodes.constant(ir.tensor(t)) for t in digit_tables(frequencies))
            self._constants[key] = (coarse, fine)
        return self._constants[key]


def angle_of(value: ir.Value) -> Angle | None:
    """Return a value as positions times frequencies, or None where it is no such product."""
    node = value.producer()
    if node is None or node.domain != "" or node.op_type != "Mul" or value.shape is None:
        return None
    pairs = value.shape[-1]
    for positions, frequencies in (node.inputs, node.inputs[::-1]):
        if positions is None or frequencies is None or frequencies.const_value is None:
            continue
        one_each = frequencies.const_value.size == pairs and pairs != 1
        if one_each and positions.shape is not None and len(positions.shape) == len(value.shape):
            return Angle(positions, frequencies) if positions.shape[-1] == 1 else None
    return None


def is_whole(value: ir.Value, movement: Movement) -> bool:
    """Say whether a value is moved from whole numbers and nothing else."""
    pending = [value]
    for x in pending:
        node, sources = x.producer(), movement.sources(x)
        if sources is not None:
            pending.extend(sources)
        elif (
            node is None or node.op_type != "Cast" or not node.inputs[0] or is_float(node.inputs[0])
        ):
            return False
    return True


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


def _numbers(frequencies: ir.Value) -> NDArray[np.float64]:
    assert frequencies.const_value is not None  # asked by angle_of
    numbers: NDArray[np.float64] = frequencies.const_value.numpy().astype(np.float64)
    return numbers.reshape(-1)


def _lower(value: ir.Value, nodes: Nodes) -> None:
    """Let what is moved from a float32 value be float32; elsewhere it is cast to what was there."""
    movement = Movement()  # the graph is no longer what a former one remembers
    pending = [value]
    while pending:
        x = pending.pop()
        for node, index in list(x.uses()):
            output = node.outputs[0]
            if node.op_type == "Cast" or output.dtype != _DOUBLE:
                continue
            if x in (movement.sources(output) or ()) and node.op_type not in ("Mul", "Div"):
                output.dtype = _FLOAT
                pending.append(output)
            else:
                wide = nodes.add("Cast", x, to=_DOUBLE)
                node.replace_input_with(index, wide)
