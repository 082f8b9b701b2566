"""Files that appear whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from types import FrameType
from typing import TypeVar

from ropeexport.errors import UsageError

# what a kill leaves of :func:`together`, and of :func:`replacing`; nothing else has such names
UNFINISHED = ".export-"
_TEMPORARY = ".ropeexport"  # then the suffix
_UNFINISHED = re.compile(rf"\{UNFINISHED}\w{{8}}")
_LEFT = re.compile(rf"\..+\.\w{{8}}\{_TEMPORARY}\.\w+")
INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LONGEST_NAME = 40  # characters of a file's name that its temporary one has too

_T = TypeVar("_T")
Disturbed = Callable[[], AbstractContextManager[None]]  # what interrupts is let through in it


@contextmanager
def replacing(path: Path, beside: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; on success it is renamed to ``path``.

    ``beside`` is another folder of the same file system for the temporary path: that of the files
    which it refers to.  A file that is replaced keeps its mode.

    Raises
    ------
    UsageError
        Where ``path`` is a link, which a rename would put a file in place of.
    """
    require_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with claimed(beside or path.parent, path.name, ".tmp") as temporary:
        yield temporary
        mode = path.stat().st_mode & 0o7777 if path.exists() else 0o666 & ~_umask()
        temporary.chmod(mode)
        temporary.replace(path)


@contextmanager
def claimed(folder: Path, name: str, suffix: str) -> Iterator[Path]:
    """Yield a temporary file of a folder; where this process is killed, :func:`tidied` removes it.

    The process holds a lock on it, by which it is known to be in use.
    """
    prefix = f".{name[:_LONGEST_NAME]}."
    with ended_cleanly(), undisturbed() as disturbed:
        handle, place = _made_and_locked(folder, prefix, f"{_TEMPORARY}{suffix}")
        try:
            with disturbed():
                yield Path(place)
        finally:
            os.close(handle)
            with suppress(FileNotFoundError):
                Path(place).unlink()


@contextmanager
def temporary_folder(parent: Path | None = None, prefix: str | None = None) -> Iterator[Path]:
    """Yield a temporary folder, which an interruption removes as well."""
    with (
        ended_cleanly(),
        undisturbed() as disturbed,
        _made_in(parent, lambda: tempfile.TemporaryDirectory(prefix=prefix, dir=parent)) as place,
        disturbed(),
    ):
        yield Path(place)


def _made_in(folder: Path | None, make: Callable[[], _T]) -> _T:
    """Make something temporary; an error names the folder, which the user knows."""
    try:
        return make()
    except OSError as error:
        if folder is None:
            raise
        raise OSError(error.errno, error.strerror, str(folder)) from None


def _made_and_locked(folder: Path, prefix: str, suffix: str) -> tuple[int, str]:
    while True:
        handle, place = _made_in(
            folder, lambda: tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=folder)
        )
        with suppress(OSError):  # a file system without locks: the file is left alone
            fcntl.flock(handle, fcntl.LOCK_EX)  # `tidied` may hold it, for a moment
        if os.fstat(handle).st_nlink:
            return handle, place
        os.close(handle)  # `tidied` of another command came before the lock


def tidied(folder: Path) -> list[str]:
    """Remove the temporary files of runs that were killed, and return their names."""
    found = []
    for path in folder.iterdir():
        with suppress(OSError):  # another run does the same
            is_left = _LEFT.fullmatch(path.name) and path.is_file() and not path.is_symlink()
            if not is_left:
                continue
            with locked_if_free(path) as is_free:  # removed with the lock: nobody claims it then
                if is_free:
                    path.unlink()
                    found.append(path.name)
    return found


