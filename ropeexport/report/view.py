"""What the reports show, taken from the records: rows, cells and numbers as text; no layout."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from ropeexport.errors import ParityError
from ropeexport.manifest import parsed
from ropeexport.parity.records import (
    FILE_NAME,
    SCHEMA_VERSION,
    CaseRecord,
    Comparison,
    PictureRecord,
    Report,
)
from ropeexport.parity.report import number, percent, word


@dataclass(frozen=True)
class CaseRow:
    """One case over all runtimes: the worst output of each that has something for it."""

    case: CaseRecord
    worst: dict[str, Comparison]

    @property
    def failed(self) -> bool:
        """Whether any runtime failed."""
        return any(comparison.status == "FAIL" for comparison in self.worst.values())

    @property
    def share(self) -> float:
        """The largest share of a bound."""
        return max(comparison.share for comparison in self.worst.values())


def read(path: Path) -> Report:
    """Read the records of a run from ``parity.json`` or from the folder that it lies in."""
    file = path / FILE_NAME if path.is_dir() else path
    if not file.exists():
        raise ParityError(f"{file}: no such file; run 'ropeexport check DIR' first", code="RX706")
    return parsed(file, Report, ParityError, SCHEMA_VERSION, "check")


def compared_runtimes(report: Report) -> tuple[str, ...]:
    """Return the runtimes that have a comparison of a case, eager first."""
    return tuple(dict.fromkeys(c.runtime for c in report.comparisons if c.case is not None))


def case_rows(report: Report) -> list[CaseRow]:
    """Return a row a case: failures first, then those that use most of their bounds."""
    rows: dict[str, CaseRow] = {}
    for comparison in report.comparisons:
        if comparison.case is not None:
            worst = rows.setdefault(comparison.case.name, CaseRow(comparison.case, {})).worst
            known = worst.get(comparison.runtime, comparison)
            worst[comparison.runtime] = max(known, comparison, key=_badness)
    return sorted(rows.values(), key=lambda row: (not row.failed, -row.share))


def _badness(comparison: Comparison) -> tuple[bool, float]:
    return comparison.status == "FAIL", comparison.share


def cell_text(worst: Comparison) -> str:
    """Return what a runtime's cell of a case says: the share, or the word where there is none."""
    if worst.status in ("SKIPPED", "NOT_SUPPORTED") or worst.numbers is None:
        return word(worst.status)
    if worst.numbers.nans == worst.numbers.elements and worst.status != "FAIL":
        return "NaN"
    return percent(worst.share)


def cell_detail(worst: Comparison) -> str:
    """Return its output and largest error, and the reason of a failure."""
    error = f"{worst.output}: {number(worst.numbers.max_abs)}" if worst.numbers else ""
    return "; ".join(part for part in (error, worst.reason) if part)


def failures(report: Report) -> list[Comparison]:
    """Return what failed, the largest share of a bound first."""
    failed = [comparison for comparison in report.comparisons if comparison.status == "FAIL"]
    return sorted(failed, key=lambda c: -c.share)


def pictures(report: Report) -> list[tuple[str, PictureRecord]]:
    """Return each runtime's picture of each call of a pipeline, with the call's name."""
    calls = report.pipeline.calls if report.pipeline else ()
    return [(call.name, picture) for call in calls for picture in call.pictures]


def picture_files(report: Report) -> list[str]:
    """Return the names of the files that a page shows."""
    calls = report.pipeline.calls if report.pipeline else ()
    names = [call.picture for call in calls]
    names += [name for _, x in pictures(report) for name in (x.picture, x.difference)]
    return list(dict.fromkeys(filter(None, names)))


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
