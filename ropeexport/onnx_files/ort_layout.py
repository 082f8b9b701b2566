"""A decoder's layers as onnxruntime computes them best, beside what its own optimiser does.

The operator for attention over a cache has the heads of a token side by side, as the projections
before it do.  So what rotates is done in that layout too, and nothing changes places between them;
in the other branch, which has the standard's layout, it is done there.  And a sum that is
normalised is one operator of onnxruntime's.

Source: onnxruntime, docs/ContribOperators.md (SkipSimplifiedLayerNormalization); ONNX operator
specification, RotaryEmbedding 23 and RMSNormalization 23.
"""

from __future__ import annotations

import onnx_ir as ir

from ropeexport.operators import is_standard
from ropeexport.ops import grouped_attention as kernel
from ropeexport.ops.forms import ROTARY_SIZE, form_of
from ropeexport.ops.grouped_attention import Nodes

_DATA = 3  # inputs of the operator that have the heads of a token side by side: q, k, v
_FLOAT = ir.DataType.FLOAT


def keep_side_by_side(model: ir.Model) -> None:
    """Rotate what goes into onnxruntime's attention in the layout of its projections, in place."""
    tables: dict[ir.Value, ir.Value] = {}
    for node in list(filter(kernel.is_choice, model.graph)):
        reader = next(filter(kernel.is_kernel, node.attributes["then_branch"].as_graph()))
        for place, value in enumerate(reader.inputs[:_DATA]):
            turned = _input_of(value, "Reshape")
            whole = _input_of(turned, "Transpose")
            if value is None or turned is None or whole is None:
                continue
            made = Nodes(f"{node.name}.{place}")
            rows = _rows(whole, made, tables)
            model.graph.insert_before(node, made)
            reader.replace_input_with(place, rows)
            _drop(value.producer())
            _drop(turned.producer())
        _sink(node)


def _input_of(value: ir.Value | None, op_type: str) -> ir.Value | None:
    """Return what an operator is given to make a value of, where one of the type makes it."""
    node = None if value is None else value.producer()
    return node.inputs[0] if node is not None and is_standard(node, op_type) else None


def _rows(x: ir.Value, nodes: Nodes, tables: dict[ir.Value, ir.Value]) -> ir.Value:
    """Return (B, H, L, D) as (B, L, H * D), made from where it was so, if it was."""
    turned = []
    while (data := _rotated_in(x)) is not None:
        turned.append(x)
        x = data
    rows = _unturned(x, nodes)
    for x in reversed(turned):
        rows = _turned(x, rows, nodes, tables)
    return rows


def _rotated_in(x: ir.Value) -> ir.Value | None:
    """Return the data of which onnx's own operator can make a value as a rotary op does."""
    node = x.producer()
    form = None if node is None else form_of(node.domain, node.op_type)
    if node is None or form is None or x.shape is None or x.dtype is None:
        return None
    is_known = form.coefficients.rotations_only and form.pairs.interleaved is not None
    return node.inputs[x.index() or 0] if is_known else None


def _unturned(x: ir.Value, nodes: Nodes) -> ir.Value:
    node, apart = x.producer(), _input_of(x, "Transpose")
    if node is None or apart is None or not _is_swap(node):
        return nodes.rows(x)
    flat = _input_of(apart, "Reshape")
    return flat if flat is not None and _is_flat(flat, apart) else nodes.flat(apart)


def _turned(
    x: ir.Value, rows: ir.Value, nodes: Nodes, tables: dict[ir.Value, ir.Value]
) -> ir.Value:
    """Return what a rotary op makes of rows."""
    node = x.producer()
    assert node is not None
    assert x.shape is not None
    form = form_of(node.domain, node.op_type)
    assert form is not None
    wide = rows if x.dtype == _FLOAT else nodes.add("Cast", rows, to=_FLOAT)
    cos, sin = (
        _table(t, rows, nodes, tables) for t in node.inputs[form.tensors :] if t is not None
    )
    size = {ROTARY_SIZE: node.attributes[ROTARY_SIZE].as_int()} if form.partial else {}
    made = nodes.add(
        "RotaryEmbedding", wide, cos, sin,
        num_heads=x.shape[1], interleaved=form.pairs.interleaved, **size,
    )  # fmt: skip
    made = made if x.dtype == _FLOAT else nodes.add("Cast", made, to=x.dtype)
    made.type = x.type
    return made


def _is_swap(node: ir.Node) -> bool:
    return tuple(node.attributes.get_ints("perm", ())) == kernel.SWAPPED


def _is_flat(flat: ir.Value, apart: ir.Value) -> bool:
    """Say whether (B, L, H * D) is what (B, L, H, D) was made of."""
    if flat.shape is None or apart.shape is None or len(flat.shape) != len(apart.shape) - 1:
        return False
    return tuple(flat.shape[:2]) == tuple(apart.shape[:2])


def _table(
    table: ir.Value, rows: ir.Value, nodes: Nodes, tables: dict[ir.Value, ir.Value]
) -> ir.Value:
    """Return cosines or sines, (B or 1, L, P), in float32 and for each text of a batch."""
    if table not in tables:
        wide = table if table.dtype == _FLOAT else nodes.add("Cast", table, to=_FLOAT)
        batch = nodes.add("Shape", rows, start=0, end=1)
        shape = nodes.add("Concat", batch, nodes.constant([1, 1]), axis=0)
        tables[table] = nodes.add("Expand", wide, shape)
    return tables[table]


def _drop(node: ir.Node | None) -> None:
    """Remove a node that nobody reads."""
    if node is None or any(x.uses() or x.is_graph_output() for x in node.outputs):
        return
    assert node.graph is not None
    node.graph.remove(node, safe=True)


def _sink(choice: ir.Node) -> None:
    """Move what the branch with the file's own nodes alone reads into it."""
    graph, branch = choice.graph, choice.attributes["else_branch"].as_graph()
    assert isinstance(graph, ir.Graph)
    pending = list(branch)
    while pending:
        for value in pending.pop().inputs:
            node = None if value is None else value.producer()
            if node is None or node.graph is not graph or not _is_for(node, branch):
                continue
            graph.remove(node)
            branch.insert_before(branch[0], node)
            pending.append(node)


def _is_for(node: ir.Node, branch: ir.Graph) -> bool:
    """Say whether a branch alone reads what a node makes."""
    return all(
        not x.is_graph_output() and all(use.node.graph is branch for use in x.uses())
        for x in node.outputs
    )
