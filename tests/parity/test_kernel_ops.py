"""The oracle's operators beyond onnx's own, each against onnxruntime's kernel of it."""

from __future__ import annotations

import tracemalloc

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, parser

from ropeexport.parity.kernel_ops import Evaluator

TOLERANCE = 2.0**-20  # of numbers near one, in sums of few terms
TYPES = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int64): TensorProto.INT64,
         np.dtype(np.int32): TensorProto.INT32, np.dtype(np.uint8): TensorProto.UINT8}  # fmt: skip


def compare(op: str, arrays: dict, outputs: int = 1, domain: str = "com.microsoft", **attributes):
    """Run one operator in onnxruntime and in the oracle, and compare every output."""
    unused, opset = attributes.pop("unused", ()), attributes.pop("opset", 21)
    names = ["" if i in unused else f"y{i}" for i in range(outputs)]
    node = helper.make_node(
        op, [n if x is not None else "" for n, x in arrays.items()], names, domain=domain,
        **attributes,
    )  # fmt: skip
    given = {name: x for name, x in arrays.items() if x is not None}
    inputs = [helper.make_tensor_value_info(n, TYPES[x.dtype], x.shape) for n, x in given.items()]
    made = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names if n]
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(
        helper.make_graph([node], "g", inputs, made), opset_imports=imports, ir_version=10
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    wide = {n: x.astype(np.float64) if x.dtype == np.float32 else x for n, x in given.items()}
    exact = Evaluator(model).run(None, wide)
    for got, expected in zip(session.run(None, given), exact, strict=True):
        assert expected.dtype == np.float64
        assert got.shape == expected.shape
        assert np.abs(got - expected).max() <= TOLERANCE * max(1.0, np.abs(expected).max())


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape, dtype=np.float32)


