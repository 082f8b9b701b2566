"""What the reports show, taken from the records: rows, cells and numbers as text; no layout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from pydantic import ValidationError

from ropeexport.errors import ParityError
from ropeexport.manifest import first_fault
from ropeexport.parity.records import FILE_NAME, CaseRecord, Comparison, Report
from ropeexport.parity.report import number, percent, word


@dataclass(frozen=True)
class Cell:
    """One runtime in one case: its worst output."""

    comparison: Comparison

    @property
    def share(self) -> float:
        """Share of the bound."""
        return self.comparison.share

    @property
    def text(self) -> str:
        """The share, or the word where there is none."""
        status = self.comparison.status
        if status in ("SKIPPED", "NOT_SUPPORTED"):
            return word(status)
        numbers = self.comparison.numbers
        if numbers and numbers.nans == numbers.elements and status != "FAIL":
            return "NaN"
        return percent(self.share) if numbers else word(status)

    @property
    def detail(self) -> str:
        """Output and largest error, and the reason of a failure."""
        numbers = self.comparison.numbers
        error = f"{self.comparison.output}: {number(numbers.max_abs)}" if numbers else ""
        return "; ".join(part for part in (error, self.comparison.reason) if part)


@dataclass(frozen=True)
class CaseRow:
    """One case over all runtimes; None where a runtime has nothing for it."""

    case: CaseRecord
    cells: tuple[Cell | None, ...]

    @property
    def failed(self) -> bool:
        """Whether any runtime failed."""
        return any(cell is not None and cell.comparison.status == "FAIL" for cell in self.cells)

    @property
    def share(self) -> float:
        """The largest share of a bound."""
        return max((cell.share for cell in self.cells if cell is not None), default=0.0)


def read(path: Path) -> Report:
    """Read the records of a run from ``parity.json`` or from the folder that it lies in."""
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        raise ParityError(f"{file}: no such file; run 'ropeexport check DIR' first")
    try:
        return Report.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise ParityError(
            f"{file}: not a report of this version of ropeexport ({first_fault(error)}); check "
            "again"
        ) from error


def compared_runtimes(report: Report) -> tuple[str, ...]:
    """Return the runtimes that have a comparison of a case, eager first."""
    return tuple(dict.fromkeys(c.runtime for c in report.comparisons if c.case is not None))


def case_rows(report: Report) -> list[CaseRow]:
    """Return a row a case: failures first, then those that use most of their bounds."""
    runtimes = compared_runtimes(report)
    cases: dict[str, dict[str, list[Comparison]]] = {}
    records: dict[str, CaseRecord] = {}
    for comparison in report.comparisons:
        if comparison.case is not None:
            records[comparison.case.name] = comparison.case
            of_case = cases.setdefault(comparison.case.name, {})
            of_case.setdefault(comparison.runtime, []).append(comparison)
    rows = [
        CaseRow(records[name], tuple(_cell(found.get(runtime, ())) for runtime in runtimes))
        for name, found in cases.items()
    ]
    return sorted(rows, key=lambda row: (not row.failed, -row.share))


def _cell(comparisons: Sequence[Comparison]) -> Cell | None:
    if not comparisons:
        return None
    return Cell(max(comparisons, key=lambda c: (c.status == "FAIL", c.share)))


def failures(report: Report) -> list[Comparison]:
    """Return what failed, the largest share of a bound first."""
    failed = [comparison for comparison in report.comparisons if comparison.status == "FAIL"]
    return sorted(failed, key=lambda c: -c.share)


def page_file(name: str) -> str:
    """Return a file of the package's data."""
    return resources.files("ropeexport.report").joinpath("page", name).read_text(encoding="utf-8")


def score() -> str:
    """Return how many seeded faults this version's method catches, see ``docs/faults.md``."""
    found = json.loads(page_file("score.json"))
    return (
        f"{found['caught']} of {found['trials']} seeded faults caught "
        f"({found['faults']} faults, each in its types)"
    )


def plural(count: int, noun: str) -> str:
    """Return a count with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
