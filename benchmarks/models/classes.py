"""From a name of the table to the example that is exported."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.models.configs import DIFFUSERS, TRANSFORMERS
from ropeexport.models.builtin_models import DTYPES
from ropeexport.models.example import Example
from ropeexport.models.hub.load import diffusers_example, transformers_example

NAMES = (*DIFFUSERS, *TRANSFORMERS)


def example_of(name: str, dtype: str) -> Example:
    """Return the example of a class with its small config and random weights."""
    if name in DIFFUSERS:
        return diffusers_example(name, DIFFUSERS[name], DTYPES[dtype])
    return transformer({"model_type": name, **TRANSFORMERS[name]}, dtype)


def transformer(config: dict[str, Any], dtype: str) -> Example:
    """Return the example of a config of transformers, its weights random."""
    with TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(config))
        return transformers_example(Path(folder), DTYPES[dtype])
