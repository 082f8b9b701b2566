"""Lines of a module's own code: where an operator, a guard or an error comes from."""

from __future__ import annotations

import linecache
import os
import re
import traceback
from collections.abc import Iterable
from types import FrameType

import onnxscript
import torch

# of libraries that a module's code calls, and that call it
_NOT_ITS_OWN = tuple(
    os.path.dirname(place) + os.sep
    for place in (torch.__file__, onnxscript.__file__, os.path.dirname(__file__))
)
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


def line_of(calls: Iterable[tuple[FrameType, int]]) -> str:
    """Return the innermost line of a module's forward, and its code; empty where there is none.

    Parameters
    ----------
    calls : iterable of (FrameType, int)
        The stack with its lines, from the outside in, as :func:`traceback.walk_tb` has it.
    """
    found, is_inside = "", False
    for frame, line in calls:
        is_inside = is_inside or frame.f_code.co_name == "forward"
        file = frame.f_code.co_filename
        if is_inside and is_own(frame):
            code = linecache.getline(file, line).strip()
            found = f"{file}:{line}: {code}" if code else f"{file}:{line}"
    return found


def is_own(frame: FrameType) -> bool:
    """Say whether a frame is of a module's code, rather than of what runs or traces it."""
    return not frame.f_code.co_filename.startswith((*_NOT_ITS_OWN, "<eval_with_key>"))


def line_of_error(error: BaseException) -> str:
    """Return the line that an error comes from, by its stack, else as its text or a cause's has it.

    torch's exporter has no stack of the module any more, and prints the one that it has kept.
    """
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    for each in reversed(causes):
        line = line_of(traceback.walk_tb(each.__traceback__))
        if line:
            return line
    for each in causes:
        line = line_in(str(each))
        if line:
            return line
    return ""


def line_in(trace: str) -> str:
    """Return the innermost line of a module's own in a printed stack."""
    found = [
        (file, line) for file, line in _FRAME.findall(trace) if not file.startswith(_NOT_ITS_OWN)
    ]
    return ":".join(found[-1]) if found else ""