def lock_now(handle: int) -> bool:
    """Lock an open file or folder, or say that another process has."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Hold a lock on a file or folder where no process has one; say whether it is held now."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield lock_now(handle)
    finally:
        os.close(handle)


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


@contextmanager
def undisturbed() -> Iterator[Disturbed]:
    """Let what interrupts a command wait, but for the time of the context that is yielded.

    What makes a thing and what removes it are one step then: an exception that a signal's handler
    raises between the two, or in the midst of either, would leave it.

    Examples
    --------
    >>> import os, signal
    >>> with undisturbed() as disturbed:
    ...     try:
    ...         with disturbed():
    ...             print("a signal ends this,")
    ...     finally:
    ...         os.kill(os.getpid(), signal.SIGINT)
    ...         print("but not this")
    Traceback (most recent call last):
    KeyboardInterrupt
    """
    if threading.current_thread() is not threading.main_thread():
        yield nullcontext  # handlers run in the main thread
        return
    waiting = _Waiting()
    try:
        waiting.begin()
        yield waiting.paused
    finally:
        waiting.end()


class _Waiting:
    """Signals that have come and are not handled yet."""

    def __init__(self) -> None:
        self._handlers: dict[int, Callable[[int, FrameType | None], object]] = {}
        self._come: list[int] = []

    def begin(self) -> None:
        for number in INTERRUPTIONS:
            handler = signal.getsignal(number)
            if callable(handler):  # neither the system's nor ignored
                self._handlers[number] = handler
                signal.signal(number, lambda number, _: self._come.append(number))

    def end(self) -> None:
        handlers, self._handlers = self._handlers, {}
        for number, handler in handlers.items():
            signal.signal(number, handler)
        come, self._come = self._come, []
        for number in come[:1]:  # it raises
            handlers[number](number, None)

    @contextmanager
    def paused(self) -> Iterator[None]:
        try:
            self.end()
            yield
        finally:
            self.begin()


@dataclass
class Together:
    """Files that take their places in a folder together, see :func:`together`.

    Parameters
    ----------
    place : Path
        A temporary folder: what lies in it at the end takes its place.
    dropped : list of str
        Names of files of the folder that are removed at the same moment.
    over_links : set of str
        Names of files that may take the place of a link; any other link is refused.
    """

    place: Path
    dropped: list[str] = field(default_factory=list)
    over_links: set[str] = field(default_factory=set)


@contextmanager
def together(folder: Path, last: str) -> Iterator[Together]:
    """Replace files of a folder together: where anything fails, all are what they were.

    A kill between the renames leaves a folder of the prefix ``UNFINISHED``, by which
    :func:`recovered` brings the files to what they were, or to what they were to be.  ``last``, the
    file that says what the others are, is missing until then.

    Raises
    ------
    UsageError
        Where a folder or a link lies in a file's place; neither is ever removed.
    """
    with ended_cleanly(), made(folder), temporary_folder(folder, UNFINISHED) as temporary:
        new, former, ready = (temporary / name for name in ("new", "former", "ready"))
        new.mkdir()
        former.mkdir()
        files = Together(new)
        yield files
        names = [*sorted(_files(new) - {last}), *([last] if (new / last).is_file() else [])]
        away = [last, *(name for name in (*names, *files.dropped) if name != last)]
        for name in (*names, *files.dropped):
            _refuse_other_than_file(folder, name, name in {*files.over_links, *files.dropped})
        _move(
            [(folder / n, former / n) for n in away if os.path.lexists(folder / n)]
            + [(new, ready)]  # from here on a kill means the new files
            + [(ready / name, folder / name) for name in names]
        )
        shutil.rmtree(former)  # while `ready` is there: a kill meanwhile means the new files too


def recovered(folder: Path, last: str) -> list[str]:
    """Finish or undo what killed runs of :func:`together` left; return the names of its folders.

    Only for who knows that no run is in the folder: the files take their places where those are
    empty, ``last`` at the end.  A folder may come from anywhere: nothing is put where a link leads.
    """
    found = []
    for left in sorted(path for path in folder.iterdir() if _is_unfinished(path)):
        moved = left / ("ready" if (left / "ready").is_dir() else "former")
        names = _files(moved) if not moved.is_symlink() else set()
        for name in sorted(names, key=lambda name: (name == last, name)):
            if not os.path.lexists(folder / name) and _is_own_place(folder, name):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (moved / name).rename(folder / name)
        shutil.rmtree(left / "former", ignore_errors=True)  # in the order of `together`
        shutil.rmtree(left)
        found.append(left.name)
    return found


def _is_unfinished(path: Path) -> bool:
    """Say whether a folder is one of :func:`together`, and not somebody else's of such a name."""
    if not _UNFINISHED.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
        return False
    return {part.name for part in path.iterdir()} <= {"new", "former", "ready"}


def _is_own_place(folder: Path, name: str) -> bool:
    """Say whether all that a file's path goes through is folders, no links, or not there yet."""
    above = [folder / part for part in PurePath(name).parents][:-1]
    return all(not os.path.lexists(x) or (x.is_dir() and not x.is_symlink()) for x in above)


def _files(folder: Path) -> set[str]:
    """Return the names of the files in a folder and in its folders."""
    paths = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {path.relative_to(folder).as_posix() for path in paths}


def _refuse_other_than_file(folder: Path, name: str, over_link: bool) -> None:
    path = folder / name
    if path.is_dir():
        raise UsageError(
            f"{path}: expected a file to replace, got a folder; move it away, or choose "
            "another output folder",
            code="RX302",
        )
    if not over_link:
        require_replaceable(path)
    if path.parent != folder:
        require_replaceable(path.parent)


def require_replaceable(path: Path) -> None:
    """Raise :class:`UsageError` unless a file of our own may be written: over no link or pipe."""
    if path.is_symlink():
        raise UsageError(
            f"{path}: expected a file or nothing, got a link, which would be replaced, or written "
            "through; move it away",
            code="RX302",
        )
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UsageError(
            f"{path}: expected a file or nothing, got a pipe or a device, which would be replaced; "
            "move it away",
            code="RX302",
        )


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Make a folder where there is none, with those above it; remove them if they stay empty."""
    missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        with suppress(OSError):  # something lies in it
            for path in missing:
                path.rmdir()


def _move(moves: list[tuple[Path, Path]]) -> None:
    """Rename every file, or none."""
    begun: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            target.parent.mkdir(parents=True, exist_ok=True)
            begun.append((source, target))
            source.rename(target)
    except BaseException:  # an interruption too
        for source, target in reversed(begun):
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


def refuse_existing(path: Path, force: bool) -> None:
    """Raise :class:`UsageError` if ``path`` exists and may not be overwritten."""
    if path.exists() and not force:
        raise UsageError(f"{path} exists already; add --force to overwrite it", code="RX301")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def has_content(path: Path, sha256: str, size: int | None = None) -> bool:
    """Say whether a file has a hash; one of another size than the one expected is not read."""
    is_of_size = size is None or path.stat().st_size == size
    return is_of_size and sha256_of(path) == sha256


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
