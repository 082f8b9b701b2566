"""What TensorRT's child process is asked and answers, see :mod:`ropeexport.child_process`."""

from __future__ import annotations

from pathlib import Path

from ropeexport.manifest import Attention, Implementation, Profile, Record


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
