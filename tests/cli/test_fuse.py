"""``ropeexport fuse`` says what it found, what it left and what it could not judge."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from command_line import ropeexport

X = "float[batch, 2, length, 8]"
TABLES = "float[length, 8] cos, float[length, 8] sin"
CONSTANTS = "int64[1] zero = {0}, int64[1] half = {4}, int64[1] end = {8}, int64[1] last = {-1}"
ROPE = """
  a = Slice(x, zero, half, last) b = Slice(x, half, end, last) c = Neg(b)
  turned = Concat<axis = -1>(c, a) left = Mul(x, cos) right = Mul(turned, sin)
  y = Add(left, right)
"""
BRANCH = f"""
  z = If (flag) <then_branch = then () => ({X} y) {{ {ROPE} }},
    else_branch = other () => ({X} same) {{ same = Identity(x) }}>
"""
KINDS = {
    "1 found, 1 replaced, 0 refused, 0 not judged": (f"{X} x, {TABLES}", "y", ROPE),
    "1 found, 0 replaced, 1 refused, 0 not judged\n    refused node_6: inside the then_branch": (
        f"{X} x, {TABLES}, bool flag", "z", BRANCH,
    ),
    "0 found, 0 replaced, 0 refused, 1 not judged\n    not judged node_7: unknown shapes at x": (
        f"{X} given, {TABLES}", "y", "x = my.project(given)" + ROPE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("words", KINDS)
def test_fuse_counts_and_gives_reasons(words: str, tmp_path: Path) -> None:
    inputs, output, nodes = KINDS[words]
    text = f"""<ir_version: 10, opset_import: ["" : 23, "my" : 1]>
      g ({inputs}) => ({X} {output}) <{CONSTANTS}> {{ {nodes} }}"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "in.onnx")
    done = ropeexport("fuse", tmp_path / "in.onnx", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert f"rotary applications: {words}" in done.stdout
    assert (tmp_path / "out").exists() == ("1 replaced" in words)
