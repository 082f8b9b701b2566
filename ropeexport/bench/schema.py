"""The published JSON schema of ``bench.json``, made from the records themselves."""

from __future__ import annotations

import json

from ropeexport.bench.records import SCHEMA_VERSION, Bench


def render() -> str:
    """Return the schema (JSON Schema 2020-12) as the text of ``docs/bench.schema.json``."""
    made = Bench.model_json_schema(mode="serialization")
    title = f"ropeexport benchmark, schema version {SCHEMA_VERSION}"
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps({**head, **made, "title": title}, indent=1, ensure_ascii=False) + "\n"
