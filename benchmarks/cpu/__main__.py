"""``python -m benchmarks.cpu``: measure every part and write ``benchmarks/results/cpu.json``.

With ``--only``, those parts are measured anew and the others are kept.  ``--again`` is another run,
which the page holds against the first's spreads: ``cpu-again.json``.
"""

from __future__ import annotations

import json
import os
from datetime import date
from pathlib import Path
from typing import Any

import click

from benchmarks import machine, page
from benchmarks.cpu import processes
from benchmarks.cpu.parts import PARTS, measure
from ropeexport import atomic

RESULT = Path(__file__).parents[1] / "results" / "cpu.json"
AGAIN = RESULT.with_name("cpu-again.json")
_PROCESSES = "processes"


@click.command()
@click.option("--only", help="Parts, separated by commas.")
@click.option("--rounds", default=7, show_default=True, help="Turns of each contender.")
@click.option("--repeats", default=3, show_default=True, help="Runs in a turn.")
@click.option("--threads", default=os.cpu_count() or 1, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=RESULT, show_default=True)
@click.option("--again", is_flag=True, help=f"A second run, into {AGAIN.name}.")
def main(
    only: str | None, rounds: int, repeats: int, threads: int, output: Path, again: bool
) -> None:
    """Measure rope, attention, a FLUX block, small models, exports and starts on this CPU."""
    names = only.split(",") if only else [*PARTS, _PROCESSES]
    unknown = sorted(set(names) - {*PARTS, _PROCESSES})
    if unknown:
        raise click.UsageError(f"--only: expected {', '.join(PARTS)}, {_PROCESSES}, got {unknown}")
    output = AGAIN if again else output
    record: dict[str, Any] = json.loads(output.read_text()) if output.is_file() else {"parts": {}}
    for name in names:
        click.echo(f"== {name}")
        if name == _PROCESSES:
            record["exports"], record["starts"] = processes.exports(5), processes.starts(5)
        else:
            record["parts"][name] = measure(PARTS[name], rounds, repeats, threads)
        record |= {"machine": machine.describe(), "date": date.today().isoformat()}
        atomic.write_text(output, json.dumps(record, indent=1) + "\n")
    if output in (RESULT, AGAIN):
        page.write()


if __name__ == "__main__":
    main()
