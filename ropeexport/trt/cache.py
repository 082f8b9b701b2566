"""The folder where ropeexport keeps what it makes: links, the plugin library, headers."""

from __future__ import annotations

import os
from pathlib import Path

from ropeexport.errors import MissingError

VARIABLE = "ROPEEXPORT_CACHE"


def cache_folder() -> Path:
    """Return ropeexport's cache folder: ``ROPEEXPORT_CACHE``, else XDG's; it may not exist yet."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "ropeexport"


def make_cache_folder(*parts: str) -> Path:
    """Create a folder of the cache and return it."""
    folder = cache_folder().joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MissingError(
            f"{folder}: cannot create the cache folder ({error.strerror}); "
            f"name a writable one with {VARIABLE}=DIR"
        ) from error
    return folder
