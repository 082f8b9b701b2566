"""``check`` of files alone: an ONNX file against another, or against saved arrays; no torch.

The first file is the reference: its graph in float64 is the oracle, and the file itself, run in its
own types, is the yardstick that eager torch is elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ropeexport import atomic, manifest
from ropeexport.errors import MissingError, ModelFileError, UsageError
from ropeexport.manifest import Manifest
from ropeexport.onnx_files.onnx_file import input_specs, load
from ropeexport.parity.bare import manifest_of
from ropeexport.parity.cases import Case, Selection, select
from ropeexport.parity.contenders import Contender, is_bfloat16, open_runner
from ropeexport.parity.judge import Judge
from ropeexport.parity.onnx_oracle import OnnxOracle, cause_in_graph
from ropeexport.parity.options import Options
from ropeexport.parity.records import Report
from ropeexport.parity.running import Listener, Silent, run
from ropeexport.parity.space import space_of
from ropeexport.parity.summary import Run, report_of
from ropeexport.profiles import axis_sizes
from ropeexport.runners import Arrays, saved
from ropeexport.runners.emulated import EmulatedRunner
from ropeexport.runners.ort import OrtRunner

ARRAYS = ".npz"
REFERENCE, CANDIDATE = "reference", "candidate"
Make = Callable[[Path], OrtRunner | EmulatedRunner]


def check_files(
    reference: Path,
    candidate: Path,
    options: Options | None = None,
    listener: Listener | None = None,
) -> Report:
    """Compare an ONNX file, or saved arrays, with a reference.

    Parameters
    ----------
    reference : Path
        An ONNX file, or an output folder that holds one.
    candidate : Path
        An ONNX file of the same inputs and outputs (or an output folder that holds one), or an
        ``.npz`` of one run's inputs and outputs.
    options, listener : optional
        As for :func:`ropeexport.parity.check.check`.

    Returns
    -------
    Report
        Its runtimes are ``reference`` and ``candidate``.

    Raises
    ------
    RopeExportError
        Where no run can be set up.
    """
    options, listener = options or Options(), listener or Silent()
    path = onnx_of(reference)
    record = manifest_of(path)
    with ExitStack() as stack:
        oracle = OnnxOracle(path)
        yardstick, make = open_yardstick(path, record, stack)
        file = onnx_of(candidate)
        selection, inputs, contender = _candidate(record, file, options, make, stack)
        listener.stage("oracle", f"{path.name} in float64, {len(selection.cases)} cases")
        judge = Judge(record, oracle, yardstick, options.override, inputs=inputs)
        ran = contender.runner is not None
        text = contender.implementation if ran else f"{contender.status}: {contender.reason}"
        listener.stage(CANDIDATE, text, ok=ran)
        outcome = run(judge, selection.cases, [contender], listener)
        command = options.command(reference, candidate)
        digest = atomic.sha256_of(path)
        made = Run(record, options.seed, command, digest, selection, judge, [contender])
        return report_of(made, outcome)


def onnx_of(reference: Path) -> Path:
    """Return an ONNX file, or the one of an output folder."""
    return reference / manifest.read(reference).model.file if reference.is_dir() else reference


def _candidate(
    record: Manifest, path: Path, options: Options, make: Make, stack: ExitStack
) -> tuple[Selection, Arrays | None, Contender]:
    """Return the cases, the inputs where they were saved, and who is held to the reference."""
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file")
    if path.suffix == ARRAYS:
        inputs, outputs = saved.load(path, record.model.inputs, record.model.outputs)
        contender = Contender(CANDIDATE, saved.SavedRunner(outputs))
        return Selection((_saved_case(record, inputs, options),)), inputs, contender
    _check_same_inputs(record, path)
    selection = select(record, options.seed, options.count, options.lengths)
    return selection, None, open_runner(CANDIDATE, lambda: named(make(path), CANDIDATE), stack)


def _check_same_inputs(record: Manifest, path: Path) -> None:
    expected = {spec.name: spec.dtype for spec in record.model.inputs}
    found = {spec.name: spec.dtype for spec in input_specs(load(path, external_data=False))}
    if found != expected:
        raise UsageError(f"{path}: expected the inputs {_text(expected)}, got {_text(found)}")


def _text(types: dict[str, str]) -> str:
    return ", ".join(f"{name} ({dtype})" for name, dtype in types.items())


def _saved_case(record: Manifest, inputs: Arrays, options: Options) -> Case:
    shapes = {name: x.shape for name, x in inputs.items()}
    for spec in record.model.inputs:
        if len(spec.shape) != len(shapes[spec.name]):
            raise UsageError(
                f"{spec.name}: expected an array of shape {spec.shape}, got {shapes[spec.name]}"
            )
    sizes = axis_sizes(record.model.inputs, shapes, "saved arrays")
    kind = space_of(record).kinds[-1]
    return Case("saved arrays", kind, sizes, options.seed)


class FileReference:
    """An ONNX file in eager's place: what runs it, again where it is asked to.

    Parameters
    ----------
    runner : OrtRunner or EmulatedRunner
        Of the file.
    path : Path
        The file.
    """

    def __init__(self, runner: OrtRunner | EmulatedRunner, path: Path) -> None:
        self._runner = named(runner, REFERENCE)
        self._path = path
        self.name, self.implementation = runner.name, runner.implementation
        self.emulated = isinstance(runner, EmulatedRunner)
        self.version = self.device = ""

    def __enter__(self) -> Self:
        runner = self._runner.__enter__()
        self.version, self.device = runner.version, runner.device
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._runner.__exit__(kind, error, trace)

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        """Run the file once, see :class:`ropeexport.runners.Runner`."""
        return self._runner.run(inputs)

    def in_a_row(self, calls: Sequence[Arrays]) -> list[dict[str, NDArray[np.generic]]]:
        """Run the file once for each of some inputs."""
        return [self.run(inputs) for inputs in calls]

    def cause(self, before: Sequence[Arrays], inputs: Arrays) -> str:
        """Say why the result on ``inputs`` is another one after the calls ``before``."""
        return cause_in_graph(self._path)


def open_yardstick(path: Path, record: Manifest, stack: ExitStack) -> tuple[FileReference, Make]:
    """Enter the reference, and return how the candidate is to be run: as the reference is."""
    make: Make = OrtRunner
    try:
        return stack.enter_context(FileReference(make(path), path)), make
    except MissingError:
        if not is_bfloat16(record):
            raise
    make = EmulatedRunner
    return stack.enter_context(FileReference(make(path), path)), make


def named(runner: OrtRunner | EmulatedRunner, name: str) -> OrtRunner | EmulatedRunner:
    """Return a runner under its name in the report."""
    runner.name = name
    if isinstance(runner, OrtRunner):
        runner.implementation = "onnxruntime"
    return runner
