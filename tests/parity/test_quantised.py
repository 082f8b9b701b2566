"""Attention with FP8 products, projections with weights of 4 bits: fused, checked, built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from string import Template

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import ropeexport

LENGTH, HEADS, HEAD, BLOCK = 32, 2, 64, 64
WIDTH = HEADS * HEAD
# as a projection, a rope in halves and two products are written in a file of one type
NODES = """
<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]>
attention ($T[1, $L, $W] x, $T[$L, $P] cos, $T[$L, $P] sin) => ($T[1, $L, $W] out)
  <int64[4] apart = {1, $L, $H, $D}, int64[3] whole = {1, $L, $W}>
{
  wide_q = MatMul(x, w_q)    wide_k = MatMul(x, w_k)    wide_v = MatMul(x, w_v)
  cut_q = Reshape(wide_q, apart)    cut_k = Reshape(wide_k, apart)    cut_v = Reshape(wide_v, apart)
  q = Transpose<perm = [0, 2, 1, 3]>(cut_q)    k = Transpose<perm = [0, 2, 1, 3]>(cut_k)
  v = Transpose<perm = [0, 2, 1, 3]>(cut_v)
  qa, qb = Split<axis = -1, num_outputs = 2>(q)    ka, kb = Split<axis = -1, num_outputs = 2>(k)
  qac = Mul(qa, cos)    qbs = Mul(qb, sin)    qas = Mul(qa, sin)    qbc = Mul(qb, cos)
  kac = Mul(ka, cos)    kbs = Mul(kb, sin)    kas = Mul(ka, sin)    kbc = Mul(kb, cos)
  q1 = Sub(qac, qbs)    q2 = Add(qas, qbc)    k1 = Sub(kac, kbs)    k2 = Add(kas, kbc)
  q_rotated = Concat<axis = -1>(q1, q2)    k_rotated = Concat<axis = -1>(k1, k2)
  k_turned = Transpose<perm = [0, 1, 3, 2]>(k_rotated)
  scores = MatMul(q_rotated, k_turned)    scaled = Mul(scores, scale)
  shares = Softmax(scaled)    read = MatMul(shares, v)
  back = Transpose<perm = [0, 2, 1, 3]>(read)    joined = Reshape(back, whole)
  out = MatMul(joined, w_out)
}
"""
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}
ALL = TYPES | {"bfloat16": TensorProto.BFLOAT16}
NUMBERS = {name: np.dtype(name) for name in TYPES} | {"bfloat16": np.dtype(ml_dtypes.bfloat16)}
PRODUCTS = ("q_rotated", "k_turned", "shares", "v")  # what the two products of attention read


def plain(dtype: str) -> onnx.ModelProto:
    sizes = {"L": LENGTH, "W": WIDTH, "P": HEAD // 2, "H": HEADS, "D": HEAD}
    text = Template(NODES).substitute(sizes, T="float" if dtype == "float32" else dtype)
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    weights = {
        name: rng.standard_normal((WIDTH, WIDTH)) / np.sqrt(WIDTH)
        for name in ("w_q", "w_k", "w_v", "w_out")
    }
    for name, values in {**weights, "scale": np.array(HEAD**-0.5)}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(
            values.astype(NUMBERS[dtype]), name))  # fmt: skip
    return model


def quantise(
    model: onnx.ModelProto, name: str, scale: float, *, back: float = 1.0, kind: int = 0
) -> None:
    """Put a QuantizeLinear and a DequantizeLinear behind a value, whose scale is ``back`` times."""
    graph = model.graph
    dtype = graph.input[0].type.tensor_type.elem_type
    kind = kind or TensorProto.FLOAT8E4M3FN
    graph.initializer.extend(
        [
            helper.make_tensor(f"{name}_scale", dtype, [], [scale]),
            helper.make_tensor(f"{name}_back", dtype, [], [scale * back]),
            helper.make_tensor(f"{name}_zero", kind, [], [0.0]),
        ]
    )
    for node in graph.node:
        node.input[:] = [f"{name}_rounded" if x == name else x for x in node.input]
    few = helper.make_node("QuantizeLinear", [name, f"{name}_scale", f"{name}_zero"], [f"{name}_8"])
    many = helper.make_node(
        "DequantizeLinear", [f"{name}_8", f"{name}_back", f"{name}_zero"], [f"{name}_rounded"]
    )
    place = next(i for i, node in enumerate(graph.node) if name in node.output) + 1
    graph.node.insert(place, many)
    graph.node.insert(place, few)


def fp8(dtype: str = "float16", **faults: Callable[[onnx.ModelProto], None]) -> onnx.ModelProto:
    """Attention whose products read FP8, as ModelOpt writes it for matrix products alone."""
    model = plain(dtype)
    for name in PRODUCTS:
        if name in faults:
            faults[name](model)
        else:
            quantise(model, name, 2.0**-7 if name == "shares" else 2.0**-5)
    return model


def int4(dtype: str) -> onnx.ModelProto:
    """Projections whose weights have 4 bits and a scale for each block of 64 rows."""
    model = plain(dtype)
    graph = model.graph
    for name in ("w_q", "w_k", "w_v", "w_out"):
        [old] = [x for x in graph.initializer if x.name == name]
        values = onnx.numpy_helper.to_array(old).astype(np.float64).reshape(-1, BLOCK, WIDTH)
        scales = np.abs(values).max(axis=1, keepdims=True) / 7
        whole = np.rint(values / scales).astype(int).reshape(-1)
        old.CopyFrom(helper.make_tensor(f"{name}_4", TensorProto.INT4, (WIDTH, WIDTH), whole))
        graph.initializer.append(
            helper.make_tensor(
                f"{name}_scales", ALL[dtype], (WIDTH // BLOCK, WIDTH), scales.reshape(-1)
            )
        )
        node = helper.make_node(
            "DequantizeLinear", [f"{name}_4", f"{name}_scales"], [name], axis=0, block_size=BLOCK
        )
        graph.node.insert(0, node)
    return model


def bits4(dtype: str) -> onnx.ModelProto:
    """The same projections as onnxruntime writes them, ``MatMulNBits``."""
    model = plain(dtype)
    graph = model.graph
    rng = np.random.default_rng(1)
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1].startswith("w_"):
            name = node.input[1]
            blocks = rng.integers(0, 256, (WIDTH, WIDTH // BLOCK, BLOCK // 2), dtype=np.uint8)
            scales = rng.uniform(0.01, 0.02, WIDTH * WIDTH // BLOCK).astype(NUMBERS[dtype])
            new = {f"{name}_blocks": blocks, f"{name}_scales": scales}
            graph.initializer.extend(onnx.numpy_helper.from_array(x, n) for n, x in new.items())
            node.CopyFrom(
                helper.make_node(
                    "MatMulNBits", [node.input[0], *new], list(node.output), name=f"{name}_product",
                    domain="com.microsoft", K=WIDTH, N=WIDTH, bits=4, block_size=BLOCK,
                    accuracy_level=1,
                )
            )  # fmt: skip
    return model


def fused(model: onnx.ModelProto, folder: Path, **options: object) -> ropeexport.Fusion:
    onnx.checker.check_model(model)
    onnx.save(model, folder / "given.onnx")
    return ropeexport.fuse(folder / "given.onnx", folder / "out", **options)


MODELS = {
    f"{name}, {dtype}": (make, dtype)
    for name, make in {"FP8": fp8, "INT4": int4, "MatMulNBits": bits4}.items()
    for dtype in TYPES
}


@pytest.mark.parametrize("name", MODELS)
def test_its_rope_is_replaced_and_onnxruntime_computes_it(name: str, tmp_path: Path) -> None:
    make, dtype = MODELS[name]
    made = fused(make(dtype), tmp_path)
    assert (made.found, made.replaced) == (1, 1)
    report = ropeexport.check(made.folder, runtimes=["onnxruntime"], require=["onnxruntime"])
    assert report.verdict == "PASS", report.reason


@pytest.mark.parametrize("make", [fp8, int4, bits4])
def test_its_rope_is_replaced_in_bfloat16(
    make: Callable[[str], onnx.ModelProto], tmp_path: Path
) -> None:
    """Which onnxruntime's kernels for processors do not have."""
    made = fused(make("bfloat16"), tmp_path)
    assert (made.found, made.replaced) == (1, 1)


