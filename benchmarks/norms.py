"""``python -m benchmarks.norms``: files with norms in their ropes' ops, and with norms apart.

Exports models of ``benchmarks.cpu.models`` in both ways, times calls of onnxruntime on the CPU in
turns, and writes ``benchmarks/results/norms.json``; the largest difference of the two outputs is a
share of the largest output.
"""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import torch

import ropeexport
from benchmarks import machine
from benchmarks.cpu import models

RESULT = Path(__file__).parent / "results" / "norms.json"
_WAYS = ("rope", "norm-rope")
_MODELS = {
    "flux_block_fp32": ("one single-stream FLUX block, 12 heads of 128", {"length": 512}),
    "small_flux_fp32": ("FLUX of 1+2 blocks, 8 heads of 128", {"length": 512}),
}
_WARM_UPS = 3


@click.command(help=__doc__)
@click.option("--rounds", default=30, show_default=True, help="Turns of each file.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULT, show_default=True)
def main(rounds: int, output: Path) -> None:
    """Time calls of both files of each model."""
    rows = [_row(name, text, sizes, rounds) for name, (text, sizes) in _MODELS.items()]
    machine.write(output, {"rounds": rounds, "rows": rows}, "benchmarks/cpu", "benchmarks/norms.py")


def _row(name: str, text: str, sizes: dict[str, int], rounds: int) -> dict[str, Any]:
    """Return the ratio of the joined file's time to the other's, turn by turn."""
    with TemporaryDirectory() as place, ExitStack() as stack:
        loaded, joined = [], 0
        for way in _WAYS:
            folder = Path(place, way)
            torch.manual_seed(0)  # the same weights in both
            made = ropeexport.export(getattr(models, name)(), out=folder, fuse=way)  # type: ignore[arg-type]
            norms = made.manifest.model.norms
            joined = norms.replaced if norms is not None else 0
            loaded.append(stack.enter_context(ropeexport.load(folder, runtime="onnxruntime")))
        given = loaded[0].random_inputs(sizes)
        apart, together = (model.run(given) for model in loaded)
        turns = [[_milliseconds(m, given) for m in loaded] for _ in range(rounds + _WARM_UPS)]
    times = np.array(turns[_WARM_UPS:])
    found = {
        "model": text,
        "sizes": sizes,
        "joined": joined,
        "ratio": statistics.median(times[:, 1] / times[:, 0]),
        "best_ms": [float(x) for x in times.min(axis=0)],
        "median_ms": [float(x) for x in np.median(times, axis=0)],
        "difference": max(_difference(apart[key], together[key]) for key in apart),
    }
    click.echo(f"{text}: {joined} norms joined, {found['ratio']:.3f} of the time without")
    return found


def _milliseconds(model: ropeexport.LoadedModel, given: Any) -> float:
    start = time.perf_counter()
    model.run(given)
    return 1e3 * (time.perf_counter() - start)


def _difference(a: Any, b: Any) -> float:
    return float(np.abs(a - b).max() / np.abs(a).max())


if __name__ == "__main__":
    main()
