"""Norms before rotations: a norm of q and k, what moves them, and their rope become one op.

A rotary op is looked at from its data backwards: through what moves whole heads (transposes, the
cut of a row into heads, casts, a concatenation along the length) to a root mean square norm,
``RMSNormalization`` or written out.  Where both q and k have one, the op that norms first takes the
place of all; it is compared with them from the norm's data on, on random numbers, before it stands.

The text and image tokens of FLUX's double blocks have norms of their own and are joined before they
are rotated.  Each is normed and rotated by an op of its own then, with its rows of the tables, and
the results are joined: what is written is as much, and TensorRT writes the parts of a concatenation
in their place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ropeexport.fusion.evaluation import Array, Trial, UnevaluableError, evaluate
from ropeexport.fusion.movement import is_read_inside, readers_of
from ropeexport.fusion.norms import NoNormError, Norm, norm_of
from ropeexport.fusion.op_inputs import Nodes, ints, sizes_of
from ropeexport.fusion.suspects import refusal
from ropeexport.manifest import Refusal, RopeCount
from ropeexport.onnx_files.onnx_file import opset
from ropeexport.operators import is_standard
from ropeexport.ops import names
from ropeexport.ops.forms import AXIS, EPSILON, FORMS, PERM, ROTARY_SIZE, Form, form_of

_FLOAT = ir.DataType.FLOAT
_SWAPPED = (0, 2, 1, 3)  # (B, L, H, D) to (B, H, L, D), and back
_LENGTH = 2  # the axis of (B, H, L, D)
# operators that hand on whole heads, if their last axis stays
_MOVES = ("Transpose", "Reshape", "Unsqueeze", "Squeeze", "Identity")
# sizes of the random data: at the second an epsilon is as large as the mean of the squares
_DRAWN = (1.0, 1e-3)
# a graph may have its epsilon in float64, the op has it in float32: half a bit in the root
_ROUNDING = 2.0**-25


@dataclass(frozen=True)
class _Normed:
    """A norm and what moves its result, the nearest to the norm first."""

    norm: Norm
    moves: tuple[ir.Node, ...]

    def followed_by(self, moves: Sequence[ir.Node]) -> _Normed:
        return replace(self, moves=(*self.moves, *moves))


@dataclass(frozen=True)
class _Ready:
    """Data and scale as the op takes them, and what the data is made from."""

    source: ir.Value
    x: ir.Value
    scale: ir.Value
    facts: tuple[float, int, tuple[int, ...]]  # epsilon, axis, perm


def put_norms(model: ir.Model) -> RopeCount:
    """Put the op that norms first in the place of rotary ops behind norms, in place; count them.

    Found is a rotary op before whose data a norm stands, of whatever kind.
    """
    RemoveUnusedNodesPass()(model)  # what an op has replaced reads the norms no more
    graph = model.graph
    trial = Trial(graph, opset(model))
    replaced, refused = 0, list[Refusal]()
    for node in list(graph):
        form = form_of(node.domain, node.op_type)
        if form is None:
            continue
        if form.normed:
            replaced += 1
            continue
        try:
            segments = _segments(node, form)
            if segments is None:
                continue
            _swap_in(node, form, segments, trial)
            replaced += 1
        except NoNormError as error:
            refused.append(refusal(node, str(error)))
    graph.sort()
    return RopeCount(found=replaced + len(refused), replaced=replaced, refused=tuple(refused))


def _segments(node: ir.Node, form: Form) -> list[list[_Normed]] | None:
    """Return the norms before each of a rotary op's data, a list for each segment of the length.

    None where no norm stands before it.

    Raises
    ------
    NoNormError
        Where there is one, and no op does the same.
    """
    each = []
    for x in node.inputs[: form.tensors]:
        assert x is not None  # a rotary op has all its data
        each.append(_before(x))
    if not any(each):
        return None
    if not all(each):
        raise NoNormError("only one of q and k is normed")
    if len({len(parts) for parts in each}) > 1:
        raise NoNormError("q and k are joined of different numbers of segments")
    return [list(parts) for parts in zip(*each, strict=True)]


def _before(x: ir.Value) -> list[_Normed]:
    """Return the norm before a value, or those of the segments that it is joined of; or none."""
    moves: list[ir.Node] = []
    value = x
    while True:
        norm = norm_of(value)
        if norm is not None:
            _check_alone(x, [norm.result, *(m.outputs[0] for m in moves)])
            return [_Normed(norm, tuple(reversed(moves)))]
        node = value.producer()
        if node is None:
            return []
        if is_standard(node, "Concat"):
            return _joined(x, node, tuple(reversed(moves)))
        if not is_standard(node, *_MOVES, "Cast"):
            return []
        moves.append(node)
        assert node.inputs[0] is not None  # what it moves
        value = node.inputs[0]


def _joined(x: ir.Value, concat: ir.Node, moves: tuple[ir.Node, ...]) -> list[_Normed]:
    """Return the norms of the segments that are joined before they are rotated."""
    parts = [_before(value) for value in concat.inputs if value is not None]
    if not any(parts):
        return []
    axis = concat.attributes["axis"].as_int()
    if not all(len(part) == 1 for part in parts):
        raise NoNormError("of the segments that are joined before it not all are normed once")
    for move in moves:
        if is_standard(move, "Transpose"):
            order = _order(move)
            axis = order.index(axis % len(order))
        elif not is_standard(move, "Cast", "Identity"):
            raise NoNormError(f"{move.op_type} stands behind the joined segments")
    if axis != _LENGTH:
        raise NoNormError("its segments are joined along another axis than the length")
    _check_alone(x, [concat.outputs[0], *(m.outputs[0] for m in moves)])
    return [part[0].followed_by(moves) for part in parts]


def _check_alone(x: ir.Value, values: Sequence[ir.Value]) -> None:
    """Raise where something else reads what would be computed no more."""
    for value in values:
        readers = [] if value is x else readers_of(value, _graph_of(value))
        is_read = value.is_graph_output() or is_read_inside(value)
        if len(set(readers)) > 1 or is_read:
            raise NoNormError(f"{value.name} is read elsewhere too")
    if len(set(readers_of(x, _graph_of(x)))) > 1 or x.is_graph_output():
        raise NoNormError(f"{x.name} is read elsewhere too")


def _graph_of(value: ir.Value) -> Any:
    node = value.producer()
    return None if node is None else node.graph


def _swap_in(node: ir.Node, form: Form, segments: list[list[_Normed]], trial: Trial) -> None:
    """Put ops in the place of a rotary op and the norms before it, if they compute the same."""
    nodes = Nodes()
    tables = [x for x in form.tables_of(node.inputs) if x is not None]
    ready = [[_ready(nodes, n, x) for n, x in zip(part, node.outputs, strict=True)]
             for part in segments]  # fmt: skip
    for part in ready:
        if len({r.facts for r in part}) > 1:
            raise NoNormError("q and k are normed in different ways")
    rows = [tables] if len(ready) == 1 else list(_cut(nodes, form, tables, ready))
    made = [_op(nodes, node, form, *each) for each in zip(ready, rows, strict=True)]
    results = [
        outputs[0] if len(outputs) == 1 else nodes.add("Concat", *outputs, axis=_LENGTH)
        for outputs in zip(*made, strict=True)
    ]
    scales = [n.norm.scale for part in segments for n in part if n.norm.scale is not None]
    sources = [r.source for part in ready for r in part]
    reason = _difference(node, results, tables, scales, sources, trial)
    if reason is not None:
        raise NoNormError(reason)
    assert node.graph is not None
    node.graph.insert_before(node, nodes.made)
    for old, new in zip(node.outputs, results, strict=True):
        new.name, new.type, new.shape = old.name, old.type, old.shape
        old.name = f"{old.name}_replaced"
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    node.graph.remove(node, safe=True)


def _op(
    nodes: Nodes, node: ir.Node, form: Form, parts: Sequence[_Ready], tables: Sequence[ir.Value]
) -> list[ir.Value]:
    normed = replace(form, normed=True)
    if normed.op_type not in FORMS:
        raise NoNormError(f"no op norms before a rotation of the form {form.op_type}")
    epsilon, axis, perm = parts[0].facts
    given = {EPSILON: epsilon, AXIS: axis, PERM: perm}
    part = {ROTARY_SIZE: node.attributes[ROTARY_SIZE].as_int()} if form.partial else {}
    attributes = ir.convenience.convert_attributes(normed.attributes | part | given)
    inputs = [*(p.x for p in parts), *tables, *(p.scale for p in parts)]
    op = ir.Node(
        names.DOMAIN, normed.op_type, inputs, attributes, num_outputs=len(parts), version=1
    )
    op.metadata_props.update(node.metadata_props)
    nodes.made.append(op)
    for output, old in zip(op.outputs, node.outputs, strict=True):
        output.dtype = old.dtype
        shape = list(old.shape or ())
        if len(shape) == 4:
            output.shape = ir.Shape([*shape[:_LENGTH], None, shape[-1]])
    return list(op.outputs)


def _ready(nodes: Nodes, normed: _Normed, result: ir.Value) -> _Ready:
    """Bring a norm's data and scale into the form that the op takes."""
    norm, dtype = normed.norm, result.dtype
    if norm.x.dtype != dtype:
        raise NoNormError(f"what is normed is {norm.x.dtype}, what is rotated {dtype}")
    if norm.rounds_first is not None and norm.scale is not None:
        wanted = dtype if norm.rounds_first else _FLOAT
        if norm.scale.dtype != wanted:
            raise NoNormError(
                f"its norm is rounded to {dtype} and scaled in {norm.scale.dtype}"
                if norm.rounds_first
                else f"its norm is scaled in {norm.scale.dtype} before it is rounded"
            )
    size = _last(norm.result)
    head = _last(result)
    if size == head:
        return _of_heads(nodes, normed, head, dtype)
    return _of_all_heads(nodes, normed, size, head, dtype)


