"""Copy safetensors files beside an ONNX file, as they are."""

from __future__ import annotations

import shutil
from pathlib import Path

from ropeexport import atomic
from ropeexport.weights.safetensors_files import find


def copy_weights(source: Path, folder: Path) -> None:
    """Copy the safetensors files of a folder into another."""
    for path in find(source):
        shutil.copyfile(path, folder / path.name)


def check_free(source: Path, folder: Path, force: bool) -> None:
    """Raise :class:`UsageError` where a copy would replace another file without ``force``.

    A file, or the link to it, may become a copy of its own.
    """
    for path in find(source):
        target = folder / path.name
        if not (target.exists() and target.samefile(path)):
            atomic.refuse_existing(target, force)
