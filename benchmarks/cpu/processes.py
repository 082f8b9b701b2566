"""Whole processes, timed from outside or by themselves: an export, the start of the command."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.commands import python

_EXPORT = """
import sys, tempfile, time
from pathlib import Path
import ropeexport
from ropeexport.bench.plain import export_plain
from ropeexport.models.builtin_models import BUILTINS, BuiltinOptions
example, export = BUILTINS["flux-attention"](BuiltinOptions()), ropeexport.export
with tempfile.TemporaryDirectory() as folder:
    start = time.perf_counter()
    if sys.argv[1] == "plain":
        export_plain(example, Path(folder, "model.onnx"))
    else:
        export(example, out=folder)
    print("seconds", time.perf_counter() - start)
"""


def exports(rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each export of FLUX attention, a fresh process for each."""
    seconds: dict[str, list[float]] = {"plain": [], "ropeexport": []}
    for _ in range(rounds):
        for name, values in seconds.items():
            ran = python("-c", _EXPORT, name)
            values.append(float(ran.printed.rsplit("seconds", 1)[1]))
    return seconds


def starts(rounds: int, repeats: int = 5) -> dict[str, list[float]]:
    """Return the seconds that the command line and a bare interpreter take to start."""
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "ropeexport --help": [str(Path(sys.executable).with_name("ropeexport")), "--help"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            seconds[name].append(statistics.median(_wall(command) for _ in range(repeats)))
    return seconds


def _wall(command: Sequence[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start
