"""One command at a time in a folder, as processes; and what a kill leaves, for the next command."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import filelock
import pytest
from command_line import ropeexport
from made_workers import HEARS_SIGNALS

import ropeexport as ropeexport_package
from ropeexport import atomic, locking, manifest
from ropeexport.artifact import Artifact
from ropeexport.errors import LockedError, ManifestError, UsageError

pytestmark = pytest.mark.hostile

SMALL = "heads=2, head_dim=64, length=32"
EXPORT = (
    "export",
    "flux-attention",
    "--heads",
    "2",
    "--head-dim",
    "64",
    "--length",
    "16",
    "--force",
)
# the holder says that it is where it is to stop, and goes on when it is told to
HOLDER = f"""{HEARS_SIGNALS}
import sys, ropeexport
from pathlib import Path
folder = Path(sys.argv[1])
def stop(*_):
    global stop
    stop = lambda *_: None
    print("here", flush=True)
    sys.stdin.readline()
"""
WORK = {
    "export": f"ropeexport.export('flux-attention', out=folder, {SMALL}, force=True, "
    "say=lambda *_: stop())",
    "build": "ropeexport.build(folder, impl='decomposed', on_progress=lambda *_: stop())",
    "fuse": "ropeexport.fuse(folder / '../plain.onnx', folder, force=True, say=lambda *_: stop())",
    "check": """
from ropeexport.parity.running import Silent
class Stopping(Silent):
    def stage(self, *_, **__):
        stop()
ropeexport.check(folder, cases=1, listener=Stopping())
""",
}


@contextmanager
def held(folder: Path, verb: str) -> Iterator[subprocess.Popen[str]]:
    """Have another process in the middle of its work on a folder."""
    command = [sys.executable, "-c", HOLDER + WORK[verb], str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "here\n"
            yield process
        finally:
            process.kill()


def released(process: subprocess.Popen[str]) -> None:
    """Let a holder go on, to its end."""
    _, errors = process.communicate("\n", timeout=300)
    assert process.returncode == 0, errors


def assert_fits(folder: Path) -> manifest.Manifest:
    """Hold a folder's files to its manifest; nothing else is in it."""
    record = manifest.read(folder)
    files = {record.model.file: record.model.sha256}
    if record.engine is not None:
        files[record.engine.file] = record.engine.sha256
        assert record.engine.model_sha256 == record.model.sha256
    assert {name: atomic.sha256_of(folder / name) for name in files} == files
    others = {path.name for path in folder.iterdir()} - files.keys() - {"parity.json"}
    assert others == {manifest.FILE_NAME}
    return record


def assert_refused(done: subprocess.CompletedProcess[str], folder: Path, holder: str) -> None:
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"error: {folder}: another command writes into it: 'ropeexport {holder}'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_nobody_comes_between_an_export_and_its_folder(exported) -> None:
    folder = exported()
    with held(folder, "export") as process:
        for words in (("build", folder), (*EXPORT, "-o", folder)):
            assert_refused(ropeexport(*words), folder, "export")
        assert ropeexport("inspect", folder).returncode == 0  # a reader waits for nobody
        released(process)
    assert_fits(folder)


@pytest.mark.trt
def test_nobody_comes_between_a_build_and_its_folder(exported) -> None:
    folder = exported()
    with held(folder, "build") as process:
        assert_refused(ropeexport(*EXPORT, "-o", folder), folder, "build")
        assert_refused(ropeexport("build", folder, "--force"), folder, "build")
        released(process)
    assert assert_fits(folder).engine is not None
    assert ropeexport(*EXPORT, "-o", folder).returncode == 0
    assert assert_fits(folder).engine is None  # it went with its model


def test_nobody_comes_between_a_check_and_its_folder(exported) -> None:
    folder = exported()
    with held(folder, "check") as process:
        assert_refused(ropeexport(*EXPORT, "-o", folder), folder, "check")
        released(process)
    checked = json.loads((folder / "parity.json").read_text())
    assert checked["model_sha256"] == assert_fits(folder).model.sha256


def test_one_of_two_fuses_into_one_folder(exported, tmp_path) -> None:
    folder = exported()
    plain = shutil.copy(
        Path(__file__).parent / "data/foreign/optimum/llama/model.onnx", tmp_path / "plain.onnx"
    )
    with held(folder, "fuse") as process:
        assert_refused(ropeexport("fuse", plain, "-o", folder, "--force"), folder, "fuse")
        released(process)
    assert_fits(folder)


def test_a_killed_holder_holds_nothing(exported, tmp_path) -> None:
    folder = tmp_path / "new"
    with held(folder, "export") as process:
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    assert [path.name for path in folder.iterdir()] == [locking.LOCK_NAME]
    assert ropeexport(*EXPORT, "-o", folder).returncode == 0
    assert_fits(folder)


def test_an_export_that_is_ended_leaves_no_folder(tmp_path) -> None:
    with held(tmp_path / "a" / "new", "export") as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) != 0
    assert list(tmp_path.iterdir()) == []


