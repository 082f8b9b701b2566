"""The child process of TensorRT: it builds engines and loads plugin libraries."""

from __future__ import annotations

from ropeexport.child_process import Channel, serve
from ropeexport.trt import flavour
from ropeexport.trt.child import BuildRequest, Built, Probed, ProbeRequest
from ropeexport.trt.reporting import Journal


def build(request: BuildRequest, channel: Channel) -> Built:
    """Build an engine from an ONNX file."""
    from ropeexport.trt.engine import build_engine

    return build_engine(flavour.load(request.flavour), request, channel)


def probe(request: ProbeRequest, _: Channel) -> Probed:
    """Load a plugin library and list what it registers."""
    from ropeexport.trt.reporting import load_library, make_builder

    chosen = flavour.load(request.flavour)
    journal = Journal(chosen)
    builder = make_builder(chosen, journal)
    return Probed(creators=load_library(builder.get_plugin_registry(), request.plugin, journal))


if __name__ == "__main__":
    serve({BuildRequest: build, ProbeRequest: probe})
