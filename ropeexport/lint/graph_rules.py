"""Rules over an ONNX graph, whoever exported it, looking through what only moves elements."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from ropeexport import dtypes
from ropeexport.fusion.movement import closure
from ropeexport.lint.rule import rule
from ropeexport.onnx_files.onnx_file import is_rope, with_shapes
from ropeexport.onnx_files.variants import with_standard_attention
from ropeexport.operators import KEEP_ELEMENTS, is_standard, that_keep
from ropeexport.ops.forms import form_of
from ropeexport.trt.preflight import is_limit_dropped

_MOVERS = KEEP_ELEMENTS | that_keep("copies")
_DOUBLE, _FLOAT = dtypes.DOUBLE.ir, dtypes.SINGLE.ir
_HALVES = tuple(kind.ir for kind in dtypes.HALVES)
_FLOATS = (_FLOAT, *_HALVES)
_ANY = (None, *ir.DataType)  # the type of a cast's result may not be known
_OVER_SCORES = ("Add", "Mul", "Div", "Where", "Cast")
_KERNELS = "com.microsoft"  # onnxruntime's own operators
Types = tuple[ir.DataType | None, ...]


class Graph:
    """A model's main graph; the weights' values are not needed.

    Parameters
    ----------
    model : ir.Model
        It stays as it is; the types of a copy are inferred.
    """

    def __init__(self, model: ir.Model) -> None:
        self.model = with_shapes(with_standard_attention(model))
        self.nodes = list(self.model.graph)

    def of_type(self, *op_types: str) -> Iterator[ir.Node]:
        """Yield the nodes of standard operators."""
        return (node for node in self.nodes if is_standard(node, *op_types))

    def ropes(self) -> Iterator[ir.Node]:
        """Yield ropeexport's rotary ops."""
        return filter(is_rope, self.nodes)


def before(value: ir.Value | None) -> ir.Node | None:
    """Return the node behind a tensor and whatever only moves its elements."""
    node = value.producer() if value is not None else None
    while node is not None and is_mover(node):
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return node


def after(value: ir.Value) -> list[ir.Node]:
    """Return the nodes that read a tensor, looking through what only moves its elements."""
    moved = closure([value], lambda x: [n.outputs[0] for n in x.consumers() if is_mover(n)])
    return [node for x in moved for node in x.consumers() if not is_mover(node)]


def is_mover(node: ir.Node) -> bool:
    """Say whether a node only moves elements, or changes the type of each."""
    return is_standard(node, *_MOVERS)


def type_of(value: ir.Value | None) -> ir.DataType | None:
    """Return a tensor's type, as far as it is known."""
    return value.dtype if value is not None else None


def label(node: ir.Node) -> str:
    """Return what a finding calls a node."""
    return node.name or f"{node.op_type} of {node.outputs[0].name}"


@rule(
    "float64",
    "error",
    "float64 in the graph, which TensorRT computes in float32 without a word",
    "compute angles with ropeexport.rope, or export the module with ropeexport, whose tables "
    "are exact without float64",
)
def _double(graph: Graph) -> Iterator[str]:
    for node in graph.nodes:
        if any(value.dtype == _DOUBLE for value in node.outputs):
            yield label(node)
    weights = graph.model.graph.initializers.items()
    yield from (name for name, value in weights if value.dtype == _DOUBLE)


@rule(
    "attention-limits",
    "error",
    "an attention with lengths (nonpad_kv_seqlen) or a window (left_window_size, "
    "right_window_size), which TensorRT's parser leaves out without a word",
    "write both as an explicit boolean mask",
)
def _attention_limits(graph: Graph) -> Iterator[str]:
    return (label(node) for node in graph.of_type("Attention") if is_limit_dropped(node))


@rule(
    "unknown-sizes",
    "warning",
    "a result whose size only numbers tell (NonZero), which TensorRT-RTX's parser refuses",
    "choose by a mask, as in torch.where, in place of indices of what is not zero",
)
def _unknown_sizes(graph: Graph) -> Iterator[str]:
    return map(label, graph.of_type("NonZero"))


@rule(
    "half-tables",
    "error",
    "a table of angles in half precision: at position p a float16 angle is off by p * 2^-12",
    "keep cos, sin or pe in float32 up to the rotation",
)
def _half_tables(graph: Graph) -> Iterator[str]:
    for node in graph.nodes:
        tables = _tables(node)
        if any(type_of(x) in _HALVES or _is_cast(before(x), _HALVES, _ANY) for x in tables):
            yield label(node)


def is_rotary(node: ir.Node) -> bool:
    """Say whether a node is ONNX's own rotary operator, or onnxruntime's from before."""
    return is_standard(node, "RotaryEmbedding") or _is_kernel(node, "RotaryEmbedding")


def _is_kernel(node: ir.Node, *op_types: str) -> bool:
    return node.domain == _KERNELS and node.op_type in op_types


def _tables(node: ir.Node) -> tuple[ir.Value | None, ...]:
    """Return the tables of angles that a rotary op reads."""
    form = form_of(node.domain, node.op_type)
    if form is not None:
        return form.tables_of(node.inputs)
    if is_rotary(node):
        # com.microsoft: x, position_ids, cos, sin; ai.onnx: x, cos, sin, position_ids
        first = 2 if node.domain == _KERNELS else 1
        return tuple(node.inputs[first : first + 2])
    return ()


