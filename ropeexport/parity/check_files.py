"""``check`` of files alone: an ONNX file against another, or against saved arrays; no torch.

The first file is the reference: its graph in float64 is the oracle, and the file itself, run in its
own types, is the yardstick that eager torch is elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ropeexport import atomic
from ropeexport.artifact import Artifact
from ropeexport.errors import MissingError, ModelFileError, UsageError
from ropeexport.manifest import Manifest
from ropeexport.onnx_files.onnx_file import OnnxFile
from ropeexport.onnx_files.specs import input_specs
from ropeexport.parity.bare import manifest_of
from ropeexport.parity.cases import Case, Selection, select
from ropeexport.parity.contenders import Contender, dtypes_of, open_runner
from ropeexport.parity.judge import Judge
from ropeexport.parity.onnx_oracle import OnnxOracle, cause_in_graph
from ropeexport.parity.options import Options
from ropeexport.parity.records import Report
from ropeexport.parity.running import Listener, Silent
from ropeexport.parity.space import space_of
from ropeexport.parity.summary import run_to_report
from ropeexport.profiles import axis_sizes
from ropeexport.runners import saved
from ropeexport.runners.arrays import Arrays
from ropeexport.runners.registry import Opening, Runtime, find, substitutes
from ropeexport.runners.runner import Facts, Runner

ARRAYS = ".npz"
REFERENCE, CANDIDATE = "reference", "candidate"
RUNTIME = find("onnxruntime")  # that runs both files


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
    file = onnx_of(reference)
    record = manifest_of(file)
    with ExitStack() as stack:
        oracle = OnnxOracle(file)
        yardstick, runtime = open_yardstick(file, record, stack)
        other = onnx_of(candidate)
        selection, inputs, contender = _candidate(record, other, options, runtime, stack)
        listener.stage("oracle", f"{file.path.name} in float64, {len(selection.cases)} cases")
        judge = Judge(record, oracle, yardstick, options.override, inputs=inputs)
        command, digest = options.command(reference, candidate), atomic.sha256_of(file.path)
        return run_to_report(
            judge, selection, [contender], listener, options, command=command, digest=digest
        )


def onnx_of(reference: Path) -> OnnxFile:
    """Return an ONNX file, or the one of an output folder."""
    return Artifact.read(reference).file if reference.is_dir() else OnnxFile(reference)


def _candidate(
    record: Manifest, file: OnnxFile, options: Options, runtime: Runtime, stack: ExitStack
) -> tuple[Selection, Arrays | None, Contender]:
    """Return the cases, the inputs where they were saved, and who is held to the reference."""
    path = file.path
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file")
    if path.suffix == ARRAYS:
        inputs, outputs = saved.load(path, record.model.inputs, record.model.outputs)
        contender = Contender(CANDIDATE, saved.SavedRunner(outputs))
        return Selection((_saved_case(record, inputs, options),)), inputs, contender
    _check_same_inputs(record, file)
    selection = select(record, options.seed, options.count, options.lengths)
    return selection, None, open_file(CANDIDATE, file, runtime, stack)


def _check_same_inputs(record: Manifest, file: OnnxFile) -> None:
    expected = {spec.name: spec.dtype for spec in record.model.inputs}
    found = {spec.name: spec.dtype for spec in input_specs(file.graph)}
    if found != expected:
        raise UsageError(f"{file.path}: expected the inputs {_text(expected)}, got {_text(found)}")


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
    runner : Runner
        Of the file, entered.
    file : OnnxFile
        The file.
    """

    name = REFERENCE

    def __init__(self, runner: Runner, file: OnnxFile) -> None:
        self._runner = runner
        self._file = file

    @property
    def facts(self) -> Facts:
        """Those of what runs it."""
        return self._runner.facts

    def in_a_row(self, calls: Sequence[Arrays]) -> list[dict[str, NDArray[np.generic]]]:
        """Run the file once for each of some inputs."""
        return [self._runner.run(inputs) for inputs in calls]

    def cause(self, before: Sequence[Arrays], inputs: Arrays) -> str:
        """Say why the result on ``inputs`` is another one after the calls ``before``."""
        return cause_in_graph(self._file)


def open_yardstick(
    file: OnnxFile, record: Manifest, stack: ExitStack
) -> tuple[FileReference, Runtime]:
    """Enter the reference, and return the runtime that the candidate is to run in as well."""
    runtime = RUNTIME
    try:
        runner = stack.enter_context(runtime.open(Opening(file, as_written=True)))
    except MissingError:
        able = [r for r in substitutes(runtime) if not r.is_idle_for(dtypes_of(record))]
        if not able:
            raise
        runtime = able[0]
        runner = stack.enter_context(runtime.open(Opening(file, as_written=True)))
    return FileReference(_named(runner, runtime), file), runtime


def open_file(name: str, file: OnnxFile, runtime: Runtime, stack: ExitStack) -> Contender:
    """Enter a file in a runtime, or keep the reason why it cannot be."""
    opened = open_runner(
        name,
        lambda: runtime.open(Opening(file, as_written=True)),
        stack,
        reentrant=runtime.reentrant,
    )
    if opened.runner is not None:
        _named(opened.runner, runtime)
    return opened


def _named(runner: Runner, runtime: Runtime) -> Runner:
    """Let a runner say what runs the file: what is in the file is anybody's."""
    if not runner.facts.emulated:
        runner.facts = replace(runner.facts, implementation=(runtime.name,))
    return runner
