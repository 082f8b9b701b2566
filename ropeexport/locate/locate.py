"""``check --locate``: the first tensor that departs, and the line of torch code that made it.

The failing case runs once more.  The torch program is the oracle and eager's stand-in, as
everywhere, but it also returns the tensors between its inputs and outputs; the runtime runs the
same file with those tensors marked as outputs; and each is held to the bound that
``docs/parity.md`` derives.  The first in the order of the graph that breaks its bound has departed:
what it was made of has not.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import onnx

from ropeexport import manifest
from ropeexport.errors import RopeExportError
from ropeexport.exporting.exporter import finished
from ropeexport.exporting.tracing import trace
from ropeexport.locate import tapped_file
from ropeexport.locate.engine import open_tapped
from ropeexport.locate.program import TappedProgram, returned_by
from ropeexport.locate.taps import Tap, taps_of
from ropeexport.manifest import Manifest
from ropeexport.models import sources
from ropeexport.models.example import checked
from ropeexport.parity.cases import Case
from ropeexport.parity.judge import Judge
from ropeexport.parity.oracle import Oracle
from ropeexport.parity.records import CaseRecord, Comparison, LocationRecord, Report
from ropeexport.parity.space import Kind
from ropeexport.runners.eager import EagerRunner

_NOTHING = (
    "with the tensors in between marked as outputs, each is within its derived bound: the fault is "
    "in what the runtime fuses, or smaller than the bounds in between"
)


def locate(folder: Path, report: Report, module_reference: str | None = None) -> Report:
    """Return a report with a location for each runtime that failed in it.

    Parameters
    ----------
    folder : Path
        The output folder that was checked.
    report : Report
        What :func:`ropeexport.parity.check.check` found.
    module_reference : str, optional
        The factory to import where the model came from the user's own code.

    Raises
    ------
    RopeExportError
        Where the module cannot be rebuilt or traced.
    """
    failed = _failed(report)
    if not failed:
        return report
    record = manifest.read(folder)
    example = sources.rebuild_example(record, folder, module_reference)
    traced = trace(checked(example), record.model.opset)
    program = traced.program
    model = finished(traced.model, example, record.source)[0]
    taps = taps_of(
        model, returned_by(program), program.graph_signature.user_outputs, record.model.outputs
    )
    with TemporaryDirectory() as place, ExitStack() as stack, warnings.catch_warnings():
        # torch copies a program by a method that it calls deprecated itself
        warnings.simplefilter("ignore", FutureWarning)
        copy = tapped_file.write(folder, record, [tap.tensor for tap in taps], Path(place))
        producers = tapped_file.producers(folder / record.model.file)
        taps = _in_order(copy, taps, list(producers))
        names = [tap.tensor for tap in taps]
        copy = _of_taps(copy, taps)
        inputs = [spec.name for spec in record.model.inputs]
        module = TappedProgram(program, inputs, taps)
        eager = stack.enter_context(EagerRunner(module, names, device="cpu"))
        judge = Judge(copy, Oracle(module, names), eager)
        search = _Search(judge, taps, producers)
        found = []
        for runtime, case in failed.items():
            contender = open_tapped(runtime, Path(place), copy, record, stack)
            if contender.runner is None:
                found.append(_unknown(runtime, case, contender.reason))
                continue
            again = Case(case.name, cast(Kind, case.kind), case.sizes, case.seed)
            found.append(search.find(runtime, case, judge.judge(again, [contender])))
    return report.model_copy(update={"locations": tuple(found)})


def _failed(report: Report) -> dict[str, CaseRecord]:
    """Return the smallest failing case of each runtime; what never ran has none."""
    found: dict[str, CaseRecord] = {}
    for comparison in report.comparisons:
        if comparison.status != "FAIL" or comparison.case is None or comparison.numbers is None:
            continue
        best = found.get(comparison.runtime)
        if best is None or _work(comparison.case) < _work(best):
            found[comparison.runtime] = comparison.case
    return {runtime: case for runtime, case in found.items() if runtime != "eager"}


def _work(case: CaseRecord) -> int:
    return math.prod(case.sizes.values())


def _in_order(copy: Manifest, taps: Iterable[Tap], tensors: list[str]) -> list[Tap]:
    """Return the taps that the copy has, in the order in which its graph makes ``tensors``."""
    present = {spec.name for spec in copy.model.outputs}
    found = [tap for tap in taps if tap.tensor in present and tap.tensor in tensors]
    return sorted(found, key=lambda tap: tensors.index(tap.tensor))


def _of_taps(copy: Manifest, taps: list[Tap]) -> Manifest:
    """Return the manifest with the taps as outputs, of the types that they were exported with."""
    outputs = tuple(tap.spec for tap in taps)
    return copy.model_copy(update={"model": copy.model.model_copy(update={"outputs": outputs})})


@dataclass(frozen=True)
class _Search:
    judge: Judge
    taps: list[Tap]
    producers: dict[str, onnx.NodeProto]

    def find(
        self, runtime: str, case: CaseRecord, comparisons: Iterable[Comparison]
    ) -> LocationRecord:
        """Return the first tensor, in the order of the graph, that breaks its bound."""
        try:
            heard = {c.output: c for c in comparisons if c.runtime == runtime}
        except RopeExportError as error:
            return _unknown(runtime, case, str(error))
        for tap in self.taps:
            comparison = heard.get(tap.tensor)
            if comparison is None or comparison.status != "FAIL":
                continue
            node = self.producers.get(tap.tensor, onnx.NodeProto())
            return LocationRecord(
                runtime=runtime,
                case=case.name,
                tensor=tap.tensor,
                node=node.name,
                op=node.op_type,
                source=tap.source,
                reason=comparison.reason,
                sound=tuple(n for n in node.input if _holds(heard.get(n))),
                not_compared=tuple(n for n in node.input if n in self.producers and n not in heard),
                compared=len(heard),
            )
        return _unknown(runtime, case, _NOTHING, len(heard))


def _holds(comparison: Comparison | None) -> bool:
    return comparison is not None and comparison.status in ("PASS", "EMULATED")


def _unknown(runtime: str, case: CaseRecord, reason: str, compared: int = 0) -> LocationRecord:
    return LocationRecord(runtime=runtime, case=case.name, reason=reason, compared=compared)
