"""TensorRT in a child process: what it is asked and answers, see :mod:`ropeexport.child_process`.

A crash inside it becomes an error with a message.

The ONNX parser of TensorRT-RTX opens ``libtensorrt_rtx.so`` by name when it imports a plugin node,
but the wheel ships ``libtensorrt_rtx.so.1`` alone, and the process aborts.  A link of that name in
ropeexport's own cache folder, on the library path of the child process, mends it: no file of the
user's is touched, and the path must be set before a process starts.
"""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path

from ropeexport import atomic
from ropeexport.child_process import Answer, Child, CrashError, OnNote, OnProgress, UnforeseenError
from ropeexport.errors import BuildError, PluginError
from ropeexport.manifest import Attention, Implementation, Profile, Record
from ropeexport.trt.cache import make_cache_folder
from ropeexport.trt.flavour import available_flavours

_WORKER = "ropeexport.trt.worker"
_VERSIONED = re.compile(r"(?P<name>lib.+\.so)\.\d+")


class BuildRequest(Record):
    """Build an engine from an ONNX file."""

    flavour: str
    model: Path
    engine: Path  # where the child writes it: a temporary name of the parent's
    implementation: Implementation
    profiles: tuple[Profile, ...]
    ropes: tuple[str, ...]
    plugin: Path | None
    embed_plugin: bool
    timing_cache: Path
    refit: bool = False
    strip: bool = False
    weight_streaming: bool = False


class ProbeRequest(Record):
    """Load a plugin library and list what it registers."""

    flavour: str
    plugin: Path


class Built(Record):
    """An engine was written."""

    version: str  # of the flavour that built it
    inputs: dict[str, str]  # type by name, as the network has them
    outputs: dict[str, str]
    ropes: dict[str, Implementation]
    attention: Attention
    compute_capabilities: tuple[str, ...]  # of the GPUs that it is for; empty: any
    refits: tuple[str, ...]  # names of the weights that can be exchanged in it
    fixed: dict[str, str]  # those that cannot, and why
    in_place: tuple[tuple[str, str], ...] = ()  # inputs, each with the output in its memory


class Creator(Record):
    """A plugin creator in a registry."""

    name: str
    version: str
    namespace: str


class Probed(Record):
    """A library was loaded; these are the creators that it brought."""

    creators: tuple[Creator, ...]


def build(
    request: BuildRequest, on_progress: OnProgress | None = None, on_note: OnNote | None = None
) -> Built:
    """Build an engine.

    Raises
    ------
    RopeExportError
        The error that the child reported; a crash is a BuildError.
    """
    try:
        return _ask(request, Built, on_progress, on_note)
    except CrashError as crash:
        raise BuildError(
            f"{request.flavour} ended {crash.how} while it built {request.model}{crash.said}",
            code="RX401",
        ) from crash


def probe(request: ProbeRequest) -> Probed:
    """Load a plugin library and return what it registers.

    Raises
    ------
    RopeExportError
        The error that the child reported; a crash is a PluginError.
    """
    try:
        return _ask(request, Probed)
    except CrashError as crash:
        raise PluginError(
            f"{request.plugin}: loading it ended the process {crash.how}{crash.said}; "
            "this is no plugin library for this TensorRT",
            code="RX410",
        ) from crash


def _ask(
    request: BuildRequest | ProbeRequest,
    answer: type[Answer],
    on_progress: OnProgress | None = None,
    on_note: OnNote | None = None,
) -> Answer:
    environment = child_environment(request.flavour, available_flavours()[request.flavour])
    try:
        with Child(_WORKER, environment) as child:
            return child.ask(request, answer, on_progress, on_note)
    except UnforeseenError as error:
        raise BuildError(f"unexpected error in the build process: {error}", code="RX003") from error


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
    with atomic.temporary_folder(link.parent) as fresh:
        temporary = fresh / link.name
        temporary.symlink_to(target)
        temporary.replace(link)
