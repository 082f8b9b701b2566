"""Copy safetensors files beside an ONNX file, as they are."""

from __future__ import annotations

import shutil
from pathlib import Path

from ropeexport import atomic
from ropeexport.weights.safetensors_files import find


def copy_weights(source: Path, folder: Path) -> None:
    """Copy the safetensors files of a folder into another, each whole or not at all."""
    for path in find(source):
        with atomic.replacing(folder / path.name) as temporary:
            shutil.copyfile(path, temporary)
