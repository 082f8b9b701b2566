"""A report as Markdown, for a pull request's comment or a CI job's summary."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from ropeexport.parity.records import Comparison, Report, RuntimeRecord, Status
from ropeexport.parity.report import (
    PICTURE_HEADINGS,
    SUMMARY_HEADINGS,
    location_lines,
    picture_rows,
    pipeline_title,
    rows_of,
    summary_cells,
    word,
)
from ropeexport.plain import all_shown
from ropeexport.report import view

_MARKS: dict[Status, str] = {
    "PASS": "✅",
    "FAIL": "❌",
    "EMULATED": "🟡",
    "SKIPPED": "⚪",
    "NOT_SUPPORTED": "⚪",
}
_MARKUP = re.compile(r"[\\|<>*_`\[\]~&!]")
_START = re.compile(r"^(\d*)([#+=.)-])")
# GitHub makes something of a word as it stands: a mention, an issue, a link, an emoji by its name.
# A comment within the word is not seen, and ends that.
_LINKS = re.compile(
    r"(?<=@)(?=\w)|(?<=#)(?=\d)|(?<=:)(?=//)|(?<=www)(?=\.)|(?<=:)(?=[\w+-]+:)", re.IGNORECASE
)
_MOST_FAILURES = 10  # a comment may hold 65,536 characters


def render(report: Report) -> str:
    """Return a report as GitHub-flavoured Markdown."""
    return "\n".join(_lines(all_shown(report))) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield f"## {_MARKS[report.verdict]} Parity {report.verdict}: {_text(report.headline)}"
    yield ""
    what = (report.source, report.dtype, report.model, report.model_sha256[:12])
    yield _line(", ".join(what))
    yield ""
    yield from _table(("", "runtime", "status", "what ran"), map(_runtime, report.runtimes))
    yield ""
    if rows := [summary_cells(row) for row in rows_of(report.comparisons)]:
        yield from ("Distance to the float64 oracle, the worst of all cases:", "")
        yield from _table(SUMMARY_HEADINGS, rows, numbers_from=2)
        yield ""
    if report.pipeline is not None:
        yield from (f"{_line(pipeline_title(report.pipeline))}:", "")
        yield from _table(PICTURE_HEADINGS, picture_rows(report))
        yield ""
    if failed := view.failures(report):
        yield from _failures(failed)
    if report.locations:
        yield from ("### Where it departs first", "")
        for location in report.locations:
            yield f"- {_line('; '.join(location_lines(location)))}"
        yield ""
    for note in report.notes:
        yield from (f"> **Note:** {_text(note)}", "")
    yield from ("<details><summary>Environment and command</summary>", "")
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", report.command)), default=0))
    yield from (f"{fence}console", report.command, fence, "")
    yield from _table(("", "version"), report.environment.versions.items())
    yield from ("", "</details>", "")
    yield f"<sub>The method: {view.score()}.</sub>"


def _runtime(runtime: RuntimeRecord) -> tuple[str, ...]:
    ran = ", ".join(filter(None, (*runtime.facts, runtime.reason)))
    return _MARKS[runtime.status], runtime.name, word(runtime.status), ran


def _failures(failed: Sequence[Comparison]) -> Iterator[str]:
    shown = failed[:_MOST_FAILURES]
    rows = ((c.runtime, c.output, c.case.name if c.case else "-", c.reason) for c in shown)
    more = f", the worst {len(shown)} of them" if len(shown) < len(failed) else ""
    yield from (f"### {len(failed):,} failure{'s'[: len(failed) != 1]}{more}", "")
    yield from _table(("runtime", "output", "case", "reason"), rows)
    yield ""


def _table(
    headings: Sequence[str],
    rows: Iterable[tuple[str, ...]],
    numbers_from: int | None = None,
) -> Iterator[str]:
    right = len(headings) if numbers_from is None else numbers_from
    yield f"| {' | '.join(headings)} |"
    yield "|" + "|".join(" ---: " if i >= right else " --- " for i in range(len(headings))) + "|"
    for row in rows:
        yield f"| {' | '.join(_text(cell) for cell in row)} |"


def _line(text: str) -> str:
    """Return text that Markdown takes literally at the start of a line too."""
    return _START.sub(r"\1\\\2", _text(text))


def _text(text: str) -> str:
    """Return text that Markdown and a table's cell take literally, on a page of GitHub's too."""
    escaped = " ".join(_MARKUP.sub(r"\\\g<0>", text).split())
    return _LINKS.sub("<!-- -->", escaped)
