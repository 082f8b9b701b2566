"""A runtime on a tapped copy: onnxruntime and the EMULATED twin as they are, an engine built anew.

An engine returns what its network marks as an output, so the copy, whose ONNX file has the further
outputs, is built as the engine was: the same flavour, implementation and profile.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from ropeexport.manifest import EngineRecord, Manifest
from ropeexport.parity.contenders import Contender, open_contenders, open_runner
from ropeexport.runners import Runner
from ropeexport.trt.build import Choice, Options, build


def open_tapped(
    runtime: str, folder: Path, copy: Manifest, original: Manifest, stack: ExitStack
) -> Contender:
    """Enter a runtime on a tapped copy, or keep the reason why it cannot be.

    Parameters
    ----------
    runtime : str
        ``onnxruntime``, ``EMULATED`` or ``tensorrt``.
    folder : Path
        The tapped copy.
    copy, original : Manifest
        Of the copy, and of the folder that was checked, whose engine says what to build.
    stack : ExitStack
        Closes the runtime.
    """
    if runtime == "tensorrt" and original.engine is not None:
        engine = original.engine
        return open_runner(runtime, lambda: _rebuilt(folder, engine), stack)
    contenders = {c.name: c for c in open_contenders(folder, copy, stack)}
    return contenders.get(runtime) or Contender(runtime, reason=f"{runtime} does not run here")


def _rebuilt(folder: Path, engine: EngineRecord) -> Runner:
    from ropeexport.runners.trt import TensorrtRunner

    build(folder, options_of(engine))
    # the copy goes when the search ends, and what was compiled for it goes with it
    runner: Runner = TensorrtRunner(folder, kept_in=folder / "runtime")
    return runner


def options_of(engine: EngineRecord) -> Options:
    """Return what builds an engine once more, as it was built."""
    kinds = sorted(set(engine.ropes.values()))
    choice: Choice = "plugin" if "plugin" in kinds else kinds[0] if kinds else "decomposed"
    profile = engine.profile
    return Options(
        impl=choice,
        flavour=engine.flavour,
        min_shapes=profile.min,
        opt_shapes=profile.opt,
        max_shapes=profile.max,
        force=True,
    )
