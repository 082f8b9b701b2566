"""The result file: one JSON for a GPU, a day and a state of the sources, written after each check.

Keys: ``schema_version``, ``date``, ``gpu``, ``compute_capability``, ``driver``, ``versions``;
``commit``, ``changed`` and ``sources`` (see ``origin.py``); ``verdicts`` (each part's verdict and
reason; one that was cut short is left as ``SKIPPED``, under way), ``bit_exact`` (true, false; null:
not looked at, or not to the end), ``exactness`` (its checks), ``sanitizer`` (``clean``,
``findings``; null: not run), ``sanitizer_checks``, ``engines`` (a record for each flavour, type and
implementation), ``bench`` (an entry for each shape, type and group of contenders, with each one's
``time_us`` and ``copy_share``), ``targets``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gpu.machine import Machine, slug
from benchmarks.gpu.origin import Origin
from benchmarks.gpu.verdict import Check
from ropeexport import atomic
from ropeexport.errors import UsageError

SCHEMA_VERSION = 2

_ROOT = Path(__file__).parents[2]

Document = dict[str, Any]


def path_of(folder: Path, machine: Machine, origin: Origin, date: str, quick: bool) -> Path:
    """Return where the result goes: a file for a GPU, a day and a state of the sources.

    A quick run never touches a thorough one's file.
    """
    name = f"{slug(machine.gpu)}-{date}-{origin.sources[:8]}"
    return folder / f"{name}{'-quick' if quick else ''}.json"


def empty(machine: Machine, origin: Origin, date: str) -> Document:
    """Return a document in which nothing was looked at yet."""
    return {
        "schema_version": SCHEMA_VERSION,
        "date": date,
        **machine.record(),
        **asdict(origin),
        "verdicts": {},
        "bit_exact": None,
        "exactness": [],
        "sanitizer": None,
        "sanitizer_checks": [],
        "engines": [],
        "bench": [],
        "targets": [],
    }


def open_document(path: Path, machine: Machine, origin: Origin, date: str) -> Document:
    """Return the document of a file that is there, with this machine's versions, or an empty one.

    Raises
    ------
    UsageError
        Where the file is not one of this schema, which writing would destroy.
    """
    if not path.is_file():
        return empty(machine, origin, date)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found = document["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: no result file ({error}); move it away") from error
    if found != SCHEMA_VERSION:
        raise UsageError(f"{path}: expected schema {SCHEMA_VERSION}, got {found}; move it away")
    return empty(machine, origin, date) | document | machine.record() | asdict(origin)


def joined(
    there: Sequence[dict[str, Any]],
    new: Sequence[dict[str, Any]],
    key: Callable[[dict[str, Any]], object],
) -> list[dict[str, Any]]:
    """Return records with those of the same key replaced, in their old places."""
    fresh = {key(record): record for record in new}
    kept = [fresh.pop(key(record), record) for record in there]
    return kept + list(fresh.values())


def bench_key(record: dict[str, Any]) -> object:
    """Return what tells one entry of the bench from another."""
    return record["shape"]["name"], record["dtype"], record["group"]


def engine_key(record: dict[str, Any]) -> object:
    """Return what tells one engine from another."""
    return record["flavour"], record["dtype"], record["implementation"]


def with_verdict(document: Document, part: Check) -> Document:
    """Return the document with a part's verdict."""
    verdict = {"verdict": part.verdict, "reason": part.reason}
    return document | {"verdicts": document["verdicts"] | {part.name: verdict}}


def write(path: Path, document: Document) -> None:
    """Write the document in one step; NaN and infinity, which JSON has not, are refused.

    Messages name files: those of this checkout are written relative to it.
    """
    text = json.dumps(document, indent=1, allow_nan=False).replace(f"{_ROOT}/", "")
    atomic.write_text(path, text + "\n")
