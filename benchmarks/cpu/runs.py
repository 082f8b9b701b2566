"""The runs of the CPU's measurements: their files, and what is added to one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.cpu import processes
from benchmarks.cpu.parts import PARTS, measure
from ropeexport import atomic
from ropeexport.bench.records import Bench

FOLDER = Path(__file__).parents[1] / "results" / "cpu"
MEASURED, CHECK = ("run-1", "run-2"), "check"
PROCESSES = "processes"
_ROUNDS = 5  # of exports and starts

Run = dict[str, Any]


def add(path: Path, part: str, rounds: int, repeats: int, threads: int) -> None:
    """Measure one part and put it into a run's file; engines are built in the first run alone."""
    run: Run = json.loads(path.read_text()) if path.is_file() else {"parts": {}}
    if part == PROCESSES:
        run["exports"], run["starts"] = processes.exports(_ROUNDS), processes.starts(_ROUNDS)
    else:
        builds = path.stem == MEASURED[0]
        run["parts"][part] = measure(PARTS[part], rounds, repeats, threads, builds=builds)
    run |= {"machine": machine.describe(), "date": date.today().isoformat()}
    path.parent.mkdir(exist_ok=True)
    atomic.write_text(path, json.dumps(run, indent=1) + "\n")


@dataclass(frozen=True)
class Runs:
    """What was measured: the runs that the page shows, and the one that is held against them."""

    measured: tuple[Run, ...]
    check: Run | None

    @property
    def parts(self) -> list[str]:
        """The parts that every run has, in the first one's order."""
        if not self.measured:
            return []
        first, *others = self.measured
        return [name for name in first["parts"] if all(name in run["parts"] for run in others)]

    def benches(self, part: str) -> list[Bench]:
        """Return a part of each run."""
        return [bench_of(run, part) for run in self.measured]


def bench_of(run: Run, part: str) -> Bench:
    """Return a part of a run."""
    return Bench.model_validate(run["parts"][part]["bench"])


def load(folder: Path = FOLDER) -> Runs:
    """Read the runs of a folder."""
    read = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    return Runs(tuple(read[name] for name in MEASURED if name in read), read.get(CHECK))
