"""ropeexport's cache folder: the plugin library, headers, links, and what TensorRT-RTX compiled.

What it compiled is code for the GPU, kept for the next load of the same engine, so it is never
taken from an output folder, which may come from anywhere: an engine is verified against its
manifest, but what was compiled later is in no manifest.  It lies in a part of the cache folder that
belongs to the user and is closed to everybody else, under a name made of what it is for.

What the file's first line proves: that the content is whole, and that it was written for this
engine, GPU, driver and version of TensorRT.  That finds truncation, damage and mix-ups.  It proves
nothing against whoever can write the folder, as the hash lies in the same file: that is the user,
who can as well change ropeexport itself.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ropeexport import atomic
from ropeexport.errors import MissingError, UsageError
from ropeexport.machine import Gpu
from ropeexport.manifest import EngineRecord

VARIABLE = "ROPEEXPORT_CACHE"
_FORMAT = 1  # of the file
_SUFFIX = ".runtime"
_MOST_KEPT = 32  # files; each engine that is built anew has one of its own


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
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise MissingError(
            f"{folder}: cannot create the cache folder ({error.strerror}); "
            f"name a writable one with {VARIABLE}=DIR",
            code="RX909",
        ) from error
    return folder


_log = logging.getLogger(__name__)


def runtime_cache_folder() -> Path:
    """Return the part of ropeexport's cache folder for it; it may not exist yet."""
    return cache_folder() / "runtime"


def has_any(folder: Path) -> bool:
    """Say whether anything was kept in a folder."""
    return any(folder.glob(f"*{_SUFFIX}"))


@dataclass(frozen=True)
class RuntimeCache:
    """The file of one engine on one GPU.

    Nothing that goes wrong with it fails a run: the engine is then compiled as for the first time,
    and a warning says why, in one line.

    Parameters
    ----------
    folder : Path
        Where it is kept.
    engine : EngineRecord
        The engine, which was verified.
    gpu : Gpu
        The GPU that runs it, with its driver.
    """

    folder: Path
    engine: EngineRecord
    gpu: Gpu

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.folder / f"{_sha256(json.dumps(self._identity).encode())[:32]}{_SUFFIX}"

    def read(self) -> bytes | None:
        """Return what was kept; None where nothing was, or where it is not what was written."""
        try:
            return self._verified() if self.path.is_file() else None
        except OSError as error:
            self._left_out(reason_of(error))
            return None

    def refused(self, cause: str) -> None:
        """Say that TensorRT does not take what was kept."""
        self._left_out(f"refused by {self.engine.flavour}: {cause}")

    def write(self, content: bytes | memoryview) -> None:
        """Keep something in place of what there was, and no more files than are worth it."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            require_own(self.folder)
            with atomic.replacing(self.path) as temporary, temporary.open("wb") as file:
                file.write(self._first_line(content) + b"\n")
                file.write(content)
        except (OSError, UsageError) as error:
            self.not_kept(reason_of(error))
            return
        with suppress(OSError):  # another process does the same: the next write goes on with it
            atomic.tidied(self.folder)
            self._drop_oldest()

    def not_kept(self, cause: str) -> None:
        """Say that nothing can be kept."""
        _log.warning("%s: what was compiled for the GPU is not kept: %s", self.path, cause)

    def _verified(self) -> bytes:
        require_own(self.folder)
        first, _, content = self.path.read_bytes().partition(b"\n")
        if first != self._first_line(content):  # compared whole: nothing of it is parsed
            raise OSError("damaged, or of another engine, GPU, driver or TensorRT")
        return content

    def _left_out(self, cause: str) -> None:
        _log.warning("%s: left out, and compiled again: %s", self.path, cause)

    @property
    def _identity(self) -> dict[str, str]:
        return {
            "format": f"ropeexport runtime cache {_FORMAT}",
            "engine": self.engine.sha256,
            "tensorrt": f"{self.engine.flavour} {self.engine.version}",
            "gpu": self.gpu.name,
            "compute_capability": self.gpu.compute_capability,
            "driver_cuda": self.gpu.driver_cuda,
        }

    def _first_line(self, content: bytes | memoryview) -> bytes:
        return json.dumps(self._identity | {"content": _sha256(content)}).encode()

    def _drop_oldest(self) -> None:
        files = sorted(self.folder.glob(f"*{_SUFFIX}"), key=lambda file: file.stat().st_mtime_ns)
        for file in files[:-_MOST_KEPT]:
            file.unlink(missing_ok=True)


def _sha256(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def reason_of(error: OSError | UsageError) -> str:
    """Return what the system says of a failure."""
    return getattr(error, "strerror", None) or str(error)


def require_own(folder: Path) -> None:
    """Raise unless a folder is the user's, and nobody else can read or change it."""
    found = folder.stat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(
            f"{folder}: expected a folder of this user's alone (mode 700), "
            f"got mode {found.st_mode & 0o777:o} of user {found.st_uid}"
        )
