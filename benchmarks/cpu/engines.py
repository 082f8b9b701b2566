"""The build of an engine as a user starts it: cold, and once more with what the first one kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.commands import python
from ropeexport import manifest
from ropeexport.trt.build import TIMING_CACHE_NAME

IMPLEMENTATIONS = ("decomposed", "native", "plugin")


def builds(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the seconds of the whole command by implementation, or why there is no engine."""
    return {name: _builds(folder, name) for name in IMPLEMENTATIONS}


def _builds(folder: Path, implementation: str) -> dict[str, Any]:
    cache = folder / TIMING_CACHE_NAME
    cache.unlink(missing_ok=True)
    row: dict[str, Any] = {"status": "BUILT"}
    for key in ("cold_seconds", "again_seconds"):
        options = ("--force", "--impl", implementation)
        ran = python("-m", "ropeexport", "build", str(folder), *options)
        row[key] = ran.seconds
        if ran.code:
            return {"status": "SKIPPED", "reason": ran.fault.replace(str(folder), "out")}
    engine = manifest.read(folder).engine
    assert engine is not None  # the command said that it built one
    return row | {
        "engine_mb": (folder / engine.file).stat().st_size / 1e6,
        "timing_cache": cache.is_file(),
        "flavour": engine.flavour,
        "version": engine.version,
    }
