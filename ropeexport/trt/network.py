"""From an ONNX file to TensorRT's network, and what the network proves about each rope."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from ropeexport.errors import BuildError
from ropeexport.manifest import Attention, Implementation
from ropeexport.onnx_files.onnx_file import OnnxFile
from ropeexport.onnx_files.variants import with_body, with_standard_attention
from ropeexport.ops.apply_rope import Body
from ropeexport.trt.child import BuildRequest
from ropeexport.trt.flavour import Flavour
from ropeexport.trt.reporting import Journal

# the plugin takes the node before its body is read; were it not to, `implementations` says so
_BODIES: dict[Implementation, Body] = {
    "plugin": "general",
    "native": "rotation",
    "decomposed": "general",
}


@dataclass(frozen=True)
class Parsed:
    """A network and what it was parsed with, which must outlive it."""

    builder: Any
    network: Any
    parser: Any


def parse(flavour: Flavour, request: BuildRequest, builder: Any, journal: Journal) -> Parsed:
    """Parse the ONNX file, its ropes with the function body of the chosen implementation."""
    trt = flavour.module
    flags = 0
    if flavour.capabilities.strongly_typed_flag:
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, journal.logger)
    # weights outside the file stay there: the parser finds them by the file's own path
    model = with_body(
        with_standard_attention(OnnxFile(request.model).graph),
        _BODIES[request.implementation],
    )
    if not parser.parse(ir.to_proto(model).SerializeToString(), str(request.model)):
        raise BuildError(f"{request.model}: {flavour.name} cannot parse it: {_fault(parser)}")
    return Parsed(builder, network, parser)


def implementations(
    flavour: Flavour, network: Any, ropes: Sequence[str]
) -> dict[str, Implementation]:
    """Return what computes each rope, read from the layers that its node became."""
    kinds = flavour.module.LayerType
    found: dict[str, Implementation] = {}
    for rope in ropes:
        types = {layer.type for layer in layers(network) if _belongs_to(layer, rope)}
        if kinds.PLUGIN_V3 in types:
            found[rope] = "plugin"
        elif getattr(kinds, "ROTARY_EMBEDDING", None) in types:
            found[rope] = "native"
        elif types:
            found[rope] = "decomposed"
    return found


def layers(network: Any) -> Iterator[Any]:
    """Yield the layers of a network."""
    return (network.get_layer(index) for index in range(network.num_layers))


def tensor_types(network: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Return the type of each input and of each output by name, by TensorRT's names."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    return {t.name: t.dtype.name for t in inputs}, {t.name: t.dtype.name for t in outputs}


def make_attention_decomposable(flavour: Flavour, network: Any) -> None:
    """Let every attention be built from plain layers where no fused kernel takes it."""
    for attention in _attentions(flavour, network):
        attention.decomposable = True


def attention_form(flavour: Flavour, network: Any) -> Attention:
    """Return how the attention was asked to be built."""
    flags = [attention.decomposable for attention in _attentions(flavour, network)]
    if not flags:
        return "none"
    return "decomposed" if any(flags) else "fused"


def _attentions(flavour: Flavour, network: Any) -> Iterator[Any]:
    if not flavour.capabilities.attention:
        return
    trt = flavour.module
    for layer in layers(network):
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            layer.__class__ = trt.IAttentionInputLayer  # the bindings' way to view a layer
            yield layer.attention


def _belongs_to(layer: Any, rope: str) -> bool:
    """Say whether a layer stems from a node, itself or through its function body.

    TensorRT writes ``[ONNX Layer: NODE]`` for the node's own layer and
    ``[ONNX Layer: INNER | NODE (ApplyRope)]`` for a layer of its body.
    """
    own = rf"ONNX Layer: {re.escape(rope)}(\]| \|)"
    inner = rf"\| {re.escape(rope)} \("
    return layer.name == rope or bool(re.search(f"{own}|{inner}", layer.metadata))


def _fault(parser: Any) -> str:
    if not parser.num_errors:
        return "it gave no reason"
    error = parser.get_error(0)
    return f"node {error.node_name()} ({error.node_operator()}): {' '.join(error.desc().split())}"
