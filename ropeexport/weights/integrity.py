"""Whether the files that a model refers to are still what they were."""

from __future__ import annotations

from pathlib import Path

from ropeexport import atomic
from ropeexport.errors import ModelFileError
from ropeexport.manifest import WeightFile, Weights
from ropeexport.weights.safetensors_files import SUFFIX, read_header


def weight_file(path: Path) -> WeightFile:
    """Return what tells whether a file is the same.

    Of a safetensors file that is its size and its header, and no tensor is read; of a data file of
    ours, which has no header, the hash of it all.

    Raises
    ------
    ModelFileError
        For a file that is missing, or a safetensors file that is truncated.
    """
    if path.suffix == SUFFIX:
        header = read_header(path)
        return WeightFile(file=path.name, size=header.size, header_sha256=header.sha256)
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file: the model's weights lie in it; bring it back")
    return WeightFile(file=path.name, size=path.stat().st_size, sha256=atomic.sha256_of(path))


def check_weights(folder: Path, weights: Weights | None) -> None:
    """Raise :class:`ModelFileError` for a weight file that is moved, truncated or altered."""
    for expected in weights.files if weights is not None else ():
        found = weight_file(folder / expected.file)
        if found != expected:
            raise ModelFileError(
                f"{folder / expected.file}: not the file that the model was exported with: "
                f"expected {_text(expected)}, got {_text(found)}; bring it back or export again"
            )


def _text(file: WeightFile) -> str:
    which, value = ("hash", file.sha256) if file.sha256 else ("header", file.header_sha256)
    return f"{file.size} bytes and {which} {(value or '')[:12]}…"
