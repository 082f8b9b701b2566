"""The plots of a parity run, each a function of its records, as inline SVG of a page.

The importer of matplotlib.  Colours are placeholders that the page's style sheet gives a value, so
that one plot serves a light and a dark page; text stays text.  The same data give the same SVG,
byte for byte.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray

from ropeexport.parity.records import Comparison, HeatMap, Report, SurveyRecord
from ropeexport.parity.survey import LOWEST_EXPONENT

INK, GRID, BOUND = "#000001", "#000002", "#000003"
SERIES = tuple(f"#00001{number}" for number in range(6))
_VARIABLES = {
    INK: "var(--ink)",
    GRID: "var(--line)",
    BOUND: "var(--fail)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(SERIES)},
}
_STYLE: dict[str, Any] = {
    **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), GRID),
    **dict.fromkeys(("axes.facecolor", "figure.facecolor", "legend.facecolor"), "none"),
    **dict.fromkeys(("axes.labelcolor", "axes.titlecolor", "legend.labelcolor"), INK),
    **dict.fromkeys(("text.color", "xtick.labelcolor", "ytick.labelcolor"), INK),
    **dict.fromkeys(("axes.spines.right", "axes.spines.top", "legend.frameon"), False),
    "axes.grid": True,
    "font.family": "sans-serif",
    "font.size": 10,
    "svg.fonttype": "none",
    "text.parse_math": False,
}
_CELLS = (90, 60)  # points that fall into one cell of such a grid are drawn once
_NOT_FINITE = "#ff2d55"
_LINES = ("-", "--", ":", "-.")
_FAR = 2.0  # times the bound: beyond it an axis from zero would hide what passed
_FLOOR = 1e-9  # of a bound: what is drawn for an error of none


@dataclass(frozen=True)
class Plot:
    """A drawn plot."""

    title: str
    svg: str
    note: str = ""


def draw(report: Report) -> Iterator[Plot]:
    """Draw every plot that the records have data for."""
    colours = {name: SERIES[number] for name, number in colour_numbers(report).items()}
    groups: dict[str, list[Comparison]] = {}
    for comparison in report.comparisons:
        if comparison.numbers is not None and comparison.case is not None:
            groups.setdefault(comparison.runtime, []).append(comparison)
    if report.surveys:
        yield _shares(report.surveys, colours)
    if groups:
        yield _cases(groups, colours)
    cases = [c.case for group in groups.values() for c in group]
    if cases and all(case and {*report.lengths[:1]} & case.sizes.keys() for case in cases):
        yield _lengths(groups, report.lengths[0], colours)
    if report.surveys:
        yield _positions(report.surveys, colours)
    for number, survey in enumerate(report.surveys):
        if survey.worst is not None and survey.worst.rows:
            yield _heat_map(survey, survey.worst, number)


def colour_numbers(report: Report) -> dict[str, int]:
    """Return the number of each runtime's colour, ``--series-N`` of the page."""
    names = [runtime.name for runtime in report.runtimes]
    return {name: number % len(SERIES) for number, name in enumerate(names)}


def _shares(surveys: Sequence[SurveyRecord], colours: dict[str, str]) -> Plot:
    """Draw how many elements have which share of their bound."""

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


def _cases(groups: dict[str, list[Comparison]], colours: dict[str, str]) -> Plot:
    """Draw which share of the cases stays below which share of the bound."""

    def paint(axes: Any) -> None:
        for runtime, compared in groups.items():
            shares = np.sort([max(_FLOOR, c.share) for c in compared])
            kept = np.unique(np.linspace(0, len(shares) - 1, 200).astype(int))
            below = (kept + 1) / len(shares)
            x, y = [shares[0], *shares[kept]], [0.0, *(100 * below)]
            axes.step(x, y, where="post", color=colours[runtime], label=runtime)
        axes.axvline(1.0, color=BOUND, linewidth=1)
        if max(c.share for compared in groups.values() for c in compared) > _FAR:
            axes.set_xscale("log")
        else:
            axes.set_xlim(left=0.0)
        axes.set_xlabel("share of the bound used by a case's worst number")
        axes.set_ylabel("% of cases at or below")

    return Plot("How near the cases come to their bounds", svg_of(paint, "cases"))


def _lengths(groups: dict[str, list[Comparison]], name: str, colours: dict[str, str]) -> Plot:
    """Draw the largest error of each case against its length, and the bounds."""
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
            dashes, dots = (thinned(x, y, by_length) for y in (bound, error))
            axes.plot(*dashes, "_", color=colours[runtime], alpha=0.35, markersize=5)
            axes.plot(*dots, "o", color=colours[runtime], markersize=2.5, label=runtime)
        if by_length:
            axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel(name if by_length else f"case ({name} is {min(found)} in every one)")
        axes.set_ylabel("largest error")

    title = "Error against length" if by_length else "Error of each case"
    return Plot(title, svg_of(paint, "lengths"), "Dots: largest errors. Dashes: what was allowed.")


