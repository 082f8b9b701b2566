"""What passes between stages: manifests, profiles, files that appear whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import ropeexport
from ropeexport import atomic, manifest, profiles
from ropeexport.axes import parse_shapes
from ropeexport.errors import ManifestError, UsageError
from ropeexport.manifest import Axis, Manifest, ModelRecord, Source, TensorSpec

Q = TensorSpec(name="q", dtype="float16", shape=("batch", 4, "length", 8))
PE = TensorSpec(
    name="pe", dtype="float32", shape=("pe_batch", 1, "length", 4, 2, 2), role="matrices"
)


def sample() -> Manifest:
    return Manifest(
        ropeexport="0.1.0",
        source=Source(kind="builtin", name="flux-attention", options={"heads": 4}),
        model=ModelRecord(
            file="model.onnx",
            sha256="0" * 64,
            opset=23,
            dtype="fp16",
            inputs=(Q, PE),
            outputs=(),
            ropes=("ApplyRope_0",),
        ),
        axes={
            "batch": Axis(min=1, opt=2, max=4),
            "length": Axis(min=1, opt=16, max=32),
            "pe_batch": Axis(min=1, opt=1, max=4, broadcasts_to="batch"),
        },
    )


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    manifest.write(tmp_path, sample())
    assert manifest.read(tmp_path) == sample()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a manifest"),
        ("{}", "Field required"),
        ("[1, 2]", "not a manifest"),
        (json.dumps(sample().model_dump(mode="json") | {"surprise": 1}), "surprise"),
    ],
)
def test_what_is_no_manifest_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ManifestError, match=words):
        manifest.read(tmp_path)


def test_a_folder_without_manifest_names_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="ropeexport export"):
        manifest.read(tmp_path)


def test_shapes_as_trtexec_writes_them() -> None:
    assert parse_shapes("q:1x24x4096x128,k:2x3") == {"q": (1, 24, 4096, 128), "k": (2, 3)}


@pytest.mark.parametrize("text", ["", "q", "q:", "q:1x", "q:1xax2", "q:1x2,,k:1", "q:-1x2"])
def test_malformed_shapes(text: str) -> None:
    with pytest.raises(UsageError, match="expected NAME:1x24x4096x128"):
        parse_shapes(text)


def test_the_profile_that_an_export_suggests() -> None:
    profile = profiles.make_profile(sample())
    assert profile.min == {"q": (1, 4, 1, 8), "pe": (1, 1, 1, 4, 2, 2)}
    assert profile.opt == {"q": (2, 4, 16, 8), "pe": (1, 1, 16, 4, 2, 2)}
    assert profile.max == {"q": (4, 4, 32, 8), "pe": (4, 1, 32, 4, 2, 2)}


def test_given_shapes_take_the_place_of_suggested_ones() -> None:
    given = {"q": (8, 4, 64, 8), "pe": (1, 1, 64, 4, 2, 2)}
    profile = profiles.make_profile(sample(), max_shapes=given)
    assert profile.max == given
    axes = profiles.profile_axes(sample(), profile)
    assert (axes["batch"].max, axes["length"].max, axes["pe_batch"].max) == (8, 64, 1)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"x": (1,)}, "no input 'x'; the model has q, pe"),
        ({"q": (1, 5, 64, 8)}, "q: expected batchx4xlengthx8, got 1x5x64x8"),
        ({"q": (1, 4, 64)}, "q: expected batchx4xlengthx8"),
        ({"q": (1, 4, 1, 8), "pe": (1, 1, 1, 4, 2, 2)}, "expected min <= opt <= max"),
        (
            {"q": (8, 4, 64, 8), "pe": (1, 1, 32, 4, 2, 2)},
            "axis length is 64 in q and 32 in pe",
        ),
    ],
)
def test_profiles_that_do_not_fit(given, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        profiles.make_profile(sample(), max_shapes=given)


def test_a_failed_write_leaves_nothing_and_keeps_what_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    atomic.write_text(path, "first")

    def fail() -> None:
        with atomic.replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_an_existing_file_is_refused_without_force(tmp_path: Path) -> None:
    atomic.write_bytes(tmp_path / "file", b"")
    atomic.refuse_existing(tmp_path / "file", force=True)
    with pytest.raises(UsageError, match="--force"):
        atomic.refuse_existing(tmp_path / "file", force=False)


OLD = Path(__file__).parent / "data" / "exported-0.1.0"


def test_a_folder_of_an_older_version_is_read(tmp_path: Path) -> None:
    assert json.loads((OLD / manifest.FILE_NAME).read_text())["schema_version"] == 1
    folder = Path(shutil.copytree(OLD, tmp_path / "out"))
    record = manifest.read(folder)
    assert record.schema_version == manifest.SCHEMA_VERSION
    report = ropeexport.check(folder, cases=2, runtimes=["onnxruntime"])
    assert report.verdict == "PASS"
    manifest.write(folder, record)
    assert manifest.read(folder) == record


def test_a_folder_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    newer = sample().model_copy(update={"schema_version": 3, "ropeexport": "9.1"})
    manifest.write(tmp_path, newer)
    with pytest.raises(ManifestError, match=r"schema 2 or older, got 3, of ropeexport 9\.1; upgr"):
        manifest.read(tmp_path)
