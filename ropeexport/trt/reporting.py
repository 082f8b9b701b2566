"""What TensorRT says, in the process that runs it: messages, progress, what a library brings."""

from __future__ import annotations

import re
import time
from pathlib import Path
from threading import Lock
from typing import Any

from ropeexport.child_process import Channel
from ropeexport.errors import BuildError, PluginError
from ropeexport.trt.child import Creator
from ropeexport.trt.flavour import Flavour

_SECONDS_BETWEEN = 0.05
_LONGEST_MESSAGE = 600
# "[graph.h:12: attach] " and the like: where in TensorRT's source, which no user has
_SOURCE_PLACE = re.compile(r"\[\w[\w.]*:+\w*:?[^\]]*\]\s*")


class Journal:
    """TensorRT's warnings and errors, kept so that an error can show the one that matters."""

    def __init__(self, flavour: Flavour) -> None:
        self.warnings: list[str] = []
        self.errors: list[str] = []
        module: Any = flavour.module
        journal = self

        class Logger(module.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                module.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity in (module.ILogger.ERROR, module.ILogger.INTERNAL_ERROR):
                    journal.errors.append(message)
                elif severity == module.ILogger.WARNING:
                    journal.warnings.append(message)

        self.logger = Logger()

    def cause(self) -> str:
        """Return the first error, which names the cause; the later ones are its consequences."""
        if not self.errors:
            return "TensorRT gave no reason"
        text = _SOURCE_PLACE.sub("", " ".join(self.errors[0].split()))
        return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE] + " …"

    def taken(self) -> str:
        """Return the cause of a failure, and forget it: the next has its own."""
        cause = self.cause()
        self.errors.clear()
        return cause


class PhaseTree:
    """The phases of a build, nested, as one fraction.

    A phase is worth one step of its parent, so the fraction never runs ahead of the parent's own.
    """

    def __init__(self) -> None:
        self._open: dict[str | None, tuple[str | None, int, int]] = {}  # parent, steps, steps done
        self._highest = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Open a phase."""
        self._open[name] = (parent, max(steps, 1), 0)

    def step(self, name: str, done: int) -> None:
        """Say how many steps of a phase are done."""
        if name in self._open:
            parent, steps, _ = self._open[name]
            self._open[name] = (parent, steps, min(done, steps))

    def finish(self, name: str) -> None:
        """Close a phase."""
        self._open.pop(name, None)

    def is_open(self) -> bool:
        """Say whether a phase is under way."""
        return bool(self._open)

    def fraction(self) -> float:
        """Return how much of the root is done; it never falls."""
        self._highest = max([self._highest, *(self._reached(name) for name in self._open)])
        return self._highest

    def _reached(self, name: str | None, part: float = 0.0) -> float:
        """Return how much of the root is done where this much of a phase's next step is."""
        parent, steps, done = self._open[name]
        part = min((done + part) / steps, 1.0)
        return self._reached(parent, part) if parent in self._open else part


def progress_monitor(flavour: Flavour, channel: Channel) -> Any:
    """Return a progress monitor of a flavour that sends events."""
    module: Any = flavour.module
    tree = PhaseTree()
    lock = Lock()
    sent = [0.0]

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with lock:
                tree.start(phase_name, parent_phase, num_steps)
            self._send(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with lock:
                tree.step(phase_name, step + 1)
            self._send(phase_name)
            return True  # go on

        def phase_finish(self, phase_name: str) -> None:
            with lock:
                tree.finish(phase_name)
                is_root = not tree.is_open()
            if is_root:
                channel.progress(phase_name, 1.0)

        def _send(self, phase: str) -> None:
            now = time.monotonic()
            if now - sent[0] >= _SECONDS_BETWEEN:
                sent[0] = now
                channel.progress(phase, tree.fraction())

    return Monitor()


def make_builder(flavour: Flavour, journal: Journal) -> Any:
    """Return a builder; :class:`BuildError` where TensorRT makes none, for a driver too old."""
    try:
        return flavour.module.Builder(journal.logger)
    except TypeError as error:  # the bindings' word for none
        raise BuildError(
            f"{flavour.name} {flavour.version} makes no builder on this machine: {journal.cause()}",
            code="RX402",
        ) from error


def load_library(registry: Any, library: Path, journal: Journal) -> tuple[Creator, ...]:
    """Load a library and return the creators that it brought.

    Raises
    ------
    PluginError
        Where it cannot be loaded or registers nothing.
    """
    before = _creators(registry)
    if registry.load_library(str(library.absolute())) is None:
        raise PluginError(
            f"{library}: TensorRT cannot load it as a plugin library: {journal.cause()}",
            code="RX410",
        )
    brought = tuple(creator for creator in _creators(registry) if creator not in before)
    if not brought:
        raise PluginError(f"{library}: loaded, but it registers no plugin", code="RX410")
    return brought


def _creators(registry: Any) -> list[Creator]:
    return [
        Creator(name=c.name, version=c.plugin_version, namespace=c.plugin_namespace)
        for c in registry.all_creators
    ]