@pytest.mark.trt
@pytest.mark.parametrize("implementation", ["native", "decomposed"])
@pytest.mark.parametrize("name", [name for name in MODELS if "NBits" not in name])
def test_an_engine_is_built_of_it(name: str, implementation: str, tmp_path: Path) -> None:
    make, dtype = MODELS[name]
    made = fused(make(dtype), tmp_path)
    engine = ropeexport.build(made.folder, impl=implementation)
    assert set(engine.ropes.values()) == {implementation}


FAULTS = {
    "k's scale": lambda model: quantise(model, "k_turned", 2.0**-5, back=1.125),
    "q in e5m2": lambda model: quantise(model, "q_rotated", 2.0**-5, kind=TensorProto.FLOAT8E5M2),
    "v saturates": lambda model: quantise(model, "v", 2.0**-9),
    "k is not quantised": lambda model: None,
}
AT = {"k's scale": "k_turned", "q in e5m2": "q_rotated", "v saturates": "v"}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_its_quantisation_is_caught(name: str, tmp_path: Path) -> None:
    onnx.save(fp8(), tmp_path / "a.onnx")
    onnx.save(fp8(**{AT.get(name, "k_turned"): FAULTS[name]}), tmp_path / "b.onnx")
    report = ropeexport.check(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert report.verdict == "FAIL"


def test_what_is_quantised_inside_a_rotation_is_named(tmp_path: Path) -> None:
    model = plain("float16")
    for name in ("qas", "qbc", "kas", "kbc"):
        quantise(model, name, 2.0**-5)
    made = fused(model, tmp_path)
    assert (made.found, made.replaced) == (0, 0)
    reasons = [refusal.reason for refusal in made.not_judged]
    assert len(reasons) == 2
    assert all("is quantised inside the rotation" in reason for reason in reasons)
