"""The plugin library: where it is looked for, and what it must be before a build trusts it."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from ropeexport import atomic
from ropeexport.errors import MissingError, PluginError
from ropeexport.manifest import PluginRecord
from ropeexport.ops.forms import PLUGIN_FORMS
from ropeexport.ops.names import APPLY_ROPE, PLUGIN_NAMESPACE, PLUGIN_VERSION
from ropeexport.trt import child
from ropeexport.trt.cache import cache_folder
from ropeexport.trt.child import Creator, ProbeRequest

FILE_NAME = "libropeexport_plugin.so"
VARIABLE = "ROPEEXPORT_PLUGIN"
PACKAGE = "ropeexport-plugin"
_CURE = (
    f"compile one with 'ropeexport plugin build', install the wheel {PACKAGE}, or name one with "
    "--plugins PATH"
)
# ELF-64 header: the table of sections ends the files that linkers write
_ELF_HEADER_BYTES = 64
_SECTION_TABLE = struct.Struct("<40xQ10xHH")  # e_shoff, (…), e_shentsize, e_shnum
_LITTLE_64 = b"\x7fELF\x02\x01"


@dataclass(frozen=True)
class PluginLibrary:
    """A library that registers the rotary plugin."""

    path: Path
    record: PluginRecord  # what a manifest says of it


def cached_library() -> Path:
    """Return where ``ropeexport plugin build`` puts the library."""
    return cache_folder() / FILE_NAME


def installed_library() -> Path | None:
    """Return the library of the package ``ropeexport-plugin``, where that is installed."""
    try:
        place = distribution(PACKAGE).locate_file(f"{PACKAGE.replace('-', '_')}/{FILE_NAME}")
    except PackageNotFoundError:
        return None
    path = Path(str(place))
    return path if path.is_file() else None


def find(explicit: Path | None = None) -> Path | None:
    """Return the library to use: the one named, ``ROPEEXPORT_PLUGIN``, the cache's, the package's.

    Raises
    ------
    PluginError
        Where a library is named that does not exist, or others may change the cache's.
    """
    variable = os.environ.get(VARIABLE)
    named = explicit or (Path(variable) if variable else None)
    if named is not None:
        if not named.is_file():
            source = "--plugins" if explicit else VARIABLE
            raise PluginError(f"{source}: {named}: no such file; {_CURE}", code="RX409")
        return named
    cached = cached_library()
    if not cached.is_file():
        return installed_library()
    for path in (cached, cached.parent):
        found = path.stat()
        if found.st_uid != os.geteuid() or found.st_mode & stat.S_IWOTH:
            raise PluginError(
                f"{path}: expected that only this user writes there, as the library runs as this "
                f"user, got mode {found.st_mode & 0o777:o} of user {found.st_uid}; mend that, or "
                "name a library with --plugins PATH",
                code="RX409",
            )
    return cached


def require(explicit: Path | None = None) -> Path:
    """Return the library to use; raise :class:`MissingError` where there is none."""
    found = find(explicit)
    if found is None:
        raise MissingError(
            f"no plugin library: neither {VARIABLE} nor {cached_library()}; {_CURE}", code="RX907"
        )
    return found


def validate(path: Path, flavour: str) -> PluginLibrary:
    """Load a library in a child process and return it if it registers the rotary plugin.

    Raises
    ------
    PluginError
        Where it is not a whole library, cannot be loaded, or registers something else.
    """
    check_elf(path)
    probed = child.probe(ProbeRequest(flavour=flavour, plugin=path.absolute()))
    creator = _choose(path, probed.creators).model_dump()
    record = PluginRecord(
        **creator,
        file=path.name,
        sha256=atomic.sha256_of(path),
        embedded=False,
        size=path.stat().st_size,
    )
    return PluginLibrary(path, record)


def check_elf(path: Path) -> None:
    """Raise :class:`PluginError` unless a file is a whole 64-bit shared library."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(_ELF_HEADER_BYTES)
    if not header.startswith(_LITTLE_64):
        raise PluginError(
            f"{path}: expected a 64-bit shared library (ELF), got another kind of file",
            code="RX410",
        )
    whole = _ELF_HEADER_BYTES
    if len(header) == _ELF_HEADER_BYTES:
        offset, entry, count = _SECTION_TABLE.unpack_from(header)
        whole = offset + entry * count
    if size < whole:
        raise PluginError(
            f"{path}: truncated: expected {whole} bytes by its own header, got {size}; {_CURE}",
            code="RX410",
        )


def _choose(path: Path, creators: Sequence[Creator]) -> Creator:
    wanted, *others = (
        Creator(name=name, version=PLUGIN_VERSION, namespace=PLUGIN_NAMESPACE)
        for name in PLUGIN_FORMS
    )
    missing = [_text(creator) for creator in others if creator not in creators]
    if wanted in creators and not missing:
        return wanted
    if wanted in creators:
        raise PluginError(
            f"{path}: of an older ropeexport: it lacks {missing[0]} and {len(missing) - 1} more; "
            f"{_CURE}",
            code="RX411",
        )
    found = ", ".join(_text(creator) for creator in creators)
    same_name = [creator for creator in creators if creator.name == APPLY_ROPE]
    kind = "of another version" if same_name else "a library of other plugins"
    raise PluginError(
        f"{path}: {kind}: expected {_text(wanted)}, got {found}; {_CURE}", code="RX411"
    )


def _text(creator: Creator) -> str:
    return f"{creator.namespace or '(no namespace)'}::{creator.name} version {creator.version}"
