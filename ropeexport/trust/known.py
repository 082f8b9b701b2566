"""What this user has built, or trusted once: hashes of engines, libraries and timing caches.

Each is a file by the hash's name, in a part of the cache folder that belongs to the user and is
closed to everybody else: whoever else could write there could have code of theirs run.
"""

from __future__ import annotations

import logging
from pathlib import Path

from ropeexport import atomic
from ropeexport.errors import UsageError
from ropeexport.trt.cache import cache_folder, reason_of, require_own

_log = logging.getLogger(__name__)


def folder() -> Path:
    """Return where the hashes are kept; it may not exist yet."""
    return cache_folder() / "trusted"


def is_known(sha256: str) -> bool:
    """Say whether this user has built or trusted what has a hash."""
    try:
        if not (folder() / sha256).is_file():
            return False
        require_own(folder())
    except OSError as error:
        _log.warning("%s: left out, so engines are asked about: %s", folder(), reason_of(error))
        return False
    return True


def remember(sha256: str, why: str) -> None:
    """Keep a hash, with a line for who reads the folder; what cannot be kept is asked again."""
    try:
        folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        require_own(folder())
        atomic.write_text(folder() / sha256, f"{why}\n")
    except (OSError, UsageError) as error:
        _log.warning("%s: %s is not kept: %s", folder(), why, reason_of(error))