def _positions(surveys: Sequence[SurveyRecord], colours: dict[str, str]) -> Plot:
    """Draw errors against positions: the largest and the root mean square."""

    def paint(axes: Any) -> None:
        for survey, style in _styled(surveys, colours):
            x = np.array([bin_.first for bin_ in survey.positions], float) + 1
            axes.plot(x, [bin_.largest or np.nan for bin_ in survey.positions], **style)
            faint = style | {"label": None, "alpha": 0.45, "linewidth": 1}
            axes.plot(x, [bin_.rms or np.nan for bin_ in survey.positions], **faint)
        axes.axhline(1.0, color=BOUND, linewidth=1)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("position + 1")
        axes.set_ylabel("share of the bound")

    note = "Strong: the largest error at a position. Faint: root mean square. 1 is the bound."
    return Plot("Error against position", svg_of(paint, "positions"), note)


def _heat_map(survey: SurveyRecord, worst: HeatMap, number: int) -> Plot:
    """Draw where the worst case's errors lie; what is not finite glows."""

    def paint(axes: Any) -> None:
        cells = np.array([[np.inf if c is None else c for c in row] for row in worst.rows], float)
        top = float(np.max(cells, initial=0.0, where=np.isfinite(cells))) or 1.0
        colours = mpl.colormaps["viridis"].with_extremes(over=_NOT_FINITE)
        shown = np.where(np.isfinite(cells), cells, 2 * max(1.0, top))
        image = axes.imshow(
            shown,
            aspect="auto",
            cmap=colours,
            extent=(0, worst.heads * worst.inner, worst.length, 0),
            interpolation="nearest",
            vmin=0.0,
            vmax=min(1.0, top),
        )
        axes.grid(visible=False)
        for head in range(1, worst.heads):
            axes.axvline(head * worst.inner, color=GRID, linewidth=0.4)
        axes.set_xlabel("head and element" if worst.heads > 1 else "element")
        axes.set_ylabel("position")
        bar = axes.figure.colorbar(image, ax=axes, extend="max" if shown.max() > 1.0 else "neither")
        bar.set_label("share of the bound")
        bar.outline.set_visible(False)

    title = f"Worst case of {survey.runtime}, {survey.output}"
    note = f"{worst.case}. Each cell: its largest error as a share of the bound."
    return Plot(title, svg_of(paint, f"map-{number}"), note)


def _styled(
    surveys: Sequence[SurveyRecord], colours: dict[str, str]
) -> Iterator[tuple[SurveyRecord, dict[str, Any]]]:
    """Yield each survey with its line: the colour is the runtime's, the dashes the output's."""
    outputs = list(dict.fromkeys(survey.output for survey in surveys))
    for survey in surveys:
        label = survey.runtime if len(outputs) == 1 else f"{survey.runtime} {survey.output}"
        style = _LINES[outputs.index(survey.output) % len(_LINES)]
        yield survey, {"color": colours[survey.runtime], "linestyle": style, "label": label}


def svg_of(paint: Callable[[Any], None], name: str) -> str:
    """Paint a figure and return its SVG element with the page's colours."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name may be too long, or in letters that no font has
        figure = Figure(figsize=(4.7, 3.0), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        paint(axes)
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":
                axis.set_major_formatter(FuncFormatter(_plain))
                axis.set_minor_formatter(NullFormatter())
        if axes.get_legend_handles_labels()[0]:
            figure.legend(loc="outside upper left", ncols=3, borderpad=0.0)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\b(width|height)="[\d.]+pt"', "", svg, count=2)
    # ids are of one figure; a page holds several
    svg = re.sub(r'\b(id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    for placeholder, variable in _VARIABLES.items():
        svg = svg.replace(placeholder, variable)
    return svg


def _plain(value: float, _: int) -> str:
    """Return a tick's label: 1e-7 rather than 1e-07, and no formula."""
    text = f"{value:g}"
    return re.sub(r"e([+-])0", r"e\1", text).replace("e+", "e")


def thinned(
    x: NDArray[np.float64], y: NDArray[np.float64], logarithmic: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Drop points that would be drawn over another: of thousands, only a grid's worth is seen."""
    seen = np.isfinite(y) & (y > 0)
    x, y = x[seen], y[seen]
    if x.size <= _CELLS[0]:
        return x, y
    cells = [_cell(np.log(x) if logarithmic else x, _CELLS[0]), _cell(np.log(y), _CELLS[1])]
    _, first = np.unique(np.stack(cells), axis=1, return_index=True)
    kept = np.sort(first)
    return x[kept], y[kept]


def _cell(values: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    low, high = values.min(), values.max()
    width = (high - low) or 1.0
    return np.asarray(np.round((values - low) / width * count), dtype=np.int64)
