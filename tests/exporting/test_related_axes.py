"""Axes of a file that meet in a rotation are one in the manifest: a check draws one size."""

from __future__ import annotations

from pathlib import Path

import onnx.parser
import pytest

import ropeexport

GRAPH = """<ir_version: 8, opset_import: ["" : 17]>
g (float[{x}] x, float[{cos}] cos, float[{sin}] sin) => (float[?, 2, ?, 8] y) {{
  a, b = Split<axis = -1>(x) c = Neg(b) turned = Concat<axis = -1>(c, a)
  left = Mul(x, cos) right = Mul(turned, sin) y = Add(left, right)
}}"""
FILES = {
    "unnamed": (("?, 2, ?, 8", "?, 8", "?, 8"), {"cos_0": "x_2", "sin_0": "x_2"}),
    "named": (("batch, 2, seq, 8", "rows, 8", "others, 8"), {"rows": "seq", "others": "seq"}),
    "a size": (("batch, 2, 6, 8", "rows, 8", "6, 8"), {"rows": "6"}),
}


def written(folder: Path, name: str, **options: object) -> ropeexport.Fusion:
    x, cos, sin = FILES[name][0]
    model = onnx.parser.parse_model(GRAPH.format(x=x, cos=cos, sin=sin))
    onnx.save(model, folder / "m.onnx")
    return ropeexport.fuse(folder / "m.onnx", folder / "out", **options)


@pytest.mark.parametrize("name", FILES)
def test_a_check_draws_one_size_for_axes_that_meet(tmp_path: Path, name: str) -> None:
    manifest = written(tmp_path, name).manifest
    assert manifest.relations == FILES[name][1]
    assert not manifest.relations.keys() & manifest.axes.keys()
    size = manifest.model.inputs[0].shape[2]
    assert [spec.shape for spec in manifest.model.inputs[1:]] == [(size, 8), (size, 8)]
    assert ropeexport.check(tmp_path / "out", runtimes=["onnxruntime"], cases=8).verdict == "PASS"


def test_a_range_that_is_given_for_one_is_that_of_all(tmp_path: Path) -> None:
    axes = written(tmp_path, "named", axes={"rows": (2, 4, 8)}).manifest.axes
    assert (axes["seq"].min, axes["seq"].opt, axes["seq"].max) == (2, 4, 8)
