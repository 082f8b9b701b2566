"""In the child process: from a request to the file of an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ropeexport import atomic
from ropeexport.child_process import Channel
from ropeexport.errors import BuildError, MissingError, PluginError
from ropeexport.trt import network as networks
from ropeexport.trt.child import BuildRequest, Built
from ropeexport.trt.flavour import RTX, Flavour
from ropeexport.trt.gpu import find_gpu
from ropeexport.trt.network import Parsed
from ropeexport.trt.registry import load_library, make_builder
from ropeexport.trt.reporting import Journal, progress_monitor

# what Myelin says where no fused kernel takes an attention
_NO_FUSED_ATTENTION = ("not supported by a dedicated kernel", "is_decomposable")
_NO_FUSED_ATTENTION_NOTE = (
    "no fused attention kernel for this type and head size: built from plain layers"
)


def build_engine(flavour: Flavour, request: BuildRequest, channel: Channel) -> Built:
    """Build an engine, write it, and return what its network proves.

    The attention is fused if it can be; only where TensorRT says that it has no kernel for it is
    it built again, decomposed.
    """
    compute_capabilities = _compute_capabilities(flavour)
    journal = Journal(flavour)
    builder = make_builder(flavour, journal)
    if request.plugin is not None:
        load_library(builder.get_plugin_registry(), request.plugin, journal)
    parsed = networks.parse(flavour, request, builder, journal)
    _require_implementation(flavour, parsed, request)
    plan = _serialize(flavour, parsed, request, journal, channel)
    if plan is None and _lacks_fused_attention(flavour, parsed, journal):
        channel.note(_NO_FUSED_ATTENTION_NOTE)
        journal.errors.clear()
        parsed = networks.parse(flavour, request, builder, journal)
        networks.make_attention_decomposable(flavour, parsed.network)
        plan = _serialize(flavour, parsed, request, journal, channel)
    if plan is None:
        raise BuildError(f"{request.model}: {flavour.name} built no engine: {journal.cause()}")
    request.engine.write_bytes(plan)
    return _result(flavour, parsed, request, compute_capabilities)


def _compute_capabilities(flavour: Flavour) -> tuple[str, ...]:
    """Return the GPUs that an engine will be for; one that is finished at load fits any."""
    if flavour.capabilities.builds_without_gpu:
        return ()
    gpu = find_gpu()
    if gpu is None:
        raise MissingError(
            f"{flavour.name} builds on a machine with an NVIDIA GPU only, and there is none here; "
            f"add --flavour {RTX}, or build where the engine will run"
        )
    return (gpu.compute_capability,)


def _result(
    flavour: Flavour, parsed: Parsed, request: BuildRequest, compute_capabilities: tuple[str, ...]
) -> Built:
    inputs, outputs = networks.tensor_types(parsed.network)
    return Built(
        version=flavour.version,
        inputs=inputs,
        outputs=outputs,
        ropes=networks.implementations(flavour, parsed.network, request.ropes),
        attention=networks.attention_form(flavour, parsed.network),
        compute_capabilities=compute_capabilities,
    )


def _require_implementation(flavour: Flavour, parsed: Parsed, request: BuildRequest) -> None:
    """Raise unless every rope became what was asked for: TensorRT falls back without a word."""
    found = networks.implementations(flavour, parsed.network, request.ropes)
    for rope in request.ropes:
        expected = request.implementation
        if found.get(rope) != expected:
            error = PluginError if expected == "plugin" else BuildError
            raise error(
                f"{request.model}: {rope}: asked for {expected}, but {flavour.name} "
                f"{flavour.version} made it {found.get(rope, 'no layer at all')}"
            )


def _serialize(
    flavour: Flavour, parsed: Parsed, request: BuildRequest, journal: Journal, channel: Channel
) -> Any:
    """Return the serialized engine, or None where TensorRT could not build one."""
    config = _config(flavour, parsed, request, journal)
    config.progress_monitor = progress_monitor(flavour, channel)
    cache = _timing_cache(flavour, config, request.timing_cache, journal)
    plan = parsed.builder.build_serialized_network(parsed.network, config)
    if plan is not None and cache is not None:
        _keep_timing_cache(config, request.timing_cache, channel)
    return plan


def _config(flavour: Flavour, parsed: Parsed, request: BuildRequest, journal: Journal) -> Any:
    trt = flavour.module
    config = parsed.builder.create_builder_config()
    _add_profile(flavour, parsed, config, request, journal)
    # TF32 rounds float32 products to 10 bits; torch has it off by default, and so has the parity
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # lets an inspector name layers
    if request.plugin is not None and request.embed_plugin:
        if not flavour.capabilities.serialises_plugins:
            raise BuildError(
                f"{flavour.name} {flavour.version} cannot embed a plugin; add --no-embed-plugin"
            )
        config.plugins_to_serialize = [str(request.plugin.absolute())]
    return config


def _add_profile(
    flavour: Flavour, parsed: Parsed, config: Any, request: BuildRequest, journal: Journal
) -> None:
    profile = parsed.builder.create_optimization_profile()
    for name in networks.tensor_types(parsed.network)[0]:  # a parser may drop unused inputs
        shapes = [getattr(request.profile, point)[name] for point in ("min", "opt", "max")]
        try:
            profile.set_shape(name, *shapes)
        except ValueError as error:  # some versions say it only when the profile is added
            raise BuildError(f"{name}: {flavour.name} refuses the shapes {shapes}") from error
    if config.add_optimization_profile(profile) < 0:
        raise BuildError(
            f"{flavour.name} refuses the profile {request.profile.model_dump()}: {journal.cause()}"
        )


def _timing_cache(flavour: Flavour, config: Any, path: Path, journal: Journal) -> Any:
    """Give the build what former builds measured, where the flavour measures anything.

    A cache of another GPU or version is refused; the build then starts from nothing.
    """
    if not flavour.capabilities.timing_cache:
        return None
    former = path.read_bytes() if path.is_file() else b""
    for content in (former, b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
        journal.errors.clear()  # a refusal is not the cause of what may fail later
    return None


def _keep_timing_cache(config: Any, path: Path, channel: Channel) -> None:
    """Write what was measured for the next build; without it, this one is as good."""
    cache = config.get_timing_cache()
    content = None if cache is None else cache.serialize()
    if content is None:
        channel.note(f"{path}: what was measured is not kept: TensorRT gives no timing cache")
        return
    try:
        atomic.write_bytes(path, memoryview(content))
    except OSError as error:
        channel.note(f"{path}: what was measured is not kept: {error.strerror}")


def _lacks_fused_attention(flavour: Flavour, parsed: Parsed, journal: Journal) -> bool:
    if networks.attention_form(flavour, parsed.network) != "fused":
        return False
    return any(sign in text for text in journal.errors for sign in _NO_FUSED_ATTENTION)
