"""``python -m benchmarks.models [NAME ...]``: export classes and write docs/models.md.

Without names, every class; with names, their rows are measured anew and the others kept.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.models.causes import lines, news
from benchmarks.models.classes import NAMES
from ropeexport import atomic

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
RESULTS = Path(__file__).parents[1] / "results" / "models.json"
_PACKAGES = ("torch", "diffusers", "transformers", "onnxruntime", "tensorrt-rtx")
_HEAD = """# Models

Written by `python -m benchmarks.models` (`pip install 'ropeexport[cpu,models]'`), which exports
each class with a small config and random weights (`benchmarks/models/configs.py`), holds
onnxruntime to the bound of `docs/parity.md` against a float64 oracle (weights and inputs perturbed
for its sensitivity; largest errors below), and builds an engine of the float16 file. {versions}.

An application is one q/k pair, or one tensor rotated alone.

| class | found | replaced | onnxruntime fp32 | onnxruntime fp16 | TensorRT-RTX |
| --- | --- | --- | --- | --- | --- |
"""


def main(names: list[str]) -> int:
    """Run classes, keep their rows, write the page; return 1 for a failure of unknown cause."""
    rows = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in names:
        rows[name] = _row(name)
        print(_line(rows[name]), flush=True)
        atomic.write_text(RESULTS, json.dumps(rows, indent=2) + "\n")
        atomic.write_text(PAGE, _page([rows[known] for known in NAMES if known in rows]))
    unexpected = [line for name in names for line in news(rows[name])]
    print("\n".join(unexpected) or "nothing that is not known", flush=True)
    return int(bool(unexpected))


def _row(name: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.models.worker", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        row: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return {"name": name, "fp32": reason[:160], "fp16": "", "engine": ""}
    return row


def _page(rows: list[dict[str, Any]]) -> str:
    versions = ", ".join(f"{package} {version(package)}" for package in _PACKAGES)
    refused = [f"- {row['name']}: {reason}." for row in rows for reason in row.get("refused", ())]
    tail = "\nRefused, with the reason:\n\n" + "\n".join(refused) + "\n" if refused else ""
    causes = lines([row["name"] for row in rows])
    return _HEAD.format(versions=versions) + "\n".join(map(_line, rows)) + "\n" + causes + tail


def _line(row: dict[str, Any]) -> str:
    cells = (
        str(row.get(key, "")) for key in ("name", "found", "replaced", "fp32", "fp16", "engine")
    )
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(NAMES)))
