"""``check --locate``: the first tensor that departs, and the line of torch code that made it.

The failing case runs once more.  The torch program is the oracle and eager's stand-in, as
everywhere, but it also returns the tensors between its inputs and outputs; the runtime runs the
same file with those tensors marked as outputs; and each is held to the bound that
``docs/parity.md`` derives.  The first in the order of the graph that breaks its bound has departed:
what it was made of has not.
"""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from ropeexport.artifact import Artifact
from ropeexport.exporting.exporter import work_of
from ropeexport.exporting.passes import EXPORT, run
from ropeexport.exporting.tracing import trace
from ropeexport.locate import tapped_file
from ropeexport.locate.engine import open_tapped
from ropeexport.locate.program import TappedProgram, returned_by
from ropeexport.locate.search import Search, failed_cases, in_order, of_taps
from ropeexport.locate.taps import taps_of
from ropeexport.models import sources
from ropeexport.models.example import Example, checked
from ropeexport.models.sources import Module
from ropeexport.onnx_files.onnx_file import producers
from ropeexport.ops.rope_table import MAX_POSITION
from ropeexport.parity.judge import Judge
from ropeexport.parity.oracle import Oracle
from ropeexport.parity.records import CaseRecord, Report
from ropeexport.runners.eager import EagerRunner
from ropeexport.runners.registry import EAGER


def locate(artifact: Artifact, report: Report, module: Module | None = None) -> Report:
    """Return a report with a location for each runtime that failed in it.

    Parameters
    ----------
    artifact : Artifact
        The output folder that was checked.
    report : Report
        What :func:`ropeexport.parity.check.check` found.
    module : optional
        As for :func:`ropeexport.parity.check.check`.

    Raises
    ------
    RopeExportError
        Where the module cannot be rebuilt or traced.
    """
    failed = failed_cases(report, EAGER)
    if not failed:
        return report
    with sources.rebuilt(artifact, module) as example:
        return _located(artifact, example, failed, report)


def _located(
    artifact: Artifact, example: Example, failed: dict[str, CaseRecord], report: Report
) -> Report:
    record = artifact.manifest
    limit = record.model.table_limit or MAX_POSITION
    traced = trace(checked(example), record.model.opset, limit)
    program = traced.program
    model = run(EXPORT, work_of(traced.model, example, record.source, limit)).model
    taps = taps_of(
        model, returned_by(program), program.graph_signature.user_outputs, record.model.outputs
    )
    with TemporaryDirectory() as place, ExitStack() as stack, warnings.catch_warnings():
        # torch copies a program by a method that it calls deprecated itself
        warnings.simplefilter("ignore", FutureWarning)
        names = [tap.tensor for tap in taps]
        copy = tapped_file.write(artifact.file, record, names, Path(place))
        made_by = producers(artifact.file.graph)
        taps = in_order(copy.manifest, taps, made_by)
        names = [tap.tensor for tap in taps]
        tapped = TappedProgram(program, traced.inputs, taps)
        eager = stack.enter_context(EagerRunner(tapped, names, device="cpu"))
        # what lies in between may be all noise: that is no place to depart from
        judge = Judge(of_taps(copy.manifest, taps), Oracle(tapped, names), eager, must_prove=False)
        search = Search(judge, taps, made_by)
        found = tuple(
            search.find(open_tapped(runtime, copy, record, stack), case)
            for runtime, case in failed.items()
        )
    return report.changed(locations=found)
