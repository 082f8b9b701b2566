"""Attention over a cache: which can be onnxruntime's own operator, and its place in the graph.

The operator is causal by the places of tokens in the cache, besides what it is told to leave out.
So a mask has to be causal too, and no token may see nothing, where one kernel computes another
thing than the next.  Both are looked at by computing the mask, at several sizes, from random
padding.  An attention of which that or anything else is not known stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ropeexport.fusion.evaluation import (
    EVEN_SIZES,
    ODD_SIZES,
    Array,
    Trial,
    UnevaluableError,
    evaluate,
)
from ropeexport.onnx_files.onnx_file import opset
from ropeexport.onnx_files.ort_layout import keep_side_by_side
from ropeexport.onnx_files.variants import take_norms_apart
from ropeexport.operators import is_standard
from ropeexport.ops import grouped_attention as kernel
from ropeexport.ops.grouped_attention import Nodes, Steps
from ropeexport.ops.names import GROUPED_ATTENTION

_RANK, _TOKENS = 4, 2
_SIZES = (EVEN_SIZES, ODD_SIZES, (2, 2, 9), (1, 2, 3))
_DRAWS = 4  # of padding, at each of them
# attributes that must be absent, or 0
_OFF = ("is_causal", "softcap", "qk_matmul_output_mode", "softmax_precision")


@dataclass(frozen=True)
class _Cached:
    """An attention over a cache, and what puts new keys and values into it."""

    node: ir.Node
    updates: tuple[ir.Node, ir.Node]  # of keys, of values
    mask: ir.Value
    write: ir.Value | None  # where new ones are written; None: behind those that are there
    heads: int
    groups: int
    size: int

    @property
    def scale(self) -> float:
        """What scores are multiplied by."""
        return float(self.node.attributes.get_float("scale", self.size**-0.5))


def put_grouped(model: ir.Model) -> int:
    """Put onnxruntime's operator, where it takes the sizes, in the place of each attention.

    Parameters
    ----------
    model : ir.Model
        Changed in place.

    Returns
    -------
    int
        How many there are.
    """
    proven: dict[tuple[ir.Value, ir.Value | None], bool] = {}
    shared: dict[tuple[ir.Value, ir.Value | None], Steps] = {}
    count = 0
    for found in list(_cached(model.graph)):
        key = found.mask, found.write
        if key not in proven:
            proven[key] = _is_causal(model, found)
        if proven[key]:
            _put(model.graph, found, shared)
            count += 1
    if count:
        model.opset_imports[kernel.DOMAIN] = kernel.VERSION
    return count


def with_grouped(model: ir.Model) -> ir.Model:
    """Return ``model`` with attention over a cache as onnxruntime computes it best.

    A copy, which shares the weights; where there is none that its operator computes, the model
    itself.
    """
    is_written = any(map(kernel.is_choice, model.graph))
    if not is_written and next(_cached(model.graph), None) is None:
        return model
    made = model.clone()
    if not put_grouped(made) and not is_written:
        return model
    take_norms_apart(made)  # onnxruntime rotates in the layout of the projections
    keep_side_by_side(made)
    return made


def _cached(graph: ir.Graph) -> Iterator[_Cached]:
    """Yield the attentions over a cache that the operator may compute."""
    for node in graph:
        found = _of(node) if is_standard(node, "Attention") else None
        if found is not None:
            yield found


def _of(node: ir.Node) -> _Cached | None:
    q, k, v, mask = (*node.inputs, *[None] * 4)[:4]
    if q is None or k is None or v is None or mask is None or not _is_plain(node, (q, k, v)):
        return None
    keys, values = _update(k, node), _update(v, node)
    (heads, size), (groups, width), of_values = map(_heads, (q, k, v))
    if keys is None or values is None or keys is values or _written(keys) is not _written(values):
        return None
    is_taken = bool(heads and groups and size) and not heads % groups and not size % kernel.WIDTHS
    if not is_taken or size != width or (groups, width) != of_values or not _is_for(mask, q, k):
        return None
    return _Cached(node, (keys, values), mask, _written(keys), heads, groups, size)


def _is_plain(node: ir.Node, data: tuple[ir.Value, ...]) -> bool:
    """Say whether an attention computes what the operator does, of data of its types."""
    return (
        not any(x is not None for x in node.inputs[4:])
        and not any(y.uses() or y.is_graph_output() for y in node.outputs[1:])
        and not any(node.attributes[name].value for name in _OFF if name in node.attributes)
        and data[0].dtype in kernel.TYPES
        and {x.dtype for x in data} == {data[0].dtype}
    )


def _is_for(mask: ir.Value, q: ir.Value, k: ir.Value) -> bool:
    """Say whether a mask is one of bits that says of each token and slot whether it is seen."""
    if mask.dtype != ir.DataType.BOOL or mask.shape is None or len(mask.shape) != _RANK:
        return False
    assert q.shape is not None  # their heads are known
    assert k.shape is not None
    batch, heads, length, slots = mask.shape
    fits = batch in (1, q.shape[0]) and heads in (1, q.shape[1])
    return fits and (length, slots) == (q.shape[2], k.shape[2])


def _heads(x: ir.Value) -> tuple[int, int]:
    """Return the heads of (B, H, L, D) and their width; 0 of what is not known."""
    if x.shape is None or len(x.shape) != _RANK:
        return 0, 0
    heads, size = x.shape[1], x.shape[3]
    return heads if isinstance(heads, int) else 0, size if isinstance(size, int) else 0


def _update(present: ir.Value, reader: ir.Node) -> ir.Node | None:
    """Return what puts new tokens into a cache, behind a past or at an index, for one reader."""
    node = present.producer()
    if node is None or any(use.node is not reader for use in present.uses()):
        return None
    inputs = (*node.inputs, None, None)
    past, new, write = inputs[:3]
    if past is None or new is None or not _heads(past) == _heads(new) == _heads(present):
        return None
    axis = node.attributes.get_int("axis", _TOKENS - _RANK)
    if axis not in (_TOKENS, _TOKENS - _RANK):
        return None
    if is_standard(node, "Concat") and len(node.inputs) == 2:
        return node
    is_linear = node.attributes.get_string("mode", "linear") == "linear"
    is_indexed = is_linear and write is not None
    return node if is_standard(node, "TensorScatter") and is_indexed else None


def _written(update: ir.Node) -> ir.Value | None:
    return update.inputs[2] if update.op_type == "TensorScatter" else None


def _is_causal(model: ir.Model, found: _Cached) -> bool:
    """Say whether a mask lets each token see some of those up to itself, and no other."""
    rng = np.random.default_rng(0)
    trials = [Trial(model.graph, opset(model), sizes) for sizes in _SIZES]
    try:
        return all(_is_causal_at(t, found, rng) for t in trials for _ in range(_DRAWS))
    except UnevaluableError:
        return False


def _is_causal_at(trial: Trial, found: _Cached, rng: np.random.Generator) -> bool:
    graph, memo = found.node.graph, dict[ir.Value, Array]()
    assert isinstance(graph, ir.Graph)
    given = {
        x: rng.integers(0, 2, trial.shape(x)).astype(x.dtype.numpy())
        for x in graph.inputs
        if x.dtype is not None and not x.dtype.is_floating_point() and not x.is_initializer()
    }
    seen = evaluate(found.mask, given, trial, memo)
    assert found.node.inputs[0] is not None  # it was asked for its heads
    batch, _, length, _ = trial.shape(found.node.inputs[0])
    if found.write is None:
        starts = np.full(batch, seen.shape[-1] - length)
    else:
        starts = evaluate(found.write, given, trial, memo)
    own = starts[:, None, None, None] + np.arange(length)[:, None]
    hidden = np.arange(seen.shape[-1]) > own
    return bool(seen.any(axis=-1).all() and not (seen & hidden).any())


def _put(
    graph: ir.Graph, found: _Cached, shared: dict[tuple[ir.Value, ir.Value | None], Steps]
) -> None:
    """Put the choice between the operator and what the graph has in the place of the second."""
    name = f"{GROUPED_ATTENTION}.{found.node.outputs[0].name}"
    before, inside = Nodes(name), Nodes(f"{name}.kernel")
    (past_k, k), (past_v, v) = (x.inputs[:2] for x in found.updates)
    rows = [before.rows(x) for x in (found.node.inputs[0], k, v)]
    key = found.mask, found.write
    if key not in shared:
        shared[key] = kernel.steps(before, rows[0], *key)
    common = shared[key]
    inside.add(
        GROUPED_ATTENTION, *rows, past_k, past_v, common.last, common.total, *[None] * 3,
        common.seen, domain=kernel.DOMAIN, outputs=3,
        num_heads=found.heads, kv_num_heads=found.groups, scale=found.scale,
    )  # fmt: skip
    made, *presents = inside[0].outputs
    own = [*found.updates, found.node]
    side_by_side = _side_by_side(found)
    if side_by_side is None:
        apart = inside.add("Reshape", made, inside.constant([0, 0, found.heads, found.size]))
        made = inside.add("Transpose", apart, perm=kernel.SWAPPED)
    else:
        own += side_by_side
    results = [own[-1].outputs[0], *(x.outputs[0] for x in found.updates)]
    graph.insert_before(own[-1], before)
    kernel.choose(name, common.is_taken, (inside, [made, *presents]), (own, results))


def _side_by_side(found: _Cached) -> tuple[ir.Node, ir.Node] | None:
    """Return what puts the heads of each token of an attention's result side by side, if it is so.

    The operator's result has them so by itself.
    """
    turn = _only_reader(found.node, "Transpose")
    flat = None if turn is None else _only_reader(turn, "Reshape")
    if turn is None or flat is None:
        return None
    before, after = turn.outputs[0].shape, flat.outputs[0].shape
    if before is None or after is None or len(after) != _RANK - 1:
        return None
    is_flat = after[:2] == before[:2] and after[2] == found.heads * found.size
    is_turned = tuple(turn.attributes.get_ints("perm", ())) == kernel.SWAPPED
    return (turn, flat) if is_turned and is_flat else None


def _only_reader(node: ir.Node, op_type: str) -> ir.Node | None:
    """Return the one reader of a node's result, where it is of an operator and takes it first."""
    value = node.outputs[0]
    readers = [use.node for use in value.uses()]
    if len(readers) != 1 or value.is_graph_output() or not is_standard(readers[0], op_type):
        return None
    return readers[0] if readers[0].inputs[0] is value else None
