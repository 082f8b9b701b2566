"""Operators that the float64 oracle has besides onnx's own, or in their place.

Files of onnxruntime-genai have rotary embeddings, normalisations and attention as operators of
onnxruntime (``com.microsoft``), which have no definition in the standard.  Here they are as their
documentation says (onnxruntime ``docs/ContribOperators.md``), in the type of their inputs.  Of the
standard's, onnx's evaluator has some in their newest meaning alone, whatever a file's opset.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_batch_normalization import BatchNormalization_14

from ropeexport.onnx_files.budget import one_run, run_bounded
from ropeexport.onnx_files.uses import KERNELS

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Maybe = NDArray[Any] | None

_AXIS_FROM = 13  # opsets that changed a meaning
_TRAINING_MODE_FROM = 14


class LpNormalization(OpRun):  # type: ignore[misc]  # onnx has no types
    """The standard's: the evaluator's own takes a sum of signed numbers for the first norm."""

    op_domain = ""

    def _run(self, x: Floats, axis: int | None = None, p: int | None = None) -> tuple[Floats]:
        norm = np.linalg.norm(x, ord=p, axis=axis, keepdims=True)
        return (np.divide(x, norm, out=np.zeros_like(x), where=norm != 0),)


class _AlongAxis(OpRun):  # type: ignore[misc]  # onnx has no types
    """Something of each row: of an axis, and before opset 13 of all from the axis on together."""

    op_domain = ""

    def __init__(self, node: onnx.NodeProto, run_params: dict[str, Any]) -> None:
        self._opset = run_params["opsets"][""]
        # the axis that is meant where none is written is another one then, too
        super().__init__(node, run_params, onnx.defs.get_schema(node.op_type, self._opset))

    def _run(self, x: Floats, axis: int) -> tuple[Floats]:
        if not x.size:
            return (x,)
        if self._opset < _AXIS_FROM:
            rows = x.reshape(math.prod(x.shape[:axis]), -1)
            return (self._along(rows, -1).reshape(x.shape),)
        return (self._along(x, axis),)

    def _along(self, x: Floats, axis: int) -> Floats:
        raise NotImplementedError


class Softmax(_AlongAxis):
    """The standard's."""

    def _along(self, x: Floats, axis: int) -> Floats:
        weights = np.exp(x - x.max(axis, keepdims=True))
        made: Floats = weights / weights.sum(axis, keepdims=True)
        return made


class LogSoftmax(Softmax):
    """The standard's."""

    def _along(self, x: Floats, axis: int) -> Floats:
        made: Floats = np.log(super()._along(x, axis))
        return made


class Hardmax(_AlongAxis):
    """The standard's."""

    def _along(self, x: Floats, axis: int) -> Floats:
        made = np.zeros_like(x)
        np.put_along_axis(made, x.argmax(axis, keepdims=True), 1, axis)
        return made


class BatchNormalization(BatchNormalization_14):  # type: ignore[misc]  # onnx has no types
    """The standard's: before opset 14 a single output says that nothing is trained."""

    op_domain = ""

    def __init__(self, node: onnx.NodeProto, run_params: dict[str, Any]) -> None:
        opset = run_params["opsets"][""]
        if opset < _TRAINING_MODE_FROM and len(node.output) > 1:
            raise NotImplementedError("BatchNormalization that is trained")
        schema = onnx.defs.get_schema(node.op_type, max(opset, _TRAINING_MODE_FROM))
        super().__init__(node, run_params, schema)


