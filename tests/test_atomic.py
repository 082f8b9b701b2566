"""Files that take their places together: all or none, and a kill in between is recognised."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ropeexport import atomic, manifest
from ropeexport.errors import ManifestError, UsageError

FORMER = {"manifest.json": "old", "model.onnx": "old", "model.onnx.data": "old"}
NEW = {"manifest.json": "new", "model.onnx": "new"}
MOVES = len(FORMER) + len(NEW)

# the process ends at the rename of that number, as SIGKILL would end it
KILLED = """
import os, sys
from pathlib import Path
from ropeexport import atomic
left, rename = int(sys.argv[2]), Path.rename
def counted(self, target):
    global left
    if not left:
        os._exit(9)
    left -= 1
    return rename(self, target)
Path.rename = counted
with atomic.together(Path(sys.argv[1]), "manifest.json") as files:
    for name in ("manifest.json", "model.onnx"):
        (files.place / name).write_text("new")
    files.dropped.append("model.onnx.data")
"""


def write(folder: Path, texts: dict[str, str]) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def replace(folder: Path) -> None:
    with atomic.together(folder, "manifest.json") as files:
        write(files.place, NEW)
        files.dropped.append("model.onnx.data")


def test_files_take_their_places_and_the_dropped_one_goes(tmp_path: Path) -> None:
    write(tmp_path, FORMER | {"other": "kept"})
    replace(tmp_path)
    assert texts(tmp_path) == NEW | {"other": "kept"}
    assert not list(tmp_path.glob(f"{atomic.UNFINISHED}*"))


@pytest.mark.parametrize("at", range(MOVES))
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_failure_between_the_renames_is_undone(tmp_path, monkeypatch, at: int, error) -> None:
    write(tmp_path, FORMER)
    left, rename = [at], Path.rename

    def failing(self: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] == -1:
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(error):
        replace(tmp_path)
    assert texts(tmp_path) == FORMER
    assert len(list(tmp_path.iterdir())) == len(FORMER)


@pytest.mark.parametrize("at", range(MOVES))
def test_a_kill_between_the_renames_is_recognised(tmp_path: Path, at: int) -> None:
    write(tmp_path, FORMER)
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(at)]
    assert subprocess.run(command, check=False).returncode == 9
    if not at:
        assert texts(tmp_path) == FORMER
        return
    with pytest.raises(ManifestError, match=r"an export into it was killed.*--force"):
        manifest.read(tmp_path)


def test_nothing_is_left_of_what_failed_before(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        with atomic.together(folder, "manifest.json") as files:
            write(files.place, NEW)
            raise KeyboardInterrupt

    for folder in (tmp_path / "made", tmp_path):
        with pytest.raises(KeyboardInterrupt):
            fail(folder)
        assert list(tmp_path.iterdir()) == []


def test_a_folder_in_a_files_place_is_kept(tmp_path: Path) -> None:
    write(tmp_path, FORMER)
    (tmp_path / "model.onnx.data").unlink()
    write(tmp_path / "model.onnx.data", {"precious": "text"})
    with pytest.raises(UsageError, match=r"model\.onnx\.data: expected a file .* got a folder"):
        replace(tmp_path)
    assert texts(tmp_path / "model.onnx.data") == {"precious": "text"}
    shutil.rmtree(tmp_path / "model.onnx.data")
    replace(tmp_path)
    assert texts(tmp_path) == NEW
