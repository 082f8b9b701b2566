"""One command at a time in an output folder, and what a command that was killed has left there.

A command that writes into a folder holds its lock from the first thing that it reads to the last
that it writes; commands that only read take none.  The lock is the kernel's (flock), so it ends
with its process, however that ends.
"""

from __future__ import annotations

import errno
import functools
import inspect
import logging
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from ropeexport import atomic, manifest
from ropeexport.errors import LockedError, UsageError
from ropeexport.given import path_of

if TYPE_CHECKING:
    from filelock import FileLock

LOCK_NAME = ".ropeexport.lock"
_PATIENCE_SECONDS = 3.0
_HOLDER = re.compile(r"(?P<pid>\d+) (?P<verb>[a-z ]+)")
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)

_log = logging.getLogger(__name__)
_P = ParamSpec("_P")
_R = TypeVar("_R")


def locks(
    argument: str, verb: str, *, makes: bool = False
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Return a decorator: the function holds the lock of the folder that its argument names.

    With ``makes`` the folder is made where there is none, and goes if it stays empty.
    """

    def decorate(work: Callable[_P, _R]) -> Callable[_P, _R]:
        signature = inspect.signature(work)

        @functools.wraps(work)
        def locking(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            given = signature.bind(*args, **kwargs).arguments.get(argument)
            if given is None:  # which the function has its own words for
                return work(*args, **kwargs)
            with locked(path_of(argument, given), verb, makes=makes):
                return work(*args, **kwargs)

        return locking

    return decorate


@contextmanager
def locked(folder: Path, verb: str, *, makes: bool = False) -> Iterator[None]:
    """Hold a folder's lock, and clear first what killed runs have left in it.

    A thread that holds it already goes on.  Where nothing can be written, or the file system has no
    locks, there is none.

    Parameters
    ----------
    folder : Path
        An output folder, or the cache folder; where there is none, nothing is done.
    verb : str
        Who holds it, for the message to others.
    makes : bool
        Make the folder where there is none; it goes again if it stays empty.

    Raises
    ------
    LockedError
        Where another command holds it for more than a few seconds.
    """
    if makes and os.path.lexists(folder) and not folder.is_dir():
        got = "a file" if folder.exists() else "a link that leads nowhere"
        raise UsageError(f"{folder}: expected a folder to write into, got {got}", code="RX302")
    with atomic.ended_cleanly(), atomic.made(folder) if makes else nullcontext():
        if not folder.is_dir():  # what reads it says so
            yield
            return
        path = Path(os.path.realpath(folder), LOCK_NAME)
        atomic.require_replaceable(path)
        if path.is_dir():
            raise UsageError(
                f"{path}: expected a file or nothing, got a folder; move it away", code="RX302"
            )
        lock = _lock_of(path)
        with atomic.undisturbed() as disturbed:
            if lock is not None and not _is_taken(lock, folder, verb, disturbed):
                lock = None
            try:
                with disturbed():
                    if lock is not None and lock.lock_counter == 1:
                        _clear(folder)
                    yield
            finally:
                if lock is not None:
                    if lock.lock_counter == 1:
                        with suppress(OSError):  # filelock takes none that has no name any more
                            path.unlink()
                    lock.release()


def _lock_of(path: Path) -> FileLock | None:
    """Return a folder's lock; None on a machine that was set up by hand, without today's filelock.

    torch brings some filelock along, of any version.
    """
    try:
        from filelock import FileLock

        return FileLock(path, _PATIENCE_SECONDS, is_singleton=True, fallback_to_soft=False)
    except (ImportError, TypeError):
        _log.warning(
            "%s: filelock 3.30 or later is not installed: run one command at a time in it",
            path.parent,
        )
        return None


def _is_taken(lock: FileLock, folder: Path, verb: str, disturbed: atomic.Disturbed) -> bool:
    """Take a lock, or say that there is none to be had; waiting for another may be interrupted."""
    from filelock import Timeout

    path = Path(lock.lock_file)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            with disturbed():
                lock.acquire()
    except Timeout:
        raise LockedError(
            f"{folder}: another command writes into it: {_holder(path)}; wait for it to end, or "
            "choose another folder",
            code="RX320",
        ) from None
    except OSError as error:
        if error.errno in _READ_ONLY and not os.path.lexists(path):
            return False  # nor can anything else be written
        if error.errno not in _NO_LOCKS:
            raise
        _log.warning(
            "%s: its file system has no locks (%s): run one command at a time in it",
            folder, error.strerror,
        )  # fmt: skip
        return False
    with suppress(OSError):  # a full disk: the lock is held all the same
        found = path.lstat()
        if lock.lock_counter == 1 and stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            path.write_text(f"{os.getpid()} {verb}")
    return True


def _holder(path: Path) -> str:
    """Return who holds a lock, as far as its file says so."""
    text = ""
    with suppress(OSError, UnicodeDecodeError):
        if stat.S_ISREG(path.lstat().st_mode):
            text = path.read_text()
    found = _HOLDER.fullmatch(text)
    if found is None:
        return f"its name is not known (it holds {path.name})"
    return f"'ropeexport {found['verb']}' (process {found['pid']})"


def _clear(folder: Path) -> None:
    """Bring a folder that killed runs have left to a state of one of them."""
    say_cleared(folder, atomic.recovered(folder, manifest.FILE_NAME) + atomic.tidied(folder))


def say_cleared(folder: Path, found: list[str]) -> None:
    """Say what a killed run has left, once it is gone."""
    if found:
        _log.warning(
            "%s: cleared what a command that was killed has left there: %s",
            folder, ", ".join(found),
        )  # fmt: skip


@contextmanager
def scratch(kind: str) -> Iterator[Path]:
    """Yield a temporary folder; where this process is killed, the next of its kind removes it."""
    base, prefix = Path(tempfile.gettempdir()), f"ropeexport-{kind}-"
    for left in base.glob(f"{prefix}*"):
        with suppress(OSError):
            found = left.lstat()
            is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
            with atomic.locked_if_free(left) as is_free:
                if is_ours and is_free:
                    shutil.rmtree(left)
    with atomic.undisturbed() as disturbed:
        made = Path(tempfile.mkdtemp(dir=base))
        handle = os.open(made, os.O_RDONLY)
        try:
            with suppress(OSError):  # a file system without locks
                atomic.lock_now(handle)
            # with the lock: nobody takes it for left
            made = made.rename(base / f"{prefix}{made.name}")
            with disturbed():
                yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)
            os.close(handle)
