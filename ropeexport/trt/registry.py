"""A builder, and a plugin library in a registry of TensorRT's, in whichever process runs this."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ropeexport.errors import BuildError, PluginError
from ropeexport.trt.flavour import Flavour
from ropeexport.trt.reporting import Journal


def make_builder(flavour: Flavour, journal: Journal) -> Any:
    """Return a builder; :class:`BuildError` where TensorRT makes none, for a driver too old."""
    try:
        return flavour.module.Builder(journal.logger)
    except TypeError as error:  # the bindings' word for none
        raise BuildError(
            f"{flavour.name} {flavour.version} makes no builder on this machine: {journal.cause()}"
        ) from error


def load_library(registry: Any, library: Path, journal: Journal) -> list[Any]:
    """Load a library and return the creators that it brought.

    Raises
    ------
    PluginError
        Where it cannot be loaded or registers nothing.
    """
    before = {_key(creator) for creator in registry.all_creators}
    handle = registry.load_library(str(library.absolute()))
    if handle is None:
        raise PluginError(
            f"{library}: TensorRT cannot load it as a plugin library: {journal.cause()}"
        )
    creators = [creator for creator in registry.all_creators if _key(creator) not in before]
    if not creators:
        raise PluginError(f"{library}: loaded, but it registers no plugin")
    return creators


def _key(creator: Any) -> tuple[str, str, str]:
    return creator.name, creator.plugin_version, creator.plugin_namespace
