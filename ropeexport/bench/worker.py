"""One contender in a process of its own, driven by :mod:`ropeexport.bench.processes`.

It sets itself up and saves its outputs of the first sizes for the parity check.  Then it runs so
often as it is asked, over inputs that rotate, or once and saves its outputs again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ropeexport.bench.clocks import InputSets, make_clock
from ropeexport.bench.contenders import BY_NAME
from ropeexport.bench.processes import Ready, RunOnce, RunTurn, Saved, SetUp, Turn
from ropeexport.child_process import Channel, serve
from ropeexport.errors import MissingError, RopeExportError
from ropeexport.machine import memory_mb
from ropeexport.parity.cases import Sizes
from ropeexport.runners.registry import import_runners
from ropeexport.runners.runner import Arrays

_MOST_LINES = 4  # of a failure's text
_PLACES = ("Exception from ", "Check 'false' failed at ")  # in OpenVINO's own sources


class _Worker:
    """A contender, from its set-up on."""

    def set_up(self, order: SetUp, _: Channel) -> Ready:
        record = order.setting.artifact.manifest
        self._inputs = cache(lambda sizes: InputSets(record, json.loads(sizes), order.seed))
        with _failing_in_one_line():
            import_runners()  # our own modules: their time is nobody's load
            self._clock = make_clock(order.setting.device)
            start = time.perf_counter()
            self._run = BY_NAME[order.contender].set_up(order.setting)
            outputs = self._run.run(self._sets(order.sizes)[0])
        seconds = time.perf_counter() - start
        self._clock.settle()
        self._run.keep()
        _save(order.outputs, outputs)
        return Ready(load_seconds=seconds)

    def turn(self, asked: RunTurn, _: Channel) -> Turn:
        sets = self._sets(asked.sizes)
        with _failing_in_one_line():
            turn = self._clock.turn(self._run, sets, asked.repeats)
        return turn.changed(peak_mb=memory_mb())

    def once(self, asked: RunOnce, _: Channel) -> Saved:
        sets = self._sets(asked.sizes)
        with _failing_in_one_line():
            _save(asked.outputs, self._clock.once(self._run, sets[0]))
        return Saved()

    def _sets(self, sizes: Sizes) -> InputSets:
        return self._inputs(json.dumps(sizes))


@contextmanager
def _failing_in_one_line() -> Iterator[None]:
    """Make a peer's own failure, which is a line of the table, a short one."""
    try:
        yield
    except MissingError:
        raise
    except Exception as error:
        raise RopeExportError(_cause(error), code="RX709") from error


def _cause(error: Exception) -> str:
    """Return a failure in one line: its class and the first lines of its text."""
    lines = [line.strip(" -") for line in str(error).splitlines()]
    lines = [line for line in lines if line and not line.startswith(_PLACES)]
    return f"{type(error).__name__}: {'; '.join(lines[:_MOST_LINES])}"


def _save(path: Path, outputs: Arrays) -> None:
    named: dict[str, Any] = dict(outputs)
    np.savez(path, **named)


if __name__ == "__main__":
    worker = _Worker()
    serve({SetUp: worker.set_up, RunTurn: worker.turn, RunOnce: worker.once})
