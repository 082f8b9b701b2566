"""Contenders side by side: a process each, taking turns, checked before they are timed.

A contender that waits is stopped (SIGSTOP), so that the spinning threads of one runtime do not
slow down another.  The statistic of a round is its median; of a contender, the list of its rounds.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Contender:
    """A name for the table, and the function that :mod:`benchmarks.worker` calls with options."""

    name: str
    reference: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Timing:
    """Median seconds of each round."""

    name: str
    rounds: tuple[float, ...]

    @property
    def best(self) -> float:
        """The fastest round: what the machine does when nothing else disturbs it."""
        return min(self.rounds)

    @property
    def median(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.rounds)

    @property
    def spread(self) -> float:
        """Slowest over fastest round, less one."""
        return max(self.rounds) / min(self.rounds) - 1

    def record(self) -> dict[str, Any]:
        """Return the timing as a result file keeps it, in milliseconds."""
        return {
            "name": self.name,
            "best_ms": 1e3 * self.best,
            "median_ms": 1e3 * self.median,
            "spread": self.spread,
            "rounds_ms": [1e3 * seconds for seconds in self.rounds],
        }


def compare(
    contenders: Sequence[Contender],
    *,
    rounds: int,
    repeats: int,
    threads: int,
    check: Callable[[str, np.ndarray, np.ndarray], None],
    progress: Callable[[str], None] = lambda line: None,
) -> list[Timing]:
    """Time every contender.

    Parameters
    ----------
    contenders : sequence of Contender
        The first is the one that the others' outputs are checked against.
    rounds, repeats : int
        Each round gives every contender one turn of so many runs.
    threads : int
        For each runtime's own pool.
    check : callable
        ``check(name, output, expected)`` raises for a contender that computes something else.
    progress : callable
        Told about each round.
    """
    with _workers(contenders, threads) as workers:
        expected = np.load(workers[0].output)
        for worker in workers[1:]:
            check(worker.name, np.load(worker.output), expected)
        medians: dict[str, list[float]] = {worker.name: [] for worker in workers}
        for number in range(rounds):
            progress(f"round {number + 1} of {rounds}")
            for worker in workers:
                medians[worker.name].append(statistics.median(worker.run(repeats)))
    return [Timing(name, tuple(values)) for name, values in medians.items()]


class _Worker:
    def __init__(self, contender: Contender, folder: Path, threads: int) -> None:
        self.name = contender.name
        self.output = folder / f"{contender.name.replace('/', ' ')}.npy"
        command = [sys.executable, "-m", "benchmarks.worker", contender.reference]
        command += [json.dumps(contender.options), str(self.output)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(threads), "BENCH_THREADS": str(threads)},
        )
        self._read()
        self._signal(signal.SIGSTOP)

    def run(self, repeats: int) -> list[float]:
        assert self.process.stdin is not None
        self._signal(signal.SIGCONT)
        self.process.stdin.write(f"{repeats}\n")
        self.process.stdin.flush()
        seconds: list[float] = self._read()
        self._signal(signal.SIGSTOP)
        return seconds

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()

    def _signal(self, number: int) -> None:
        self.process.send_signal(number)

    def _read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}: ended with exit code {self.process.wait()}")
        return json.loads(line)


@contextmanager
def _workers(contenders: Sequence[Contender], threads: int) -> Iterator[list[_Worker]]:
    started: list[_Worker] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for contender in contenders:
                started.append(_Worker(contender, Path(folder), threads))
            yield started
        finally:
            for worker in started:
                worker.stop()
