"""``check A.onnx B.onnx --locate``: the first tensor of the same name that departs; no torch.

As everywhere, but both homes of a tensor are files: the reference's graph in float64 is the oracle,
and its own run the yardstick.  Tensors are matched by name, and compared where type and rank agree.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from ropeexport.artifact import Artifact
from ropeexport.errors import UsageError
from ropeexport.locate import tapped_file
from ropeexport.locate.search import Search, failed_cases, in_order, of_taps
from ropeexport.locate.taps import Tap, source_of
from ropeexport.manifest import TensorSpec
from ropeexport.onnx_files.onnx_file import OnnxFile, producers, with_shapes
from ropeexport.onnx_files.specs import spec_of
from ropeexport.parity.bare import manifest_of
from ropeexport.parity.check_files import (
    ARRAYS,
    CANDIDATE,
    REFERENCE,
    onnx_of,
    open_file,
    open_yardstick,
)
from ropeexport.parity.judge import Judge
from ropeexport.parity.onnx_oracle import OnnxOracle
from ropeexport.parity.records import Report


def locate_files(
    reference: OnnxFile, candidate: OnnxFile, report: Report, runtime: str = CANDIDATE
) -> Report:
    """Return a report with a location where the candidate failed in it.

    Parameters
    ----------
    reference, candidate : OnnxFile
        What :func:`ropeexport.parity.check_files.check_files` compared.
    report : Report
        What it found.
    runtime : str
        The candidate's name in it.

    Raises
    ------
    UsageError
        Where nothing can be compared, see :func:`check_shared`.
    """
    failed = failed_cases(report, REFERENCE)
    if runtime not in failed:
        return report
    case, made_by = failed[runtime], producers(candidate.graph)
    taps = _taps(reference, candidate)
    with TemporaryDirectory() as place, ExitStack() as stack:
        exact = _tapped(reference, taps, Path(place, REFERENCE))
        other = _tapped(candidate, taps, Path(place, CANDIDATE))
        copy = exact.manifest
        taps = in_order(copy, taps, made_by)
        yardstick, row = open_yardstick(exact.file, copy, stack)
        judge = Judge(of_taps(copy, taps), OnnxOracle(exact.file), yardstick, must_prove=False)
        search = Search(judge, taps, made_by)
        contender = open_file(runtime, other.file, row, stack)
        found = search.find(contender, case)
    return report.changed(locations=(found,))


def check_shared(reference: Path, candidate: Path) -> None:
    """Raise :class:`UsageError` unless two files have tensors in between in common."""
    if candidate.suffix == ARRAYS:
        raise UsageError(
            f"--locate: {candidate}: expected an ONNX file, whose graph says what lies between "
            "inputs and outputs, got saved arrays; leave --locate out, or name the file that made "
            "them"
        )
    one, other = onnx_of(reference), onnx_of(candidate)
    if not _shared(one, other):
        raise UsageError(
            f"--locate: {one.path} and {other.path}: expected tensors between inputs and outputs "
            "of the same name, type and rank, got none; leave --locate out to compare the outputs "
            "alone"
        )


def _shared(reference: OnnxFile, candidate: OnnxFile) -> list[TensorSpec]:
    """Return the tensors in between that both files have, as the reference has them."""
    specs, others = (
        {value.name: spec_of(value, "data") for value in tapped_file.comparable(model)}
        for model in (with_shapes(reference.graph), with_shapes(candidate.graph))
    )
    return [
        spec
        for name, spec in specs.items()
        if (other := others.get(name)) is not None
        and (other.dtype, len(other.shape)) == (spec.dtype, len(spec.shape))
    ]


def _taps(reference: OnnxFile, candidate: OnnxFile) -> list[Tap]:
    """Return what is compared: the tensors in between, and the outputs."""
    made_by = producers(candidate.graph)
    specs = (*_shared(reference, candidate), *manifest_of(reference).model.outputs)
    return [Tap(spec, source=source_of(made_by.get(spec.name))) for spec in specs]


def _tapped(file: OnnxFile, taps: list[Tap], folder: Path) -> Artifact:
    """Write a copy of a file that returns the taps too."""
    folder.mkdir()
    return tapped_file.write(file, manifest_of(file), [tap.tensor for tap in taps], folder)