def tables(rows: int, pairs: int) -> dict[str, np.ndarray]:
    angles = drawn(rows, pairs)
    return {"cos": np.cos(angles), "sin": np.sin(angles)}


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("positions", ["each", "first"])
@pytest.mark.parametrize("part", [8, 4])
@pytest.mark.parametrize("shape", [(2, 3, 5, 8), (2, 5, 24)])
def test_rotary_embedding(interleaved, positions, part, shape) -> None:
    each = np.random.default_rng(0).integers(0, 20, (2, 5))
    ids = each if positions == "each" else np.array([7])
    arrays = {"x": drawn(*shape), "ids": ids, **tables(20, part // 2)}
    partial = {"rotary_embedding_dim": part, "num_heads": 3} if part < 8 else {}
    compare("RotaryEmbedding", arrays, interleaved=interleaved, **partial)


def test_normalisations() -> None:
    x, skip, scale, bias = drawn(2, 5, 16), drawn(2, 5, 16, seed=1), drawn(16), drawn(16, seed=1)
    compare("SimplifiedLayerNormalization", {"x": x, "scale": scale}, domain="", axis=-1)
    op = "SkipSimplifiedLayerNormalization"
    arrays = {"x": x, "skip": skip, "scale": scale, "bias": bias}
    compare(op, arrays, 4, epsilon=1e-3, unused=(1, 2))
    compare(op, {**arrays, "bias": None})
    # the standard's, of which the evaluator's own is wrong
    for p in (1, 2):
        compare("LpNormalization", {"x": x}, domain="", axis=1, p=p)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zeros", ["none", "packed"])
@pytest.mark.parametrize("columns", [64, 80])  # 80: the last block of 32 is half empty
def test_products_with_weights_of_few_bits(bits: int, zeros: str, columns: int) -> None:
    rng, rows, size = np.random.default_rng(0), 6, 32
    blocks = -(-columns // size)

    def bytes_of(*shape: int) -> np.ndarray:
        return rng.integers(0, 256, shape, dtype=np.uint8)

    arrays = {
        "x": drawn(2, 5, columns),
        "packed": bytes_of(rows, blocks, size * bits // 8),
        "scales": np.abs(drawn(rows * blocks)),
        "zeros": bytes_of(rows, -(-blocks * bits // 8)) if zeros == "packed" else None,
    }
    given = {"K": columns, "N": rows, "bits": bits, "block_size": size, "accuracy_level": 1}
    compare("MatMulNBits", arrays, **given)


@pytest.mark.parametrize("opset", [11, 12, 13, 21])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, 3, -1, -3])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
def test_what_an_axis_means_in_each_opset(op, axis, opset) -> None:
    given = {} if axis is None else {"axis": axis}
    compare(op, {"x": drawn(2, 3, 5, 4)}, domain="", opset=opset, **given)


@pytest.mark.parametrize("opset", [11, 13, 14, 15])
@pytest.mark.parametrize("given", [{}, {"momentum": 0.5, "epsilon": 0.1}], ids=str)
def test_batch_normalization_in_each_opset(opset, given) -> None:
    rows = {name: drawn(3, seed=i) for i, name in enumerate(("scale", "bias", "mean"))}
    arrays = {"x": drawn(2, 3, 5, 4), **rows, "var": np.abs(drawn(3, seed=4)) + 1}
    compare("BatchNormalization", arrays, domain="", opset=opset, **given)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"strides": [3, 2], "output_padding": [2, 1]},
        {"dilations": [2, 3], "pads": [1, 0, 2, 3]},
        {"strides": [2, 1], "dilations": [1, 2], "pads": [0, 2, 1, 1], "group": 2},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
        {"strides": [2, 1], "auto_pad": "VALID"},
        {"strides": [3, 2], "output_shape": [12, 9]},
    ],
    ids=str,
)
def test_transposed_convolution(given, has_bias) -> None:
    group = given.get("group", 1)
    arrays = {"x": drawn(2, 4, 4, 5), "w": drawn(4, 6 // group, 3, 2)}
    compare("ConvTranspose", {**arrays, "bias": drawn(6) if has_bias else None}, domain="", **given)


def test_transposed_convolution_of_a_sequence() -> None:
    arrays = {"x": drawn(2, 4, 50), "w": drawn(4, 3, 16)}
    compare("ConvTranspose", arrays, domain="", strides=[8], pads=[8, 0])


def test_a_softmax_of_an_older_function_and_of_a_branch() -> None:
    text = """<ir_version: 8, opset_import: ["" : 11, "my" : 1]>
    g (float[2, 3, 4] x, bool c) => (float[2, 3, 4] y) { s = my.soft<at = 1>(x)
      y = If(c) <then_branch = g1 () => (float[2, 3, 4] p) { p = Softmax(s) },
                 else_branch = g2 () => (float[2, 3, 4] m) { m = Softmax<axis = 0>(s) }> }
    <domain: "my", opset_import: ["" : 11]> soft <at> (x) => (y) { y = Softmax<axis: int = @at>(x) }
    """
    model, x = parser.parse_model(text), drawn(2, 3, 4)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    evaluator = Evaluator(model)
    for c in (True, False):
        (got,) = session.run(None, {"x": x, "c": np.array(c)})
        (expected,) = evaluator.run(None, {"x": x.astype(np.float64), "c": np.array(c)})
        assert np.abs(got - expected).max() <= TOLERANCE


HEADS, GROUPS, SIZE = 4, 2, 16


@pytest.mark.parametrize(
    "attributes",
    [
        {}, {"do_rotary": 1}, {"do_rotary": 1, "rotary_interleaved": 1}, {"scale": 0.7},
        {"softcap": 2.0}, {"local_window_size": 3},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize(
    ("length", "past", "ends"),
    [(6, 0, [5, 5]), (6, 0, [5, 3]), (1, 7, [7, 7]), (1, 7, [7, 4]), (3, 5, [7])],
    ids=["prompt", "padded prompt", "token", "token of shorter ones", "several tokens"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_group_query_attention(attributes, length, past, ends, packed) -> None:
    widths = [HEADS * SIZE, GROUPS * SIZE, GROUPS * SIZE]
    batch = len(ends)
    q, k, v = (drawn(batch, length, width, seed=i) for i, width in enumerate(widths))
    arrays = {
        "q": np.concatenate([q, k, v], axis=-1) if packed else q,
        "k": None if packed else k,
        "v": None if packed else v,
        "past_k": drawn(batch, GROUPS, past, SIZE, seed=3),
        "past_v": drawn(batch, GROUPS, past, SIZE, seed=4),
        "last": np.array(ends, np.int32),
        "total": np.array(past + length, np.int32),
    }
    if attributes.get("do_rotary"):
        arrays |= tables(20, SIZE // 2)
    more = {"num_heads": HEADS, "kv_num_heads": GROUPS}
    compare("GroupQueryAttention", arrays, 3, **more, **attributes)


def test_results_are_let_go_of_behind_their_last_reader() -> None:
    """Forty results of a chain would be 320 MB; a branch and a loop read from outside till then."""
    chain = "".join(f"t{n + 1} = Add(t{n}, one)\n" for n in range(40))
    model = parser.parse_model(f"""
        <ir_version: 10, opset_import: ["": 21]>
        g (float[N] x, float one, bool which, int64 rounds)
            => (float[N] y, float[N] early, float[N] kept) {{
            early = Neg(x)
            outer = Mul(x, x)
            inner = Exp(outer)
            t0 = Abs(x)
            {chain}
            a = If(which) <
                then_branch = yes () => (float[N] b) {{ b = Add(t40, outer) }},
                else_branch = no () => (float[N] inner) {{ }}
            >
            y = Loop(rounds, which, a) <
                body = step (int64 i, bool go, float[N] v) => (bool on, float[N] w) {{
                    on = Identity(go)
                    u = Add(v, inner)
                    w = Sub(u, early)
                }}
            >
            kept = Neg(t3)
        }}
    """)
    x = np.linspace(-1.0, 1.0, 1_000_000)
    tracemalloc.start()
    try:
        y, early, kept = Evaluator(model).run(
            None, {"x": x, "one": np.float64(1), "which": np.array(True), "rounds": np.int64(3)}
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    wanted = np.abs(x) + 40 + x * x + 3 * (np.exp(x * x) + x)
    np.testing.assert_allclose(y, wanted, rtol=1e-12)
    np.testing.assert_array_equal(early, -x)
    np.testing.assert_allclose(kept, -(np.abs(x) + 3), rtol=1e-12)
    assert peak < 12 * x.nbytes
