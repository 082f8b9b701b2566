"""The child process of a build: ``python -m ropeexport.trt.worker``, a request in, events out."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress

from ropeexport.errors import RopeExportError
from ropeexport.trt import flavour
from ropeexport.trt.messages import (
    REQUEST,
    BuildRequest,
    Built,
    Creator,
    Failure,
    Probed,
    ProbeRequest,
)
from ropeexport.trt.reporting import Channel, Journal

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Read a request from standard input, run it, and write events to standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and ends this process
    _die_with_parent()
    channel = _take_stdout()
    try:
        request = REQUEST.validate_json(sys.stdin.read())
        if isinstance(request, BuildRequest):
            channel.send(_build(request, channel))
        else:
            channel.send(_probe(request, channel))
    except RopeExportError as error:
        channel.send(Failure(kind=type(error).__name__, text=str(error)))
    except Exception as error:  # the parent turns it into one line
        text = f"unexpected {type(error).__name__} in the build process: {error}"
        channel.send(Failure(kind="BuildError", text=text))


def _build(request: BuildRequest, channel: Channel) -> Built:
    from ropeexport.trt.engine import build_engine

    return build_engine(flavour.load(request.flavour), request, channel)


def _probe(request: ProbeRequest, channel: Channel) -> Probed:
    from ropeexport.trt.registry import load_library, make_builder

    chosen = flavour.load(request.flavour)
    journal = Journal(chosen)
    builder = make_builder(chosen, journal)
    creators = load_library(builder.get_plugin_registry(), request.plugin, journal)
    return Probed(
        creators=tuple(
            Creator(name=c.name, version=c.plugin_version, namespace=c.plugin_namespace)
            for c in creators
        )
    )


def _take_stdout() -> Channel:
    """Keep standard output for events; what libraries print there goes to standard error."""
    sys.stdout.flush()
    events = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    return Channel(events)


def _die_with_parent() -> None:
    with suppress(OSError, AttributeError):  # Linux only; elsewhere the parent does it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
