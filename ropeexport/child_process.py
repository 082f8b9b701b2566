"""Work in a child process: a request in, progress, notes and a result or a failure out.

TensorRT's builds, the probe of a plugin library and a benchmark's contenders run so: a crash in a
library becomes an error with a message, and what one of them loads is no matter of another's.

A worker is a module that ends in ``serve({Request: function})``; the parent asks it by
:class:`Child`.  Requests go through the child's standard input, events through a pipe of their own,
each a JSON object on a line.  Whatever is printed, by Python or by C code, goes elsewhere: the last
of it is kept for the message of a crash.

The child ends when it is asked no more: the parent kills it when it leaves the :class:`Child`, by
an exception, Ctrl-C, SIGTERM or SIGHUP too, and on Linux the kernel does where the parent was
killed itself.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Lock, Thread
from typing import IO, Any, Self, TypeVar

from pydantic import TypeAdapter

from ropeexport import errors
from ropeexport.atomic import ended_cleanly, undisturbed
from ropeexport.errors import RopeExportError
from ropeexport.manifest import Record

OnProgress = Callable[[str, float], None]  # phase, fraction done
OnNote = Callable[[str], None]
Answer = TypeVar("Answer", bound=Record)

_PACKAGE_ROOT = Path(__file__).parents[1]
_TAIL_BYTES = 1 << 16
_TAIL_LINES = 3
_LONGEST_LINE = 600
_PATIENCE_SECONDS = 5.0  # for what a child that has ended leaves behind
_PR_SET_PDEATHSIG = 1


class Progress(Record):
    """How far a request is."""

    phase: str
    fraction: float


class Note(Record):
    """Something that the user should read."""

    text: str


class Failure(Record):
    """An error, by its class in :mod:`ropeexport.errors`; none: one that nobody foresaw."""

    kind: str | None
    text: str
    code: str = ""
    trace: str = ""  # of one that nobody foresaw


class Result(Record):
    """A request was done; the body is the answer as JSON, of the class that the parent expects."""

    body: str


class _Asked(Record):
    request: str  # the name of its class
    body: str


Event = Progress | Note | Failure | Result  # no two of them have the same fields
_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


class UnforeseenError(RopeExportError):
    """The work of a child met an error that is none of :mod:`ropeexport.errors`."""

    code = "RX003"


class CrashError(RopeExportError):
    """A child ended without an answer: ``how``, and what it ``said`` last, as parts of a line."""

    code = "RX401"

    def __init__(self, how: str, said: str) -> None:
        super().__init__(f"its process ended {how}{said}")
        self.how = how
        self.said = said


class Child:
    """A child process, started and ended by ``with``, that does one request after another.

    Parameters
    ----------
    module : str
        The worker's module, which ends in :func:`serve`.
    environment : mapping
        The child's environment variables, in place of this process's own.

    Examples
    --------
    >>> from pathlib import Path
    >>> from ropeexport.trt.child import Probed, ProbeRequest
    >>> request = ProbeRequest(flavour="tensorrt-rtx", plugin=Path("libropeexport_plugin.so"))
    >>> with Child("ropeexport.trt.worker") as child:  # doctest: +SKIP
    ...     probed = child.ask(request, Probed)
    """

    def __init__(self, module: str, environment: Mapping[str, str] | None = None) -> None:
        self._module = module
        self._environment = _with_package(os.environ if environment is None else environment)
        self._left = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(ended_cleanly())
            with undisturbed():
                self._start()
                stack.callback(self.close)
            self._left = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.close()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def ask(
        self,
        request: Record,
        answer: type[Answer],
        on_progress: OnProgress | None = None,
        on_note: OnNote | None = None,
    ) -> Answer:
        """Have a request done and return the answer.

        Raises
        ------
        RopeExportError
            The child's own error, by its class in :mod:`ropeexport.errors`.
        UnforeseenError
            Any other error of the child's, with its class and text; its traceback is a note.
        CrashError
            Where the child ended, with the signal or exit code and the last that it said.
        """
        self._send(_Asked(request=type(request).__name__, body=request.model_dump_json()))
        for line in self._events:
            if not line.endswith(b"\n"):
                break  # a crash cut it short
            event = _EVENT.validate_json(line)
            if isinstance(event, Result):
                return answer.model_validate_json(event.body)
            if isinstance(event, Failure):
                kind = UnforeseenError if event.kind is None else getattr(errors, event.kind)
                failure = kind(event.text, code=event.code)
                if event.trace:
                    failure.add_note(event.trace)  # for the log of who prints it
                raise failure
            if isinstance(event, Progress) and on_progress is not None:
                on_progress(event.phase, event.fraction)
            if isinstance(event, Note) and on_note is not None:
                on_note(event.text)
        raise self._crash()

    def pause(self) -> None:
        """Stop it where it is, all its threads, until :meth:`resume`."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it, stopped or not, and give its memory back; a second time does nothing."""
        self._process.kill()
        self._process.wait()
        self._events.close()
        assert self._process.stdin is not None  # a pipe
        self._process.stdin.close()

    def _start(self) -> None:
        reading, writing = os.pipe()
        self._events = os.fdopen(reading, "rb")
        command = [sys.executable, "-P", "-m", self._module, str(writing), str(os.getpid())]
        try:
            self._process = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(writing,),
                env=self._environment,
            )
        finally:
            os.close(writing)
        assert self._process.stdout is not None  # a pipe
        self._tail = _Tail(self._process.stdout)

    def _send(self, asked: _Asked) -> None:
        assert self._process.stdin is not None  # a pipe
        left = memoryview(asked.model_dump_json().encode() + b"\n")
        with suppress(BrokenPipeError):  # it has ended; what it left of events says so
            while left:
                left = left[self._process.stdin.write(left) :]

    def _crash(self) -> CrashError:
        try:
            code = self._process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:  # alive, but its end of the pipe is gone
            self._process.kill()
            code = self._process.wait()
        lines = self._tail.lines()
        said = "; it said: " + " / ".join(lines) if lines else ", without a word"
        return CrashError(_how(code), said)


