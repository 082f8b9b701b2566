"""A folder of ``fuse`` is held to the file that it is made of."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest
from command_line import assert_one_line, ropeexport

import ropeexport as package
from ropeexport import manifest


def plain_file(path: Path, dtype: str = "float") -> Path:
    """Write the half rotation in plain operators."""
    graph = """<ir_version: 10, opset_import: ["" : 23]>
    g (float[batch, 2, length, 8] x, float[length, 8] cos, float[length, 8] sin)
    => (float[batch, 2, length, 8] y)
    <int64[1] zero = {0}, int64[1] half = {4}, int64[1] end = {8}, int64[1] last = {3}> {
        a = Slice(x, zero, half, last) b = Slice(x, half, end, last) c = Neg(b)
        turned = Concat<axis = 3>(c, a)
        left = Mul(x, cos) right = Mul(turned, sin) y = Add(left, right)
    }"""
    onnx.save(onnx.parser.parse_model(graph.replace("float[", f"{dtype}[")), path)
    return path


@pytest.fixture
def fused(tmp_path: Path) -> Path:
    package.fuse(plain_file(tmp_path / "plain.onnx"), tmp_path / "out", axes={"length": (1, 8, 32)})
    return tmp_path / "out"


def with_sines_for_cosines(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    node = next(node for node in model.graph.node if node.input[0] == "cos")
    node.input[0] = "sin"
    onnx.save(model, folder / "model.onnx")


def test_outputs_keep_their_names(fused: Path) -> None:
    assert [spec.name for spec in manifest.read(fused).model.outputs] == ["y"]
    assert [value.name for value in onnx.load(fused / "model.onnx").graph.output] == ["y"]


def test_what_is_right_passes_and_what_is_wrong_fails(fused: Path) -> None:
    report = package.check(fused)
    assert report.verdict == "PASS"
    assert {r.name: r.status for r in report.runtimes} == {
        "reference": "PASS", "onnxruntime": "PASS", "openvino": "PASS", "tensorrt": "SKIPPED",
    }  # fmt: skip
    assert max(c.case.sizes["length"] for c in report.comparisons if c.case) == 32
    with_sines_for_cosines(fused)
    wrong = package.check(fused, runtimes=["onnxruntime"], locate=True)
    assert (wrong.verdict, wrong.locations[0].runtime) == ("FAIL", "onnxruntime")
    assert wrong.locations[0].tensor == "y"


def test_the_rotations_rule_is_the_ops_and_not_that_of_a_file_without_it(tmp_path: Path) -> None:
    package.fuse(plain_file(tmp_path / "plain.onnx", "bfloat16"), tmp_path / "out")
    report = package.check(tmp_path / "out", runtimes=["onnxruntime"], cases=4)
    assert report.verdict == "PASS"
    rules = {(c.runtime, c.bound.rule) for c in report.comparisons if c.bound is not None}
    assert rules == {("reference", "rounding"), ("onnxruntime", "rotation")}


def test_it_moves_with_its_file(fused: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("plain.onnx", "out"):
        shutil.move(tmp_path / name, elsewhere / name)
    assert package.check(elsewhere / "out", cases=3).verdict == "PASS"


@pytest.mark.parametrize("fault", ["gone", "changed"])
def test_a_file_that_is_gone_or_changed_is_one_line(
    fused: Path, tmp_path: Path, fault: str
) -> None:
    original = tmp_path / "plain.onnx"
    words = "no longer there" if fault == "gone" else "another file by now"
    if fault == "gone":
        original.rename(tmp_path / "renamed.onnx")
    else:
        shutil.copy(original, tmp_path / "renamed.onnx")
        model = onnx.load(original)
        model.producer_name = "somebody else"
        onnx.save(model, original)
    done = ropeexport("check", fused)
    assert_one_line(done, 1, words)
    assert f"run 'ropeexport check ORIGINAL.onnx {fused}'" in done.stderr
    done = ropeexport("check", tmp_path / "renamed.onnx", fused, "--cases", "3")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_file_fused_in_its_own_place_is_no_longer_there(tmp_path: Path) -> None:
    package.fuse(plain_file(tmp_path / "model.onnx"), tmp_path, force=True)
    with pytest.raises(package.ManifestError, match="another file by now"):
        package.check(tmp_path)


@pytest.mark.trt
def test_the_commands_that_are_printed_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    plain_file(tmp_path / "plain.onnx")
    done = ropeexport("fuse", tmp_path / "plain.onnx", "-o", tmp_path / "out")
    for verb in ("build", "check"):
        assert done.returncode == 0, done.stderr
        assert f"next: ropeexport {verb} {tmp_path / 'out'}" in done.stdout
        done = ropeexport(verb, tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "reference    PASS" in done.stdout
    refused = ropeexport("check", tmp_path / "out", "--module", "m.py:f")
    assert_one_line(refused, 2, "the file that it is held to")
