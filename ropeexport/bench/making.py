"""What is made for a run: each file by :mod:`ropeexport.bench.prepare`, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ropeexport.bench.processes import ContenderError


@dataclass(frozen=True)
class Made:
    """A prepared file: the seconds that it took, at first and again, and what made it."""

    seconds: float
    version: str = ""
    again_seconds: float | None = None


def make(order: dict[str, object]) -> Made:
    """Make a file.

    Raises
    ------
    ContenderError
        With the reason, where it cannot be made.
    """
    command = [sys.executable, "-m", "ropeexport.bench.prepare", json.dumps(order)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    answer = json.loads(lines[-1]) if lines else {"error": f"exit code {done.returncode}"}
    if "error" in answer:
        text = f"{order['kind']} cannot be made: {answer['error']}"
        raise ContenderError(text, missing=bool(answer.get("missing")))
    return Made(**answer)


def megabytes(path: Path, *others: Path) -> float:
    """Return the size of a file with the external data that is named after it, and of others."""
    named = {p for p in path.parent.iterdir() if p.name.startswith(f"{path.name}.")}
    return sum(p.stat().st_size for p in {path, *others} | named) / 1e6
