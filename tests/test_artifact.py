"""An output folder as one object, which every verb reads once."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import ropeexport as package
from ropeexport.artifact import Artifact
from ropeexport.errors import ManifestError, ModelFileError
from ropeexport.onnx_files import onnx_file

PLAIN = """
<ir_version: 10, opset_import: ["" : 23]>
g (float[batch, 2, length, 8] x, float[length, 8] cos, float[length, 8] sin)
=> (float[batch, 2, length, 8] y)
<int64[1] zero = {0}, int64[1] half = {4}, int64[1] end = {8}, int64[1] last = {3}>
{
  a = Slice(x, zero, half, last)
  b = Slice(x, half, end, last)
  c = Neg(b)
  turned = Concat<axis = 3>(c, a)
  left = Mul(x, cos)
  right = Mul(turned, sin)
  y = Add(left, right)
}"""


@pytest.fixture
def fused(tmp_path: Path) -> Path:
    onnx.save(onnx.parser.parse_model(PLAIN), tmp_path / "plain.onnx")
    package.fuse(tmp_path / "plain.onnx", tmp_path / "fused")
    return tmp_path / "fused"


@pytest.fixture
def read_files(monkeypatch) -> list[Path]:
    """The ONNX files that are read, in order."""
    found, load = [], onnx_file.load

    def counted(path: Path) -> object:
        found.append(path)
        return load(path)

    monkeypatch.setattr(onnx_file, "load", counted)
    return found


def test_it_knows_its_files(exported) -> None:
    artifact = Artifact.read(exported())
    assert artifact.model_path == artifact.folder / "model.onnx"
    assert artifact.engine_path is None
    assert artifact.is_exported_file
    artifact.check_weights()
    artifact.model_path.write_bytes(artifact.model_path.read_bytes() + b"\0")
    assert not Artifact.read(artifact.folder).is_exported_file
    artifact.model_path.unlink()
    with pytest.raises(ModelFileError, match=r"model\.onnx: no such file, though the manifest"):
        _ = Artifact.read(artifact.folder).model_sha256


def test_other_fields_are_written_when_asked_for(exported) -> None:
    artifact = Artifact.read(exported())
    changed = artifact.updated(relations={"a": "b"})
    assert Artifact.read(artifact.folder) == artifact
    changed.write()
    assert Artifact.read(artifact.folder).manifest.relations == {"a": "b"}


def test_the_original_of_a_fused_folder_is_the_file_that_it_was(fused: Path) -> None:
    original = Artifact.read(fused).original
    assert original.path == fused.parent / "plain.onnx"
    assert len(original.graph.graph) == 7
    original.path.write_bytes(b"another")
    with pytest.raises(ManifestError, match="another file by now"):
        _ = Artifact.read(fused).original
    original.path.unlink()
    with pytest.raises(ManifestError, match="no longer there"):
        _ = Artifact.read(fused).original


def test_a_check_reads_each_file_once(exported, fused: Path, read_files: list[Path]) -> None:
    folder = exported("flux-self-attention", "bf16")
    assert package.check(folder, cases=2).verdict != "FAIL"
    assert read_files == [folder / "model.onnx"]  # eager's weights, OpenVINO, the emulation
    read_files.clear()
    assert package.check(fused, cases=2).verdict == "PASS"
    assert sorted(read_files) == [fused / "model.onnx", fused.parent / "plain.onnx"]


@pytest.mark.parametrize("verb", [package.inspect, package.lint])
def test_what_only_looks_reads_once(exported, read_files: list[Path], verb) -> None:
    folder = exported()
    verb(folder)
    assert read_files == [folder / "model.onnx"]


@pytest.mark.trt
def test_a_build_reads_once_before_its_own_process_does(exported, read_files: list[Path]) -> None:
    pytest.importorskip("tensorrt_rtx")
    folder = exported("flux-attention", "fp16", 64)
    package.build(folder, impl="decomposed")
    assert read_files == [folder / "model.onnx"]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for content in (b"", b"\x08\x0a", b"not a model" * 100):
        (tmp_path / "x.onnx").write_bytes(content)
        with pytest.raises(ModelFileError, match=r"x\.onnx: not a"):
            onnx_file.load(tmp_path / "x.onnx")
    with pytest.raises(ModelFileError, match="no such file"):
        onnx_file.load(tmp_path / "y.onnx")


def test_a_file_that_is_larger_than_any_message_is_not_read(exported) -> None:
    """One of zeros takes no room on the disk, and minutes to be hashed."""
    artifact = Artifact.read(exported())
    with artifact.model_path.open("wb") as file:
        file.truncate(1 << 31)
    for asked in (
        lambda: artifact.model_sha256,
        lambda: artifact.file.graph,
        lambda: package.inspect(artifact.folder),
    ):
        with pytest.raises(ModelFileError, match="got 2,147,483,648; export it again"):
            asked()
    found = {each.file: each.status for each in package.verify(artifact.folder).files}
    assert found["model.onnx"] == "changed"
