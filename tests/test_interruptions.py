"""What a signal leaves, at whichever change of a file it comes: nothing of a command's own."""

from __future__ import annotations

import subprocess
import sys

import pytest
from made_workers import HEARS_SIGNALS

pytestmark = pytest.mark.hostile

WAYS = {
    "one file": """
    with atomic.replacing(folder / "page.html") as temporary:
        temporary.write_text("whole")""",
    "several files": """
    with atomic.together(folder, "manifest.json") as files:
        (files.place / "model.onnx").write_text("model")
        (files.place / "manifest.json").write_text("manifest")""",
    "a temporary folder": """
    with atomic.temporary_folder(folder, ".export-") as place:
        (place / "file").write_text("text")""",
    "a scratch folder": """
    tempfile.tempdir = str(folder)
    with atomic.ended_cleanly(), locking.scratch("bench") as place:
        (place / "file").write_text("text")""",
    "a lock": """
    with locking.locked(folder / "new", "build", makes=True):
        (folder / "new" / "model.engine").write_text("engine")""",
}
SCRIPT = """
import os, signal, sys, tempfile
from pathlib import Path
from ropeexport import atomic, locking

folder, last, number, done = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), 0

def hook(event, arguments):
    global done
    path = arguments[0] if arguments else None
    changes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod") or (
        event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR))
    if changes and str(path).startswith(str(folder)):
        done += 1
        if done == last:
            os.kill(os.getpid(), number)

filelock = locking._lock_of(folder / "x")  # imports it
sys.addaudithook(hook)
if True:%s
sys.exit(0 if done < last else 3)
"""
OWN = {"page.html", "model.onnx", "manifest.json", "new", "model.engine"}


@pytest.mark.parametrize("number", [2, 15])  # SIGINT, SIGTERM
@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_left_wherever_a_signal_comes(tmp_path, way, number) -> None:
    for last in range(1, 40):
        folder = tmp_path / str(last)
        folder.mkdir()
        code = f"{HEARS_SIGNALS}\n{SCRIPT % WAYS[way]}"
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, folder, str(last), str(number)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        left = {path.name for path in folder.rglob("*")}
        assert left <= OWN, (last, left)
        if done.returncode == 0:
            assert last > 3, done.stderr  # there were changes to end it at
            return
        ended = (128 + number, -number)  # by the handler, or before there is one
        assert "Interrupt" in done.stderr or done.returncode in ended, done.stderr
    pytest.fail("there was no end of changes")
