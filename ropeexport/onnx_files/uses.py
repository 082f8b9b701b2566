"""What an input's whole numbers are for: what the operators do with them that they reach.

Rows of a table, positions, a mask, axes, sizes, or plain numbers.  Whoever draws an input must
know, for a runtime refuses an index beyond its table, and positions that are no index may be large.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from ropeexport.axes import Dim, Sum, sum_of
from ropeexport.manifest import Role
from ropeexport.operators import MOVERS, STANDARD, is_standard, that_keep

_MOST_VALUES = 1 << 10  # elements of a constant that is looked into
KERNELS = "com.microsoft"  # onnxruntime's own operators
_REPEATS = that_keep("order", "copies") | {"Identity"}
_TO_ANGLES = frozenset({"Add", "Concat", "Div", "Einsum", "Floor", "Gemm", "MatMul", "Mul", "Sub"})
_COMPARES = frozenset(
    {"And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or", "Xor"}
)
# by operator: the inputs whose numbers are of that kind
_AXES = {
    **{f"Reduce{kind}": (1,) for kind in (
        "L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare",
    )},
    **dict.fromkeys(("CumProd", "CumSum", "Squeeze", "Unsqueeze"), (1,)),
    "DFT": (2,), "Pad": (3,), "Slice": (3,),
}  # fmt: skip
_SIZES = {
    **dict.fromkeys(("ConstantOfShape", "Loop"), (0,)),
    **dict.fromkeys(("Div", "Expand", "Mod", "OneHot", "ReverseSequence", "Tile", "TopK"), (1,)),
    **dict.fromkeys(("HammingWindow", "HannWindow", "BlackmanWindow"), (0,)),
    **dict.fromkeys(("GRU", "LSTM", "RNN"), (4,)),
    "Attention": (6,), "Range": (1, 2), "Resize": (2, 3), "Slice": (2, 4), "Upsample": (1,),
}  # fmt: skip
# operators whose input 1 indexes input 0, and along which axis where no attribute says it; the
# rows of an index may be of several
_ROWS = {
    **dict.fromkeys(("Gather", "GatherElements", "ScatterElements", "Scatter"), 0),
    **dict.fromkeys(("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"), 1),
}
_SEVERAL = ("GatherND", "ScatterND")
_SCATTERS = ("Scatter", "ScatterElements", "ScatterND")
_ONE = Sum((), 1)
_FIRST = {"Range": (0,), "Slice": (1,), "TensorScatter": (2,)}  # what begins at 0 at the least
# the positions of a rotary operator, and its table
_ROTARY = {"": (3, 1), KERNELS: (1, 2)}


@dataclass(frozen=True)
class Numbers:
    """What an input's numbers are: their role, and for an index the rows that its table has.

    Rows are a number, or a sum of axes.
    """

    role: Role = "data"
    below: Dim | None = None


@dataclass(frozen=True)
class _Use:
    """What one operator takes a value for."""

    role: Role = "data"
    rows: Sum | None = None


def numbers_of(model: ir.Model, value: ir.Value) -> Numbers:
    """Return what the numbers of an input are for; of floating ones, where they must be whole."""
    if not isinstance(value.type, ir.TensorType) or value.dtype is None:
        return Numbers()
    found = list(_uses(model, value))
    if value.dtype.is_floating_point():
        whole = (one for one in found if one.role == "sizes" or one.rows is not None)
        return next((_of_one(one) for one in whole if one.role != "positions"), Numbers())
    rows = _least(found)
    below = None if rows is None else _dim(rows)
    if value.dtype in (ir.DataType.INT32, ir.DataType.INT64):
        is_position = any(one.role == "positions" for one in found)
        if is_position or (rows is None and _makes_angles(model, value)):
            return Numbers("positions", below)
    if rows is not None:
        is_place = any(one.role == "places" for one in found)
        return Numbers("places" if is_place else "data", below)
    plain = Numbers("numbers") if value.dtype.is_integer() else Numbers()
    return next((_of_one(one) for one in found if one.role != "data"), plain)


def _of_one(use: _Use) -> Numbers:
    return Numbers(use.role, None if use.rows is None else _dim(use.rows))


def _dim(rows: Sum) -> Dim:
    return str(rows) if rows.terms else max(1, rows.constant)


def _least(uses: Iterable[_Use]) -> Sum | None:
    """Return the fewest rows that an index of all of these has; None where it is none."""
    found = {one.rows for one in uses if one.rows is not None}
    if len(found) < 2:
        return next(iter(found), None)
    return Sum((), min(1 if rows.terms else rows.constant for rows in found))


def _uses(model: ir.Model, value: ir.Value, *, of_sums: bool = True) -> Iterator[_Use]:
    """Yield what each operator takes a value for, looking through those that only move it.

    ``of_sums``: as a part of an index that is a sum, too.
    """
    through = frozenset({*MOVERS, "Cast", "CastLike", "Clip"})
    for node, place, shift in _shifted_readers(model, value, through, of_sums=of_sums):
        op, is_own = node.op_type, is_standard(node)
        if op == "RotaryEmbedding" and (is_own or node.domain == KERNELS):
            at, table = _ROTARY["" if is_own else KERNELS]
            if place == at:
                yield _Use("positions", _less(_rows(node.inputs[table], 0, several=1), shift))
        elif not is_own:
            continue
        elif place == 1 and op in (*_ROWS, *_SEVERAL):
            yield _Use("places" if _is_written(node) else "data", _less(_rows_of(node), shift))
        elif (op == "OneHot" and place == 0) or place in _FIRST.get(op, ()):
            yield _Use("data", _ONE)
        elif op == "Reshape" and place == 1:
            yield _Use("shape")
        elif place in _AXES.get(op, ()):
            yield _Use("axes")
        elif place in _SIZES.get(op, ()):
            yield _Use("sizes")
        elif _is_mask(node, place, value):
            yield _Use("mask")


def _is_written(node: ir.Node) -> bool:
    """Say whether an operator writes each place that an index has, so that no two may be alike."""
    adds = node.attributes.get_string("reduction", "none") != "none"
    return node.op_type in _SCATTERS and not adds


def _less(rows: Sum, shift: Sum) -> Sum:
    """Return rows without the first ones; what is left has one at the least."""
    left = _minus(rows, shift)
    return left if left.terms or left.constant > 0 else _ONE


def _minus(one: Sum, other: Sum) -> Sum:
    factors = dict(one.terms)
    for name, factor in other.terms:
        factors[name] = factors.get(name, 0) - factor
    terms = tuple(sorted((name, factor) for name, factor in factors.items() if factor))
    return Sum(terms, one.constant - other.constant)


def small_constant(value: ir.Value) -> NDArray[Any] | None:
    """Return a small constant; one that is an input too is given by whoever calls."""
    tensor = None if value.is_graph_input() else ir.convenience.get_const_tensor(value)
    if tensor is None or isinstance(tensor, ir.ExternalTensor) or tensor.size > _MOST_VALUES:
        return None
    numbers: NDArray[Any] = tensor.numpy()
    return numbers


def _is_mask(node: ir.Node, place: int, value: ir.Value) -> bool:
    """Say whether an operator takes the numbers of an input of several axes for yes and no."""
    if value.shape is None or value.shape.rank() < 2:
        return False
    if node.op_type in ("CumSum", "ReduceSum", "Where"):
        return place == 0
    is_of_attention = node.op_type == "Attention" and place == 3
    return is_of_attention or node.op_type in _COMPARES or (node.op_type == "Sub" and place == 1)


def _makes_angles(model: ir.Model, value: ir.Value) -> bool:
    """Say whether a value goes through arithmetic into a cosine or a sine."""
    through = frozenset({*MOVERS, *_TO_ANGLES, "Cast"})
    readers = _readers(model, value, through, everywhere=True)
    return any(is_standard(node, "Cos", "Sin") for node, _ in readers)


def _shifted_readers(
    model: ir.Model, value: ir.Value, through: frozenset[str], *, of_sums: bool
) -> Iterator[tuple[ir.Node, int, Sum]]:
    """Yield what reads a value, at which place, and the largest that was added to it before."""
    for node, place in _readers(model, value, through):
        yield node, place, Sum(())
        if not is_standard(node, "Add") or len(node.inputs) != 2:
            continue
        added = node.inputs[1 - place]
        is_constant = added is not None and small_constant(added) is not None
        shift = _largest(model, added) if added is not None and (is_constant or of_sums) else None
        if shift is not None:
            for reader, at in _readers(model, node.outputs[0], through):
                yield reader, at, shift


def _largest(model: ir.Model, value: ir.Value) -> Sum | None:
    """Return the largest of whole numbers: constants, indices, products and sums of such."""
    numbers = small_constant(value)
    if numbers is not None:
        is_whole = numbers.size and numbers.dtype.kind in "iu"
        return Sum((), max(0, int(numbers.max()))) if is_whole else None
    if value.is_graph_input():
        rows = _least(_uses(model, value, of_sums=False))
        return None if rows is None else _minus(rows, _ONE)
    node = value.producer()
    if node is None or not is_standard(node, "Cast", "Mul", *_REPEATS):
        return None
    parts = [_largest(model, x) if x is not None else None for x in node.inputs]
    if node.op_type != "Mul":
        return parts[0]
    known = sorted((x for x in parts if x is not None), key=lambda x: len(x.terms))
    if len(known) < 2 or known[0].terms:
        return None
    factor, other = known[0].constant, known[1]
    return Sum(tuple((name, factor * f) for name, f in other.terms), factor * other.constant)


def _readers(
    model: ir.Model, value: ir.Value, through: frozenset[str], *, everywhere: bool = False
) -> Iterator[tuple[ir.Node, int]]:
    """Yield what reads a value, and at which place, looking through operators and calls.

    A mover is looked through where the value is its data, ``everywhere``: any operator of those.
    """
    pending, met = [value], {value}
    while pending:
        for node, place in pending.pop().uses():
            yield node, place
            body = model.functions.get(node.op_identifier())
            reached = list(body.inputs[place : place + 1]) if body is not None else []
            mover = MOVERS.get(node.op_type)
            is_data = mover is None or mover.data is None or place in mover.data
            if node.domain in STANDARD and node.op_type in through and (everywhere or is_data):
                reached += node.outputs
            pending += [x for x in reached if x not in met]
            met.update(reached)


def _rows_of(node: ir.Node) -> Sum:
    """Return the rows of the table that a node reads by an index; 1 where they are not known."""
    if node.op_type in _ROWS:
        axis = node.attributes.get_int("axis", _ROWS[node.op_type])
        return _rows(node.inputs[0], axis, several=1)
    index = node.inputs[1]
    depth = index.shape[-1] if index is not None and index.shape else None
    first = node.attributes.get_int("batch_dims", 0)
    return _rows(node.inputs[0], first, several=depth if isinstance(depth, int) else 8)


def _rows(table: ir.Value | None, axis: int, several: int) -> Sum:
    """Return the least size of a table's axes from one on; 1, the least that there is, if unknown.

    A table may be a weight, one that is repeated, or an input whose size is written.
    """
    while table is not None:
        shape = table.const_value.shape if table.const_value is not None else table.shape
        maker = table.producer()
        if shape is not None or maker is None or not is_standard(maker, *_REPEATS):
            break
        table = maker.inputs[0]
    dims = tuple(shape or ()) if table is not None else ()
    chosen = dims[axis:][:several] if -len(dims) <= axis < len(dims) else ()
    return _least(_Use(rows=_size(dim)) for dim in chosen) or _ONE


def _size(dim: int | ir.SymbolicDim) -> Sum:
    if isinstance(dim, int):
        return Sum((), dim or 1)
    return _ONE if dim.value is None else sum_of(dim.value)
