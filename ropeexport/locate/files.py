"""``check A.onnx B.onnx --locate``: the first tensor of the same name that departs; no torch.

As everywhere, but both homes of a tensor are files: the reference's graph in float64 is the oracle,
and its own run the yardstick.  Tensors are matched by name, and compared where type and rank agree.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from ropeexport.errors import UsageError
from ropeexport.locate import tapped_file
from ropeexport.locate.search import Search, failed_cases, in_order, of_taps, unknown
from ropeexport.locate.tap import STACK, Tap, source_line
from ropeexport.manifest import Manifest, TensorSpec
from ropeexport.onnx_files import onnx_file
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
    reference: Path, candidate: Path, report: Report, runtime: str = CANDIDATE
) -> Report:
    """Return a report with a location where the candidate failed in it.

    Parameters
    ----------
    reference, candidate : Path
        What :func:`ropeexport.parity.check_files.check_files` compared; both ONNX files.
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
    case, path, candidate = failed[runtime], onnx_of(reference), onnx_of(candidate)
    taps, producers = _taps(path, candidate), tapped_file.producers(candidate)
    with TemporaryDirectory() as place, ExitStack() as stack:
        exact, copy = _tapped(path, taps, Path(place, REFERENCE))
        other, _ = _tapped(candidate, taps, Path(place, CANDIDATE))
        taps = in_order(copy, taps, producers)
        yardstick, row = open_yardstick(exact, copy, stack)
        judge = Judge(of_taps(copy, taps), OnnxOracle(exact), yardstick, must_prove=False)
        search = Search(judge, taps, producers)
        contender = open_file(runtime, other, row, stack)
        found = (
            unknown(runtime, case, contender.reason)
            if contender.runner is None
            else search.find(contender, case)
        )
    return report.model_copy(update={"locations": (found,)})


def check_shared(reference: Path, candidate: Path) -> None:
    """Raise :class:`UsageError` unless two files have tensors in between in common."""
    if candidate.suffix == ARRAYS:
        raise UsageError(
            f"--locate: {candidate}: expected an ONNX file, whose graph says what lies between "
            "inputs and outputs, got saved arrays; leave --locate out, or name the file that made "
            "them"
        )
    path, candidate = onnx_of(reference), onnx_of(candidate)
    if not _shared(path, candidate):
        raise UsageError(
            f"--locate: {path} and {candidate}: expected tensors between inputs and outputs of the "
            "same name, type and rank, got none; leave --locate out to compare the outputs alone"
        )


def _shared(reference: Path, candidate: Path) -> list[TensorSpec]:
    """Return the tensors in between that both files have, as the reference has them."""
    specs, others = (
        {value.name: onnx_file.spec_of(value, "data") for value in tapped_file.comparable(path)}
        for path in (reference, candidate)
    )
    return [
        spec
        for name, spec in specs.items()
        if (other := others.get(name)) is not None
        and (other.dtype, len(other.shape)) == (spec.dtype, len(spec.shape))
    ]


def _taps(reference: Path, candidate: Path) -> list[Tap]:
    """Return what is compared: the tensors in between, and the outputs."""
    producers = tapped_file.producers(candidate)
    specs = (*_shared(reference, candidate), *manifest_of(reference).model.outputs)
    return [Tap(spec, source=_source(producers.get(spec.name))) for spec in specs]


def _source(node: onnx.NodeProto | None) -> str:
    entries = node.metadata_props if node is not None else ()
    return source_line(next((entry.value for entry in entries if entry.key == STACK), ""))


def _tapped(path: Path, taps: list[Tap], folder: Path) -> tuple[Path, Manifest]:
    """Write a copy of a file that returns the taps too."""
    folder.mkdir()
    names = [tap.tensor for tap in taps]
    copy = tapped_file.write(path.parent, manifest_of(path), names, folder)
    return folder / copy.model.file, copy
