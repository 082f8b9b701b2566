"""Whether the files that a model refers to are still what they were."""

from __future__ import annotations

from pathlib import Path

from ropeexport.errors import ModelFileError
from ropeexport.manifest import Weights
from ropeexport.weights.safetensors_files import read_header


def check_weights(folder: Path, weights: Weights | None) -> None:
    """Raise :class:`ModelFileError` for a weight file that is moved, truncated or altered.

    Size and header are compared: offsets hold for the very header that was read.
    """
    for file in weights.files if weights is not None else ():
        path = folder / file.file
        header = read_header(path)
        if (header.size, header.sha256) != (file.size, file.header_sha256):
            raise ModelFileError(
                f"{path}: not the file that the model was exported with: expected {file.size} "
                f"bytes and header {file.header_sha256[:12]}…, got {header.size} and "
                f"{header.sha256[:12]}…; bring it back or export again"
            )
