"""What goes in and out of a foreign file stays: outputs of one value, inputs with a default."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
from exporting.test_older_files import INPUTS, ROTATED, assert_fused, tables, written

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
