"""Rotary operators that a file has already, ONNX's and onnxruntime's: their kernels judge."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from fusion.graphs import ops

from ropeexport.exporting.passes import attach_functions
from ropeexport.fusion.fuse import Fused, fuse

B, H, L, D, ROWS = "batch", 3, "length", 8, 20
BHLD, BLF = [B, H, L, D], [B, L, H * D]
FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def model_of(
    *,
    contrib: bool,
    x: list,
    ids: list | None = None,
    pairs: int = D // 2,
    dtype: int = FLOAT,
    twice: int = 0,
    **attributes: object,
) -> ir.Model:
    """Return one node, or a further one on data of so many heads, on tables of ``ROWS`` rows."""
    domain = "com.microsoft" if contrib else ""
    tables = [ROWS, pairs] if ids is not None else [B, L, pairs]
    given = {"x": x, "cos": tables, "sin": tables}
    if twice:
        given["k"] = [B, twice, L, D] if len(x) == 4 else [B, L, twice * D]
    inputs = [onnx.helper.make_tensor_value_info(name, dtype, dims) for name, dims in given.items()]
    if ids is not None:
        inputs.append(onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ids))
    nodes, outputs = [], []
    for data in ("x", *(["k"] if twice else [])):
        names = [data, "ids", "cos", "sin"] if contrib else [data, "cos", "sin", "ids"]
        names = [name for name in names if name != "ids" or ids is not None]
        heads = {"num_heads": twice} if data == "k" and "num_heads" in attributes else {}
        made = {**attributes, **heads}
        nodes.append(
            onnx.helper.make_node("RotaryEmbedding", names, [f"{data}_y"], domain=domain, **made)
        )
        outputs.append(onnx.helper.make_tensor_value_info(f"{data}_y", dtype, given[data]))
    graph = onnx.helper.make_graph(nodes, "g", inputs, outputs)
    opsets = [onnx.helper.make_opsetid("", 23), onnx.helper.make_opsetid("com.microsoft", 1)]
    return ir.from_proto(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10))


def run(model: ir.Model, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    message = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(message, options).run(None, feed)


def assert_equal_to_the_kernel(fused: Fused) -> None:
    made = fused.model.clone()
    attach_functions(made)
    onnx.checker.check_model(ir.to_proto(made), full_check=True)
    rng = np.random.default_rng(3)
    for sizes in ({B: 2, L: 5}, {B: 1, L: 1}, {B: 3, L: 4}):
        feed = {}
        for value in fused.before.graph.inputs:
            shape = [dim if isinstance(dim, int) else sizes[str(dim)] for dim in value.shape]
            if value.name == "ids":
                feed["ids"] = rng.integers(0, ROWS - 5, shape)
            else:
                feed[value.name] = rng.standard_normal(shape).astype(value.dtype.numpy())
        for ours, theirs in zip(run(made, feed), run(fused.before, feed), strict=True):
            assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
            eps = float(np.finfo(theirs.dtype).eps)  # a kernel of halves rounds each product
            error = np.abs(ours.astype("f8") - theirs).max()
            assert error <= 4 * eps * np.abs(theirs.astype("f8")).max()


KINDS = {
    "onnxruntime's, 4 axes": {"contrib": True, "x": BHLD, "ids": [B, L]},
    "onnxruntime's, 3 axes": {"contrib": True, "x": BLF, "ids": [B, L]},
    "onnxruntime's, 3 axes and heads": {"contrib": True, "x": BLF, "ids": [B, L], "num_heads": H},
    "onnxruntime's, a first position": {"contrib": True, "x": BHLD, "ids": [1]},
    "onnxruntime's, 3 axes, a first position": {"contrib": True, "x": BLF, "ids": [1]},
    "onnxruntime's, a first position of no axis": {"contrib": True, "x": BHLD, "ids": []},
    "onnxruntime's, a part": {
        "contrib": True, "x": BHLD, "ids": [B, L], "pairs": 2, "rotary_embedding_dim": 4,
        "num_heads": H,
    },
    "onnxruntime's, a part of 3 axes": {
        "contrib": True, "x": BLF, "ids": [1], "pairs": 2, "rotary_embedding_dim": 4,
        "num_heads": H,
    },
    "ONNX's, positions": {"contrib": False, "x": BHLD, "ids": [B, L]},
    "ONNX's, 3 axes": {"contrib": False, "x": BLF, "num_heads": H},
    "ONNX's, 3 axes and positions": {"contrib": False, "x": BLF, "ids": [B, L], "num_heads": H},
    "ONNX's, a part of 3 axes": {
        "contrib": False, "x": BLF, "pairs": 2, "rotary_embedding_dim": 4, "num_heads": H,
    },
}  # fmt: skip


@pytest.mark.parametrize("dtype", [FLOAT, HALF])
@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_a_rotary_operator_becomes_an_op(kind: str, interleaved: int, dtype: int) -> None:
    fused = fuse(model_of(**KINDS[kind], interleaved=interleaved, dtype=dtype))
    part = "Partial" if "part" in kind else ""
    half = "" if interleaved else "Half"
    assert (fused.count.found, fused.count.refused) == (1, ())
    assert ops(fused) == [f"ApplyRopeCosSin{half}{part}Single"]
    assert_equal_to_the_kernel(fused)


@pytest.mark.parametrize("kind", KINDS)
def test_two_of_other_numbers_of_heads_become_one_op(kind: str) -> None:
    fused = fuse(model_of(**KINDS[kind], twice=1))
    assert len(ops(fused)) == 1
    assert_equal_to_the_kernel(fused)


REFUSED = {
    "of packed sequences": {"is_packed_batching": 1},
    "with scale 2": {"scale": 2.0},
    "of 5 heads in 24 elements": {"x": BLF, "num_heads": 5},
    "of 2 heads in 24 elements": {"x": BLF, "num_heads": 2},
    "on heads of unknown size": {"x": [B, L, "hidden"]},
    "on data that is not known to be": {"x": [H, D]},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_a_rotary_operator_does_otherwise_is_refused(reason: str) -> None:
    fused = fuse(model_of(**{"contrib": True, "x": BHLD, "ids": [B, L]} | REFUSED[reason]))
    (refusal,) = fused.count.refused
    assert reason in refusal.reason
    assert (ops(fused), fused.count.found) == ([], 1)


INSIDE = {
    "GroupQueryAttention": {"do_rotary": 1},
    "PagedAttention": {"do_rotary": 1},
    "GemmaRotaryEmbedding": {},
}


@pytest.mark.parametrize("op_type", INSIDE)
def test_a_rotation_inside_of_another_operator_is_counted(op_type: str) -> None:
    model = model_of(contrib=True, x=BHLD, ids=[B, L])
    node = ir.node(op_type, [model.graph.inputs[0]], INSIDE[op_type], domain="com.microsoft")
    model.graph.append(node)
    fused = fuse(model)
    (refusal,) = fused.count.refused
    assert f"com.microsoft::{op_type}" in refusal.reason
    assert (fused.count.found, fused.count.replaced) == (2, 1)


def test_an_attention_that_rotates_nothing_is_not_counted() -> None:
    model = model_of(contrib=True, x=BHLD, ids=[B, L])
    attributes = {"do_rotary": 0, "num_heads": 3}
    node = ir.node(
        "GroupQueryAttention", [model.graph.inputs[0]], attributes, domain="com.microsoft"
    )
    model.graph.append(node)
    assert fuse(model).count.refused == ()


@pytest.mark.parametrize("contrib", [True, False])
def test_caches_as_large_as_those_of_language_models_are_tables(contrib: bool) -> None:
    """They are constants of millions of elements, of which no proof reads a row."""
    model = model_of(contrib=contrib, x=BHLD, ids=[B, L])
    rows = (1 << 20) + 1
    for name in ("cos", "sin"):
        value = next(x for x in model.graph.inputs if x.name == name)
        model.graph.inputs.remove(value)
        wave = np.cos if name == "cos" else np.sin
        angle = np.arange(rows)[:, None] * 100.0 ** -np.arange(D // 2)
        value.const_value = ir.tensor(wave(angle).astype(np.float32), name=name)
        value.shape = ir.Shape([rows, D // 2])
        model.graph.register_initializer(value)
    fused = fuse(model)
    assert ops(fused) == ["ApplyRopeCosSinHalfSingle"]
    assert fused.comparison.worst_region <= 1.0
    assert_equal_to_the_kernel(fused)


@pytest.mark.parametrize("more", [(), ("b", "c", "d", "e", "f", "g", "h")])
def test_one_first_position_is_where_two_lengths_begin(more: tuple[str, ...]) -> None:
    """Rows counted from it are as many as each one's own length, however many names there are."""
    model = model_of(contrib=True, x=[1, H, "few", D], ids=[1], twice=1)
    q, cos, sin, k, ids = model.graph.inputs
    k.shape = ir.Shape([1, 1, "many", D])
    model.graph.outputs[1].shape = k.shape
    between = ir.Value(name="between", shape=ir.Shape([*more, 1]), type=q.type)
    model.graph.inputs[:] = [q, between, cos, sin, k, ids]
    fused = fuse(model)
    assert (fused.count.found, fused.count.replaced) == (2, 2)
    made = fused.model.clone()
    attach_functions(made)
    rng = np.random.default_rng(3)
    for few, many in ((5, 9), (1, 9), (9, 1)):
        shapes = {"x": (1, H, few, D), "k": (1, 1, many, D), "cos": (ROWS, 4), "sin": (ROWS, 4)}
        shapes["between"] = (1,) * (len(more) + 1)
        feed = {n: rng.standard_normal(shape).astype("f4") for n, shape in shapes.items()}
        feed["ids"] = np.array([3])
        for ours, theirs in zip(run(made, feed), run(fused.before, feed), strict=True):
            assert np.abs(ours - theirs).max() <= 4 * 2.0**-23 * np.abs(theirs).max()


@pytest.mark.parametrize(("batch", "length"), [(2, 0), (0, 3)])
def test_data_of_no_batch_or_row_of_heads_in_one_axis_stays_none(batch: int, length: int) -> None:
    fused = fuse(model_of(contrib=True, x=BLF, ids=[B, L]))
    made = fused.model.clone()
    attach_functions(made)
    tables = {name: np.zeros((ROWS, D // 2), np.float32) for name in ("cos", "sin")}
    x, ids = np.zeros((batch, length, H * D), np.float32), np.zeros((batch, length), np.int64)
    (y,) = run(made, {"x": x, "ids": ids, **tables})
    assert y.shape == x.shape
