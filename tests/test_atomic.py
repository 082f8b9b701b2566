"""Files that take their places together: all or none, after a kill in between too."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ropeexport import atomic, manifest
from ropeexport.errors import ManifestError, UsageError

FORMER = {"manifest.json": "old", "model.onnx": "old", "model.onnx.data": "old"}
NEW = {"manifest.json": "new", "model.onnx": "new"}
COMMIT = len(FORMER)  # the rename after which a kill means the new files
MOVES = len(FORMER) + 1 + len(NEW)

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
    folder.mkdir(parents=True, exist_ok=True)
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
    if at:
        with pytest.raises(ManifestError, match="a command was killed while it put its files"):
            manifest.read(tmp_path)
    assert len(atomic.recovered(tmp_path, manifest.FILE_NAME)) == 1
    assert texts(tmp_path) == (NEW if at > COMMIT else FORMER)
    assert len(list(tmp_path.iterdir())) == len(texts(tmp_path))


@pytest.mark.parametrize("at", [1, COMMIT, COMMIT + 1, MOVES - 1])
def test_a_kill_of_the_recovery_is_recovered(tmp_path: Path, at: int) -> None:
    write(tmp_path, FORMER)
    kill = [sys.executable, "-c", KILLED, str(tmp_path), str(at)]
    assert subprocess.run(kill, check=False).returncode == 9
    recover = (
        KILLED.partition("with atomic")[0] + "atomic.recovered(Path(sys.argv[1]), sys.argv[3])"
    )
    again = [sys.executable, "-c", recover, str(tmp_path), "0", manifest.FILE_NAME]
    assert subprocess.run(again, check=False).returncode == 9
    atomic.recovered(tmp_path, manifest.FILE_NAME)
    assert texts(tmp_path) == (NEW if at > COMMIT else FORMER)


def test_a_recovery_overwrites_nothing(tmp_path: Path) -> None:
    for place in ("former", "ready"):
        left = tmp_path / f"{atomic.UNFINISHED}{place:_<8}"
        left.mkdir()
        write(left / place, FORMER)
    write(tmp_path, NEW)
    theirs = [tmp_path / f"{atomic.UNFINISHED}{name}" for name in ("settings", "long-name")]
    for folder in theirs:
        write(folder, {"precious": "text"})
    atomic.recovered(tmp_path, manifest.FILE_NAME)
    assert texts(tmp_path) == FORMER | NEW
    assert {path for path in tmp_path.iterdir() if path.is_dir()} == {*theirs}


@pytest.mark.parametrize("place", ["former", "ready"])
def test_a_recovery_puts_nothing_where_a_link_leads(tmp_path: Path, place: str) -> None:
    folder, behind = tmp_path / "out", tmp_path / "behind"
    write(behind, {"precious": "text"})
    left = folder / f"{atomic.UNFINISHED}abcdefgh"
    write(left / place / "pictures", {"conftest.py": "new"})
    write(left / place / "a file", {"b": "new"})
    write(left / place / "pages", {"a": "new"})
    (left / place / "linked").symlink_to(behind)
    (folder / "pictures").symlink_to(behind)
    (folder / "a file").touch()
    assert atomic.recovered(folder, manifest.FILE_NAME) == [left.name]
    assert texts(behind) == {"precious": "text"}
    assert texts(folder / "pages") == {"a": "new"}
    assert {path.name for path in folder.iterdir()} == {"pictures", "a file", "pages", "linked"}


def test_a_temporary_file_is_claimed_whoever_clears(tmp_path: Path) -> None:
    code = """if True:
        import sys
        from pathlib import Path
        from ropeexport import atomic
        print("here", flush=True)
        while True:
            atomic.tidied(Path(sys.argv[1]))
    """
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            for number in range(2_000):
                atomic.write_text(tmp_path / "page", str(number))
        finally:
            process.kill()
    assert texts(tmp_path) == {"page": "1999"}


def test_files_in_folders_take_their_places_too(tmp_path: Path) -> None:
    write(tmp_path / "pictures", {"a": "old", "b": "old"})
    with atomic.together(tmp_path, "report") as files:
        write(files.place, {"report": "new"})
        write(files.place / "pictures", {"a": "new"})
        files.dropped.append("pictures/b")
    assert texts(tmp_path) == {"report": "new"}
    assert texts(tmp_path / "pictures") == {"a": "new"}


@pytest.mark.parametrize("name", ["model.onnx", "pictures/a"])
def test_a_link_is_neither_replaced_nor_written_through(tmp_path: Path, name: str) -> None:
    folder, behind = tmp_path / "out", tmp_path / "behind"
    write(behind, {"a": "precious"})
    folder.mkdir()
    link = folder / name.partition("/")[0]
    link.symlink_to(behind / "a" if link.name == name else behind)

    def put() -> None:
        with atomic.together(folder, "manifest.json") as files:
            (files.place / name).parent.mkdir(exist_ok=True)
            (files.place / name).write_text("new")

    with pytest.raises(UsageError, match=rf"{link.name}: expected a file or nothing, got a link"):
        put()
    assert link.is_symlink()
    assert texts(behind) == {"a": "precious"}
    assert list(folder.iterdir()) == [link]


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx"])
def test_a_pipe_is_not_replaced(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UsageError, match="got a pipe or a device, which would be replaced"):
        atomic.write_text(tmp_path / name, "text")
    with (
        pytest.raises(UsageError, match="got a pipe or a device, which would be replaced"),
        atomic.together(tmp_path, last="manifest.json") as files,
    ):
        (files.place / name).write_text("text")
    assert (tmp_path / name).is_fifo()


def test_temporary_files_go_when_nobody_holds_them(tmp_path: Path) -> None:
    held = "from ropeexport import atomic; from pathlib import Path; import os, sys\n"
    held += "with atomic.replacing(Path(sys.argv[1], 'file')) as x:\n"
    killed = [sys.executable, "-c", f"{held} os._exit(9)", str(tmp_path)]
    assert subprocess.run(killed, check=False).returncode == 9
    assert len(list(tmp_path.glob(".file.*"))) == 1
    write(tmp_path, {".notes.ab.ropeexport.tmp": "mine", "file": "mine"})
    with atomic.replacing(tmp_path / "file") as temporary:
        assert len(atomic.tidied(tmp_path)) == 1
        assert temporary.exists()
    assert sorted(texts(tmp_path)) == [".notes.ab.ropeexport.tmp", "file"]


def test_a_file_that_is_replaced_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    path.chmod(0o640)
    atomic.write_text(path, "new")
    assert path.stat().st_mode & 0o777 == 0o640


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
