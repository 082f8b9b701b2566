"""A report as one HTML page that needs no network: the verdict first, then what it rests on."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ropeexport.parity import wording
from ropeexport.parity.records import Comparison, Report, RuntimeRecord
from ropeexport.parity.report import share_of
from ropeexport.report import plots, view

_SHOWN_CASES = 100  # the others open on demand
_SHOWN_FAILURES = 20


@dataclass(frozen=True)
class Card:
    """A runtime at a glance."""

    runtime: RuntimeRecord
    colour: int
    compared: int
    passed: int
    unsupported: int
    share: float | None

    @property
    def word(self) -> str:
        """The status."""
        return view.WORDS[self.runtime.status]

    @property
    def facts(self) -> str:
        """What it was, in one line."""
        return ", ".join(self.runtime.facts)

    @property
    def share_text(self) -> str:
        """The largest share of a bound."""
        return wording.percent(self.share or 0.0)

    @property
    def width(self) -> int:
        """Percent of the bar that is filled."""
        return round(100 * min(1.0, self.share or 0.0))


def render(report: Report, speed: bytes | None = None) -> str:
    """Return a report as a self-contained HTML page; ``speed`` is the PNG of a benchmark."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"share": _share, "worst": _worst, "again": _again}
    template = environment.from_string(_page_file("page.html.j2"))
    rows = view.case_rows(report)
    failures = view.failures(report)
    return template.render(
        report=report,
        style=Markup(_page_file("style.css")),
        headline=view.headline(report),
        cards=list(_cards(report)),
        failures=failures[:_SHOWN_FAILURES],
        more_failures=max(0, len(failures) - _SHOWN_FAILURES),
        headings=view.SUMMARY_HEADINGS,
        summary=list(view.summary(report)),
        plots=plots.draw(report),
        rows=rows,
        shown=_SHOWN_CASES,
        runtimes=view.compared_runtimes(report),
        size_names=list(dict.fromkeys(name for row in rows for name in row.case.sizes)),
        environment=list(_environment(report)),
        score=view.score(),
        speed=base64.b64encode(speed).decode() if speed else "",
    )


_page_file = view.page_file


def _cards(report: Report) -> Iterator[Card]:
    colours = plots.colour_numbers(report)
    for runtime in report.runtimes:
        mine = [c for c in report.comparisons if c.runtime == runtime.name]
        compared = [c for c in mine if c.numbers is not None or c.bound is not None]
        yield Card(
            runtime=runtime,
            colour=colours[runtime.name],
            compared=len(compared),
            passed=sum(c.status in ("PASS", "EMULATED") for c in compared),
            unsupported=sum(c.status == "NOT_SUPPORTED" for c in mine),
            share=max((share_of(c) for c in compared), default=None),
        )


def _environment(report: Report) -> Iterator[tuple[str, str]]:
    environment = report.environment
    yield "ropeexport", environment.ropeexport
    yield "python", environment.python
    yield "platform", environment.platform
    yield from environment.packages.items()


def _share(comparison: Comparison) -> str:
    return wording.percent(share_of(comparison)) if comparison.numbers else "-"


def _worst(comparison: Comparison) -> str:
    worst = comparison.numbers and comparison.numbers.worst
    if not worst:
        return "-"
    got, expected = (_exact(value) for value in (worst.got, worst.expected))
    return f"{comparison.output}{list(worst.index)}: got {got}, expected {expected}"


def _exact(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.8g}"


def _again(row: view.CaseRow) -> str:
    """Return the number that tells a case from others of its sizes."""
    found = re.search(r" #\d+$", row.case.name)
    return found.group() if found else ""
