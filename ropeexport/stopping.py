"""Ctrl-C, SIGTERM and SIGHUP while a library computes.

Python handles a signal in its main thread, between two of its own steps, and a call of a library is
one step however long it takes.  So a thread hears of the signal at once and has the runners that
compute stop, after which Python's handlers run as ever.  A library that does not stop is not waited
for: the process ends, and leaves what a kill leaves, which the next command clears.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Lock, Thread, current_thread, main_thread
from typing import Protocol
from weakref import WeakSet

from ropeexport.atomic import INTERRUPTIONS

_PAUSE_SECONDS = 0.2


class Stoppable(Protocol):
    """What computes, and stops when another thread says so."""

    def stop(self) -> None:
        """End the call under way, and any later one."""


_COMPUTING: WeakSet[Stoppable] = WeakSet()
_LOCK = Lock()
_KEPT: list[object] = []  # what the interpreter may call yet


def add(computing: Stoppable) -> None:
    """Have something stopped by an interruption, for as long as it is there."""
    with _LOCK:
        _COMPUTING.add(computing)


@contextmanager
def heard(give_up: Callable[[int], None], patience: float = 10.0) -> Iterator[None]:
    """Hear of interruptions in the block, a command's whole work.

    Parameters
    ----------
    give_up : callable
        Ends the process; it gets the number of a signal after which the main thread stood still.
    patience : float
        For how many seconds it may be in one call.
    """
    if current_thread() is not main_thread():
        yield
        return
    ours, pythons = socket.socketpair()
    pythons.setblocking(False)
    is_over = Event()
    former = signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)

    def hear() -> None:
        for number in _come(ours):
            if _stands_still(is_over, patience):
                give_up(number)

    Thread(target=hear, name="interruptions", daemon=True).start()
    try:
        yield
    finally:
        is_over.set()
        signal.set_wakeup_fd(former)
        pythons.close()


def _come(signals: socket.socket) -> Iterator[int]:
    """Yield the interruptions that come, once what computes has been told to stop."""
    with signals:
        while number := signals.recv(1):
            if number[0] in INTERRUPTIONS:
                with _LOCK:
                    computing = list(_COMPUTING)
                for each in computing:
                    each.stop()
                yield number[0]


def _stands_still(is_over: Event, patience: float) -> bool:
    """Wait for the command to end; say whether its main thread takes no step for too long."""
    step = Event()

    def take(_: int | None) -> int:
        step.set()
        return 0

    called = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(take)
    since = time.monotonic()
    ctypes.pythonapi.Py_AddPendingCall(called, None)  # in the main thread, at its next step
    while not is_over.wait(_PAUSE_SECONDS):
        if step.is_set():
            step.clear()
            since = time.monotonic()
            ctypes.pythonapi.Py_AddPendingCall(called, None)
        elif time.monotonic() - since > patience:
            return True
    _KEPT.append(called)
    return False


def end_now(number: int) -> None:
    """End the process where it stands, as a signal does that nobody handles."""
    os._exit(128 + number)
