"""Which of the tensors in between breaks its bound first: the search itself, with no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import onnx_ir as ir

from ropeexport.errors import RopeExportError
from ropeexport.locate.taps import Tap
from ropeexport.manifest import Manifest
from ropeexport.parity.cases import Case
from ropeexport.parity.contenders import Contender
from ropeexport.parity.judge import Judge
from ropeexport.parity.records import CaseRecord, Comparison, LocationRecord, Report
from ropeexport.parity.space import Kind

_NOTHING = (
    "with the tensors in between marked as outputs, each is within its derived bound: the fault is "
    "in what the runtime fuses, or smaller than the bounds in between"
)


def failed_cases(report: Report, yardstick: str) -> dict[str, CaseRecord]:
    """Return the smallest failing case of each runtime but the yardstick's.

    What never ran has none.
    """
    found: dict[str, CaseRecord] = {}
    for comparison in report.comparisons:
        if comparison.status != "FAIL" or comparison.case is None or comparison.numbers is None:
            continue
        best = found.get(comparison.runtime)
        if best is None or _work(comparison.case) < _work(best):
            found[comparison.runtime] = comparison.case
    return {runtime: case for runtime, case in found.items() if runtime != yardstick}


def _work(case: CaseRecord) -> int:
    return math.prod(case.sizes.values())


def in_order(copy: Manifest, taps: Iterable[Tap], tensors: Iterable[str]) -> list[Tap]:
    """Return the taps that the copy has, in the order in which its graph makes ``tensors``."""
    present = {spec.name for spec in copy.model.outputs}
    place = {name: number for number, name in enumerate(tensors) if name in present}
    return sorted((tap for tap in taps if tap.tensor in place), key=lambda tap: place[tap.tensor])


def of_taps(copy: Manifest, taps: list[Tap]) -> Manifest:
    """Return the manifest with the taps as outputs, of the types that they were exported with."""
    outputs = tuple(tap.spec for tap in taps)
    return copy.changed(model=copy.model.changed(outputs=outputs))


@dataclass(frozen=True)
class Search:
    """The judge of a tapped copy, its taps, and the nodes that make its tensors."""

    judge: Judge
    taps: list[Tap]
    producers: dict[str, ir.Node]

    def find(self, contender: Contender, case: CaseRecord) -> LocationRecord:
        """Run a case once more; return the first tensor of the graph that breaks its bound."""
        runtime = contender.name
        if contender.runner is None:
            return _unknown(runtime, case, contender.reason)
        again = Case(case.name, cast(Kind, case.kind), case.sizes, case.seed)
        try:
            comparisons = self.judge.judge(again, [contender])
            heard = {c.output: c for c in comparisons if c.runtime == runtime}
        except RopeExportError as error:
            return _unknown(runtime, case, str(error))
        for tap in self.taps:
            comparison = heard.get(tap.tensor)
            if comparison is not None and comparison.status == "FAIL":
                return self._located(tap, case, comparison, heard)
        return _unknown(runtime, case, _NOTHING, len(heard))

    def _located(
        self, tap: Tap, case: CaseRecord, comparison: Comparison, heard: dict[str, Comparison]
    ) -> LocationRecord:
        node = self.producers.get(tap.tensor)
        inputs = [str(x.name) for x in node.inputs if x is not None] if node is not None else []
        return LocationRecord(
            runtime=comparison.runtime,
            case=case.name,
            tensor=tap.tensor,
            node=str(node.name) if node is not None else "",
            op=node.op_type if node is not None else "",
            source=tap.source,
            reason=comparison.reason,
            sound=tuple(n for n in inputs if _holds(heard.get(n))),
            not_compared=tuple(n for n in inputs if n in self.producers and n not in heard),
            compared=len(heard),
        )


def _holds(comparison: Comparison | None) -> bool:
    return comparison is not None and comparison.status in ("PASS", "EMULATED")


def _unknown(runtime: str, case: CaseRecord, reason: str, compared: int = 0) -> LocationRecord:
    """Return the record of a runtime whose fault was not found, and why."""
    return LocationRecord(runtime=runtime, case=case.name, reason=reason, compared=compared)