def _last(value: ir.Value) -> int:
    size = value.shape[-1] if value.shape is not None and len(value.shape) else None
    if not isinstance(size, int):
        raise NoNormError(f"the last axis of {value.name} has no size that is known")
    return size


def _of_heads(nodes: Nodes, normed: _Normed, head: int, dtype: ir.DataType | None) -> _Ready:
    """Return what is normed by heads: whatever moves whole heads may stand before the norm."""
    norm = normed.norm
    moves = [m for m in normed.moves if not is_standard(m, "Cast", "Identity")]
    perm: tuple[int, ...] = (0, 1, 2, 3)
    x = norm.x
    for move in moves:
        if _last(move.outputs[0]) != head:
            raise NoNormError(f"{move.op_type} between the norm and the rope cuts a head")
        if is_standard(move, "Transpose"):
            order = _order(move)
            if order[-1] != len(order) - 1:
                raise NoNormError("the last axis is moved between the norm and the rope")
    if moves and _is_swap(moves[-1]):
        perm, moves = _SWAPPED, moves[:-1]
    elif not moves and (before := x.producer()) is not None and _is_swap(before):
        assert before.inputs[0] is not None
        perm, x = _SWAPPED, before.inputs[0]
    source = x
    for move in moves:
        x = _again(nodes, move, x)
    scale = _scale(nodes, norm, [head], dtype)
    return _Ready(source, x, scale, (norm.epsilon, -1, perm))


