"""``ropeexport::AttentionInBlocks``: at once and in blocks, and which Attention becomes it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from ropeexport.dtypes import float_type
from ropeexport.onnx_files.variants import (
    attach_functions,
    lengths_of_change,
    with_equal_heads,
    with_standard_attention,
)
from ropeexport.ops.attention import (
    FROM,
    NUM_HEADS,
    put_in_blocks,
)

HEADS, S, D, DV = 2, 12, 8, 16
KINDS = {"float": np.float32, "float16": np.float16}
LIMITS = {"at once": S + 1, "in blocks": S}
PLAIN = f"""<ir_version: 10, opset_import: ["" : 23]>
    g ({{kind}}[b, {HEADS}, l, {D}] q, {{kind}}[b, {HEADS}, s, {D}] k, {{kind}}[b, {HEADS}, s, {DV}] v)
    => ({{kind}}[b, {HEADS}, l, {DV}] y) {{{{ y = Attention{{attributes}}(q, k, v) }}}}"""  # noqa: E501


def plain(kind: str = "float", attributes: str = "") -> onnx.ModelProto:
    return onnx.parser.parse_model(PLAIN.format(kind=kind, attributes=attributes))


def shared(model: onnx.ModelProto, limit: int | None = None) -> onnx.ModelProto:
    read = ir.from_proto(model)
    assert put_in_blocks(read) == 1
    attach_functions(read)
    made = ir.to_proto(read)
    if limit is not None:
        next(a for a in made.graph.node[0].attribute if a.name == FROM).i = limit
    onnx.checker.check_model(made, full_check=True)
    onnx.shape_inference.infer_shapes(made, check_type=True, strict_mode=True)
    return made


def feeds(kind: str = "float") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = {"q": (2, HEADS, 5, D), "k": (2, HEADS, S, D), "v": (2, HEADS, S, DV)}
    return {name: rng.standard_normal(size).astype(KINDS[kind]) for name, size in sizes.items()}


def exact(arrays: dict[str, np.ndarray], scale: float = D**-0.5) -> np.ndarray:
    q, k, v = (arrays[name].astype(np.float64) for name in "qkv")
    scores = np.exp(scale * q @ k.swapaxes(-1, -2))
    return scores / scores.sum(-1, keepdims=True) @ v


def run(model: onnx.ModelProto, arrays: dict[str, np.ndarray], **options) -> np.ndarray:
    settings = onnxruntime.SessionOptions()
    for name, value in options.items():
        setattr(settings, name, value)
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings)
    return session.run(None, arrays)[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize(("attributes", "scale"), [("", D**-0.5), ("<scale = 0.5>", 0.5)])
def test_either_branch_is_the_attention_of_the_standard(kind, limit, attributes, scale) -> None:
    model, arrays = shared(plain(kind, attributes), limit), feeds(kind)
    # each output is a mean of S values of about 1, whose weights have errors of a few roundings
    bound = 16 * float_type(np.dtype(KINDS[kind]).name).unit_roundoff
    assert np.abs(run(model, arrays) - exact(arrays, scale)).max() < bound


@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS)
def test_the_reference_evaluator_runs_both_branches(limit: int) -> None:
    arrays = feeds()
    found = ReferenceEvaluator(shared(plain(), limit)).run(None, arrays)[0]
    assert np.abs(found - exact(arrays)).max() < 1e-5


def test_onnxruntime_has_a_kernel_for_the_long_branch(tmp_path) -> None:
    written = tmp_path / "optimised.onnx"
    run(shared(plain()), feeds(), optimized_model_filepath=str(written), log_severity_level=4)
    branches = {
        a.name: [node.op_type for node in a.g.node]
        for node in onnx.load(written).graph.node
        for a in node.attribute
        if node.op_type == "If"
    }
    assert "MultiHeadAttention" in branches["then_branch"]
    assert "Attention" in branches["else_branch"]


@pytest.mark.parametrize(("kind", "limit"), [("float", 2048), ("float16", 1024)])
def test_where_a_type_changes_its_kernel(kind: str, limit: int) -> None:
    assert lengths_of_change(ir.from_proto(shared(plain(kind)))) == [limit]
    assert lengths_of_change(ir.from_proto(plain(kind))) == [limit]
    assert lengths_of_change(ir.from_proto(plain("bfloat16"))) == []


@pytest.mark.parametrize("kind", ["double", "bfloat16"])
def test_types_without_the_kernel_are_left(kind: str) -> None:
    assert put_in_blocks(ir.from_proto(plain(kind))) == 0


@pytest.mark.parametrize("opset", [24, 25])
@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS)
def test_newer_opsets_run_too(opset: int, limit: int) -> None:
    model = plain()
    model.opset_import[0].version = opset
    arrays = feeds()
    assert np.abs(run(shared(model, limit), arrays) - exact(arrays)).max() < 1e-5


@pytest.mark.parametrize(
    "attributes",
    [
        "<is_causal = 1>",
        "<softcap = 2.0>",
        "<qk_matmul_output_mode = 1>",
        "<softmax_precision = 1>",
    ],
)
def test_what_computes_more_is_left(attributes: str) -> None:
    assert put_in_blocks(ir.from_proto(plain(attributes=attributes))) == 0


@pytest.mark.parametrize(
    "change",
    [
        ("] v)", "] v, float[b, 1, l, s] mask)", "(q, k, v)", "(q, k, v, mask)"),
        (f"[b, {HEADS}, s, {D}] k", f"[b, 1, s, {D}] k", f"[b, {HEADS}, s, {DV}] v",
         f"[b, 1, s, {DV}] v"),
        (f"[b, {HEADS}, l, {D}] q", f"[b, h, l, {D}] q"),
    ],
    ids=["mask", "grouped heads", "heads unknown"],
)  # fmt: skip
def test_masks_and_other_numbers_of_heads_are_left(change: tuple[str, ...]) -> None:
    text = PLAIN.format(kind="float", attributes="")
    for old, new in list(pairwise(change))[::2]:
        assert old in text
        text = text.replace(old, new)
    assert put_in_blocks(ir.from_proto(onnx.parser.parse_model(text))) == 0


def test_the_standard_comes_back_whole() -> None:
    model = shared(plain(attributes="<scale = 0.5>"))
    assert {a.name for a in model.graph.node[0].attribute} == {NUM_HEADS, FROM, "scale"}
    back = ir.to_proto(with_standard_attention(ir.from_proto(model)))
    assert [(n.domain, n.op_type) for n in back.graph.node] == [("", "Attention")]
    assert [a.name for a in back.graph.node[0].attribute] == ["scale"]
    assert not back.functions
    assert model.functions  # it is a copy
    arrays = feeds()
    assert np.array_equal(run(back, arrays), run(plain(attributes="<scale = 0.5>"), arrays))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attributes", ["", "<scale = 0.5>"])
@pytest.mark.parametrize("widths", [(D, DV), (DV, D)], ids=["wide values", "narrow values"])
def test_heads_of_one_size_give_the_same(kind: str, attributes: str, widths) -> None:
    """TensorRT's attention takes no other; half of the columns are zeros then."""
    model, arrays = plain(kind, attributes), feeds(kind)
    if widths[0] > widths[1]:
        for value in (*model.graph.input, *model.graph.output):
            last = value.type.tensor_type.shape.dim[3]
            last.dim_value = D + DV - last.dim_value
        arrays = {
            name: x.repeat(2, 3) if name in "qk" else x[..., :D] for name, x in arrays.items()
        }
    made = with_equal_heads(ir.from_proto(model))
    message = ir.to_proto(made)
    onnx.checker.check_model(message, full_check=True)
    (node,) = (x for x in made.graph if x.op_type == "Attention")
    inferred = onnx.shape_inference.infer_shapes(message, strict_mode=True)
    known = (*inferred.graph.value_info, *inferred.graph.input)
    sizes = {x.name: x.type.tensor_type.shape.dim[-1].dim_value for x in known}
    assert {sizes[str(x.name)] for x in node.inputs[:3] if x is not None} == {DV}
    assert [x.name for x in message.graph.output] == ["y"]
    np.testing.assert_allclose(
        run(message, arrays), run(model, arrays), rtol=0, atol=2 * np.finfo(KINDS[kind]).eps
    )
    again = ir.from_proto(message)
    assert with_equal_heads(again) is again


def test_heads_of_one_size_and_returned_caches_are_left() -> None:
    text = PLAIN.format(kind="float", attributes="").replace(f"{DV}", f"{D}")
    model = ir.from_proto(onnx.parser.parse_model(text))
    assert with_equal_heads(model) is model
