"""``python -m benchmarks.cpu``: print the tables and write ``benchmarks/results/cpu.json``."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.cpu import processes
from benchmarks.harness import Contender, Timing, compare
from ropeexport import atomic

RESULT = Path(__file__).parents[1] / "results" / "cpu.json"
# float32 attention, relative L2: three orders above its rounding, far below any wrong result
_SAME = 1e-4


@click.command()
@click.option("--heads", default=24, show_default=True)
@click.option("--head-dim", default=128, show_default=True)
@click.option("--length", default=1024, show_default=True)
@click.option("--rounds", default=7, show_default=True)
@click.option("--repeats", default=5, show_default=True, help="Runs in a contender's turn.")
@click.option("--threads", default=2, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=RESULT, show_default=True)
def main(
    heads: int, head_dim: int, length: int, rounds: int, repeats: int, threads: int, output: Path
) -> None:
    """Measure FLUX attention on this CPU, the export's wall time and the command's start."""
    console = Console()
    console.print(f"machine: {machine.describe()['processor']}, {threads} threads")
    sizes = {"heads": heads, "head_dim": head_dim, "length": length}
    names = {
        "eager": "eager torch",
        "ours": "ropeexport, onnxruntime",
        "plain": "plain torch.onnx.export, onnxruntime",
    }
    contenders = [
        Contender(label, f"benchmarks.cpu.contenders:{name}", sizes)
        for name, label in names.items()
    ]
    attention = compare(contenders, rounds=rounds, repeats=repeats, threads=threads, check=_check)
    exports, starts = processes.exports(rounds=3), processes.starts(rounds=3)
    console.print(_table(f"attention, B=1, H={heads}, D={head_dim}, L={length}, fp32", attention))
    console.print(_table("export of FLUX attention, wall time", exports))
    console.print(_table("start of the command line", starts))
    record = {
        "machine": machine.describe(),
        "date": date.today().isoformat(),
        "threads": threads,
        "sizes": {"batch": 1, **sizes},
        "attention": [timing.record() for timing in attention],
        "export": [timing.record() for timing in exports],
        "start": [timing.record() for timing in starts],
        "ratios": _ratios(attention, exports, starts),
    }
    console.print_json(data=record["ratios"])
    atomic.write_text(output, json.dumps(record, indent=2) + "\n")
    console.print(f"written: {output}")


def _check(name: str, output: np.ndarray, expected: np.ndarray) -> None:
    distance = np.linalg.norm(output - expected) / np.linalg.norm(expected)
    if not distance < _SAME:
        raise SystemExit(f"{name}: computes something else: relative L2 {distance:.1e}")


def _ratios(
    attention: list[Timing], exports: list[Timing], starts: list[Timing]
) -> dict[str, float]:
    eager, ours, plain = attention
    return {
        "plain_over_ours": plain.best / ours.best,
        "eager_over_ours": eager.best / ours.best,
        "plain_over_ours_median": plain.median / ours.median,
        "eager_over_ours_median": eager.median / ours.median,
        "export_ours_over_plain": exports[1].median / exports[0].median,
        "help_extra_seconds": starts[1].median - starts[0].median,
    }


def _table(title: str, timings: list[Timing]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("contender", "best ms", "median ms", "spread", "to the first"):
        table.add_column(column, justify="left" if column == "contender" else "right")
    for timing in timings:
        table.add_row(
            timing.name,
            f"{1e3 * timing.best:.1f}",
            f"{1e3 * timing.median:.1f}",
            f"{timing.spread:.0%}",
            f"{timing.best / timings[0].best:.2f}",
        )
    return table


if __name__ == "__main__":
    main()
