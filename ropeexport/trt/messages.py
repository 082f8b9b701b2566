"""What passes between a build and its child process: one request in, JSON lines out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from ropeexport.manifest import Implementation, Profile, Record

Attention = Literal["fused", "decomposed", "none"]


class BuildRequest(Record):
    """Build an engine from an ONNX file."""

    task: Literal["build"] = "build"
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

    task: Literal["probe"] = "probe"
    flavour: str
    plugin: Path


class Built(Record):
    """An engine was written."""

    event: Literal["built"] = "built"
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

    event: Literal["probed"] = "probed"
    creators: tuple[Creator, ...]


class Progress(Record):
    """How far the build is."""

    event: Literal["progress"] = "progress"
    phase: str
    fraction: float


class Note(Record):
    """Something that the user should read."""

    event: Literal["note"] = "note"
    text: str


class Failure(Record):
    """An error, by the name of its class in :mod:`ropeexport.errors`."""

    event: Literal["failure"] = "failure"
    kind: str
    text: str


Request = Annotated[BuildRequest | ProbeRequest, Field(discriminator="task")]
Event = Annotated[Built | Probed | Progress | Note | Failure, Field(discriminator="event")]

REQUEST: TypeAdapter[Request] = TypeAdapter(Request)
EVENT: TypeAdapter[Event] = TypeAdapter(Event)
