"""Where a file of a folder may lie: a folder may come from a stranger, and hold links.

In a hub's cache each file is a link, ``snapshots/REVISION/NAME`` to ``blobs/HASH`` of the same
repository.
"""

from __future__ import annotations

import os
from pathlib import Path

from ropeexport.errors import ManifestError, ModelFileError

_BLOBS, _SNAPSHOTS, _WEIGHTS = "blobs", "snapshots", ".safetensors"


def require_own(path: Path, folder: Path) -> None:
    """Raise unless what lies in a file's place is a regular file of the folder, or nothing."""
    real = _real(path)
    if not is_own(path, folder):
        raise ManifestError(
            f"{path}: expected a file of the folder, got a link to {real}; put the file there",
            code="RX808",
        )
    if real.exists() and not real.is_file():
        raise ManifestError(
            f"{path}: expected a regular file, got a folder, a pipe or a device", code="RX808"
        )


def is_own(path: Path, folder: Path) -> bool:
    """Say whether no link leads from a file's place out of the folder."""
    return _is_of(_real(path), _real(folder))


def require_weights(path: Path, folder: Path) -> None:
    """Raise for what no weights of a folder are read from, see :func:`is_for_weights`."""
    if not is_for_weights(path, folder):
        raise ModelFileError(
            f"{path}: expected weights of the folder, or a link to a {_WEIGHTS} file, got a link "
            f"to {_real(path)}; put the file there",
            code="RX808",
        )


def is_for_weights(path: Path, folder: Path) -> bool:
    """Say whether weights may be read from a file: no link leads it out, but to safetensors.

    Those are data and are large: a user links them from where they lie.
    """
    real = _real(path)
    is_blob = real.parent.name == _BLOBS and (real.parents[1] / _SNAPSHOTS).is_dir()
    return _is_of(real, _real(folder)) or is_blob or real.suffix == _WEIGHTS


def _is_of(real: Path, home: Path) -> bool:
    homes = [home]
    for each in (home, *home.parents):
        if each.parent.name == _SNAPSHOTS:
            homes.append(each.parents[1] / _BLOBS)
    return any(real.is_relative_to(each) for each in homes)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
