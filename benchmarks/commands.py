"""Commands in processes of their own: what each printed, how long it took, and its peak memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from tempfile import TemporaryFile
from threading import TIMEOUT_MAX, Timer
from typing import Any


@dataclass(frozen=True)
class Ran:
    """A command that ended; ``fault`` is the last line of its standard error.

    ``peak_mb`` is never less than what this process held itself when it started the command.
    """

    code: int
    seconds: float
    peak_mb: float
    printed: str
    fault: str


def python(*arguments: str, limit: float | None = None) -> Ran:
    """Run this interpreter with some arguments, and wait for it, or for so many seconds."""
    with TemporaryFile("w+") as out, TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, *arguments], stdout=out, stderr=errors)
        timer = Timer(limit or TIMEOUT_MAX, process.kill)
        timer.start()
        _, status, usage = os.wait4(process.pid, 0)
        timer.cancel()
        seconds = time.perf_counter() - start
        process.returncode = code = os.waitstatus_to_exitcode(status)
        out.seek(0)
        errors.seek(0)
        said = errors.read().strip().splitlines() or [f"exit code {code}"]
        if limit is not None and seconds >= limit:
            said.append(f"still running after {limit:.0f} s")
        return Ran(code, seconds, usage.ru_maxrss / 1024, out.read(), said[-1])


def ropeexport(*arguments: str, allowed: tuple[int, ...] = (0,)) -> Ran:
    """Run the command line; SystemExit where it ends with another code than those allowed."""
    ran = python("-m", "ropeexport", *arguments)
    if ran.code not in allowed:
        raise SystemExit(f"ropeexport {' '.join(arguments)}: {ran.fault}")
    return ran


def worker(module: str, *arguments: str, limit: float | None = None) -> dict[str, Any]:
    """Return the JSON object that a module prints last; SystemExit, with its fault, for none."""
    ran = python("-m", module, *arguments, limit=limit)
    try:
        found: dict[str, Any] = json.loads(ran.printed.strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise SystemExit(ran.fault) from None
    return found
