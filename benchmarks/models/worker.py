"""One class in a process of its own: export, ``ropeexport.check``, engine.  Prints JSON."""

from __future__ import annotations

import json
import re
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ropeexport
from benchmarks.models.configs import example_of
from ropeexport.api.making import Export
from ropeexport.errors import RopeExportError, first_line

_RUNTIME = "onnxruntime"


def main(name: str) -> None:
    """Print what became of a class."""
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    row: dict[str, Any] = {"name": name}
    for dtype in ("fp32", "fp16"):
        with TemporaryDirectory() as folder:
            _run(row, dtype, Path(folder))
    print(json.dumps(row | {"seconds": round(time.perf_counter() - start, 1)}))


def _run(row: dict[str, Any], dtype: str, folder: Path) -> None:
    made = _tried(row, dtype, lambda: ropeexport.export(example_of(row["name"], dtype), out=folder))
    if isinstance(made, Export):
        row |= {"found": made.found, "replaced": made.replaced}
        row["refused"] = sorted({refusal.reason for refusal in made.refused})
        row[dtype] = _tried(row, dtype, lambda: _parity(made))
        if dtype == "fp16":
            row["engine"] = _tried(row, "engine", lambda: _engine(made))


def _tried(row: dict[str, Any], key: str, step: Callable[[], Any]) -> Any:
    try:
        return step()
    except (RopeExportError, RuntimeError, ValueError, TypeError) as error:
        text = re.sub(r"/\S*/model.onnx", "model.onnx", first_line(error))
        row[key] = f"{type(error).__name__}: {text[:160]}"
        return row[key]


def _parity(made: Export) -> str:
    """Return the verdict of ``check`` on its designed cases, and the worst shares of the bound."""
    report = made.check(runtimes=[_RUNTIME], require=[_RUNTIME])
    cases, largest = len(report.cases), report.shares
    shares = f"{largest[_RUNTIME]:.0%} (eager {largest['eager']:.0%})"
    why = f": {report.reason[:160]}" if report.verdict == "FAIL" else ""
    return f"{report.verdict} {shares} in {cases} case{'s'[: cases != 1]}{why}"


def _engine(made: Export) -> str:
    record = made.build(impl="decomposed", flavour="tensorrt-rtx")
    return f"built ({record.version})"


if __name__ == "__main__":
    main(sys.argv[1])
