"""What a result was measured on."""

from __future__ import annotations

import os

from ropeexport import machine


def describe() -> dict[str, object]:
    """Return the machine's processor, cores, system and the versions of what was measured."""
    found = {"processor": machine.processor(), "cores": os.cpu_count()}
    return found | machine.describe().model_dump()
