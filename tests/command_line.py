"""The command line as a user meets it: a process of its own, its exit code and its lines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def ropeexport(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ropeexport", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def assert_one_line(done: subprocess.CompletedProcess[str], code: int, words: str) -> None:
    """Hold a failure to its exit code and to one line that says what is wrong."""
    assert done.returncode == code, done.stdout + done.stderr
    assert words in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
