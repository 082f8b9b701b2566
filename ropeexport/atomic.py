"""Files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from ropeexport.errors import RopeExportError, UsageError

# what a kill leaves of :func:`together`, and nothing else does
UNFINISHED = ".export-"

MOST_BYTES = 1 << 28  # of a file of records, which is read whole

_OTHER_KINDS = (
    ("a folder", stat.S_ISDIR),
    ("a named pipe", stat.S_ISFIFO),
    ("a device", lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode)),
    ("a socket", stat.S_ISSOCK),
)


@contextmanager
def replacing(path: Path, beside: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; on success it is renamed to ``path``.

    ``beside`` is another folder of the same file system for the temporary path: that of the files
    which it refers to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        prefix=f".{path.name}.", suffix=".tmp", dir=beside or path.parent
    )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


@contextmanager
def ended_cleanly() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into an exception: no half file, temporary one or child is left.

    One that the process ignores, as under ``nohup``, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set a handler
        return

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    handlers = ((number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGHUP))
    former = {n: handler for n, handler in handlers if handler not in (None, signal.SIG_IGN)}
    try:
        for number in former:
            signal.signal(number, end)
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@dataclass
class Together:
    """Files that take their places in a folder together, see :func:`together`.

    Parameters
    ----------
    place : Path
        A temporary folder: what lies in it at the end takes its place.
    dropped : list of str
        Names of files of the folder that are removed at the same moment.
    """

    place: Path
    dropped: list[str] = field(default_factory=list)


@contextmanager
def together(folder: Path, last: str) -> Iterator[Together]:
    """Replace files of a folder together: where anything fails, all are what they were.

    A kill between the renames cannot be undone: ``last``, the file that says what the others are,
    is then missing, and a folder of the prefix ``UNFINISHED`` holds the rest.

    Raises
    ------
    UsageError
        Where a folder lies in a file's place; it is never removed.
    """
    with (
        ended_cleanly(),
        _made(folder),
        tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=folder) as temporary,
    ):
        new, former = Path(temporary, "new"), Path(temporary, "former")
        new.mkdir()
        former.mkdir()
        files = Together(new)
        yield files
        names = sorted({path.name for path in new.iterdir()} - {last})
        away = [folder / name for name in (last, *names, *files.dropped)]
        for path in away:
            if path.is_dir():
                raise UsageError(
                    f"{path}: expected a file to replace, got a folder; move it away, or choose "
                    "another output folder"
                )
        _move(
            [(path, former / path.name) for path in away if os.path.lexists(path)]
            + [(new / name, folder / name) for name in (*names, last)]
        )


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a folder where there is none; where that was for nothing, remove it again."""
    existed = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if not existed:
            with suppress(OSError):  # something else lies in it
                folder.rmdir()
        raise


def _move(moves: list[tuple[Path, Path]]) -> None:
    """Rename every file, or none."""
    try:
        for source, target in moves:
            source.rename(target)
    except BaseException:  # an interruption too
        for source, target in reversed(moves):
            if os.path.lexists(target) and not os.path.lexists(source):
                target.rename(source)
        raise


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` in one step."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write ``data`` to ``path`` in one step."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def check_regular(path: Path, kind: type[RopeExportError] = UsageError) -> None:
    """Raise an error of ``kind`` unless ``path`` is a file, or a link to one, that can be read.

    A pipe or a device would be waited for, or read without an end.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise kind(f"{path}: no such file") from None
    except ValueError as error:  # a NUL in its name
        raise kind(f"{str(path)!r}: no file's name: {error}") from None
    if not stat.S_ISREG(mode):
        got = next((name for name, of in _OTHER_KINDS if of(mode)), "something else")
        raise kind(f"{path}: expected a file, got {got}")


def read_bytes(path: Path, kind: type[RopeExportError] = UsageError) -> bytes:
    """Return what a file of records holds, see :func:`check_regular`; one too large is refused."""
    check_regular(path, kind)
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise kind(f"{path}: expected at most {MOST_BYTES:,} bytes, got {size:,}")
    return path.read_bytes()


def read_json(path: Path, kind: type[RopeExportError] = UsageError) -> dict[str, Any]:
    """Return the object that a JSON file holds, see :func:`read_bytes`."""
    try:
        found = json.loads(read_bytes(path, kind))
    except (ValueError, RecursionError) as error:
        raise kind(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(found, dict):
        raise kind(f"{path}: expected a JSON object, got {type(found).__name__}")
    return found


def refuse_existing(path: Path, force: bool) -> None:
    """Raise :class:`UsageError` if ``path`` exists and may not be overwritten."""
    if path.exists() and not force:
        raise UsageError(f"{path} exists already; add --force to overwrite it")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