@rule(
    "not-cast-back",
    "error",
    "half data is rotated in float32 and never cast back, so attention runs in float32",
    "cast the rotated q and k to the type of v; ropeexport's op does so itself",
)
def _not_cast_back(graph: Graph) -> Iterator[str]:
    for node in graph.nodes:
        if not is_rotary(node) and not is_rope(node):
            continue
        for data, rotated in zip(node.inputs, node.outputs, strict=False):
            widened = rotated.dtype == _FLOAT and _is_cast(before(data), _HALVES, _ANY)
            if widened and any(map(_attends, after(rotated))):
                yield label(node)


def _attends(node: ir.Node) -> bool:
    return is_standard(node, "Attention", "MatMul") or _is_kernel(
        node, "Attention", "MultiHeadAttention"
    )


@rule(
    "attention-casts",
    "warning",
    "half data is cast to float32 for an attention, or its float32 result to half",
    "give the attention its data in half: it sums in float32 and scales by itself",
)
def _casts_around_attention(graph: Graph) -> Iterator[str]:
    for node in graph.of_type("Attention"):
        up = [m for x in node.inputs[:3] if _is_cast(m := before(x), _HALVES, (_FLOAT,))]
        down = [n for n in after(node.outputs[0]) if _is_cast(n, (_FLOAT,), _HALVES)]
        yield from (label(n) for n in (*up, *down) if n is not None)


@rule(
    "rope-casts",
    "note",
    "the data of a rotary op changes its type right around it: a pass over memory each",
    "give the op the data as it is: it rotates in float32 and returns the data's type",
)
def _casts_around_rope(graph: Graph) -> Iterator[str]:
    for node in graph.ropes():
        form = form_of(node.domain, node.op_type)
        assert form is not None  # it is a rope
        makers = map(before, node.inputs[: form.tensors])
        readers = (reader for value in node.outputs for reader in after(value))
        around = [n for n in (*makers, *readers) if _is_cast(n, _FLOATS, _FLOATS)]
        yield from (label(n) for n in around if n is not None)


def _is_cast(node: ir.Node | None, source: Types, target: Types) -> bool:
    return (
        node is not None
        and is_standard(node, "Cast")
        and type_of(node.inputs[0]) in source
        and node.outputs[0].dtype in target
    )


@rule(
    "rope-transposes",
    "note",
    "a rotary op between two Transposes: a pass over memory each",
    "rotate in the layout that the attention reads, (batch, heads, length, head size)",
)
def _turned_around_rope(graph: Graph) -> Iterator[str]:
    for node in graph.ropes():
        for data, rotated in zip(node.inputs, node.outputs, strict=False):
            turned = data.producer() if data is not None else None
            around = (turned, *rotated.consumers())
            if len(around) > 1 and all(n and is_standard(n, "Transpose") for n in around):
                yield label(node)


@rule(
    "attention-written-out",
    "warning",
    "an attention as MatMul, Softmax, MatMul, which writes all its scores to memory",
    "use torch.nn.functional.scaled_dot_product_attention, which exports as one Attention node",
)
def _attention_written_out(graph: Graph) -> Iterator[str]:
    for node in graph.of_type("Softmax"):
        scores = before(node.inputs[0])
        while scores is not None and is_standard(scores, *_OVER_SCORES):
            at = 1 if scores.op_type == "Where" else 0
            scores = before(scores.inputs[at])
        weighted = [n for n in after(node.outputs[0]) if is_standard(n, "MatMul", "Cast")]
        if scores is not None and is_standard(scores, "MatMul") and weighted:
            yield label(node)


@rule(
    "no-plugin-attributes",
    "error",
    "a rotary op without plugin_version and plugin_namespace: TensorRT takes its function body "
    "even where the plugin is loaded",
    "export or fuse the file again with ropeexport",
)
def _without_plugin_attributes(graph: Graph) -> Iterator[str]:
    for node in graph.ropes():
        form = form_of(node.domain, node.op_type)
        needed = set(form.attribute_names) if form else set()
        if not needed <= node.attributes.keys():
            yield label(node)


@rule(
    "no-function-body",
    "error",
    "a rotary op without its function body: onnxruntime cannot run it",
    "export or fuse the file again with ropeexport",
)
def _without_body(graph: Graph) -> Iterator[str]:
    bodies = {(function.domain, function.name) for function in graph.model.functions.values()}
    return (label(n) for n in graph.ropes() if (n.domain, n.op_type) not in bodies)


@rule(
    "frozen-shapes",
    "warning",
    "every input has a fixed shape, so batch and length are frozen",
    "name the dynamic axes at export",
)
def _frozen(graph: Graph) -> Iterator[str]:
    inputs = [value for value in graph.model.graph.inputs if not value.is_initializer()]
    dims = [dim for value in inputs for dim in value.shape or ()]
    if dims and all(isinstance(dim, int) for dim in dims):
        yield from (str(value.name) for value in inputs)


GRAPH_RULES = (
    _double, _attention_limits, _half_tables, _not_cast_back, _without_body,
    _without_plugin_attributes,
    _casts_around_attention, _attention_written_out, _frozen, _unknown_sizes, _casts_around_rope,
    _turned_around_rope,
)  # fmt: skip
