"""One plot as inline SVG: the importer of matplotlib.

Colours are placeholders that the page's style sheet gives a value, so that one plot serves a light
and a dark page; text stays text.  The same data give the same SVG, byte for byte.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray

from ropeexport.parity.records import HeatMap

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


def svg_of(paint: Callable[[Any], None], name: str) -> str:
    """Paint a figure and return its SVG element with the page's colours."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
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


def paint_map(axes: Any, worst: HeatMap) -> None:
    """Paint the shares of the bound over positions and elements; what is not finite glows."""
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
