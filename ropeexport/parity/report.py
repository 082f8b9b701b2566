"""A report in words and as a table for people; ``parity.json`` for programs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ropeexport import atomic
from ropeexport.parity.records import (
    FILE_NAME,
    BoundRecord,
    Comparison,
    LocationRecord,
    Number,
    PictureRecord,
    PipelineRecord,
    Report,
    RuntimeRecord,
    Status,
)
from ropeexport.plain import NAME, shown

_MARKS: dict[Status, tuple[str, str]] = {
    "PASS": ("✓", "green"),
    "FAIL": ("✗", "red"),
    "EMULATED": ("~", "yellow"),
    "SKIPPED": ("-", "yellow"),
    "NOT_SUPPORTED": ("-", "yellow"),
}
NARROWEST = 110  # columns of the tables
SUMMARY_HEADINGS = (
    "runtime", "output", "cases", "abs", "rel", "ULPs", "rel L2", "cosine", "bound", "of bound",
)  # fmt: skip

PICTURE_HEADINGS = ("call", "runtime", "latents", "bound", "of bound", "pixels", "status")


def word(status: Status) -> str:
    """Return a status as people read it."""
    return status.replace("_", " ")


def number(value: Number) -> str:
    """Return a number to three digits."""
    return "-" if value is None else f"{value:.3g}"


def exact(value: Number) -> str:
    """Return a value to as many digits as float32 has."""
    return "not finite" if value is None else f"{value:.8g}"


def percent(share: float) -> str:
    """Return a share of a bound; what breaks it is never rounded down to it."""
    if share == math.inf:
        return "beyond all"
    if share > 9.99:
        return f"{share:.2g}x"
    rounded = f"{share:.0%}"
    return f"{share:.1%}" if share > 1 and rounded == "100%" else rounded


def bound_text(bound: BoundRecord | None) -> str:
    """Return what the largest error was held to: a number, and what each element forgives."""
    if bound is None:
        return "-"
    if not bound.rtol:
        return number(bound.max_abs)
    return f"{bound.max_abs or 0.0:.0e}+{bound.rtol:.2%}"


def location_lines(location: LocationRecord) -> list[str]:
    """Say where a runtime departs first, or why that is unknown."""
    if not location.tensor:
        return [f"  {location.runtime}: not located in {location.case!r}: {location.reason}"]
    lines = [
        f"  {location.runtime}: departs first at {location.tensor} ({location.op} {location.node}) "
        f"in {location.case!r}: {location.reason}",
        f"    made by {location.source or 'a line of code that the file does not name'}",
    ]
    if location.sound:
        lines.append(f"    its inputs within their bounds: {', '.join(location.sound)}")
    if location.not_compared:
        lines.append(f"    its inputs without a counterpart: {', '.join(location.not_compared)}")
    return lines


@dataclass(frozen=True)
class Row:
    """One output of one runtime over all its cases."""

    runtime: str
    implementation: str
    output: str
    compared: tuple[Comparison, ...]

    @property
    def passed(self) -> int:
        """How many cases are within their bounds."""
        return sum(comparison.status in ("PASS", "EMULATED") for comparison in self.compared)

    @property
    def tightest(self) -> Comparison:
        """The comparison that failed first, or used the largest share of its bound."""
        return max(self.compared, key=lambda c: (c.status == "FAIL", c.share))

    def worst(self, name: str) -> float | None:
        """Return the largest of a number over the cases (the smallest cosine)."""
        found = [getattr(c.numbers, name) for c in self.compared if c.numbers is not None]
        known = [value for value in found if value is not None]
        return (min if name == "cosine" else max)(known, default=None)


def rows_of(comparisons: Sequence[Comparison]) -> list[Row]:
    """Group what was compared by runtime and output."""
    groups: dict[tuple[str, str, str], list[Comparison]] = {}
    for comparison in comparisons:
        if comparison.bound is not None:
            key = (comparison.runtime, comparison.implementation, comparison.output)
            groups.setdefault(key, []).append(comparison)
    return [Row(*key, tuple(group)) for key, group in groups.items()]


def summary_cells(row: Row) -> tuple[str, ...]:
    """Return what a summary shows of one output of one runtime, under ``SUMMARY_HEADINGS``."""
    largest = max(row.compared, key=lambda c: (c.numbers and c.numbers.max_abs) or 0.0)
    cosine = row.worst("cosine")
    return (
        row.runtime,
        row.output,
        f"{row.passed}/{len(row.compared)}",
        *(number(row.worst(name)) for name in ("max_abs", "max_rel", "ulps_at_rms", "relative_l2")),
        "-" if cosine is None else f"{cosine:.7f}",
        bound_text(largest.bound),
        percent(row.tightest.share),
    )


def picture_rows(report: Report) -> list[tuple[str, ...]]:
    """Return a row for each call of a pipeline and runtime, under ``PICTURE_HEADINGS``.

    What did not run has none; the last row of a call is what its picture would be without rope.
    """
    rows = []
    for call in report.pipeline.calls if report.pipeline else ():
        shown = [x for x in call.pictures if x.latents is not None or x.status == "FAIL"]
        rows += [(call.name, *_picture_cells(x), word(x.status)) for x in shown]
        if call.without_rope is not None:
            rows.append((call.name, *_picture_cells(call.without_rope), "-"))
    return rows


def _picture_cells(found: PictureRecord) -> tuple[str, ...]:
    error, bound = latents_text(found)
    share = percent(found.share) if found.latents else "-"
    return found.runtime, error, bound, share, pixels_text(found)


def latents_text(found: PictureRecord) -> tuple[str, str]:
    """Return the error of latents and its bound: of the largest, or RMS where that is nearer it."""
    numbers, bound = found.latents, found.bound
    if numbers is None:
        return "-", "-"
    if bound is None or not bound.max_abs or numbers.max_abs is None or bound.rms is None:
        return number(numbers.max_abs), bound_text(bound)
    if found.share > numbers.max_abs / bound.max_abs:
        return f"{number(numbers.rms)} RMS", f"{number(bound.rms)} RMS"
    return number(numbers.max_abs), bound_text(bound)


def pixels_text(found: PictureRecord) -> str:
    """Say how many values of a picture are not eager's, and why some may be."""
    counted = found.pixels
    if counted is None:
        return "-"
    if not counted.differing:
        return f"all {counted.values:,} equal"
    levels = f"by {'up to ' * (counted.largest > 1)}{counted.largest}"
    edges = f", {counted.allowed:,} at a rounding edge" if counted.allowed else ""
    return f"{counted.differing:,} of {counted.values:,} differ {levels}{edges}"


