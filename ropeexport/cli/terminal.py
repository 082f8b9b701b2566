"""Everything that the command prints, and the streams that it prints on.

What comes from a file is escaped here (:mod:`ropeexport.plain`), so no verb has to think of it; and
a stream that is closed, full, or of a small character set ends in one line at most.
"""

from __future__ import annotations

import codecs
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

from ropeexport.errors import EXIT_FAILURE, code_of_the_system
from ropeexport.plain import shown

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_PLAINER = {"✓": "+", "✗": "x", "…": "...", "±": "+-"}  # where a stream does not have them
_ERRORS = "ropeexport.plainer"
# in JSON, what shown() would escape, and what a stream may not have
_UNSEEN = re.compile(r"[^\x20-\x7e\n]")


def echo(*lines: str, err: bool = False) -> None:
    """Print lines, each of them as one line whatever is in it."""
    if not lines:
        return
    if err:
        with suppress(OSError):  # what this stream does not take cannot be said anywhere
            print(*map(shown, lines), sep="\n", file=sys.stderr)
        return
    with _named():
        print(*map(shown, lines), sep="\n", file=sys.stdout)


def echo_json(text: str) -> None:
    """Print JSON: the same data, but what a terminal would obey is written by JSON's escapes."""
    is_unicode = _is_unicode(sys.stdout)

    def escaped(match: re.Match[str]) -> str:
        return match[0] if is_unicode and match[0].isprintable() else _json_escape(match[0])

    with _named():
        print(_UNSEEN.sub(escaped, text), file=sys.stdout)


def quoted(path: Path) -> str:
    """Return a path as a shell takes it."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def console(err: bool = False) -> Console:
    """Return a console that takes texts literally: no markup, no emoji's names, no highlights."""
    from rich.console import Console

    return Console(stderr=err, markup=False, emoji=False, highlight=False)


def show(made: RenderableType, narrowest: int) -> None:
    """Print tables; a file or a pipe, which has no width, is at least so wide."""
    printer = console()
    if not printer.is_terminal:
        printer.width = max(printer.width, narrowest)
    with _named():
        printer.print(made)


@contextmanager
def _named() -> Iterator[None]:
    """Give an error of the standard output its name."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from None


def guarded(run: Callable[[], None]) -> Callable[[], None]:
    """Return a command's main function, with streams that may be anything."""

    @wraps(run)
    def main() -> None:
        _open_closed()
        codecs.register_error(_ERRORS, _plainer)
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(errors=_ERRORS)  # type: ignore[union-attr]
        try:
            run()
        except SystemExit as end:
            _flush(is_failure=bool(end.code))
            raise
        _flush(is_failure=False)

    return main


def _open_closed() -> None:
    """Put the null device where a stream is closed: else the next file that opens is the stream.

    Output that nobody can read stays an error: there the device is open for reading alone.
    """
    for number, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        with suppress(OSError):
            os.fstat(number)
            continue
        os.open(os.devnull, flags)  # the lowest number that is free, which is this one
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))


def _flush(is_failure: bool) -> None:
    """Write what is left while an error can still be said; Python would do it too late."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's own attempt
        if is_failure:
            return
        if not isinstance(error, BrokenPipeError):  # whose reader wants no more
            code = code_of_the_system(error)
            echo(f"error: standard output: {error.strerror} [{code}]", err=True)
        raise SystemExit(EXIT_FAILURE) from None
    finally:
        try:
            sys.stderr.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _is_unicode(stream: object) -> bool:
    return str(getattr(stream, "encoding", "")).lower().startswith("utf")


def _plainer(error: UnicodeError) -> tuple[str, int]:
    """Return what stands for characters that a stream does not have: a handler of codecs."""
    assert isinstance(error, UnicodeEncodeError)
    lost = error.object[error.start : error.end]
    return "".join(_PLAINER.get(c) or _json_escape(c) for c in lost), error.end


def _json_escape(character: str) -> str:
    r"""Return ``\u1234``, twice where UTF-16 needs two."""
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))
