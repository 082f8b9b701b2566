"""Whole processes, timed from outside or by themselves: an export, the start of the command."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import Timing

_EXPORT = """
import sys, tempfile, time
from pathlib import Path
from benchmarks.cpu import contenders
with tempfile.TemporaryDirectory() as folder:
    work = getattr(contenders, sys.argv[1])(Path(folder), heads=24, head_dim=128, length=1024)
    start = time.perf_counter()
    work()
    print("seconds", time.perf_counter() - start)
"""


def exports(rounds: int) -> list[Timing]:
    """Time the export of FLUX attention, ours and plain, a fresh process for each."""
    seconds: dict[str, list[float]] = {"export_plain": [], "export_ours": []}
    for _ in range(rounds):
        for name, values in seconds.items():
            command = [sys.executable, "-c", _EXPORT, name]
            run = subprocess.run(command, capture_output=True, text=True, check=True)
            values.append(float(run.stdout.rsplit("seconds", 1)[1]))
    names = {"export_plain": "plain torch.onnx.export", "export_ours": "ropeexport"}
    return [Timing(names[name], tuple(values)) for name, values in seconds.items()]


def starts(rounds: int, repeats: int = 5) -> list[Timing]:
    """Time the start of the command line beside a bare interpreter."""
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "ropeexport --help": [str(Path(sys.executable).with_name("ropeexport")), "--help"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            seconds[name].append(statistics.median(_wall(command) for _ in range(repeats)))
    return [Timing(name, tuple(values)) for name, values in seconds.items()]


def _wall(command: Sequence[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start
