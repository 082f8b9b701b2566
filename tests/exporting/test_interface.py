"""What goes in and out of a foreign file stays: outputs of one value, inputs with a default."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from exporting.test_older_files import INPUTS, ROTATED, Feed, assert_fused, run, tables, written

from ropeexport import manifest
from ropeexport.errors import ModelFileError
from ropeexport.exporting.fuse_file import fuse_file

DATA = "float[a, b, c, d]"
ONE_VALUE = {
    "an output again": ("rotated, z", "z = Identity(rotated)"),
    "an output twice again": ("rotated, z, y", "z = Identity(rotated) y = Identity(z)"),
    "by way of another": ("rotated, z", "t = Identity(rotated) z = Identity(t)"),
    "an inner value twice": ("z, y", "t = Neg(rotated) z = Identity(t) y = Identity(t)"),
    "computed twice": ("z, y, w", "z = Neg(rotated) y = Neg(rotated) w = Neg(x)"),
    "an input": ("rotated, z", "z = Identity(x)"),
}
IN_A_BRANCH = {
    "an output": "m = Identity(rotated)",
    "an inner value": "m = Identity(r)",
    "by way of another": "t = Identity(r) m = Identity(t)",
    "a value of the branch": "t = Neg(r) m = Identity(t)",
    "an input": "m = Identity(x)",
}


def names(path: Path) -> list[str]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [value.name for value in session.get_outputs()]


def assert_kept(tmp_path: Path, outputs: str, body: str, opset: int) -> None:
    split = ROTATED if opset < 18 else ROTATED.replace("Split<", "Split<num_outputs = 2, ")
    listed = ", ".join(f"{DATA} {name}" for name in outputs.split(", "))
    path = written(tmp_path / "in.onnx", f"g ({INPUTS}) => ({listed}) {{ {split} {body} }}", opset)
    assert_fused(path, tmp_path / "out", tables(5))
    assert names(tmp_path / "out" / "model.onnx") == names(path)


@pytest.mark.parametrize("opset", [17, 23])
@pytest.mark.parametrize("name", ONE_VALUE)
def test_outputs_of_one_value_keep_their_names(tmp_path: Path, name: str, opset: int) -> None:
    assert_kept(tmp_path, *ONE_VALUE[name], opset)


def test_an_output_that_is_an_input_is_refused(tmp_path: Path) -> None:
    text = f"g ({INPUTS}) => ({DATA} rotated, float[length, 8] cos) {{ {ROTATED} }}"
    with pytest.raises(ModelFileError, match="got 'cos', which is an input; put an Identity"):
        fuse_file(written(tmp_path / "in.onnx", text), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("opset", [17, 23])
@pytest.mark.parametrize("name", IN_A_BRANCH)
def test_a_branch_gives_what_is_made_outside(tmp_path: Path, name: str, opset: int) -> None:
    body = f"""one = Constant<value = float {{1.0}}>() most = ReduceMax<keepdims = 0>(x)
      c = Greater(most, one)
      z = If(c) <then_branch = g1 () => ({DATA} p) {{ p = Neg(rotated) }},
                 else_branch = g2 () => ({DATA} m) {{ {IN_A_BRANCH[name]} }}>"""
    for condition in ("Greater", "Less"):
        folder = tmp_path / condition
        folder.mkdir()
        assert_kept(folder, "rotated, z", body.replace("Greater", condition), opset)


ANGLES = """at = Constant<value = int64[1] {1}>() column = Unsqueeze(p, at) angles = Mul(column, f)
  both = Concat<axis = -1>(angles, angles) cos = Cos(both) sin = Sin(both)"""


def with_frequencies(path: Path, ir_version: int) -> tuple[Path, Feed]:
    """Write a file whose frequencies are a weight and listed as an input, and what to feed it."""
    text = f"""g (float[batch, 2, length, 8] x, float[length] p, float[4] f) => ({DATA} rotated) {{
      {ANGLES} {ROTATED} }}"""
    model = onnx.load(written(path, text))
    model.ir_version = ir_version
    f = 10.0 ** -np.arange(4, dtype=np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(f, "f"))
    onnx.save(model, path)
    return path, {"x": tables(6)["x"], "p": np.arange(6, dtype=np.float32)}


def test_frequencies_that_a_caller_may_feed_are_not_taken_for_constants(tmp_path: Path) -> None:
    path, feed = with_frequencies(tmp_path / "in.onnx", 8)
    fed = {**feed, "f": np.array([2, 0.3, 0.04, 0.005], np.float32)}
    assert_fused(path, tmp_path / "out", feed)
    made = tmp_path / "out" / "model.onnx"
    (new,), (old,), (unfed,) = run(made, fed), run(path, fed), run(path, feed)
    np.testing.assert_allclose(new, old, rtol=0, atol=2e-6 * np.abs(old).max())
    assert np.abs(old - unfed).max() > 0.1
    assert manifest.read(tmp_path / "out").model.inputs[-1].name == "p"


def test_weights_that_an_older_format_lists_as_inputs_stay_constants(tmp_path: Path) -> None:
    path, feed = with_frequencies(tmp_path / "in.onnx", 3)
    assert_fused(path, tmp_path / "out", feed)
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    assert [value.name for value in graph.input] == ["x", "p"]
    assert "RopeTable" in [node.op_type for node in graph.node]


FAULTY = {
    "a number that is text": 'k = Constant<value_float = "a">() y = Mul(rotated, k)',
    "an axis that is text": 'y = Flatten<axis = "a">(rotated)',
}


@pytest.mark.parametrize("name", FAULTY)
def test_what_a_library_fails_at_is_one_line(tmp_path: Path, name: str) -> None:
    text = f"g ({INPUTS}) => (float[a] y) {{ {ROTATED} {FAULTY[name]} }}"
    said = r"^in.onnx: its graph cannot be simplified: .*; all that onnxscript says is in .*\.log$"
    with pytest.raises(ModelFileError, match=said):
        fuse_file(written(tmp_path / "in.onnx", text), tmp_path / "out")
    assert not (tmp_path / "out").exists()


UNSHAPED = {
    "rows": "y = Flatten<axis = 2>(rotated)",
    "rows of a known size": "y = Flatten<axis = 3>(rotated)",
    "resized": """s = Constant<value = float[4] {1, 1, 2, 1.5}>()
      y = Resize<mode = "nearest">(rotated, , s)""",
    "as many as there are": "n = NonZero(rotated) y = Cast<to = 1>(n)",
}


@pytest.mark.parametrize("opset", [18, 23])
@pytest.mark.parametrize("name", UNSHAPED)
def test_an_output_without_a_shape_gets_the_one_that_follows(
    tmp_path: Path, name: str, opset: int
) -> None:
    split = ROTATED.replace("Split<", "Split<num_outputs = 2, ")
    text = f"g ({INPUTS}) => (float[a] y) {{ {split} {UNSHAPED[name]} }}"
    model = onnx.load(written(tmp_path / "in.onnx", text, opset))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, tmp_path / "in.onnx")
    assert_fused(tmp_path / "in.onnx", tmp_path / "out", tables(5))
