"""The published JSON schema of ``parity.json``, made from the records themselves."""

from __future__ import annotations

import json
from typing import Any

from ropeexport.parity.records import SCHEMA_VERSION, Report

TITLE = f"ropeexport parity report, schema version {SCHEMA_VERSION}"


def schema() -> dict[str, Any]:
    """Return the schema (JSON Schema 2020-12) that every written report fulfils."""
    made = Report.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made, "title": TITLE}


def render() -> str:
    """Return the schema as the text of ``docs/parity.schema.json``."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"
