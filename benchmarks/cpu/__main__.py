"""``python -m benchmarks.cpu``: measure every part, in several runs, into ``results/cpu``.

A machine drifts between runs by more than it does within one, so the page's numbers are those of
whole runs, and a further one, ``check``, is held against the spread that they state.
``python -m benchmarks.page`` writes the page.
"""

from __future__ import annotations

import json
import os
from datetime import date
from pathlib import Path

import click

from benchmarks import machine
from benchmarks.cpu.parts import PARTS, measure, processes
from benchmarks.cpu.runs import CHECK, FOLDER, MEASURED, Run
from ropeexport import atomic

PROCESSES = "processes"


@click.command()
@click.option("--runs", help=f"Of {', '.join(MEASURED)}, {CHECK}.  [default: all]")
@click.option("--only", help="Parts, separated by commas; the others of a run are kept.")
@click.option("--rounds", default=4, show_default=True, help="Turns of each contender.")
@click.option("--repeats", default=2, show_default=True, help="Times in a turn.")
@click.option("--threads", default=os.cpu_count() or 1, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=FOLDER, show_default=True)
def main(
    runs: str | None, only: str | None, rounds: int, repeats: int, threads: int, output: Path
) -> None:
    """Measure rope, attention, a FLUX block, small models, exports and starts on this CPU."""
    names = _chosen("--runs", runs, [*MEASURED, CHECK])
    parts = _chosen("--only", only, [*PARTS, PROCESSES])
    for run in names:
        for part in parts:
            click.echo(f"== {run}: {part}")
            add(output / f"{run}.json", part, rounds, repeats, threads)


def add(path: Path, part: str, rounds: int, repeats: int, threads: int) -> None:
    """Measure one part and put it into a run's file; engines are built in the first run alone."""
    run: Run = json.loads(path.read_text()) if path.is_file() else {"parts": {}}
    if part == PROCESSES:
        run |= processes()
    else:
        builds = path.stem == MEASURED[0]
        run["parts"][part] = measure(PARTS[part], rounds, repeats, threads, builds=builds)
    run |= {"machine": machine.describe(), "date": date.today().isoformat()}
    path.parent.mkdir(exist_ok=True)
    atomic.write_text(path, json.dumps(run, indent=1) + "\n")


def _chosen(option: str, text: str | None, known: list[str]) -> list[str]:
    names = text.split(",") if text else known
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise click.UsageError(f"{option}: expected {', '.join(known)}, got {', '.join(unknown)}")
    return names


if __name__ == "__main__":
    main()
