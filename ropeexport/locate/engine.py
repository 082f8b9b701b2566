"""A runtime on a tapped copy: one that runs files as it is, of one that runs engines a new one.

An engine returns what its network marks as an output, so the copy, whose ONNX file has the further
outputs, is built as the engine was: the same flavour, implementation and profile.
"""

from __future__ import annotations

from contextlib import ExitStack

from ropeexport.artifact import Artifact
from ropeexport.errors import RopeExportError
from ropeexport.manifest import EngineRecord, Manifest
from ropeexport.parity.contenders import Contender, open_runtime
from ropeexport.runners.registry import choice_of
from ropeexport.trt.build import BuildOptions, Choice, build


def open_tapped(runtime: str, copy: Artifact, original: Manifest, stack: ExitStack) -> Contender:
    """Enter a runtime on a tapped copy, or keep the reason why it cannot be.

    Parameters
    ----------
    runtime : str
        Its name in the report, an emulation's too.
    copy : Artifact
        The tapped copy.
    original : Manifest
        Of the folder that was checked, whose engine says what to build.
    stack : ExitStack
        Closes the runtime.
    """
    chosen = choice_of(runtime)
    kept_in = None
    if chosen.runtime.runs == "engine" and original.engine is not None:
        # the copy goes when the search ends, and what was compiled for it goes with it
        kept_in = copy.folder / "runtime"
        try:
            copy = copy.updated(engine=build(copy, options_of(original.engine)))
        except RopeExportError as error:
            return Contender(runtime, reason=str(error))
    return open_runtime(chosen, copy, stack, kept_in)


def options_of(engine: EngineRecord) -> BuildOptions:
    """Return what builds an engine once more, as it was built."""
    kinds = sorted(set(engine.ropes.values()))
    choice: Choice = "plugin" if "plugin" in kinds else kinds[0] if kinds else "decomposed"
    profile = engine.profile
    return BuildOptions(
        impl=choice,
        flavour=engine.flavour,
        min_shapes=profile.min,
        opt_shapes=profile.opt,
        max_shapes=profile.max,
        force=True,
    )
