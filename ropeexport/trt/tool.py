"""A tool that ends with all that it started: when this process is told to, and with its parent.

CMake ends no compiler that it started, and ninja gives each a group of its own, so that signals of
a terminal or to a group do not reach them.  This process stands between: it inherits what loses its
parent, and goes when nothing is left.  It is run by its path, and imports nothing of ropeexport.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

_PATIENCE_SECONDS = 3.0  # for what heeds SIGTERM
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


class _EndedError(Exception):
    """The process was told to end."""


def main() -> None:
    """Run the tool of the arguments; the first is the parent, with which it ends."""
    parent, *command = sys.argv[1:]
    signal.signal(signal.SIGTERM, _end)
    try:
        with suppress(OSError, AttributeError):  # Linux only
            prctl = ctypes.CDLL(None).prctl
            prctl(_PR_SET_CHILD_SUBREAPER, 1)
            prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):  # it ended before that
            raise _EndedError
        tool, status = os.posix_spawnp(command[0], command, os.environ), None
        while status is None:
            pid, found = os.wait()
            status = found if pid == tool else None
        code = os.waitstatus_to_exitcode(status)
    except _EndedError:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end_all()
        code = 1
    sys.exit(code if code >= 0 else 1)


def _end(*_: object) -> None:
    raise _EndedError


def _end_all() -> None:
    """End the group, and whatever is left after a while."""
    os.killpg(0, signal.SIGTERM)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    with suppress(ChildProcessError):  # none is left
        while True:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
            if time.monotonic() > deadline:
                _kill_children()
            time.sleep(0.02)


def _kill_children() -> None:
    """Kill the children; theirs are this process's then, for the next time."""
    pid = os.getpid()
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)


if __name__ == "__main__":
    main()
