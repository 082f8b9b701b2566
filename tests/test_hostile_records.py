"""Records, weights and arrays that contradict themselves: one line that names the place."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ropeexport
from ropeexport import manifest
from ropeexport.errors import ManifestError, ModelFileError, UsageError
from ropeexport.inference.files import read_inputs
from ropeexport.manifest import TensorSpec
from ropeexport.numpy_files import read_arrays
from ropeexport.weights.safetensors_files import find, read_header

EXPORTED = Path(__file__).parent / "data" / "exported-0.1.0"

# where, what stands there then, and the words of the refusal
CONTRADICTIONS: list[tuple[str, Any, str]] = [
    ("schema_version", 99, "expected schema 2 or older, got 99"),
    ("schema_version", "99", "schema_version: Input should be a valid integer"),
    ("schema_version", True, "schema_version"),
    ("schema_version", 99.5, "schema_version"),
    ("schema_version", 0, "schema_version: Input should be greater than or equal to 1"),
    ("axes.batch.min", 10**6, "axes.batch: expected min <= opt <= max"),
    ("axes.batch.max", 10**20, "axes.batch.max"),
    ("axes.batch.min", -1, "axes.batch.min"),
    ("axes.pe_batch.broadcasts_to", "nothing", "got 'nothing'"),
    ("axes.pe_batch.broadcasts_to", "pe_batch", "got 'pe_batch'"),
    ("axes.batch.broadcasts_to", 2, "axes.pe_batch.broadcasts_to: expected a size, or an axis"),
    ("axes.batch.broadcasts_to", True, "axes.pe_batch.broadcasts_to: expected a size, or an axis"),
    ("model.inputs.0.shape.0", "nowhere", "got 'nowhere'"),
    ("model.inputs.0.shape.1", -4, "model.inputs.0.shape.1"),
    ("model.inputs.1.name", "q", "expected each name once, got 'q' again"),
    ("model.inputs.0.dtype", "wide", "expected a type of numbers, got wide"),
    ("axes", {}, "got 'batch'"),
    (
        "source", {"kind": "onnx", "name": "m.onnx", "options": {"path": "../m.onnx"}},
        "source: options: expected path and sha256, got path",
    ),
]  # fmt: skip


def edited(folder: Path, place: str, value: object) -> Path:
    """Write the manifest of an older export with another value somewhere."""
    record = json.loads((EXPORTED / "manifest.json").read_text())
    *way, last = [int(part) if part.isdecimal() else part for part in place.split(".")]
    part = record
    for key in way:
        part = part[key]
    part[last] = value
    (folder / "manifest.json").write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize(("place", "value", "words"), CONTRADICTIONS)
def test_a_manifest_that_contradicts_itself(
    place: str, value: object, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ManifestError) as raised:
        manifest.read(edited(tmp_path, place, value))
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_nesting_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(ManifestError, match="not a manifest"):
        manifest.read(tmp_path)


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(ManifestError, match=r"manifest\.json: expected a file, got a named pipe"):
        manifest.read(tmp_path)


def test_nor_is_one_that_is_called_a_model(tmp_path: Path) -> None:
    for name in ("model.onnx", "model.engine"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(ModelFileError, match=rf"{name}: expected a file, got a named pipe"):
            ropeexport.inspect(tmp_path / name)


def header(text: str, size: int | None = None) -> bytes:
    data = text.encode()
    return (len(data) if size is None else size).to_bytes(8, "little") + data


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (header("{}", size=1 << 40), "no JSON"),
        (header("[" * 100_000), "no JSON"),
        (
            header('{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}'),
            "an end behind 4",
        ),
        (header('{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}'), "from 0 on"),
        (header('{"a": {"dtype": 3, "shape": [1], "data_offsets": [0, 4]}}'), "expected a type"),
        (header('{"a": 1, "a": 2}'), "a name is there twice"),
        (
            header('{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'),
            "the file is truncated",
        ),
    ],
)
def test_a_header_that_is_none(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=words):
        read_header(path)


@pytest.mark.parametrize("name", ["../w.safetensors", "/etc/passwd", "a/b", "", "w\0"])
def test_an_index_stays_in_its_folder(name: str, tmp_path: Path) -> None:
    index = {"weight_map": {"a": name}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelFileError, match="names of files in its folder"):
        find(tmp_path)


def claimed(shape: tuple[int, ...]) -> bytes:
    """Return an array's file whose header claims a shape, with 16 bytes behind it."""
    import io

    file = io.BytesIO()
    said = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, said)
    return file.getvalue() + bytes(16)


@pytest.mark.parametrize("shape", [(1 << 40,), (5,), (3,), (-4, -1)])
def test_an_array_is_no_larger_than_its_file(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(claimed(shape))
    with pytest.raises(UsageError, match=r"expected arrays as numpy\.save and numpy\.savez write"):
        read_arrays(path)


def test_arrays_that_are_no_numbers(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    for array in (
        np.array(["text"]),
        np.array([{}], dtype=object),
        np.zeros(2, [("a", "f4"), ("b", "i2")]),
        np.zeros(2, np.complex64),
    ):
        np.save(path, array)
        with pytest.raises(UsageError, match="its type is"):
            read_arrays(path)


def test_what_unpacks_to_more_than_a_gigabyte_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    packed = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with packed as file, file.open("x.npy", "w") as part:
        for _ in range(65):
            part.write(bytes(1 << 24))
    with pytest.raises(UsageError, match="1,090,519,040 bytes when they are unpacked"):
        read_arrays(path)


def test_sound_arrays_are_read_as_numpy_reads_them(tmp_path: Path) -> None:
    arrays = {
        "c": np.arange(6.0).reshape(2, 3),
        "f": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
        "none": np.zeros((0, 4), np.float16),
        "one": np.float32(3),
        "big": np.arange(3, dtype=">f4"),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **arrays)
        found = read_arrays(tmp_path / "x.npz")
        assert isinstance(found, dict)
        for name, array in np.load(tmp_path / "x.npz").items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype
    specs = [TensorSpec(name="c", dtype="float32", shape=(2, 3))]
    np.save(tmp_path / "c.npy", arrays["c"])
    assert read_inputs([f"c={tmp_path / 'c.npy'}"], specs)["c"].dtype == np.float32
