"""From an output folder's ``model.onnx`` to its ``model.engine``; TensorRT runs in a child."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ropeexport import atomic, manifest
from ropeexport.artifact import Artifact
from ropeexport.axes import Shapes
from ropeexport.child_process import OnNote, OnProgress
from ropeexport.dtypes import FLOATS
from ropeexport.errors import BuildError, UsageError
from ropeexport.manifest import ENGINE_NAME, EngineRecord, Implementation, Manifest, Profile
from ropeexport.profiles import make_profiles
from ropeexport.trt import child, preflight
from ropeexport.trt.child import BuildRequest, Built
from ropeexport.trt.flavour import pick_flavour
from ropeexport.trt.plugin_library import PluginLibrary, find, require, validate
from ropeexport.trust.engines import built_here

Choice = Literal["auto", "plugin", "native", "decomposed"]

TIMING_CACHE_NAME = "timing.cache"
# NumPy's names of TensorRT's floating types; it calls the others as NumPy does, in capitals
_FLOATS = {kind.tensorrt: kind.name for kind in FLOATS if kind.tensorrt}


@dataclass(frozen=True)
class BuildOptions:
    """What a user may ask of a build.

    ``impl`` is ``auto``, ``plugin``, ``native`` or ``decomposed``; ``auto`` takes the plugin where
    there is a library, else ``decomposed``.  Shapes that are not given are the export's.  ``refit``
    lets weights be exchanged in the engine, ``strip`` leaves those out of its file too, and
    ``weight_streaming`` lets some of them stay in the host's memory.
    """

    impl: Choice = "auto"
    flavour: str | None = None
    min_shapes: Shapes | None = None
    opt_shapes: Shapes | None = None
    max_shapes: Shapes | None = None
    plugin_library: Path | None = None
    embed_plugin: bool = True
    refit: bool = False
    strip: bool = False
    weight_streaming: bool = False
    force: bool = False


def build(
    artifact: Artifact,
    options: BuildOptions | None = None,
    *,
    on_progress: OnProgress | None = None,
    on_note: OnNote | None = None,
) -> EngineRecord:
    """Build the engine of an output folder and record it in the manifest.

    Parameters
    ----------
    artifact : Artifact
        An output folder.
    options : BuildOptions
        Implementation, flavour, shapes, plugin library.
    on_progress : callable
        Called with the name of TensorRT's phase and the fraction that is done.
    on_note : callable
        Called with each thing that the user should read.

    Returns
    -------
    EngineRecord
        What was written, as the manifest has it.

    Raises
    ------
    RopeExportError
        The class says which stage failed; nothing is left of an engine that was not finished.
    """
    options = options or BuildOptions()
    folder = artifact.folder
    _refuse_existing(artifact, options.force)
    with atomic.together(folder, manifest.FILE_NAME) as files:
        engine = make_engine(
            artifact, files.place, options, folder, on_progress=on_progress, on_note=on_note
        )
        artifact.require_current()
        built_here(artifact, engine)
        manifest.write(files.place, artifact.manifest.changed(engine=engine))
    return engine


def make_engine(
    artifact: Artifact,
    target: Path,
    options: BuildOptions,
    home: Path | None = None,
    *,
    on_progress: OnProgress | None = None,
    on_note: OnNote | None = None,
) -> EngineRecord:
    """Build an engine of a folder's model into another folder.

    Parameters
    ----------
    artifact : Artifact
        The model, with its weights.
    target : Path
        Where the engine and a library that is not embedded go.
    home : Path, optional
        Where they are moved afterwards, with the timing cache in it; by default they stay.
    options, on_progress, on_note
        See :func:`build`.
    """
    record, flavour = artifact.manifest, pick_flavour(options.flavour)
    implementation, library = _implementation(record, options, flavour)
    profiles = _profiles(record, options, implementation)
    if library is not None:  # before the hash: it says more of what was changed
        preflight.check_plugin_attributes(artifact.file, library)
    preflight.check_unchanged(artifact)
    preflight.check_types(artifact.file)
    preflight.check_attention(artifact.file)
    engine_path, home = target / ENGINE_NAME, home or target
    with atomic.ended_cleanly():
        request = BuildRequest(
            flavour=flavour,
            model=artifact.model_path.absolute(),
            engine=engine_path.absolute(),
            implementation=implementation,
            profiles=profiles,
            ropes=record.model.ropes,
            plugin=library.path.absolute() if library else None,
            embed_plugin=options.embed_plugin,
            timing_cache=(home / TIMING_CACHE_NAME).absolute(),
            refit=options.refit or options.strip,
            strip=options.strip,
            weight_streaming=options.weight_streaming,
        )
        built = child.build(request, on_progress, on_note)
        _check_interface(record, built)
        sha256, size = atomic.sha256_of(engine_path), engine_path.stat().st_size
        if library is not None and not options.embed_plugin:
            _put_beside(library.path, target, home)
    return EngineRecord(
        file=engine_path.name,
        sha256=sha256,
        model_sha256=record.model.sha256,
        flavour=flavour,
        version=built.version,
        inputs=tuple(spec for spec in record.model.inputs if spec.name in built.inputs),
        outputs=record.model.outputs,
        profile=profiles[0],
        ropes=built.ropes,
        attention=built.attention,
        compute_capabilities=built.compute_capabilities,
        plugin=library.record.changed(embedded=options.embed_plugin) if library else None,
        refittable=request.refit,
        stripped=request.strip,
        weight_streaming=request.weight_streaming,
        refits=built.refits,
        fixed=built.fixed,
        decode=profiles[1] if len(profiles) > 1 else None,
        in_place=built.in_place,
        size=size,
    )


def _refuse_existing(artifact: Artifact, force: bool) -> None:
    """Raise :class:`UsageError` where an engine, recorded or not, would be overwritten."""
    path = artifact.folder / ENGINE_NAME
    if artifact.manifest.engine is None and path.exists() and not force:
        raise UsageError(
            f"{path} exists already, though {manifest.FILE_NAME} records no engine; add --force to "
            "overwrite it",
            code="RX301",
        )
    atomic.refuse_existing(path, force)
    for name in (ENGINE_NAME, manifest.FILE_NAME):
        atomic.require_replaceable(artifact.folder / name)


def _put_beside(library: Path, target: Path, home: Path) -> None:
    """Copy the library that an engine needs beside it, so that the folder is whole."""
    if (home / library.name).resolve() != library.resolve():
        shutil.copyfile(library, target / library.name)


def _implementation(
    record: Manifest, options: BuildOptions, flavour: str
) -> tuple[Implementation, PluginLibrary | None]:
    """Return what the ropes become, and the library where that is the plugin."""
    if options.impl in ("native", "decomposed"):
        if options.plugin_library is not None:
            raise UsageError(
                f"--plugins: --impl {options.impl} uses no plugin library", code="RX108"
            )
        return options.impl, None
    if options.impl == "plugin":
        if not record.model.ropes:
            raise BuildError(
                f"--impl plugin: {record.model.file} has no rotary op of ropeexport's, which "
                "the plugin serves; use --impl native or decomposed",
                code="RX405",
            )
        return "plugin", validate(require(options.plugin_library), flavour)
    found = find(options.plugin_library) if record.model.ropes else None
    return ("plugin", validate(found, flavour)) if found else ("decomposed", None)


def _profiles(
    record: Manifest, options: BuildOptions, implementation: Implementation
) -> tuple[Profile, ...]:
    native = implementation == "native"
    axes = preflight.native_axes(record) if native else record.axes
    profiles = make_profiles(
        record.changed(axes=axes), options.min_shapes, options.opt_shapes, options.max_shapes
    )
    if native:
        preflight.check_native_shapes(record, profiles[0].max)
    return profiles


def _check_interface(record: Manifest, built: Built) -> None:
    """Raise unless the network's inputs and outputs have the types of the exported file."""
    expected = {spec.name: spec.dtype for spec in (*record.model.inputs, *record.model.outputs)}
    for name, kind in (built.inputs | built.outputs).items():
        if expected.get(name) != _FLOATS.get(kind, kind.lower()):
            raise BuildError(
                f"{record.model.file}: {name}: expected {expected.get(name, 'no such tensor')}, "
                f"{record.model.file} became {kind} in TensorRT",
                code="RX403",
            )
