"""TensorRT in a child process: a crash inside it becomes an error with a message."""

from __future__ import annotations

from ropeexport.child_process import Answer, Child, CrashError, OnNote, OnProgress, UnforeseenError
from ropeexport.errors import BuildError, PluginError
from ropeexport.trt.flavour import available_flavours
from ropeexport.trt.loader import child_environment
from ropeexport.trt.messages import BuildRequest, Built, Probed, ProbeRequest

_WORKER = "ropeexport.trt.worker"


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
