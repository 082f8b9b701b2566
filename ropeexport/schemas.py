"""The published JSON schemas of ``parity.json`` and ``bench.json``, made of the records."""

from __future__ import annotations

import json
from typing import Any

from ropeexport.bench import records as bench
from ropeexport.manifest import Record
from ropeexport.parity import records as parity

_RECORDS: dict[str, tuple[type[Record], str]] = {
    "parity": (parity.Report, "parity report"),
    "bench": (bench.Bench, "benchmark"),
}


def schema(name: str) -> dict[str, Any]:
    """Return the schema (JSON Schema 2020-12) that every written record of a name fulfils."""
    record, title = _RECORDS[name]
    made = record.model_json_schema(mode="serialization")
    version = record.model_fields["schema_version"].default
    made["title"] = f"ropeexport {title}, schema version {version}"
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def render(name: str) -> str:
    """Return the schema as the text of ``docs/NAME.schema.json``."""
    return json.dumps(schema(name), indent=1, ensure_ascii=False) + "\n"
