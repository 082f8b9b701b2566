"""What a result was measured on, and the file that says so."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from benchmarks.commit import measured
from ropeexport import atomic, machine


def describe() -> dict[str, Any]:
    """Return the machine's processor, cores, system and the versions of what was measured."""
    found = {"processor": machine.processor(), "cores": os.cpu_count()}
    return found | machine.describe().model_dump()


def write(path: Path, found: dict[str, Any], *folders: str) -> None:
    """Write a result with its machine, date and commit; ``folders`` as for ``measured``."""
    record = {"machine": describe(), **measured(*folders), **found}
    atomic.write_text(path, json.dumps(record, indent=1) + "\n")