def test_threads_exclude_each_other_and_one_may_enter_again(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(locking, "_PATIENCE_SECONDS", 0.1)
    errors: list[Exception] = []

    def enter() -> None:
        try:
            with locking.locked(tmp_path, "check"):
                pass
        except LockedError as error:
            errors.append(error)

    with locking.locked(tmp_path, "export"):
        with locking.locked(tmp_path / ".." / tmp_path.name, "build"):
            pass
        thread = Thread(target=enter)
        thread.start()
        thread.join(60)
    assert f"'ropeexport export' (process {os.getpid()})" in str(errors[0])
    enter()
    assert len(errors) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_which_nothing_is_known_is_not_made(tmp_path) -> None:
    with locking.locked(tmp_path / "new", "build"):
        assert not (tmp_path / "new").exists()
    with locking.locked(tmp_path / "a" / "b", "export", makes=True):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", ["EROFS", "EACCES", "ENOLCK"])
def test_without_a_lock_to_be_had_work_goes_on(tmp_path, monkeypatch, caplog, number) -> None:
    code = getattr(errno, number)

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(filelock.FileLock, "_acquire", refuse)
    with locking.locked(tmp_path, "check"):
        pass
    assert [record.levelname for record in caplog.records] == ["WARNING"] * (number == "ENOLCK")


def test_a_link_in_the_locks_place_is_refused(tmp_path) -> None:
    (tmp_path / "precious").write_text("text")
    (tmp_path / locking.LOCK_NAME).symlink_to(tmp_path / "precious")
    with pytest.raises(UsageError, match="got a link"), locking.locked(tmp_path, "check"):
        pass
    assert (tmp_path / "precious").read_text() == "text"


def test_a_folder_in_the_locks_place_is_refused(tmp_path) -> None:
    (tmp_path / locking.LOCK_NAME).mkdir()
    with (
        pytest.raises(UsageError, match="got a folder; move it away"),
        locking.locked(tmp_path, "build"),
    ):
        pytest.fail("it was not refused")


def test_a_link_that_leads_nowhere_is_no_output_folder(tmp_path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    words = "expected a folder to write into, got a link that leads nowhere"
    with pytest.raises(UsageError, match=words):
        ropeexport_package.export("flux-attention", out=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("given", ["", "a\0b", 5, b"out"])
@pytest.mark.parametrize("verb", ["build", "check", "bench", "export", "sign", "verify"])
def test_what_is_no_path_is_said_before_any_lock(verb, given) -> None:
    more = {"export": ("flux-attention", None), "sign": ("key.pem",)}.get(verb, ())
    words = (*more, given) if verb == "export" else (given, *more)
    with pytest.raises(UsageError, match="expected a path, got"):
        getattr(ropeexport_package, verb)(*words)


def test_a_record_of_another_model_is_not_written(exported, export_once) -> None:
    folder = exported()
    read = Artifact.read(folder)
    read.require_current()
    shutil.copy(export_once(dtype="fp32") / manifest.FILE_NAME, folder)  # who takes no lock
    with pytest.raises(ManifestError, match="it was exported again meanwhile"):
        read.require_current()


KILLED_BUILDS = """
import json, os, shutil, sys
from pathlib import Path
import ropeexport, ropeexport.trt.build, ropeexport.api.making
from ropeexport import manifest
source, place = map(Path, sys.argv[1:3])

def forked(work):
    if not (process := os.fork()):
        code = 1
        try:
            work()
            code = 0
        except ropeexport.UsageError as error:
            code = 2 if "exists already" in str(error) else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

def build(folder, at=-1, **options):
    rename = Path.rename
    def counted(self, target):
        nonlocal at
        at -= 1
        if at == -1:
            os._exit(9)
        return rename(self, target)
    if at >= 0:
        Path.rename = counted
    ropeexport.build(folder, impl="decomposed", **options)

for number in range(99):
    folder = Path(shutil.copytree(source, place / str(number)))
    killed = forked(lambda: build(folder, number, force=True))
    again = forked(lambda: build(folder))
    left = sorted(path.name for path in folder.iterdir())
    print(json.dumps([killed, again, left]), flush=True)
    if not killed:
        break
"""


@pytest.mark.trt
@pytest.mark.parametrize("is_built", [True, False])
def test_after_a_killed_build_the_next_one_knows(
    export_once, built_once, tmp_path, is_built
) -> None:
    source = built_once if is_built else export_once()
    command = [sys.executable, "-c", KILLED_BUILDS, str(source), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [killed for killed, *_ in found] == [9] * (len(found) - 1) + [0]
    assert len(found) == (6 if is_built else 5)  # every rename, and a build that is not killed
    kept = {path.name for path in source.iterdir()} | {"model.engine"}
    for number, (_, again, left) in enumerate(found):
        assert again in (0, 2)
        assert again == 2 or not is_built
        assert set(left) == kept
        assert_fits(tmp_path / str(number))
        assert manifest.read(tmp_path / str(number)).engine is not None


def test_an_engine_that_nobody_records_is_named(exported) -> None:
    folder = exported()
    (folder / "model.engine").touch()
    from ropeexport.trt.build import build

    with pytest.raises(UsageError, match=r"manifest\.json records no engine; add --force"):
        build(Artifact.read(folder))


def test_scratch_folders_of_killed_runs_go(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = "from ropeexport.locking import scratch; import os\nwith scratch('bench') as x: "
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", f"{code}(x / 'file').touch(); os._exit(9)"]
    assert subprocess.run(command, env=environment, check=False).returncode == 9
    (left,) = tmp_path.iterdir()
    assert [path.name for path in left.iterdir()] == ["file"]
    with locking.scratch("bench") as mine:
        assert list(tmp_path.iterdir()) == [mine]
        with locking.scratch("bench") as other:
            assert mine.is_dir()
            assert other != mine
    assert list(tmp_path.iterdir()) == []


OLD = """
class Timeout(TimeoutError): ...
class FileLock:
    def __init__(self, lock_file, timeout=-1, *, is_singleton=False): ...
"""


def test_a_machine_without_todays_filelock_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "filelock.py").write_text(OLD)
    code = (
        "import ropeexport\n"
        "ropeexport.export('flux-attention', out='out', heads=2, head_dim=16, length=8)"
    )
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "filelock 3.30 or later is not installed" in done.stderr
    assert_fits(tmp_path / "out")
