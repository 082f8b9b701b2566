"""The three bodies of ApplyRope in stock onnxruntime and in onnx's reference evaluator."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnx_edits import with_body
from seed_functions import seed_apply_rope, seed_rope

from ropeexport.ops.apply_rope import rope_function
from ropeexport.ops.forms import APPLY_ROPE

TYPES = {"float": np.float32, "float16": np.float16}
FLOAT_ULP = float(np.finfo(np.float32).eps)


def rope_model(body: str, kind: str = "float", heads_k: int = 4) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 23, "ropeexport": 1]>
        g ({kind}[b, 4, l, 8] q, {kind}[b, {heads_k}, l, 8] k, float[pb, ph, l, 4, 2, 2] pe)
        => ({kind}[b, 4, l, 8] q_out, {kind}[b, {heads_k}, l, 8] k_out) {{
          q_out, k_out = ropeexport.ApplyRope
            <plugin_version = "1", plugin_namespace = "ropeexport"> (q, k, pe)
        }}"""
    )
    model.functions.append(rope_function(APPLY_ROPE, 23, body))
    onnx.checker.check_model(model, full_check=True)
    return model


def feeds(kind: str, pe: torch.Tensor, heads_k: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    length = pe.shape[2]
    q = rng.standard_normal((2, 4, length, 8)).astype(TYPES[kind])
    k = rng.standard_normal((2, heads_k, length, 8)).astype(TYPES[kind])
    return {"q": q, "k": k, "pe": pe.numpy()}


def expected(arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    q, k, pe = (torch.from_numpy(arrays[name]) for name in ("q", "k", "pe"))
    return [x.numpy() for x in seed_apply_rope(q, k, pe)]


def run(model: onnx.ModelProto, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, arrays)


def matrices(*lead: int) -> torch.Tensor:
    return torch.randn(*lead, 4, 2, 2, generator=torch.Generator().manual_seed(0))


def rotations(*lead: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return seed_rope(torch.randint(0, 999, lead, generator=generator), 8, 10000)


@pytest.mark.parametrize("body", ["adaptive", "general"])
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("pe_lead", [(1, 1), (2, 1), (1, 4), (2, 4)])
@pytest.mark.parametrize("length", [1, 5])
def test_general_matrices_are_exact(body, kind, pe_lead, length) -> None:
    arrays = feeds(kind, matrices(*pe_lead, length))
    for ours, theirs in zip(run(rope_model(body, kind), arrays), expected(arrays), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("body", ["adaptive", "rotation"])
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("batch", [1, 2])
def test_rotations_are_within_an_ulp_of_the_largest_product(body, kind, batch) -> None:
    arrays = feeds(kind, rotations(batch, 1, 5))
    bound = 2 * np.finfo(TYPES[kind]).eps * max(np.abs(arrays[x]).max() for x in "qk")
    for ours, theirs in zip(run(rope_model(body, kind), arrays), expected(arrays), strict=True):
        assert np.abs(ours.astype("f8") - theirs.astype("f8")).max() <= bound


def test_rotations_with_a_head_axis_take_the_general_branch() -> None:
    arrays = feeds("float", rotations(2, 4, 5))
    for ours, theirs in zip(run(rope_model("adaptive"), arrays), expected(arrays), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_rotation_body_is_wrong_for_general_matrices() -> None:
    arrays = feeds("float", matrices(1, 1, 5))
    ours = run(rope_model("rotation"), arrays)[0]
    assert np.abs(ours - expected(arrays)[0]).max() > 1e3 * FLOAT_ULP


@pytest.mark.parametrize("entry", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_one_matrix_that_is_no_rotation_decides_for_all(entry) -> None:
    pe = rotations(1, 1, 5)
    pe[0, 0, 3, 2][entry] += 0.5
    arrays = feeds("float", pe)
    for ours, theirs in zip(run(rope_model("adaptive"), arrays), expected(arrays), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_nan_in_pe_reaches_the_output() -> None:
    pe = rotations(1, 1, 5)
    pe[0, 0, 3, 2] = float("nan")
    arrays = feeds("float", pe)
    for ours, theirs in zip(run(rope_model("adaptive"), arrays), expected(arrays), strict=True):
        np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
        assert np.isnan(ours[..., 3, 4:6]).all()


@pytest.mark.parametrize("make", [matrices, rotations])
def test_q_and_k_may_differ_in_heads(make) -> None:
    arrays = feeds("float", make(2, 1, 5), heads_k=2)
    for ours, theirs in zip(
        run(rope_model("adaptive", heads_k=2), arrays), expected(arrays), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=8 * FLOAT_ULP * np.abs(theirs).max())


@pytest.mark.parametrize("make", [matrices, rotations])
@pytest.mark.parametrize("kind", TYPES)
def test_the_reference_evaluator_runs_the_file(make, kind) -> None:
    arrays = feeds(kind, make(2, 1, 5))
    ours = ReferenceEvaluator(rope_model("adaptive", kind)).run(None, arrays)
    for one, theirs in zip(ours, expected(arrays), strict=True):
        assert one.dtype == theirs.dtype
        bound = 2 * np.finfo(TYPES[kind]).eps * np.abs(theirs).max()
        assert np.abs(one.astype("f8") - theirs.astype("f8")).max() <= bound


def test_a_swapped_body_leaves_the_model_it_came_from() -> None:
    model = rope_model("adaptive")
    before = model.SerializeToString(deterministic=True)
    swapped = with_body(model, "rotation")
    assert model.SerializeToString(deterministic=True) == before
    ops = {node.op_type for node in swapped.functions[0].node}
    assert "RotaryEmbedding" in ops
    assert "If" not in ops
