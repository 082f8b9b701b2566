"""Files that are not what they seem: one clear line each, from every verb that reads them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import assert_one_line, ropeexport

from ropeexport import atomic

VERBS = ("build", "check", "inspect")


def truncated(folder: Path) -> None:
    model = folder / "model.onnx"
    model.write_bytes(model.read_bytes()[:1000])


def text(folder: Path) -> None:
    (folder / "model.onnx").write_text("not an ONNX file\n")


def empty(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"")


def missing(folder: Path) -> None:
    (folder / "model.onnx").unlink()


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("broken", [truncated, text, empty, missing])
def test_a_broken_model(exported, verb: str, broken: Callable[[Path], None]) -> None:
    folder = exported()
    broken(folder)
    done = ropeexport(verb, folder)
    assert done.returncode == 1
    assert "model.onnx" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "model.engine").exists()


@pytest.mark.parametrize("verb", VERBS)
def test_a_folder_without_manifest(tmp_path: Path, verb: str) -> None:
    assert_one_line(ropeexport(verb, tmp_path), 1, "manifest.json")


@pytest.mark.parametrize("verb", VERBS)
def test_a_folder_whose_export_was_killed(exported, verb: str) -> None:
    folder = exported()
    left = folder / f"{atomic.UNFINISHED}abcd_123"
    (left / "former").mkdir(parents=True)
    (folder / "manifest.json").rename(left / "former" / "manifest.json")
    if verb == "inspect":  # a reader changes nothing
        assert_one_line(ropeexport(verb, folder), 1, f"none but {left.name}: a command was killed")
        return
    done = ropeexport(verb, folder)
    assert done.returncode == 0, done.stderr
    assert f"cleared what a command that was killed has left there: {left.name}" in done.stderr
    assert not left.exists()


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"schema_version": 99}', "\x00\x01", '{"model": 3}']
)
def test_a_broken_manifest(exported, verb: str, content: str) -> None:
    folder = exported()
    (folder / "manifest.json").write_text(content)
    assert_one_line(ropeexport(verb, folder), 1, "manifest.json")


@pytest.mark.parametrize("verb", VERBS)
def test_a_folder_that_is_not_there(tmp_path: Path, verb: str) -> None:
    assert_one_line(ropeexport(verb, tmp_path / "nowhere"), 1, "nowhere")


def test_a_file_that_is_neither(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello\n")
    assert_one_line(ropeexport("inspect", tmp_path / "notes.txt"), 1, "notes.txt")


def failure_of_tensorrt(folder: Path) -> str:
    """Return why ``check`` fails for the engine of a folder, and for nothing else."""
    done = ropeexport("check", folder, "--cases", "1", "--json")
    assert done.returncode == 1
    runtimes = {r["name"]: r for r in json.loads(done.stdout)["runtimes"]}
    assert (runtimes["onnxruntime"]["status"], runtimes["tensorrt"]["status"]) == ("PASS", "FAIL")
    return str(runtimes["tensorrt"]["reason"])


@pytest.mark.parametrize("size", [0, 10, 5000])
def test_a_truncated_engine_fails_the_check_before_it_is_loaded(built, size: int) -> None:
    engine = built / "model.engine"
    engine.write_bytes(engine.read_bytes()[:size])
    assert "not the engine of its manifest" in failure_of_tensorrt(built)


def test_an_engine_of_a_terabyte_is_not_read(built) -> None:
    """It takes no room on the disk, and would take half an hour."""
    os.truncate(built / "model.engine", 1 << 40)
    assert "NOT the engine that was built" in ropeexport("inspect", built).stdout
    done = ropeexport("verify", built)
    assert (done.returncode, "changed" in done.stdout) == (1, True)
    assert "got 1099511627776" in failure_of_tensorrt(built)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"version": "1.2.3"}, "expected tensorrt-rtx 1.2.3"),
        ({"flavour": "tensorrt", "version": "10.14"}, "expected tensorrt 10.14"),
    ],
)
def test_an_engine_of_another_version_or_flavour(built, edit_engine, fields, words: str) -> None:
    edit_engine(built, **fields)
    assert words in failure_of_tensorrt(built)
