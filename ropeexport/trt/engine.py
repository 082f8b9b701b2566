"""In the child process: from an ONNX file to TensorRT's network, what it proves, and its engine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ropeexport import atomic
from ropeexport.child_process import Channel
from ropeexport.errors import BuildError, MissingError, PluginError, UsageError
from ropeexport.machine import find_gpu
from ropeexport.manifest import Attention, Implementation, Profile
from ropeexport.onnx_files.onnx_file import OnnxFile, with_links
from ropeexport.onnx_files.variants import (
    with_body,
    with_equal_heads,
    with_standard_attention,
)
from ropeexport.trt.child import BuildRequest, Built
from ropeexport.trt.flavour import RTX, Flavour
from ropeexport.trt.refit import mark_refittable, require_wanted
from ropeexport.trt.reporting import Journal, load_library, make_builder, progress_monitor
from ropeexport.trust import known
from ropeexport.weights.updating import weights_of

# what Myelin says where no fused kernel takes an attention
_NO_FUSED_ATTENTION = ("not supported by a dedicated kernel", "is_decomposable")


def build_engine(flavour: Flavour, request: BuildRequest, channel: Channel) -> Built:
    """Build an engine, write it, and return what its network proves.

    The attention is fused if it can be; only where TensorRT says that it has no kernel for it is
    it built again, decomposed.
    """
    compute_capabilities = _compute_capabilities(flavour)
    journal = Journal(flavour)
    builder = make_builder(flavour, journal)
    require_wanted(flavour, request, builder, journal)
    if request.plugin is not None:
        load_library(builder.get_plugin_registry(), request.plugin, journal)
    parsed = parse(flavour, request, builder, journal)
    _require_implementation(flavour, parsed, request)
    plan = _serialize(flavour, parsed, request, journal, channel)
    if plan is None and _lacks_fused_attention(flavour, parsed, journal):
        channel.note(
            "no fused attention kernel for this type and head size: built from plain layers"
        )
        journal.errors.clear()
        parsed = parse(flavour, request, builder, journal)
        for attention in _attentions(flavour, parsed.network):
            attention.decomposable = True
        plan = _serialize(flavour, parsed, request, journal, channel)
    if plan is None:
        raise BuildError(
            f"{request.model}: {flavour.name} built no engine: {journal.cause()}", code="RX402"
        )
    request.engine.write_bytes(plan)
    inputs, outputs = tensor_types(parsed.network)
    return Built(
        version=flavour.version,
        inputs=inputs,
        outputs=outputs,
        ropes=implementations(flavour, parsed.network, request.ropes),
        attention=attention_form(flavour, parsed.network),
        compute_capabilities=compute_capabilities,
        refits=parsed.refits,
        fixed=parsed.fixed,
        in_place=in_place(flavour, parsed.network),
    )


def _compute_capabilities(flavour: Flavour) -> tuple[str, ...]:
    """Return the GPUs that an engine will be for; one that is finished at load fits any."""
    if flavour.capabilities.builds_without_gpu:
        return ()
    gpu = find_gpu()
    if gpu is None:
        raise MissingError(
            f"{flavour.name} builds on a machine with an NVIDIA GPU only, and there is none here; "
            f"add --flavour {RTX}, or build where the engine will run",
            code="RX903",
        )
    return (gpu.compute_capability,)


def _require_implementation(flavour: Flavour, parsed: Parsed, request: BuildRequest) -> None:
    """Raise unless every rope became what was asked for: TensorRT falls back without a word."""
    found = implementations(flavour, parsed.network, request.ropes)
    for rope in request.ropes:
        expected = request.implementation
        if found.get(rope) != expected:
            error = PluginError if expected == "plugin" else BuildError
            raise error(
                f"{request.model}: {rope}: asked for {expected}, but {flavour.name} "
                f"{flavour.version} made it {found.get(rope, 'no layer at all')}",
                code="RX405",
            )


def _serialize(
    flavour: Flavour, parsed: Parsed, request: BuildRequest, journal: Journal, channel: Channel
) -> Any:
    """Return the serialized engine, or None where TensorRT could not build one."""
    config = _config(flavour, parsed, request, journal)
    config.progress_monitor = progress_monitor(flavour, channel)
    cache = use_timing_cache(flavour, config, request.timing_cache, journal)
    plan = parsed.builder.build_serialized_network(parsed.network, config)
    if plan is not None and cache is not None:
        keep_timing_cache(config, request.timing_cache, channel)
    return plan


def _config(flavour: Flavour, parsed: Parsed, request: BuildRequest, journal: Journal) -> Any:
    trt = flavour.module
    config = parsed.builder.create_builder_config()
    for profile in request.profiles:
        add_profile(flavour, parsed, config, profile, journal)
    # TF32 rounds float32 products to 10 bits; torch has it off by default, and so has the parity
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # lets an inspector name layers
    if request.refit:
        config.set_flag(trt.BuilderFlag.REFIT_INDIVIDUAL)
    if request.strip:
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
    if request.weight_streaming:
        config.set_flag(trt.BuilderFlag.WEIGHT_STREAMING)
    if request.plugin is not None and request.embed_plugin:
        if not flavour.capabilities.serialises_plugins:
            raise BuildError(
                f"{flavour.name} {flavour.version} cannot embed a plugin; add --no-embed-plugin",
                code="RX407",
            )
        config.plugins_to_serialize = [str(request.plugin.absolute())]
    return config


def add_profile(
    flavour: Flavour, parsed: Parsed, config: Any, wanted: Profile, journal: Journal
) -> None:
    """Give a build sizes that its engine is for; what refuses them is a build's error."""
    profile = parsed.builder.create_optimization_profile()
    for name in tensor_types(parsed.network)[0]:  # a parser may drop unused inputs
        shapes = [getattr(wanted, point)[name] for point in ("min", "opt", "max")]
        try:
            profile.set_shape(name, *shapes)
        # by what is wrong: of sizes, of one of 2^31, of nine axes; or when the profile is added
        except (ValueError, RuntimeError, TypeError) as error:
            raise BuildError(
                f"{name}: {flavour.name} refuses the shapes {shapes}", code="RX406"
            ) from error
    if config.add_optimization_profile(profile) < 0:
        raise BuildError(
            f"{flavour.name} refuses the profile {wanted.model_dump()}: {journal.cause()}",
            code="RX406",
        )


