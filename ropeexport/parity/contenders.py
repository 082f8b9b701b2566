"""Who takes part in a run: runtimes, each entered if it can be, files, and saved arrays.

One that cannot be entered keeps the reason.  Saved arrays are what somebody else computed, on
another machine or day.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock

import onnx_ir as ir

from ropeexport.artifact import Artifact
from ropeexport.dtypes import held_in
from ropeexport.errors import MissingError, RopeExportError, UntrustedError, UsageError
from ropeexport.manifest import Manifest, ModelRecord
from ropeexport.numpy_files import read_arrays
from ropeexport.operators import is_standard
from ropeexport.parity.records import Status
from ropeexport.runners.registry import Choice, Opening, Runtime, substitutes
from ropeexport.runners.runner import Arrays, Facts, Runner

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
    artifact: Artifact, stack: ExitStack, chosen: Sequence[Choice]
) -> list[Contender]:
    """Enter the runtimes that were chosen, if this machine can; ``stack`` closes them.

    Where one is chosen for its own kernels and has none for a type of the model, what emulates it
    is entered too.
    """
    contenders = []
    for each in chosen:
        opened = open_runtime(each, artifact, stack)
        contenders.append(opened)
        if opened.runner is None and opened.status == "SKIPPED" and each.provider is None:
            able = emulations_of(each.runtime, artifact.manifest)
            contenders += [open_runtime(Choice(one), artifact, stack) for one in able]
    return contenders


def open_runtime(
    chosen: Choice, artifact: Artifact, stack: ExitStack, kept_in: Path | None = None
) -> Contender:
    """Enter a runtime on an output folder, or keep the reason why it cannot be."""
    runtime = chosen.runtime

    def make() -> Runner:
        runtime.require_dtypes(_dtypes_of(artifact.manifest))
        if chosen.provider is not None:
            runtime.require(provider=chosen.provider)
        runs_engines = runtime.runs == "engine"
        if runs_engines and artifact.manifest.engine is None:
            raise MissingError(f"no engine; run 'ropeexport build {artifact.folder}'", code="RX502")
        model = artifact if runs_engines else artifact.file
        return runtime.open(Opening(model, chosen.provider, kept_in=kept_in))

    opened = open_runner(chosen.name, runtime, make, stack)
    return replace(opened, keeps_nan=False) if _takes_nan_out(artifact.file.graph) else opened


def _takes_nan_out(model: ir.Model) -> bool:
    """Say whether a graph looks for NaN, as attention for rows without keys does."""
    return any(is_standard(node, "IsNaN") for node in model.graph)


def open_runner(
    name: str, runtime: Runtime, make: Callable[[], Runner], stack: ExitStack
) -> Contender:
    """Enter a runner, or keep the reason why it cannot be."""
    try:
        runner = stack.enter_context(make())
    except (MissingError, UntrustedError) as error:  # nothing of it has run
        return Contender(name, reason=str(error))
    except RopeExportError as error:
        return Contender(name, status="FAIL", reason=str(error))
    turn = nullcontext() if runtime.reentrant else Lock()
    return Contender(name, runner, turn=turn, keeps_nan=runtime.keeps_nan)


def emulations_of(runtime: Runtime, manifest: Manifest) -> list[Runtime]:
    """Return what emulates a runtime for the floating types of a model."""
    dtypes = _dtypes_of(manifest)
    return [each for each in substitutes(runtime) if not each.is_idle_for(dtypes)]


def _dtypes_of(manifest: Manifest) -> list[str]:
    """Return the floating types of a model's inputs and outputs."""
    specs = (*manifest.model.inputs, *manifest.model.outputs)
    return list(dict.fromkeys(s.dtype for s in specs if not s.dtype.startswith(_NO_FLOATS)))


class SavedRunner(Runner):
    """Returns arrays that were saved, whatever it is given.

    Parameters
    ----------
    outputs : mapping of str to ndarray
        By name.
    """

    facts = Facts(implementation=("saved arrays",))

    def __init__(self, outputs: Arrays) -> None:
        self._outputs = dict(outputs)

    def call(self, loaded: Arrays) -> Arrays:
        """Return the outputs."""
        return self._outputs


def load_saved(path: Path, model: ModelRecord) -> tuple[Arrays, Arrays]:
    """Read the inputs and outputs of one run from an ``.npz`` file, each in its own type.

    NumPy has no bfloat16 of its own: such an array may be saved as its bits, or in a wider type
    that holds its very values.

    Raises
    ------
    UsageError
        Where the file is not of arrays, or lacks an input.
    """
    held = read_arrays(path)
    if not isinstance(held, dict):
        raise UsageError(
            f"{path}: expected arrays by name, as numpy.savez writes them, got one", code="RX618"
        )
    missing = [spec.name for spec in model.inputs if spec.name not in held]
    if missing:
        raise UsageError(
            f"{path}: expected every input of the model by name, lacks {', '.join(missing)}; "
            f"it holds {', '.join(held) or 'nothing'}",
            code="RX605",
        )
    inputs, outputs = (
        {spec.name: held_in(held[spec.name], spec.dtype) for spec in specs if spec.name in held}
        for specs in (model.inputs, model.outputs)
    )
    return inputs, outputs
