"""Files that anybody may have written: their kind and their size, before they are read."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from ropeexport.errors import ModelFileError, RopeExportError, UsageError

MOST_BYTES = 1 << 28  # of a file of records, which is read whole
_MOST_OF_A_MESSAGE = 1 << 31  # protobuf's own limit

_OTHER_KINDS = (
    ("a folder", stat.S_ISDIR),
    ("a named pipe", stat.S_ISFIFO),
    ("a device", lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode)),
    ("a socket", stat.S_ISSOCK),
)


def check_regular(path: Path, kind: type[RopeExportError] = UsageError) -> None:
    """Raise an error of ``kind`` unless ``path`` is a file, or a link to one, that can be read.

    A pipe or a device would be waited for, or read without an end.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise kind(f"{path}: no such file", code="RX303") from None
    except ValueError as error:  # a NUL in its name
        raise kind(f"{str(path)!r}: no file's name: {error}", code="RX303") from None
    if not stat.S_ISREG(mode):
        got = next((name for name, of in _OTHER_KINDS if of(mode)), "something else")
        raise kind(f"{path}: expected a file, got {got}", code="RX322")


def check_message(path: Path, kind: type[RopeExportError] = ModelFileError) -> None:
    """Raise unless ``path`` may be an ONNX file: asked before it is read or hashed to its end."""
    check_regular(path, kind)
    size = path.stat().st_size
    if size >= _MOST_OF_A_MESSAGE:
        raise kind(
            f"{path}: not an ONNX file: expected less than {_MOST_OF_A_MESSAGE:,} bytes, since "
            f"larger weights lie in files of their own, got {size:,}; export it again",
            code="RX304",
        )


def read_bytes(path: Path, kind: type[RopeExportError] = UsageError) -> bytes:
    """Return what a file of records holds, see :func:`check_regular`; one too large is refused."""
    check_regular(path, kind)
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise kind(f"{path}: expected at most {MOST_BYTES:,} bytes, got {size:,}", code="RX323")
    return path.read_bytes()


def read_json(path: Path, kind: type[RopeExportError] = UsageError) -> dict[str, Any]:
    """Return the object that a JSON file holds, see :func:`read_bytes`."""
    try:
        found = json.loads(read_bytes(path, kind))
    except (ValueError, RecursionError) as error:
        raise kind(f"{path}: not readable as JSON: {error}", code="RX323") from error
    if not isinstance(found, dict):
        raise kind(f"{path}: expected a JSON object, got {type(found).__name__}", code="RX323")
    return found
