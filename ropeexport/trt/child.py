"""Run a request in a child process: a crash inside TensorRT becomes an error with a message."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import IO

from pydantic import ValidationError

from ropeexport import errors
from ropeexport.errors import BuildError, PluginError, RopeExportError
from ropeexport.trt.flavour import available_flavours
from ropeexport.trt.loader import child_environment
from ropeexport.trt.messages import (
    EVENT,
    BuildRequest,
    Built,
    Failure,
    Note,
    Probed,
    ProbeRequest,
    Progress,
)

OnProgress = Callable[[str, float], None]  # phase, fraction done
OnNote = Callable[[str], None]

_COMMAND = (sys.executable, "-P", "-m", "ropeexport.trt.worker")
_TAIL_LINES = 3


def run(
    request: BuildRequest | ProbeRequest,
    on_progress: OnProgress | None = None,
    on_note: OnNote | None = None,
) -> Built | Probed:
    """Run a request in a child process and return its result.

    The child is ended if this call is left early, by Ctrl-C for one.

    Raises
    ------
    RopeExportError
        The error that the child reported, or what is known of a child that crashed.
    """
    environment = child_environment(request.flavour, available_flavours()[request.flavour])
    with tempfile.TemporaryFile("w+", errors="replace") as stderr:
        process = subprocess.Popen(
            _COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment,
            text=True,
        )
        with process:
            try:
                result = _converse(process, request, on_progress, on_note)
            except BaseException:
                process.kill()
                raise
        if result is None:
            raise _crash(request, process.returncode, stderr)
    return result


def _converse(
    process: subprocess.Popen[str],
    request: BuildRequest | ProbeRequest,
    on_progress: OnProgress | None,
    on_note: OnNote | None,
) -> Built | Probed | None:
    assert process.stdin is not None  # both are pipes
    assert process.stdout is not None
    try:
        process.stdin.write(request.model_dump_json())
        process.stdin.close()
    except BrokenPipeError:
        return None  # it died before it could listen
    result: Built | Probed | None = None
    for line in process.stdout:
        event = _parse(line)
        if isinstance(event, Progress) and on_progress is not None:
            on_progress(event.phase, event.fraction)
        elif isinstance(event, Note) and on_note is not None:
            on_note(event.text)
        elif isinstance(event, Failure):
            raise _error(event)
        elif isinstance(event, Built | Probed):
            result = event
    return result


def _parse(line: str) -> Built | Probed | Progress | Note | Failure | None:
    """Read an event; a crash may cut the last line short."""
    try:
        return EVENT.validate_json(line)
    except ValidationError:
        return None


def _error(failure: Failure) -> RopeExportError:
    kind = getattr(errors, failure.kind, BuildError)
    error: RopeExportError = kind(failure.text)
    return error


def _crash(
    request: BuildRequest | ProbeRequest, returncode: int, stderr: IO[str]
) -> RopeExportError:
    stderr.seek(0)
    lines = [line.strip() for line in stderr if line.strip()]
    said = "; it said: " + " / ".join(lines[-_TAIL_LINES:]) if lines else ", without a word"
    how = f"by {_signal_name(-returncode)}" if returncode < 0 else f"with exit code {returncode}"
    if isinstance(request, ProbeRequest):
        return PluginError(
            f"{request.plugin}: loading it ended the process {how}{said}; "
            "this is no plugin library for this TensorRT"
        )
    return BuildError(f"{request.flavour} ended {how} while it built {request.model}{said}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