class ConvTranspose(OpRun):  # type: ignore[misc]  # onnx has no types
    """The standard's: the evaluator's own takes a minute for what eager does in a millisecond."""

    op_domain = ""

    def _run(self, x: Floats, w: Floats, bias: Maybe = None, **given: Any) -> tuple[Floats]:
        rank, groups = x.ndim - 2, given.get("group") or 1
        strides, dilations = (given.get(name) or [1] * rank for name in ("strides", "dilations"))
        more = given.get("output_padding") or [0] * rank
        sizes = [
            s * (n - 1) + (k - 1) * d + 1 + m
            for n, s, k, d, m in zip(
                x.shape[2:], strides, w.shape[2:], dilations, more, strict=True
            )
        ]
        rows = x.reshape(x.shape[0], groups, x.shape[1] // groups, -1)
        weights = w.reshape(groups, w.shape[0] // groups, *w.shape[1:]).swapaxes(1, 2)
        whole = np.zeros((x.shape[0], groups * w.shape[1], *sizes), np.result_type(x, w))
        for place in np.ndindex(*w.shape[2:]):  # one element of the kernel meets all of x
            product = weights[(slice(None), slice(None), slice(None), *place)] @ rows
            met = (
                slice(p * d, p * d + s * (n - 1) + 1, s)
                for p, d, s, n in zip(place, dilations, strides, x.shape[2:], strict=True)
            )
            whole[(slice(None), slice(None), *met)] += product.reshape(
                *whole.shape[:2], *x.shape[2:]
            )
        kept = (
            slice(first, size - last)
            for (first, last), size in zip(
                _cut_off(sizes, x.shape[2:], strides, given), sizes, strict=True
            )
        )
        cut = whole[(slice(None), slice(None), *kept)]
        return (cut if bias is None else cut + bias.reshape(-1, *[1] * rank),)


def _cut_off(
    sizes: Sequence[int], shape: Sequence[int], strides: Sequence[int], given: dict[str, Any]
) -> list[tuple[int, int]]:
    """Return how much a transposed convolution leaves out at both ends of each of its axes."""
    rank, way = len(sizes), given.get("auto_pad") or "NOTSET"
    wanted = given.get("output_shape")
    if not wanted and way in ("NOTSET", "VALID"):
        pads = given.get("pads") or [0] * 2 * rank
        return list(zip(pads[:rank], pads[rank:], strict=True))
    wanted = wanted or [n * s for n, s in zip(shape, strides, strict=True)]
    totals = [max(0, size - want) for size, want in zip(sizes, wanted[-rank:], strict=True)]
    halves = [(total // 2, total - total // 2) for total in totals]
    return halves if way == "SAME_UPPER" else [(last, first) for first, last in halves]


def rotated(x: Floats, cos: Floats, sin: Floats, interleaved: int | None) -> Floats:
    """Rotate (batch, heads, length, size) by tables (batch, length, pairs); a rest stays."""
    pairs = cos.shape[-1]
    cos, sin = cos[:, None], sin[:, None]
    first, second = (
        (slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2))
        if interleaved
        else (slice(0, pairs), slice(pairs, 2 * pairs))
    )
    made, a, b = x.copy(), x[..., first], x[..., second]
    made[..., first], made[..., second] = a * cos - b * sin, a * sin + b * cos
    return made


def _heads(x: Floats, heads: int) -> Floats:
    """Return (batch, length, heads * size) as (batch, heads, length, size)."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def _flat(x: Floats) -> Floats:
    return x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)


class RotaryEmbedding(OpRun):  # type: ignore[misc]  # onnx has no types
    """onnxruntime's: positions of each token, or one from which a sequence counts on."""

    op_domain = KERNELS

    def _run(
        self, x: Floats, positions: Ints, cos: Floats, sin: Floats, **given: Any
    ) -> tuple[Floats]:
        heads = given.get("num_heads") or x.shape[-1] // (2 * cos.shape[1])
        whole = x if x.ndim == 4 else _heads(x, heads)
        batch, length = whole.shape[0], whole.shape[2]
        if positions.ndim < 2:
            positions = np.tile(positions.reshape(-1)[:1] + np.arange(length), (batch, 1))
        made = rotated(whole, cos[positions], sin[positions], given.get("interleaved"))
        return (made if x.ndim == 4 else _flat(made),)


def _normalised(x: Floats, scale: Floats, epsilon: float) -> Floats:
    made: Floats = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + epsilon) * scale
    return made


class SimplifiedLayerNormalization(OpRun):  # type: ignore[misc]  # onnx has no types
    """A division by the root mean square of the last axis, and a scale."""

    op_domain = ""

    def _run(self, x: Floats, scale: Floats, **given: Any) -> tuple[Floats, ...]:
        return (_normalised(x, scale, given.get("epsilon", 1e-5)),)


class SkipSimplifiedLayerNormalization(OpRun):  # type: ignore[misc]  # onnx has no types
    """The same of a sum, which is its fourth output."""

    op_domain = KERNELS

    def _run(
        self, x: Floats, skip: Floats, scale: Floats, bias: Maybe = None, **given: Any
    ) -> tuple[Any, ...]:
        total = x + skip if bias is None else x + skip + bias
        made = _normalised(total, scale, given.get("epsilon", 1e-12))
        unused = np.empty(0, x.dtype)  # statistics, for training
        return (made, unused, unused, total)[: len(self.onnx_node.output)]


class MatMulNBits(OpRun):  # type: ignore[misc]  # onnx has no types
    """A product with a matrix (N, K) of few bits, each block of whose rows has a scale."""

    op_domain = KERNELS

    def _run(
        self, x: Floats, packed: Ints, scales: Floats, zeros: Maybe = None, groups: Maybe = None,
        bias: Maybe = None, **given: Any,
    ) -> tuple[Floats]:  # fmt: skip
        if groups is not None:
            raise NotImplementedError("groups of columns that are no blocks")
        columns, rows, size = given["K"], given["N"], given["block_size"]
        bits = given.get("bits") or 4
        blocks = -(-columns // size)
        numbers = _unpacked(packed.reshape(rows, blocks, -1), bits)
        if zeros is None:
            middle: Any = 1 << (bits - 1)
        elif zeros.dtype == np.uint8:
            middle = _unpacked(zeros.reshape(rows, -1), bits)[:, :blocks, None]
        else:
            middle = zeros.reshape(rows, blocks, 1)
        matrix = (numbers - middle) * scales.reshape(rows, blocks, 1).astype(x.dtype)
        made = x @ matrix.reshape(rows, -1)[:, :columns].T
        return ((made if bias is None else made + bias).astype(x.dtype),)


def _unpacked(packed: Ints, bits: int) -> Ints:
    """Return the numbers that lie in bytes, the lowest bits first."""
    shifts = np.arange(0, 8, bits, dtype=packed.dtype)
    numbers = packed[..., None] >> shifts & np.array((1 << bits) - 1, packed.dtype)
    made: Ints = numbers.reshape(*packed.shape[:-1], -1).astype(np.int16)
    return made


class GroupQueryAttention(OpRun):  # type: ignore[misc]  # onnx has no types
    """Causal attention over a cache, with rotation of q and k where it is asked for."""

    op_domain = KERNELS

    def _run(  # noqa: PLR0913, PLR0917  (the operator's inputs)
        self, q: Floats, k: Maybe, v: Maybe, past_k: Maybe, past_v: Maybe, last: Ints, total: Ints,
        cos: Maybe = None, sin: Maybe = None, positions: Maybe = None, bias: Maybe = None,
        *others: Maybe, **given: Any,
    ) -> tuple[Floats, ...]:  # fmt: skip
        if any(x is not None for x in others) or given.get("smooth_softmax"):
            raise NotImplementedError("attention with sinks or quantised caches")
        heads, groups = given["num_heads"], given["kv_num_heads"]
        if k is None or v is None:  # packed
            size = q.shape[-1] // (heads + 2 * groups)
            q, k, v = np.split(q, [heads * size, (heads + groups) * size], axis=-1)
        q, k, v = _heads(q, heads), _heads(k, groups), _heads(v, groups)
        length, ends = q.shape[2], last.reshape(-1).astype(np.int64) + 1
        starts = np.where(length == int(total.item()), 0, ends - length)
        if given.get("do_rotary"):
            at = starts[:, None] + np.arange(length) if positions is None else positions
            assert cos is not None and sin is not None  # it rotates by them  # noqa: PT018
            q, k = (rotated(x, cos[at], sin[at], given.get("rotary_interleaved")) for x in (q, k))
        room = int(total.item())
        keys, values = _kept(past_k, k, starts, room), _kept(past_v, v, starts, room)
        made = np.empty_like(q)
        for b, (start, end) in enumerate(zip(starts, ends, strict=True)):
            scores = _scores(q[b], keys[b, :, :end], given)
            if bias is not None:
                scores = scores + bias[min(b, len(bias) - 1)][..., :end]
            made[b] = _weighted(scores, values[b, :, :end], start, given.get("local_window_size"))
        return (_flat(made), keys, values)[: len(self.onnx_node.output)]


def _kept(past: Maybe, x: Floats, starts: Ints, total: int) -> Floats:
    """Return a cache, (batch, groups, length, size), with what is new from each start on."""
    room = max(total, 0 if past is None else past.shape[2])
    made = np.zeros((*x.shape[:2], room, x.shape[3]), x.dtype)
    for b, start in enumerate(starts):
        if past is not None:
            made[b, :, :start] = past[b, :, :start]
        made[b, :, start : start + x.shape[2]] = x[b]
    return made


def _scores(q: Floats, keys: Floats, given: dict[str, Any]) -> Floats:
    keys = np.repeat(keys, q.shape[0] // keys.shape[0], axis=0)
    scale = given.get("scale") or 1.0 / math.sqrt(q.shape[-1])
    scores: Floats = scale * (q @ keys.transpose(0, 2, 1))
    cap = given.get("softcap")
    return cap * np.tanh(scores / cap) if cap else scores


def _weighted(scores: Floats, values: Floats, start: int, window: int | None) -> Floats:
    """Return the values by the softmax of the scores that each token may see."""
    values = np.repeat(values, scores.shape[0] // values.shape[0], axis=0)
    ages = start + np.arange(scores.shape[1])[:, None] - np.arange(scores.shape[2])
    hidden = ages < 0
    if window is not None and window > 0:
        hidden |= ages >= window
    seen = np.where(hidden, -np.inf, scores)
    weights = np.exp(seen - seen.max(axis=-1, keepdims=True))
    made: Floats = weights / weights.sum(axis=-1, keepdims=True) @ values
    return made


OPS = (
    BatchNormalization, ConvTranspose, GroupQueryAttention, Hardmax, LogSoftmax, LpNormalization,
    MatMulNBits, RotaryEmbedding, SimplifiedLayerNormalization, SkipSimplifiedLayerNormalization,
    Softmax,
)  # fmt: skip


class _Release:
    """In a list of nodes: the results of those names are read by no node behind it.

    onnx's evaluator keeps each result to the end: gigabytes of scores, where ten nodes make some.
    """

    op_type = "Release"
    input: tuple[str, ...] = ()
    has_linked_attribute = False

    def __init__(self, names: list[str]) -> None:
        self.output = names

    def need_context(self) -> bool:
        """Say that it reads nothing."""
        return False

    def run(self, **_: Any) -> list[None]:
        """Return nothing for each name."""
        return [None] * len(self.output)


def _releasing(nodes: list[Any], kept: Iterable[str]) -> list[Any]:
    """Return nodes, and behind each what releases the results that it is the last to read."""
    needed, found = set(kept), []
    made = {name for node in nodes for name in node.output if name}  # what was given stays
    for node in reversed(nodes):
        names = made & {*node.output, *_read(node.onnx_node)} - needed
        needed |= names
        found += [_Release(sorted(names)), node]
    return found[::-1]


def _read(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names that a node reads, those that its graphs read from outside included."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            yield from (value.name for value in graph.output)
            for inner in graph.node:
                yield from _read(inner)


class Evaluator(ReferenceEvaluator):  # type: ignore[misc]  # onnx has no types
    """onnx's evaluator with these operators, which it would leave out of a file's functions."""

    rt_nodes_: list[Any]

    def __init__(self, proto: Any, *, new_ops: Any = None, **given: Any) -> None:
        super().__init__(proto, new_ops=list(OPS), **given)

    def _init(self) -> None:
        super()._init()
        nodes: list[Any] = self.rt_nodes_
        for node in nodes:
            node.run = partial(run_bounded, node, node.run)
        self.rt_nodes_ = _releasing(nodes, self.output_names)

    def run(self, output_names: Any, feed_inputs: dict[str, Any], *args: Any, **given: Any) -> Any:
        """Compute outputs, within a budget that whatever runs inside shares."""
        with one_run(self.rt_inits_ | feed_inputs):
            return super().run(output_names, feed_inputs, *args, **given)
