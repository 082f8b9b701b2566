"""``python -m benchmarks.calibration``: how much of its bounds a right implementation uses.

Random cases of every built-in and type; for each runtime the largest share of the bound on the root
mean square and of the bound on the largest element.  ``docs/parity.md`` quotes the table.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from ropeexport import export
from ropeexport.artifact import Artifact
from ropeexport.models.builtin_models import BUILTINS
from ropeexport.parity.check import Options, check
from ropeexport.parity.records import Comparison

DTYPES = ("fp32", "fp16", "bf16")
SMALL = {"heads": 4, "head_dim": 64, "length": 64}


def compared(model: str, dtype: str, cases: int, seed: int) -> Iterator[Comparison]:
    """Yield what was compared in random cases of one export."""
    with tempfile.TemporaryDirectory() as place:
        export(model, out=place, dtype=dtype, **SMALL)
        report = check(Artifact.read(Path(place)), options=Options(seed=seed, count=cases))
    yield from (c for c in report.comparisons if c.numbers is not None and c.bound is not None)


def shares(comparisons: list[Comparison]) -> tuple[float, float]:
    """Return the largest shares of the bounds: root mean square, largest element."""
    pairs = [(c.numbers, c.bound) for c in comparisons]
    rms = max(n.rms / b.rms for n, b in pairs)
    return rms, max(n.max_abs / b.max_abs for n, b in pairs)


@click.command()
@click.option("--cases", default=200, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(cases: int, seed: int) -> None:
    """Print the table."""
    table = Table("model", "type", "runtime", "cases", "failed", "of RMS bound", "of max bound")
    for model in BUILTINS:
        for dtype in DTYPES:
            found: dict[str, list[Comparison]] = {}
            for comparison in compared(model, dtype, cases, seed):
                found.setdefault(comparison.runtime, []).append(comparison)
            for runtime, mine in found.items():
                rms, largest = shares(mine)
                failed = sum(c.status == "FAIL" for c in mine)
                row = (str(len(mine)), str(failed), f"{rms:.0%}", f"{largest:.0%}")
                table.add_row(model, dtype, runtime, *row)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
