"""The EMULATED bfloat16 twin: rounds where the graph does, and is never a runtime's own PASS."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_edits import make_causal

from ropeexport import export
from ropeexport.artifact import Artifact
from ropeexport.errors import MissingError, ModelFileError
from ropeexport.onnx_files.onnx_file import OnnxFile
from ropeexport.onnx_files.variants import float32_twin, has_foreign
from ropeexport.parity.check import Options, check
from ropeexport.report import html, junit, markdown
from ropeexport.runners.ort_emulated import EmulatedRunner

BF16 = ml_dtypes.bfloat16
ALONE = Options(count=8, runtimes=("onnxruntime",))  # and what emulates it

CHAIN = """
<ir_version: 10, opset_import: ["" : 23]>
chain (bfloat16[n] x, bool c) => (bfloat16[n] y, float[n] wide)
{
  wide_three = Constant<value_float = 3.0>()
  product = Mul(x, weight)
  sum = Add(product, half)
  picked = If (c) <
    then_branch = yes () => (bfloat16[n] then_out) { then_out = Sqrt(sum) },
    else_branch = no () => (bfloat16[n] else_out) { else_out = Identity(sum) }
  >
  wide = Cast<to = 1>(picked)
  third = Div(wide, wide_three)
  y = Cast<to = 16>(third)
}
"""


WEIGHT, THIRD = np.array(3.140625, BF16), np.array(0.3330078125, BF16)


def chain(path):
    model = onnx.parser.parse_model(CHAIN)
    model.graph.initializer.append(onnx.numpy_helper.from_array(WEIGHT, "weight"))
    third = onnx.numpy_helper.from_array(THIRD)
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["half"], value=third))
    onnx.save(model, path)
    return model


@pytest.mark.parametrize("condition", [True, False])
def test_every_operator_is_rounded_where_the_graph_says_bfloat16(tmp_path, condition) -> None:
    chain(tmp_path / "m.onnx")
    x = np.random.default_rng(0).uniform(0.1, 9, 500).astype(BF16)
    with EmulatedRunner(OnnxFile(tmp_path / "m.onnx")) as runner:
        got = runner.run({"x": x, "c": np.array(condition)})
    wide = np.float32
    sum_ = (x * WEIGHT).astype(wide) + THIRD.astype(wide)
    picked = sum_.astype(BF16)
    picked = np.sqrt(picked.astype(wide)).astype(BF16) if condition else picked
    assert got["y"].dtype == BF16
    assert got["wide"].dtype == np.float32
    assert np.array_equal(got["wide"], picked.astype(wide))
    assert np.array_equal(got["y"], (picked.astype(wide) / wide(3.0)).astype(BF16))


def test_a_twin_holds_no_bfloat16_but_in_its_roundings(tmp_path) -> None:
    twin = float32_twin(ir.from_proto(chain(tmp_path / "m.onnx")))
    assert not has_foreign(twin)
    onnx.checker.check_model(ir.to_proto(twin), full_check=True)


def test_an_unknown_type_is_refused_and_never_left_unrounded() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 23, "other" : 1]>\n'
        "g (bfloat16[n] x) => (bfloat16[n] y) { h = other.Mystery(x)\n y = Neg(h) }"
    )
    with pytest.raises(ModelFileError, match=r"Mystery.*'h' is unknown"):
        float32_twin(ir.from_proto(model))


def test_there_must_be_something_to_emulate(exported) -> None:
    with (
        pytest.raises(MissingError, match="no bfloat16"),
        EmulatedRunner(OnnxFile(exported(dtype="fp16") / "model.onnx")),
    ):
        pass


@pytest.mark.parametrize("model", ["flux-attention", "flux-self-attention-ids"])
def test_the_twin_is_labelled_everywhere_and_never_a_pass(tmp_path, model: str) -> None:
    export(model, out=tmp_path, heads=2, head_dim=64, length=32, dtype="bf16")
    report = check(Artifact.read(tmp_path), options=ALONE)
    twin = next(r for r in report.runtimes if r.name == "EMULATED")
    stock = next(r for r in report.runtimes if r.name == "onnxruntime")
    assert (twin.status, stock.status) == ("EMULATED", "SKIPPED")
    assert {c.status for c in report.comparisons if c.runtime == "EMULATED"} == {"EMULATED"}
    assert report.verdict == "FAIL"
    assert "no runtime's own PASS" in report.reason
    assert "EMULATED: float32" in html.render(report)
    assert "| EMULATED | EMULATED |" in markdown.render(report)
    assert junit.render(report).count('<skipped message="EMULATED: ') == 8


def test_a_fault_in_a_bfloat16_graph_is_caught_in_its_twin(exported) -> None:
    folder = exported(dtype="bf16")
    model = onnx.load(folder / "model.onnx")
    make_causal(model)
    onnx.save(model, folder / "model.onnx")
    report = check(Artifact.read(folder), options=ALONE)
    twin = next(r for r in report.runtimes if r.name == "EMULATED")
    assert twin.status == "FAIL"
    assert report.reason.startswith("EMULATED: ")
