"""Workers of child processes that a test writes itself."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from textwrap import dedent

import pytest

NAME = "made_worker"


def write_worker(folder: Path, patch: pytest.MonkeyPatch, code: str) -> str:
    """Write a worker's module where children find it, and return its name."""
    (folder / f"{NAME}.py").write_text(dedent(code))
    patch.setenv("PYTHONPATH", str(folder), prepend=":")
    return NAME


def state(pid: int) -> str:
    """Return a process's state, T for stopped; empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def wait_for(pid: int, *wanted: str) -> None:
    """Wait until a process is in a state; empty or Z: it has ended."""
    for _ in range(1000):
        if state(pid) in wanted:
            return
        time.sleep(0.01)
    raise AssertionError(f"expected state {wanted}, got {state(pid)}")


def ended(parent: subprocess.Popen[str]) -> int:
    """Wait for a process that was sent a signal; one that goes on is killed, and an error."""
    try:
        return parent.wait(60)
    except subprocess.TimeoutExpired:
        parent.kill()
        raise


# first lines of a parent: what runs the tests may ignore them (nohup, a shell's background)
HEARS_SIGNALS = """
import signal
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
"""
