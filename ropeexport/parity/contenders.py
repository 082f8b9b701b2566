"""The runtimes of a run, each entered if it can be; one that cannot keeps the reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock

from ropeexport.artifact import Artifact
from ropeexport.errors import MissingError, RopeExportError
from ropeexport.manifest import Manifest
from ropeexport.onnx_files.onnx_file import OnnxFile
from ropeexport.parity.records import Status
from ropeexport.runners.registry import Choice, Opening, Runtime, choices, substitutes
from ropeexport.runners.runner import Facts, Runner

_NO_FLOATS = ("bool", "int", "uint")


@dataclass(frozen=True)
class Contender:
    """A runtime that was entered, or the status and reason why it was not."""

    name: str
    runner: Runner | None = None
    status: Status = "SKIPPED"
    reason: str = ""
    turn: AbstractContextManager[object] = field(default_factory=Lock)  # one run at a time
    keeps_nan: bool = True  # see ropeexport.runners.registry

    @property
    def facts(self) -> Facts:
        """What it is, as far as it is known."""
        return self.runner.facts if self.runner else Facts()


def open_contenders(
    artifact: Artifact, stack: ExitStack, chosen: Sequence[Choice] = ()
) -> list[Contender]:
    """Enter every runtime, or those that were chosen, if this machine can; ``stack`` closes them.

    Where one is chosen for its own kernels and has none for a type of the model, what emulates it
    is entered too.
    """
    contenders = []
    for each in chosen or choices():
        opened = open_runtime(each, artifact, stack)
        contenders.append(opened)
        if opened.runner is None and opened.status == "SKIPPED" and each.provider is None:
            contenders += [
                open_runtime(Choice(emulation), artifact, stack)
                for emulation in substitutes(each.runtime)
                if not emulation.is_idle_for(dtypes_of(artifact.manifest))
            ]
    return contenders


def open_runtime(
    chosen: Choice, artifact: Artifact, stack: ExitStack, kept_in: Path | None = None
) -> Contender:
    """Enter a runtime on an output folder, or keep the reason why it cannot be."""
    runtime = chosen.runtime

    def make() -> Runner:
        runtime.require_dtypes(dtypes_of(artifact.manifest))
        if chosen.provider is not None:
            runtime.require(provider=chosen.provider)
        model = _model_of(runtime, artifact)
        return runtime.open(Opening(model, chosen.provider, kept_in=kept_in))

    opened = open_runner(chosen.name, make, stack, reentrant=runtime.reentrant)
    return replace(opened, keeps_nan=runtime.keeps_nan)


def open_runner(
    name: str, make: Callable[[], Runner], stack: ExitStack, *, reentrant: bool = False
) -> Contender:
    """Enter a runner, or keep the reason why it cannot be."""
    try:
        runner = stack.enter_context(make())
    except MissingError as error:
        return Contender(name, reason=str(error))
    except RopeExportError as error:
        return Contender(name, status="FAIL", reason=str(error))
    return Contender(name, runner, turn=nullcontext() if reentrant else Lock())


def dtypes_of(manifest: Manifest) -> list[str]:
    """Return the floating types of a model's inputs and outputs."""
    specs = (*manifest.model.inputs, *manifest.model.outputs)
    return list(dict.fromkeys(s.dtype for s in specs if not s.dtype.startswith(_NO_FLOATS)))


def _model_of(runtime: Runtime, artifact: Artifact) -> OnnxFile | Artifact:
    if runtime.runs == "file":
        return artifact.file
    if artifact.manifest.engine is None:
        raise MissingError(f"no engine; run 'ropeexport build {artifact.folder}'")
    return artifact
