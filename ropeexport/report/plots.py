"""The plots of a parity run, each a function of its records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ropeexport.parity.records import Comparison, Report, SurveyRecord
from ropeexport.parity.survey import LOWEST_EXPONENT
from ropeexport.report.svg import BOUND, SERIES, paint_map, svg_of, thinned

_LINES = ("-", "--", ":", "-.")
_FAR = 2.0  # times the bound: beyond it an axis from zero would hide what passed
_FLOOR = 1e-9  # of a bound: what is drawn for an error of none


@dataclass(frozen=True)
class Plot:
    """A drawn plot."""

    title: str
    svg: str
    note: str = ""


def draw(report: Report) -> list[Plot]:
    """Draw every plot that the records have data for."""
    colours = _colours(report)
    plots = [
        _shares(report.surveys, colours),
        _cases(report, colours),
        _lengths(report, colours),
        _positions(report.surveys, colours),
    ]
    plots += [_heat_map(survey, number) for number, survey in enumerate(report.surveys)]
    return [plot for plot in plots if plot is not None]


def colour_numbers(report: Report) -> dict[str, int]:
    """Return the number of each runtime's colour, ``--series-N`` of the page."""
    names = [runtime.name for runtime in report.runtimes]
    return {name: number % len(SERIES) for number, name in enumerate(names)}


def _colours(report: Report) -> dict[str, str]:
    return {name: SERIES[number] for name, number in colour_numbers(report).items()}


def _shares(surveys: Sequence[SurveyRecord], colours: dict[str, str]) -> Plot | None:
    """Draw how many elements have which share of their bound."""
    if not surveys:
        return None

    def paint(axes: Any) -> None:
        for survey, style in _styled(surveys, colours):
            counts = np.asarray(survey.shares, dtype=np.float64)
            edges = 2.0 ** (LOWEST_EXPONENT - 2.0 + np.arange(counts.size + 1))
            axes.stairs(100 * counts / max(1.0, counts.sum()), edges, **style)
        axes.set_xscale("log")
        axes.axvline(1.0, color=BOUND, linewidth=1)
        axes.set_xlabel("error as a share of the bound (1 is the bound)")
        axes.set_ylabel("% of elements")

    note = "Left end: exact. Every element counts once; large outputs are sampled evenly."
    return Plot("How the errors are distributed", svg_of(paint, "shares"), note)


def _cases(report: Report, colours: dict[str, str]) -> Plot | None:
    """Draw which share of the cases stays below which share of the bound."""
    groups = _by_runtime(report)
    if not groups:
        return None

    def paint(axes: Any) -> None:
        for runtime, compared in groups.items():
            shares = np.sort([max(_FLOOR, c.share) for c in compared])
            kept = np.unique(np.linspace(0, len(shares) - 1, 200).astype(int))
            below = (kept + 1) / len(shares)
            axes.step(
                [shares[0], *shares[kept]],
                [0.0, *(100 * below)],
                where="post",
                color=colours[runtime],
                label=runtime,
            )
        axes.axvline(1.0, color=BOUND, linewidth=1)
        if max(c.share for compared in groups.values() for c in compared) > _FAR:
            axes.set_xscale("log")
        else:
            axes.set_xlim(left=0.0)
        axes.set_xlabel("share of the bound used by a case's worst number")
        axes.set_ylabel("% of cases at or below")

    return Plot("How near the cases come to their bounds", svg_of(paint, "cases"))


def _lengths(report: Report, colours: dict[str, str]) -> Plot | None:
    """Draw the largest error of each case against its length, and the bounds."""
    groups = _by_runtime(report)
    if not groups or not report.lengths:
        return None
    name = report.lengths[0]
    found = {c.case.sizes[name] for group in groups.values() for c in group if c.case}
    by_length = len(found) > 1
    order = {c.case.name: i for group in groups.values() for i, c in enumerate(group) if c.case}

    def place(c: Comparison) -> float:
        assert c.case is not None
        return float(c.case.sizes[name] if by_length else order[c.case.name] + 1)

    def paint(axes: Any) -> None:
        for runtime, compared in groups.items():
            points = [(place(c), c.numbers.max_abs, c.bound.max_abs) for c in compared
                      if c.numbers and c.bound]  # fmt: skip
            x, error, bound = (np.array([p[i] or np.nan for p in points], float) for i in range(3))
            bounds = thinned(x, bound, by_length)
            axes.plot(*bounds, "_", color=colours[runtime], alpha=0.35, markersize=5)
            errors = thinned(x, error, by_length)
            axes.plot(*errors, "o", color=colours[runtime], markersize=2.5, label=runtime)
        if by_length:
            axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel(name if by_length else f"case ({name} is {min(found)} in every one)")
        axes.set_ylabel("largest error")

    title = "Error against length" if by_length else "Error of each case"
    return Plot(title, svg_of(paint, "lengths"), "Dots: largest errors. Dashes: what was allowed.")


def _positions(surveys: Sequence[SurveyRecord], colours: dict[str, str]) -> Plot | None:
    """Draw errors against positions: the largest and the root mean square."""
    if not surveys:
        return None

    def paint(axes: Any) -> None:
        for survey, style in _styled(surveys, colours):
            x = np.array([bin_.first for bin_ in survey.positions], float) + 1
            largest = [bin_.largest if bin_.largest else np.nan for bin_ in survey.positions]
            axes.plot(x, largest, **style)
            rms = [bin_.rms if bin_.rms else np.nan for bin_ in survey.positions]
            axes.plot(x, rms, **{**style, "label": None, "alpha": 0.45, "linewidth": 1})
        axes.axhline(1.0, color=BOUND, linewidth=1)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("position + 1")
        axes.set_ylabel("share of the bound")

    note = "Strong: the largest error at a position. Faint: root mean square. 1 is the bound."
    return Plot("Error against position", svg_of(paint, "positions"), note)


def _heat_map(survey: SurveyRecord, number: int) -> Plot | None:
    """Draw where the worst case's errors lie."""
    worst = survey.worst
    if worst is None or not worst.rows:
        return None

    def paint(axes: Any) -> None:
        paint_map(axes, worst)

    title = f"Worst case of {survey.runtime}, {survey.output}"
    note = f"{worst.case}. Each cell: its largest error as a share of the bound."
    return Plot(title, svg_of(paint, f"map-{number}"), note)


def _by_runtime(report: Report) -> dict[str, list[Comparison]]:
    groups: dict[str, list[Comparison]] = {}
    for comparison in report.comparisons:
        if comparison.numbers is not None and comparison.case is not None:
            groups.setdefault(comparison.runtime, []).append(comparison)
    return groups


def _styled(
    surveys: Sequence[SurveyRecord], colours: dict[str, str]
) -> Iterator[tuple[SurveyRecord, dict[str, Any]]]:
    """Yield each survey with its line: the colour is the runtime's, the dashes the output's."""
    outputs = list(dict.fromkeys(survey.output for survey in surveys))
    for survey in surveys:
        label = survey.runtime if len(outputs) == 1 else f"{survey.runtime} {survey.output}"
        style = _LINES[outputs.index(survey.output) % len(_LINES)]
        yield survey, {"color": colours[survey.runtime], "linestyle": style, "label": label}