def use_timing_cache(flavour: Flavour, config: Any, path: Path, journal: Journal) -> Any:
    """Give the build what former builds measured, where the flavour measures anything.

    A cache of another GPU or version is refused; the build then starts from nothing.  So is one
    that this user's builds have not written: kernels that were compiled are in it too.
    """
    if not flavour.capabilities.timing_cache:
        return None
    former = path.read_bytes() if path.is_file() else b""
    if not known.is_known(hashlib.sha256(former).hexdigest()):
        former = b""
    for content in (former, b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
        journal.errors.clear()  # a refusal is not the cause of what may fail later
    return None


def keep_timing_cache(config: Any, path: Path, channel: Channel) -> None:
    """Write what was measured for the next build; without it, this one is as good."""
    cache = config.get_timing_cache()
    content = None if cache is None else cache.serialize()
    if content is None:
        channel.note(f"{path}: what was measured is not kept: TensorRT gives no timing cache")
        return
    try:
        atomic.write_bytes(path, memoryview(content))
        known.remember(hashlib.sha256(content).hexdigest(), f"measured: {path}")
    except (OSError, UsageError) as error:
        reason = getattr(error, "strerror", None) or error
        channel.note(f"{path}: what was measured is not kept: {reason}")


def _lacks_fused_attention(flavour: Flavour, parsed: Parsed, journal: Journal) -> bool:
    refused = any(sign in text for text in journal.errors for sign in _NO_FUSED_ATTENTION)
    return refused and attention_form(flavour, parsed.network) == "fused"


@dataclass(frozen=True)
class Parsed:
    """A network and what it was parsed with, which must outlive it.

    ``refits`` are the names of the weights that are marked to be exchanged; ``fixed`` has the
    others, and why each cannot be.
    """

    builder: Any
    network: Any
    parser: Any
    refits: tuple[str, ...] = ()
    fixed: dict[str, str] = field(default_factory=dict)


def parse(flavour: Flavour, request: BuildRequest, builder: Any, journal: Journal) -> Parsed:
    """Parse the ONNX file, its ropes with the function body of the chosen implementation."""
    trt = flavour.module
    network = builder.create_network(flavour.network_flags)
    parser = trt.OnnxParser(network, journal.logger)
    # weights outside the file stay there: the parser finds them by the file's own path
    model = with_equal_heads(with_standard_attention(OnnxFile(request.model).graph))
    model = with_links(model)
    # the plugin takes the node before its body is read; were it not to, `implementations` says so
    model = with_body(model, "rotation" if request.implementation == "native" else "general")
    if not parser.parse(ir.to_proto(model).SerializeToString(), str(request.model)):
        raise BuildError(
            f"{request.model}: {flavour.name} cannot parse it: {_fault(parser)}", code="RX403"
        )
    if not request.refit:
        return Parsed(builder, network, parser)
    fixed = mark_refittable(network, layers(network), weights_of(model))
    refits = tuple(name for name in weights_of(model) if name not in fixed)
    if not refits:
        raise BuildError(
            f"--refit: {request.model}: no weight of it can be exchanged in an engine: "
            f"{'; '.join(f'{name}: {why}' for name, why in fixed.items()) or 'it has none'}",
            code="RX407",
        )
    return Parsed(builder, network, parser, refits, fixed)


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


def in_place(flavour: Flavour, network: Any) -> tuple[tuple[str, str], ...]:
    """Return the inputs that an engine updates where they lie, with the outputs that they become.

    Source: TensorRT's operator reference, KVCacheUpdate: cache and output are one memory.
    """
    kind = getattr(flavour.module.LayerType, "KV_CACHE_UPDATE", None)
    found = (layer for layer in layers(network) if layer.type == kind)
    return tuple((layer.get_input(0).name, layer.get_output(0).name) for layer in found)


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
