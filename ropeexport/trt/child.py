"""TensorRT in a child process: what it is asked and answers, see :mod:`ropeexport.child_process`.

A crash inside it becomes an error with a message.
"""

from __future__ import annotations

from pathlib import Path

from ropeexport.child_process import Answer, Child, CrashError, OnNote, OnProgress, UnforeseenError
from ropeexport.errors import BuildError, PluginError
from ropeexport.manifest import Attention, Implementation, Profile, Record
from ropeexport.trt.flavour import available_flavours
from ropeexport.trt.loader import child_environment

_WORKER = "ropeexport.trt.worker"


class BuildRequest(Record):
    """Build an engine from an ONNX file."""

    flavour: str
    model: Path
    engine: Path  # where the child writes it: a temporary name of the parent's
    implementation: Implementation
    profile: Profile
    ropes: tuple[str, ...]
    plugin: Path | None
    embed_plugin: bool
    timing_cache: Path


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


class Creator(Record):
    """A plugin creator in a registry."""

    name: str
    version: str
    namespace: str


class Probed(Record):
    """A library was loaded; these are the creators that it brought."""

    creators: tuple[Creator, ...]


def build(
    request: BuildRequest,
    on_progress: OnProgress | None = None,
    on_note: OnNote | None = None,
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
            f"{request.flavour} ended {crash.how} while it built {request.model}{crash.said}"
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
            "this is no plugin library for this TensorRT"
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
        raise BuildError(f"unexpected error in the build process: {error}") from error
