"""An engine file against its record: what is checked before a byte of it is loaded."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ropeexport import atomic
from ropeexport.errors import EngineError, MissingError, PluginError
from ropeexport.manifest import EngineRecord, Manifest, PluginRecord
from ropeexport.trt import plugin_library
from ropeexport.trt.flavour import INSTALL, RTX, available_flavours
from ropeexport.trt.gpu import Gpu

_SHOWN = 12  # digits of a hash


def engine_record(folder: Path, manifest: Manifest) -> EngineRecord:
    """Return the record of the folder's engine; :class:`MissingError` where none was built."""
    if manifest.engine is None:
        raise MissingError(f"{folder}: no engine was built; run: ropeexport build {folder}")
    return manifest.engine


def read_verified(folder: Path, record: EngineRecord) -> bytes:
    """Return the bytes of an engine if they are those that were built.

    Raises
    ------
    EngineError
        With the hash expected and got.
    """
    path = folder / record.file
    again = f"build again: ropeexport build {folder} --force"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path}: cannot be read ({error.strerror}); {again}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != record.sha256:
        raise EngineError(
            f"{path}: not the engine of its manifest (truncated, or another file): expected sha256 "
            f"{record.sha256[:_SHOWN]}…, got {found[:_SHOWN]}… ({len(data)} bytes); {again}"
        )
    return data


def check_flavour(record: EngineRecord) -> None:
    """Raise unless the flavour and version that built an engine are the ones installed.

    Raises
    ------
    MissingError
        Where no TensorRT is installed at all.
    EngineError
        Where another one is.
    """
    installed = available_flavours()
    if not installed:
        raise MissingError(
            f"no TensorRT is installed; run: {INSTALL.get(record.flavour, INSTALL[RTX])}"
        )
    found = installed.get(record.flavour)
    if found != record.version:
        there = ", ".join(f"{name} {version}" for name, version in installed.items())
        raise EngineError(
            f"{record.file}: expected {record.flavour} {record.version}, which built it, "
            f"got {there}; an engine loads in its own version only: install that, or build again"
        )


def check_gpu(record: EngineRecord, gpu: Gpu) -> None:
    """Raise unless an engine is for this GPU."""
    fits = record.compute_capabilities
    if fits and gpu.compute_capability not in fits:
        raise EngineError(
            f"{record.file}: expected a GPU of compute capability {', '.join(fits)}, "
            f"got {gpu.compute_capability} ({gpu.name}); build again on this machine"
        )


def plugin_path(folder: Path, record: PluginRecord) -> Path | None:
    """Return the library that an engine needs beside it, None where it carries its own.

    Raises
    ------
    PluginError
        Where the library is not found, or is not the one that the engine was built with.
    """
    if record.embedded:
        return None
    beside = folder / record.file
    found = beside if beside.is_file() else plugin_library.find()
    what = f"plugin {record.namespace}::{record.name} version {record.version} ({record.file})"
    if found is None:
        raise PluginError(
            f"{folder}: the engine needs the {what}, which is neither beside it, nor in "
            f"{plugin_library.VARIABLE}, nor {plugin_library.cached_library()}"
        )
    sha256 = atomic.sha256_of(found)
    if sha256 != record.sha256:
        raise PluginError(
            f"{found}: the engine was built with another {what}: expected sha256 "
            f"{record.sha256[:_SHOWN]}…, got {sha256[:_SHOWN]}…; build the engine again"
        )
    return found
