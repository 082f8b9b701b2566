"""What a result was measured on, and the file that says so."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from benchmarks.commit import measured
from ropeexport import atomic, machine
from ropeexport.packages import versions_of


def describe(*packages: str) -> dict[str, Any]:
    """Return the machine's processor, cores, system and versions, those of more packages too."""
    found = {"processor": machine.processor(), "cores": os.cpu_count()}
    found |= machine.describe().model_dump()
    found["packages"] |= versions_of(packages)
    return found


def write(path: Path, found: dict[str, Any], *folders: str) -> None:
    """Write a result with its machine, date and commit; ``folders`` as for ``measured``."""
    record = {"machine": describe(), **measured(*folders), **found}
    atomic.write_text(path, json.dumps(record, indent=1) + "\n")
