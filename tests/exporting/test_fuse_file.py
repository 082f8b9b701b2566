"""``ropeexport fuse``: files of others, their opsets, their weights, and files without RoPE."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from fusion.writings import WRITINGS
from onnx.reference import ReferenceEvaluator

from ropeexport import manifest
from ropeexport.errors import ExportError, ModelFileError, UsageError
from ropeexport.exporting.fuse_file import fuse_file
from ropeexport.manifest import Axis
from ropeexport.onnx_files.onnx_file import OnnxFile
from ropeexport.onnx_files.variants import float64_twin, whole_message
from ropeexport.testing import assert_parity


def write_foreign(path: Path, name: str, opset: int, *, external: bool = False) -> None:
    if opset < 18:
        write_by_tracing(path, name, opset)
        return
    axes = {0: torch.export.Dim("b"), 1: torch.export.Dim("l")}
    with torch.no_grad():
        program = torch.onnx.export(
            WRITINGS[name]().eval(),
            kwargs={"x": torch.randn(2, 6, 16), "pos": torch.arange(6).repeat(2, 1)},
            dynamo=True,
            opset_version=opset,
            verbose=False,
            dynamic_shapes={"x": axes, "pos": axes},
        )
    program.save(path, external_data=external)


def write_by_tracing(path: Path, name: str, opset: int) -> None:
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        torch.onnx.export(
            WRITINGS[name]().eval(),
            (torch.randn(2, 6, 16), torch.arange(6).repeat(2, 1)),
            str(path),
            input_names=["x", "pos"],
            dynamic_axes={"x": {0: "b", 1: "l"}, "pos": {0: "b", 1: "l"}},
            opset_version=opset,
            dynamo=False,
        )


FEEDS = {
    "x": np.random.default_rng(0).standard_normal((3, 9, 16)).astype(np.float32),
    "pos": np.arange(9)[None].repeat(3, 0),
}


def run(path: Path) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(path).run(None, FEEDS)


def exact(path: Path):
    """Return what a file means, in float64, as a function of its inputs."""
    evaluator = ReferenceEvaluator(whole_message(float64_twin(OnnxFile(path).whole)))
    return lambda **inputs: evaluator.run(None, inputs)


# torch's older exporter alone writes opsets before 18, and no other writing that onnxruntime runs
FOREIGN = [("Half", 13), ("Half", 15), ("Half", 17), ("HalfChunks", 17), ("HalfPartial", 17)] + [
    (name, opset) for name in ("Half", "Interleaved", "Matrices") for opset in (18, 20, 23)
]


@pytest.mark.parametrize(("name", "opset"), FOREIGN)
def test_a_foreign_file_is_fused(tmp_path: Path, name: str, opset: int) -> None:
    write_foreign(tmp_path / "in.onnx", name, opset, external=opset == 20)
    record, count = fuse_file(tmp_path / "in.onnx", tmp_path / "out", require_rope=1)
    assert (count.found, count.replaced) == (1, 1)
    assert record == manifest.read(tmp_path / "out")
    assert record.model.opset == 23
    original = exact(tmp_path / "in.onnx")
    ours, theirs = run(tmp_path / "out" / "model.onnx"), run(tmp_path / "in.onnx")
    assert_parity(ours, original, inputs=FEEDS, eager=theirs)


def test_a_file_without_rope_is_left_alone(tmp_path: Path) -> None:
    graph = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[b, 4] x, float[b, 4] y) => (float[b, 4] z) { a = Mul(x, y) z = Add(a, x) }"""
    onnx.save(onnx.parser.parse_model(graph), tmp_path / "in.onnx")
    record, count = fuse_file(tmp_path / "in.onnx", tmp_path / "out")
    assert record is None
    assert count.replaced == 0
    assert not (tmp_path / "out").exists()
    with pytest.raises(ExportError, match="expected 1 rotary applications, replaced 0"):
        fuse_file(tmp_path / "in.onnx", tmp_path / "out", require_rope=1)


def test_an_old_opset_is_refused(tmp_path: Path) -> None:
    graph = """<ir_version: 7, opset_import: ["" : 10]>
    g (float[b, 4] x, float[b, 4] c) => (float[b, 4] z) { m = Mul(x, c) z = Add(m, x) }"""
    onnx.save(onnx.parser.parse_model(graph), tmp_path / "in.onnx")
    with pytest.raises(ModelFileError, match="opset 10: expected 11 or later"):
        fuse_file(tmp_path / "in.onnx", tmp_path / "out")


def test_an_output_is_kept_without_force(tmp_path: Path) -> None:
    write_foreign(tmp_path / "in.onnx", "Half", 23)
    fuse_file(tmp_path / "in.onnx", tmp_path)
    with pytest.raises(UsageError, match="--force"):
        fuse_file(tmp_path / "in.onnx", tmp_path)


def test_a_file_is_fused_in_its_own_place_beside_its_data(tmp_path: Path) -> None:
    write_foreign(tmp_path / "model.onnx", "Half", 23, external=True)
    data = (tmp_path / "model.onnx.data").read_bytes()
    before, original = run(tmp_path / "model.onnx"), exact(tmp_path / "model.onnx")
    fuse_file(tmp_path / "model.onnx", tmp_path, force=True, require_rope=1)
    assert (tmp_path / "model.onnx.data").read_bytes() == data
    assert_parity(run(tmp_path / "model.onnx"), original, inputs=FEEDS, eager=before)


@pytest.mark.parametrize(("size", "got"), [(None, "no such file"), (10, "got 10")])
@pytest.mark.parametrize("output", [".", "out"])
def test_data_that_is_missing_or_truncated_is_named(tmp_path, size, got: str, output: str) -> None:
    write_foreign(tmp_path / "model.onnx", "Half", 23, external=True)
    data = tmp_path / "model.onnx.data"
    if size is None:
        data.unlink()
    else:
        os.truncate(data, size)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ModelFileError, match=rf"weight \w+: expected .*{data.name} of .*{got}"):
        fuse_file(tmp_path / "model.onnx", tmp_path / output, force=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_empty_output_is_refused_as_export_does(tmp_path: Path) -> None:
    write_foreign(tmp_path / "plain.onnx", "Half", 23)
    fused = tmp_path / "fused"
    with pytest.raises(UsageError, match=r"axis 'l': expected a min of at least 1, got 0: output "):
        fuse_file(tmp_path / "plain.onnx", fused, axes={"l": (0, 4, 8)})
    assert not fused.exists()
    record, _ = fuse_file(tmp_path / "plain.onnx", fused, axes={"l": (1, 4, 8)})
    assert record.axes["l"] == Axis(min=1, opt=4, max=8)
