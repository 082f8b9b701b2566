"""Files that a user names to be written, reports and outputs: nothing else is lost by that.

A regular file is replaced in one step, and one behind a link too: the link stays, but where it
leads out of a folder that somebody may have sent.  What is no
regular file (``/dev/stdout``, ``/dev/null``, a FIFO) is written to as it is.  ropeexport's own
files, and those that a command reads, are no targets.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ropeexport import atomic, manifest, reading
from ropeexport.errors import ManifestError, RopeExportError, UsageError
from ropeexport.locking import LOCK_NAME, say_cleared

# what a folder of ropeexport's may hold, beside what its manifest names
OWN_NAMES = {
    manifest.FILE_NAME, manifest.MODEL_NAME, f"{manifest.MODEL_NAME}.data", manifest.ENGINE_NAME,
    "parity.json", "bench.json", "bench.png", "timing.cache", "model.sig", LOCK_NAME,
}  # fmt: skip
_OF_MODELS = (".onnx", ".engine", ".safetensors", ".so", ".runtime")  # no text is called so


def check(path: Path, option: str, *others: Path) -> None:
    """Raise :class:`UsageError` unless a file may be written there; nothing is written yet.

    Parameters
    ----------
    path : Path
        The target.
    option : str
        What it was given as, for the message.
    *others : Path
        Files that the command reads, or writes too.
    """
    found, real = _found(path), Path(os.path.realpath(path))
    if found is not None and _stream_of(found) is not None:
        return
    if found is None or stat.S_ISREG(found.st_mode):
        _check_place(path, real, option)
        if _leads_out(path, real):
            raise UsageError(
                f"{option}: {path} is a link that leads out of its folder, which may be another's: "
                f"to {real}; name that file, or remove the link",
                code="RX321",
            )
        if real.name in _own_names(real.parent) or real.suffix in _OF_MODELS:
            raise UsageError(
                f"{option}: {path} is one of the files that ropeexport itself keeps; choose "
                "another name",
                code="RX321",
            )
        if any(os.path.realpath(other) == str(real) for other in others):
            raise UsageError(
                f"{option}: {path} is a file that this command reads, or writes something else "
                "into; choose another name",
                code="RX321",
            )
    elif not (stat.S_ISCHR(found.st_mode) or stat.S_ISFIFO(found.st_mode)):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a block device or a socket"
        raise UsageError(f"{option}: {path}: expected a file to write, got {kind}", code="RX321")


def _leads_out(path: Path, real: Path) -> bool:
    """Say whether links lead from a target in a folder of ropeexport's to a file outside of it."""
    above = Path(os.path.normpath(path.absolute())).parents
    return any(not real.is_relative_to(os.path.realpath(x)) for x in above if _is_ours(x))


def _is_ours(folder: Path) -> bool:
    """Say whether a folder may be one of ropeexport's: other tools have a manifest.json too."""
    if (folder / "parity.json").exists():
        return True
    try:
        return "ropeexport" in reading.read_json(folder / manifest.FILE_NAME)
    except (RopeExportError, OSError):
        return False


@contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """Open a target; a regular file is there whole at the end, or is what it was."""
    found = _found(path)
    stream = _stream_of(found) if found is not None else None
    if stream is not None:  # goes on behind what was printed, in a file too
        (sys.stdout if stream == 1 else sys.stderr).flush()
        with os.fdopen(os.dup(stream), "wb") as file:
            yield file
    elif found is None or stat.S_ISREG(found.st_mode):
        real = Path(os.path.realpath(path))
        if real.parent.is_dir():
            say_cleared(real.parent, atomic.tidied(real.parent))
        with atomic.replacing(real) as temporary, temporary.open("wb") as file:
            yield file
    else:
        try:
            with os.fdopen(_opened(path), "wb") as file:
                yield file
        except OSError as error:  # of a write, which has no name
            raise OSError(error.errno, error.strerror, str(path)) from None


def _opened(path: Path) -> int:
    """Open a device or a FIFO, without a wait for somebody who reads it."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        raise UsageError(
            f"{path}: expected a pipe that is read, got one that nobody reads", code="RX321"
        ) from None
    os.set_blocking(handle, True)
    return handle


def _found(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _stream_of(found: os.stat_result) -> int | None:
    """Return standard output or error, where a target is the same file, device or pipe."""
    for stream in (1, 2):
        with suppress(OSError):  # it is closed
            if os.path.samestat(found, os.fstat(stream)):
                return stream
    return None


def _check_place(path: Path, real: Path, option: str) -> None:
    """Raise unless a file can be made there, or replaced."""
    above = next(folder for folder in real.parents if os.path.lexists(folder))
    if not above.is_dir():
        raise UsageError(f"{option}: {path}: expected a folder, got the file {above}", code="RX321")
    for place in (above, *([real] if real.exists() else [])):
        if not os.access(place, os.W_OK):
            raise UsageError(
                f"{option}: {path}: {place} may not be written; choose another place", code="RX321"
            )


def _own_names(folder: Path) -> set[str]:
    """Return the names of a folder's files that are ropeexport's."""
    try:
        record = manifest.read(folder)
    except (ManifestError, OSError):
        return OWN_NAMES
    model, engine, cache = record.model, record.engine, record.cache
    named = [model.file, *(file.file for file in (model.weights.files if model.weights else ()))]
    named += [engine.file] if engine else []
    named += [engine.plugin.file] if engine and engine.plugin else []
    return OWN_NAMES | {*named, *(cache.files if cache else ())}
