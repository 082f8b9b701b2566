"""A report as one HTML page that needs no network: the verdict first, then what it rests on."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ropeexport.parity.records import CallRecord, Comparison, PictureRecord, Report
from ropeexport.parity.report import (
    SUMMARY_HEADINGS,
    exact,
    latents_text,
    number,
    percent,
    pipeline_title,
    pixels_text,
    rows_of,
    summary_cells,
    word,
)
from ropeexport.plain import all_shown
from ropeexport.report import plots, view

_SHOWN_CASES = 100  # the others open on demand
_SHOWN_FAILURES = 20


def render(
    report: Report, speed: bytes | None = None, pictures: Mapping[str, bytes] | None = None
) -> str:
    """Return a report as a self-contained HTML page.

    Parameters
    ----------
    report : Report
        What it shows.
    speed : bytes
        The PNG of a benchmark.
    pictures : mapping
        PNGs of a pipeline, by the names that the report has for them.
    """
    report = all_shown(report)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"share": _share, "worst": _worst, "again": _again, "word": word}
    environment.filters |= {"text": view.cell_text, "detail": view.cell_detail, "percent": percent}
    template = environment.from_string(view.page_file("page.html.j2"))
    rows = view.case_rows(report)
    failures = view.failures(report)
    return template.render(
        report=report,
        style=Markup(view.page_file("style.css")),
        headline=report.headline,
        cards=list(_cards(report)),
        failures=failures[:_SHOWN_FAILURES],
        more_failures=max(0, len(failures) - _SHOWN_FAILURES),
        headings=SUMMARY_HEADINGS,
        summary=[summary_cells(row) for row in rows_of(report.comparisons)],
        plots=list(plots.draw(report)),
        rows=rows,
        shown=_SHOWN_CASES,
        runtimes=view.compared_runtimes(report),
        size_names=list(dict.fromkeys(name for row in rows for name in row.case.sizes)),
        environment=report.environment.versions.items(),
        score=view.score(),
        speed=_encoded(speed or b""),
        pipeline=report.pipeline and pipeline_title(report.pipeline),
        calls=[_call(call, pictures or {}) for call in report.pipeline.calls]
        if report.pipeline
        else [],
    )


def _cards(report: Report) -> Iterator[dict[str, Any]]:
    """Yield each runtime at a glance, as the template shows it."""
    colours = plots.colour_numbers(report)
    for runtime in report.runtimes:
        mine = [c for c in report.comparisons if c.runtime == runtime.name]
        compared = [c for c in mine if c.numbers is not None or c.bound is not None]
        share = max((c.share for c in compared), default=None)
        yield {
            "runtime": runtime,
            "colour": colours[runtime.name],
            "compared": len(compared),
            "passed": sum(c.status in ("PASS", "EMULATED") for c in compared),
            "unsupported": sum(c.status == "NOT_SUPPORTED" for c in mine),
            "share": share,
            "width": round(100 * min(1.0, share or 0.0)),  # percent of the bar that is filled
        }


def _encoded(png: bytes) -> str:
    return base64.b64encode(png).decode()


def _call(call: CallRecord, pictures: Mapping[str, bytes]) -> dict[str, Any]:
    """Return one call of a pipeline as the template shows it."""
    files = {name: _encoded(png) for name, png in pictures.items()}
    shown = [
        {
            "found": found,
            "pixels": pixels_text(found),
            "latents": " of ".join(latents_text(found)) if found.latents else "",
            "share": percent(found.share),
            "picture": files.get(found.picture, ""),
            "apart": _apart(found),
            "difference": files.get(found.difference, ""),
        }
        for found in call.pictures
    ]
    without = call.without_rope
    return {
        "call": call,
        "picture": files.get(call.picture, ""),
        "pictures": shown,
        "without": f"latents {number(without.latents.max_abs)} away, pixels: {pixels_text(without)}"
        if without and without.latents
        else "",
    }


def _apart(found: PictureRecord) -> str:
    """Say what a picture of the difference shows."""
    if found.pixels is None or not found.pixels.differing:
        return "difference: none"
    return f"difference, {found.scale} times as bright"


def _share(comparison: Comparison) -> str:
    return percent(comparison.share) if comparison.numbers else "-"


def _worst(comparison: Comparison) -> str:
    worst = comparison.numbers and comparison.numbers.worst
    if not worst:
        return "-"
    got, expected = (exact(value) for value in (worst.got, worst.expected))
    return f"{comparison.output}{list(worst.index)}: got {got}, expected {expected}"


def _again(row: view.CaseRow) -> str:
    """Return the number that tells a case from others of its sizes."""
    found = re.search(r" #\d+$", row.case.name)
    return found.group() if found else ""
