"""An error that nobody foresaw: where it happened, and a file with all that a report needs."""

from __future__ import annotations

import os
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path

from ropeexport.errors import first_line

_PACKAGE = Path(__file__).parent


def log_of(error: BaseException, said: str = "") -> str:
    """Write an error with its traceback to a file of the system's temporary folder.

    Parameters
    ----------
    error : BaseException
        The error.
    said : str
        What libraries said before it, which goes first.

    Returns
    -------
    str
        The file's path; "no file" with the reason where none can be written.
    """
    name = ""
    try:
        handle, name = tempfile.mkstemp(prefix="ropeexport-", suffix=".log")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(said)
            file.writelines(traceback.format_exception(error))
    except Exception as fault:  # the system's, or of an error that cannot even be printed
        if name:
            with suppress(OSError):
                Path(name).unlink()
        return f"no file ({first_line(fault)})"
    return name


def line_of(error: BaseException) -> str:
    """Return one line: the error's class, its text, its place in this package, and its log."""
    try:
        text = first_line(error)
    except Exception:  # a class of somebody else's, whose text fails
        text = "no text"
    return with_log(f"unexpected {type(error).__name__}: {text} ({_place_of(error)})", error)


def with_log(text: str, error: BaseException) -> str:
    """Return a line that names the error's log, too."""
    return f"{text}; the full traceback, for a bug report, is in {log_of(error)}"


def _place_of(error: BaseException) -> str:
    """Return the innermost line of this package that an error went through."""
    frames = [(f.f_code.co_filename, line) for f, line in traceback.walk_tb(error.__traceback__)]
    ours = [(Path(name), line) for name, line in frames if Path(name).is_relative_to(_PACKAGE)]
    return "".join(f"{name.relative_to(_PACKAGE)}:{line}" for name, line in ours[-1:]) or "outside"
