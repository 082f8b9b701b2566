"""The environment in which a child process can load TensorRT's libraries.

The ONNX parser of TensorRT-RTX opens ``libtensorrt_rtx.so`` by name when it imports a plugin node,
but the wheel ships ``libtensorrt_rtx.so.1`` alone, and the process aborts.  A link of that name in
ropeexport's own cache folder, on the library path of the child process, mends it: no file of the
user's is touched, and the path must be set before a process starts.
"""

from __future__ import annotations

import os
import re
import tempfile
from importlib.util import find_spec
from pathlib import Path

from ropeexport.trt.cache import make_cache_folder

_VERSIONED = re.compile(r"(?P<name>lib.+\.so)\.\d+")


def child_environment(flavour: str, version: str) -> dict[str, str]:
    """Return the environment for a child process that loads a flavour of TensorRT."""
    environment = dict(os.environ)
    links = link_folder(flavour, version)
    if links is not None:
        paths = [str(links), environment.get("LD_LIBRARY_PATH", "")]
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, paths))
    return environment


def link_folder(flavour: str, version: str) -> Path | None:
    """Return the folder of links to the libraries whose plain names a wheel lacks, if any."""
    spec = find_spec(f"{flavour.replace('-', '_')}_libs")
    places = list(spec.submodule_search_locations or []) if spec else []
    targets = [path for place in places for path in _without_plain_name(Path(place))]
    if not targets:
        return None
    folder = make_cache_folder("links", f"{flavour}-{version}")
    for target in targets:
        _link(folder / _plain_name(target), target)
    return folder


def _without_plain_name(folder: Path) -> list[Path]:
    versioned = [path for path in sorted(folder.iterdir()) if _VERSIONED.fullmatch(path.name)]
    return [path for path in versioned if not (folder / _plain_name(path)).exists()]


def _plain_name(library: Path) -> str:
    return library.name.rpartition(".so")[0] + ".so"


def _link(link: Path, target: Path) -> None:
    """Make or renew a link in one step: another build may be reading it."""
    if link.is_symlink() and link.readlink() == target:
        return
    with tempfile.TemporaryDirectory(dir=link.parent) as fresh:
        temporary = Path(fresh) / link.name
        temporary.symlink_to(target)
        temporary.replace(link)
