"""What a result was measured on, when and of which sources, and the file that says so."""

from __future__ import annotations

import json
import os
from datetime import date
from pathlib import Path
from typing import Any

from ropeexport import atomic, machine
from ropeexport.machine import output_of, versions_of
from ropeexport.parity import records

ROOT = Path(__file__).parents[1]


def measured(*folders: str, root: Path = ROOT) -> dict[str, Any]:
    """Return the date, the commit, and whether folders of the checkout differ from it.

    Parameters
    ----------
    *folders : str
        What decides the result besides the package itself, relative to the checkout.
    root : Path
        The checkout; without git in it, ``commit`` and ``changed`` are None.
    """
    git = ("git", "-C", str(root))
    commit = output_of(*git, "rev-parse", "HEAD") or None
    changed = commit and bool(output_of(*git, "status", "--porcelain", "ropeexport", *folders))
    return {"date": date.today().isoformat(), "commit": commit, "changed": changed}


def describe(*packages: str) -> dict[str, Any]:
    """Return the machine's processor, cores, system and versions, those of more packages too."""
    found = {"processor": machine.processor(), "cores": os.cpu_count()}
    found |= records.describe().model_dump()
    found["packages"] |= versions_of(packages)
    return found


def write(path: Path, found: dict[str, Any], *folders: str) -> None:
    """Write a result with its machine, date and commit; ``folders`` as for ``measured``."""
    record = {"machine": describe(), **measured(*folders), **found}
    atomic.write_text(path, json.dumps(record, indent=1) + "\n")