def _of_all_heads(
    nodes: Nodes, normed: _Normed, size: int, head: int, dtype: ir.DataType | None
) -> _Ready:
    """Return what is normed over all heads of a token, and cut into them behind the norm."""
    moves = [m for m in normed.moves if not is_standard(m, "Cast", "Identity")]
    if len(moves) != 2 or not is_standard(moves[0], "Reshape") or not _is_swap(moves[1]):
        raise NoNormError("its norm goes over something else than a head, or all heads of a token")
    apart = moves[0].outputs[0]
    shape = list(apart.shape or ())
    if len(shape) != 4 or shape[-1] != head or shape[-2] != size // head or size % head:
        raise NoNormError("its norm goes over something else than all heads of a token")
    x = _again(nodes, moves[0], normed.norm.x)
    scale = _scale(nodes, normed.norm, [size // head, head], dtype)
    return _Ready(normed.norm.x, x, scale, (normed.norm.epsilon, -2, _SWAPPED))


def _is_swap(node: ir.Node) -> bool:
    if not is_standard(node, "Transpose"):
        return False
    return _order(node) == _SWAPPED


def _order(transpose: ir.Node) -> tuple[int, ...]:
    """Return which axis of its input each axis of a transpose's result is."""
    order = transpose.attributes.get_ints("perm", ())
    shape = transpose.outputs[0].shape
    if not order and shape is None:
        raise NoNormError("a transpose between the norm and the rope has no rank that is known")
    return tuple(order) or tuple(reversed(range(len(shape or ()))))


def _again(nodes: Nodes, move: ir.Node, x: ir.Value) -> ir.Value:
    """Return what a node makes of another value than its own."""
    others = [value for value in move.inputs[1:] if value is not None]
    attributes = {name: a.value for name, a in move.attributes.items()}
    made = nodes.add(move.op_type, x, *others, **attributes)
    made.dtype, made.shape = x.dtype, move.outputs[0].shape
    return made


def _scale(nodes: Nodes, norm: Norm, shape: list[int], dtype: ir.DataType | None) -> ir.Value:
    if norm.scale is None:
        assert dtype is not None  # a norm's result has one
        ones = np.ones(shape, dtype=np.float32).astype(dtype.numpy())
        return nodes.constant(ir.tensor(ones))
    if norm.scale.shape is None or any(not isinstance(dim, int) for dim in norm.scale.shape):
        raise NoNormError(f"the shape of its scale {norm.scale.name} is not known")
    given = [int(dim) for dim in norm.scale.shape]
    if given == shape:
        return norm.scale
    if int(np.prod(given)) != int(np.prod(shape)):
        raise NoNormError(f"its scale is of {given}, its data of {shape}")
    made = nodes.add("Reshape", norm.scale, ints(shape))
    made.shape = ir.Shape(shape)
    return made


def _cut(
    nodes: Nodes, form: Form, tables: Sequence[ir.Value], ready: Sequence[Sequence[_Ready]]
) -> Iterator[list[ir.Value]]:
    """Yield the rows of the tables for each segment of the length."""
    axis = _LENGTH if form.coefficients.by_head else 1
    last: ir.Value | None = None
    bounds: list[ir.Value | ir.TensorProtocol] = [ints([0])]
    for part in ready:
        place = part[0].facts[2].index(_LENGTH)
        size = sizes_of(nodes, part[0].x, place, place + 1)
        last = size if last is None else nodes.add("Add", last, size)
        last.dtype = ir.DataType.INT64
        bounds.append(last)
    for begin, end in pairwise(bounds):
        yield [nodes.add("Slice", table, begin, end, ints([axis])) for table in tables]


def _table_sizes(
    node: ir.Node, tables: Sequence[ir.Value], length: int, head: int
) -> Iterator[tuple[ir.Value, tuple[int, ...]]]:
    """Yield sizes of an op's tables that fit data of a length and a head size, for one batch."""
    form = form_of(node.domain, node.op_type)
    assert form is not None  # it is a rotary op
    pairs = (node.attributes[ROTARY_SIZE].as_int() if form.partial else head) // 2
    by_head = (1, 1, length, pairs, 2, 2)
    yield from ((x, by_head if form.coefficients.by_head else (1, length, pairs)) for x in tables)


def _difference(
    node: ir.Node,
    results: Sequence[ir.Value],
    tables: Sequence[ir.Value],
    scales: Sequence[ir.Value],
    sources: Sequence[ir.Value],
    trial: Trial,
) -> str | None:
    """Compare what is and what would be, from the norms' data on; None where they agree."""
    rng = np.random.default_rng(5)
    try:
        given: dict[ir.Value, Array] = {
            scale: rng.standard_normal(trial.shape(scale)) for scale in scales
        }
        length, head = trial.shape(node.outputs[0])[_LENGTH:]
        sized = _table_sizes(node, tables, length, head)
        given |= {x: rng.standard_normal(sizes) for x, sizes in sized}
        for size in _DRAWN:
            given |= {x: size * rng.standard_normal(trial.shape(x)) for x in sources}
            for before, after in zip(node.outputs, results, strict=True):
                old, new = evaluate(before, given, trial, {}), evaluate(after, given, trial, {})
                if old.shape != new.shape:
                    return f"the op would give shape {new.shape}, the graph gives {old.shape}"
                worst = np.abs(old - new).max(initial=0.0)
                if not worst <= _ROUNDING * np.abs(old).max(initial=1.0):
                    return f"the op would differ by {worst:.3g}"
    except UnevaluableError as error:
        return f"cannot be compared with the op: {error}"
    return None
