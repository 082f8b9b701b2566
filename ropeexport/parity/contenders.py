"""The runtimes of a run, each entered if it can be; one that cannot keeps the reason."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from ropeexport.errors import MissingError, RopeExportError
from ropeexport.manifest import Manifest
from ropeexport.parity.records import Status
from ropeexport.runners import Runner

RUNTIMES = ("onnxruntime", "tensorrt")
EMULATED = "EMULATED"  # where onnxruntime has no kernels for a bfloat16 model
NATIVE = "native"  # right for rotations only


@dataclass(frozen=True)
class Contender:
    """A runtime that was entered, or the status and reason why it was not."""

    name: str
    runner: Runner | None = None
    rotations_only: bool = False
    status: Status = "SKIPPED"
    reason: str = ""
    turn: AbstractContextManager[object] = field(default_factory=Lock)  # one run at a time

    @property
    def implementation(self) -> str:
        """What computes the rope, as far as it is known."""
        return self.runner.implementation if self.runner else ""


def open_contenders(folder: Path, manifest: Manifest, stack: ExitStack) -> list[Contender]:
    """Enter every runtime that this machine can run; ``stack`` closes them."""
    makers: dict[str, Callable[[], Runner]] = {
        "onnxruntime": lambda: _onnxruntime(folder, manifest),
        "tensorrt": lambda: _tensorrt(folder, manifest),
    }
    contenders = [open_runner(name, makers[name], stack) for name in RUNTIMES]
    if is_bfloat16(manifest) and contenders[0].status == "SKIPPED" and not contenders[0].runner:
        contenders.append(open_runner(EMULATED, lambda: _emulated(folder, manifest), stack))
    return contenders


def open_runner(name: str, make: Callable[[], Runner], stack: ExitStack) -> Contender:
    """Enter a runtime, or keep the reason why it cannot be."""
    try:
        runner = stack.enter_context(make())
    except MissingError as error:
        return Contender(name, reason=str(error))
    except RopeExportError as error:
        return Contender(name, status="FAIL", reason=str(error))
    turn = nullcontext() if getattr(runner, "reentrant", False) else Lock()
    return Contender(
        name, runner, rotations_only=NATIVE in runner.implementation.split("+"), turn=turn
    )


def _onnxruntime(folder: Path, manifest: Manifest) -> Runner:
    from ropeexport.runners.ort import OrtRunner

    return OrtRunner(folder / manifest.model.file)


def _emulated(folder: Path, manifest: Manifest) -> Runner:
    from ropeexport.runners.emulated import EmulatedRunner

    return EmulatedRunner(folder / manifest.model.file)


def is_bfloat16(manifest: Manifest) -> bool:
    """Say whether an input or output of a model is bfloat16."""
    specs = (*manifest.model.inputs, *manifest.model.outputs)
    return any(spec.dtype == "bfloat16" for spec in specs)


def _tensorrt(folder: Path, manifest: Manifest) -> Runner:
    if manifest.engine is None:
        raise MissingError(f"no engine; run 'ropeexport build {folder}'")
    from ropeexport.runners.trt import TensorrtRunner

    runner: Runner = TensorrtRunner(folder)
    return runner
