"""Every way to write RoPE becomes the op, in any type, and computes what it computed before."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from fusion.writings import WRITINGS, Blend, ByHead, GivenTables

from ropeexport.exporting.exporter import onnx_model
from ropeexport.manifest import Source
from ropeexport.models.example import Example
from ropeexport.ops.forms import form_of

SOURCE = Source(kind="factory", name="test")
AXES = {0: "batch", 1: "length"}
TYPES = [torch.float32, torch.float16]


def exported(module, inputs, axes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = onnx_model(Example(module, inputs, axes), SOURCE)
        return made.model, made.count


def ropes(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if form_of(node.domain, node.op_type)]


def run(model: ir.Model, *arrays: torch.Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    names = [value.name for value in session.get_inputs()]
    return session.run(None, {n: a.numpy() for n, a in zip(names, arrays, strict=True)})


@pytest.mark.parametrize("name", WRITINGS)
@pytest.mark.parametrize("dtype", TYPES)
def test_a_writing_becomes_one_op(name: str, dtype: torch.dtype) -> None:
    module = WRITINGS[name]().to(dtype).eval()
    x, pos = torch.randn(2, 6, 16).to(dtype), torch.arange(6).repeat(2, 1)
    model, count = exported(module, {"x": x, "pos": pos}, {"x": AXES, "pos": AXES})
    assert (count.found, count.replaced, count.refused) == (1, 1, ())
    node = ropes(model)[0]
    form = form_of(node.domain, node.op_type)
    assert form.pairing == ("half" if name.startswith("Half") else "interleaved")
    assert (form.tables, form.tensors) == ("cos_sin", 2)
    assert form.partial == ("Partial" in name)
    if form.partial:  # the parts are the op's own business
        before = [x.producer() for x in node.inputs[: form.tensors]]
        after = [n.op_type for y in node.outputs for n in y.consumers()]
        assert "Slice" not in [n.op_type for n in before if n]
        assert "Concat" not in after
    x, pos = torch.randn(3, 9, 16).to(dtype), torch.arange(5, 14).repeat(3, 1)
    with torch.no_grad():
        eager = module(x, pos)
    # float16: one rounding here, up to three in eager; float32: angles of 14 rounded in each
    spacing = float(torch.finfo(dtype).eps)
    for ours, theirs in zip(run(model, x, pos), eager, strict=True):
        scale = theirs.abs().max().item()
        assert np.abs(ours.astype("f8") - theirs.numpy()).max() <= 16 * spacing * max(1.0, scale)


def test_tables_without_a_proof_become_matrices() -> None:
    q, cos, sin = (torch.randn(2, h, 6, 8) for h in (3, 1, 1))
    axes = {0: "batch", 2: "length"}
    inputs = {"q": q, "cos": cos, "sin": sin}
    model, count = exported(GivenTables().eval(), inputs, dict.fromkeys(inputs, axes))
    assert count.replaced == 1
    assert ropes(model)[0].op_type == "ApplyRopeHalfSingle"
    expected = GivenTables()(q, cos, sin).numpy()
    np.testing.assert_array_equal(run(model, q, cos, sin)[0], expected)


def test_tables_by_head_become_matrices_by_head() -> None:
    x = torch.randn(2, 6, 3, 8)
    angle = torch.randn(6, 3, 4)
    inputs = {"x": x, "cos": angle.cos(), "sin": angle.sin()}
    axes = {"x": {0: "batch", 1: "length"}, "cos": {0: "length"}, "sin": {0: "length"}}
    model, count = exported(ByHead().eval(), inputs, axes)
    assert count.replaced == 1
    assert ropes(model)[0].op_type == "ApplyRopeSingle"
    expected = ByHead()(*inputs.values()).numpy()
    np.testing.assert_array_equal(run(model, *inputs.values())[0], expected)


def test_what_is_no_rope_is_left_alone() -> None:
    x, a, b = (torch.randn(2, 6, 8) for _ in range(3))
    model, count = exported(Blend().eval(), {"x": x, "a": a, "b": b}, {})
    assert ropes(model) == []
    assert (count.found, count.replaced) == (len(count.refused), 0)
    assert all("mixed" in refusal.reason for refusal in count.refused)