def write(folder: Path, report: Report) -> Path:
    """Write ``parity.json`` into an output folder in one step and return its path."""
    path = folder / FILE_NAME
    atomic.write_text(path, report.model_dump_json(indent=1) + "\n")
    return path


def render(report: Report) -> RenderableType:
    """Return a report as something that rich prints."""
    rows = rows_of(report.comparisons)
    parts: list[RenderableType] = [_table(rows)] if rows else []
    if pictures := picture_rows(report):
        parts.append(_picture_table(pictures, report))
    parts += [_runtime_line(runtime, report) for runtime in report.runtimes]
    parts += [_where_line(row) for row in rows]
    parts += [Text(line) for location in report.locations for line in location_lines(location)]
    parts += [Text(f"note: {note}", style="yellow") for note in report.notes]
    if report.left_out:
        more = len(report.left_out) - 3
        named = "; ".join(report.left_out[:3]) + (f" and {more} more" if more > 0 else "")
        parts.append(Text(f"left out for their cost (--lengths runs them): {named}"))
    colour = _MARKS[report.verdict][1]
    parts.append(Text(f"{report.verdict}: {report.headline}", style=f"bold {colour}"))
    return Group(*parts)


def _table(rows: Sequence[Row]) -> Table:
    table = Table(
        title="Distance to the float64 oracle, the worst of all cases", title_justify="left"
    )
    for place, heading in enumerate(SUMMARY_HEADINGS):
        table.add_column(heading, justify="left" if place < 2 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(shown(cell, NAME)) for cell in summary_cells(row)))
    return table


def _picture_table(rows: Sequence[tuple[str, ...]], report: Report) -> Table:
    assert report.pipeline is not None
    table = Table(title=Text(pipeline_title(report.pipeline)), title_justify="left")
    for heading in PICTURE_HEADINGS:
        right = heading in ("latents", "bound", "of bound")
        table.add_column(heading, justify="right" if right else "left")
    for row in rows:
        table.add_row(*(Text(shown(cell, NAME)) for cell in row))
    return table


def pipeline_title(record: PipelineRecord) -> str:
    """Say what is in a table of pictures."""
    counted = (
        "" if record.pixels_decide else "; in half types pixels are counted and decide nothing"
    )
    return (
        f"{record.pipeline} with the export as its {record.component}: latents to float64, pixels "
        f"to eager's{counted}"
    )


def _runtime_line(runtime: RuntimeRecord, report: Report) -> Text:
    mark, colour = _MARKS[runtime.status]
    mine = [c for c in report.comparisons if c.runtime == runtime.name]
    unsupported = [c.reason for c in mine if c.status == "NOT_SUPPORTED"]
    line = Text(f"{mark} {runtime.name:12} {runtime.status}", style=colour)
    beyond = sum(c.numbers is not None and c.numbers.nans > 0 for c in mine)
    nans = f"{beyond} NaN beyond the tables of angles, as documented" if beyond else ""
    for told in filter(None, (", ".join(runtime.facts), runtime.reason, nans)):
        line.append(f"  {told}", style="default")
    if unsupported:
        line.append(f"  {len(unsupported)} NOT SUPPORTED: {unsupported[0]}", style="yellow")
    return line


def _where_line(row: Row) -> Text:
    """Say where an output came closest to its bound, or broke it."""
    tightest = row.tightest
    worst = tightest.numbers.worst if tightest.numbers else None
    place = f"{row.output}{list(worst.index)}" if worst else row.output
    values = f": got {exact(worst.got)}, expected {exact(worst.expected)}," if worst else ""
    case = tightest.case.name if tightest.case else ""
    return Text(f"  {row.runtime}: worst at {place}{values} in {case!r}", style="dim")
