"""From a name of the table to the example that is exported."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.models.configs import DIFFUSERS, TRANSFORMERS
from ropeexport.models.builtin_models import DTYPES
from ropeexport.models.example import Example
from ropeexport.models.hub.load import diffusers_example, transformers_example

NAMES = (*DIFFUSERS, *TRANSFORMERS)


def example_of(name: str, dtype: str) -> Example:
    """Return the example of a class with its small config and random weights."""
    if name in DIFFUSERS:
        return diffusers_example(name, DIFFUSERS[name], DTYPES[dtype])
    with TemporaryDirectory() as folder:
        config = {"model_type": name, **TRANSFORMERS[name]}
        Path(folder, "config.json").write_text(json.dumps(config))
        return transformers_example(Path(folder), DTYPES[dtype])