class _Tail:
    """The last of what a child prints: all is read, so that it never waits, and little is kept."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._kept = b""
        self._thread = Thread(target=self._read, args=(pipe,), daemon=True)
        self._thread.start()

    def lines(self) -> list[str]:
        """Return the last lines of a child that has ended."""
        self._thread.join(_PATIENCE_SECONDS)  # a process that the child started may print on
        lines = [line.strip() for line in self._kept.decode(errors="replace").splitlines()]
        return [line[-_LONGEST_LINE:] for line in lines if line][-_TAIL_LINES:]

    def _read(self, pipe: IO[bytes]) -> None:
        with pipe:
            while data := pipe.read(_TAIL_BYTES):
                self._kept = (self._kept + data)[-_TAIL_BYTES:]


class Channel:
    """Where a worker sends events; a library may call it back from several threads."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._lock = Lock()

    def send(self, event: Record) -> None:
        """Send one event."""
        with self._lock:
            self._file.write(event.model_dump_json() + "\n")
            self._file.flush()

    def progress(self, phase: str, fraction: float) -> None:
        """Say how far the request is."""
        self.send(Progress(phase=phase, fraction=fraction))

    def note(self, text: str) -> None:
        """Tell the user something."""
        self.send(Note(text=text))


def serve(handlers: Mapping[type[Any], Callable[[Any, Channel], Record]]) -> None:
    """Do a parent's requests, each by the function of its class, until there are no more.

    A function is given the request and the channel, and returns the answer.
    """
    events, parent = map(int, sys.argv[1:])
    _end_with(parent)
    # the parent hears Ctrl-C too and ends this process.  SIG_IGN would go on to what this starts
    signal.signal(signal.SIGINT, lambda *_: None)
    os.set_inheritable(events, False)
    channel = Channel(os.fdopen(events, "w", encoding="utf-8"))
    by_name = {kind.__name__: (kind, work) for kind, work in handlers.items()}
    for line in _requests():
        asked = _Asked.model_validate_json(line)
        kind, work = by_name[asked.request]
        event: Result | Failure
        try:
            answer = work(kind.model_validate_json(asked.body), channel)
            event = Result(body=answer.model_dump_json())
        except RopeExportError as error:
            event = Failure(kind=_kind(error), text=str(error), code=error.code)
        except Exception as error:  # the parent turns it into one line
            trace = "".join(traceback.format_exception(error))
            event = Failure(kind=None, text=f"{type(error).__name__}: {error}", trace=trace)
        channel.send(event)


def _requests() -> IO[bytes]:
    """Take standard input away: neither a library nor what it starts shall read requests."""
    requests = os.fdopen(os.dup(0), "rb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return requests


def _end_with(parent: int) -> None:
    with suppress(OSError, AttributeError):  # Linux only; elsewhere the parent does it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that
        sys.exit(errors.EXIT_FAILURE)


def _kind(error: RopeExportError) -> str:
    """Return the name of the nearest class that is made of a text alone."""
    return next(kind.__name__ for kind in type(error).__mro__ if _made_of_text(kind))


def _made_of_text(kind: type) -> bool:
    ours = [base for base in kind.__mro__ if base.__module__ == errors.__name__]
    *more, _ = ours or [kind]  # the last, RopeExportError, is made of a text
    return kind in ours and not any("__init__" in vars(base) for base in more)


def _how(code: int) -> str:
    if code >= 0:
        return f"with exit code {code}"
    if code == -signal.SIGKILL:
        return "by SIGKILL (as a system ends one where its memory runs out)"
    try:
        return f"by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal
        return f"by signal {-code}"


def safe_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which no Python takes the current folder's files for modules.

    It goes on to what a child starts itself.  An empty part of ``PYTHONPATH``, which a shell leaves
    where it joins one that is not set, would be the current folder.
    """
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    return {
        **environment,
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }


def _with_package(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which the package is found, though the work folder is left out."""
    safe = safe_environment(environment)
    paths = [safe["PYTHONPATH"], str(_PACKAGE_ROOT)]
    return {**safe, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
