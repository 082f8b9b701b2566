"""A benchmark as a table for people and as a bar chart."""

from __future__ import annotations

import io
import statistics
import warnings
from collections.abc import Iterator

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ropeexport.bench.records import OURS, Bench, ContenderRecord, Group, Timing
from ropeexport.plain import NAME, all_shown, shown

NARROWEST = 120  # columns of the tables
_LAUNCH_BOUND = (
    "* bound by launches: the host takes about as long to enqueue a call as the whole call takes"
)


def render(found: Bench) -> RenderableType:
    """Return a table for each size, and a line for each contender that was not timed."""
    parts: list[RenderableType] = [_table(found, group) for group in found.groups]
    if any(timing.is_launch_bound for group in found.groups for timing in group.timings):
        parts.append(Text(_LAUNCH_BOUND))
    for record in found.contenders:
        if record.status != "TIMED":
            parts.append(Text(f"- {record.label}: {record.status}: {record.reason}"))
    parts.append(
        Text(f"{found.processor}, {found.threads} threads, {found.rounds} turns of {found.repeats}")
    )
    return Lines(*parts)


def _table(found: Bench, group: Group) -> Table:
    title = Text(f"{found.source}, {found.dtype}, {size_text(group)}")
    table = Table(title=title, title_justify="left")
    table.add_column("contender")
    memory = "GPU MB" if found.device == "cuda" else "peak MB"
    for name in ("best ms", "median ms", "±", "tokens/s", memory, "load s", f"to {group.base}"):
        table.add_column(Text(name), justify="right", no_wrap=True)
    for row in rows(found, group):
        table.add_row(*(Text(shown(cell, NAME)) for cell in row))
    return table


def rows(found: Bench, group: Group) -> Iterator[tuple[str, ...]]:
    """Yield the cells of each contender, the fastest first; floors last."""
    records = {record.name: record for record in found.contenders}
    for timing in sorted(group.timings, key=lambda t: (is_floor(t), t.median)):
        record = records[timing.contender]
        ratios = group.ratios(timing.contender, group.base)
        memory = timing.gpu_peak_mb if found.device == "cuda" else timing.peak_mb
        yield (
            f"{record.label} *" if timing.is_launch_bound else record.label,
            milliseconds(timing.best),
            milliseconds(timing.median),
            f"{timing.spread:.0%}",
            f"{1e3 * group.tokens / timing.median:,.0f}",
            "-" if memory is None else f"{memory:,.0f}",
            _seconds(record),
            f"{statistics.median(ratios):.2f}" if ratios else "-",
        )


def milliseconds(value: float) -> str:
    """Return a time with one decimal, or with three digits where that would say little."""
    return f"{value:.1f}" if value >= 1 else f"{value:#.3g}"


def is_floor(timing: Timing) -> bool:
    """Say whether a contender computes less on purpose."""
    from ropeexport.bench.contenders import BY_NAME

    known = BY_NAME.get(timing.contender)  # a record may be older than a contender's name
    return known is not None and known.floor


def size_text(group: Group) -> str:
    """Return the sizes in words, those that only broadcast left out."""
    return ", ".join(f"{name} {n}" for name, n in group.sizes.items() if not name.startswith("pe_"))


def chart(found: Bench) -> bytes:
    """Return a PNG: the median of each contender at each size, with the quartiles' spread."""
    import matplotlib as mpl

    mpl.use("Agg")
    with mpl.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name may be too long, or in letters that no font has
        return _drawn(all_shown(found, NAME))


def _drawn(found: Bench) -> bytes:
    from matplotlib import pyplot

    groups = [group for group in found.groups if group.timings]
    labels = {record.name: record.label for record in found.contenders}
    heights = [0.6 + 0.34 * len(group.timings) for group in groups] or [1.0]
    figure, axes = pyplot.subplots(
        max(1, len(groups)),
        1,
        figsize=(8, 0.6 + sum(heights)),
        squeeze=False,
        height_ratios=heights,
    )
    for axis, group in zip(axes[:, 0], groups, strict=False):  # of none, an empty chart
        timings = sorted(group.timings, key=lambda t: (is_floor(t), t.median), reverse=True)
        medians = [timing.median for timing in timings]
        bars = axis.barh(
            [labels[timing.contender] for timing in timings],
            medians,
            xerr=[timing.spread * timing.median for timing in timings],
            color=[_colour(timing) for timing in timings],
        )
        axis.bar_label(bars, [f" {milliseconds(median)}" for median in medians], fontsize=8)
        axis.set_title(f"{found.dtype}, {size_text(group)}", loc="left", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.margins(x=0.12)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel("ms, median; lower is better", fontsize=8)
    figure.suptitle(f"{found.source} on {found.processor}, {found.threads} threads", fontsize=10)
    figure.tight_layout()
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=144)
    pyplot.close(figure)
    return written.getvalue()


def _colour(timing: Timing) -> str:
    if timing.contender == OURS:
        return "#0969da"
    return "#c9d1d9" if is_floor(timing) else "#8c959f"


def _seconds(record: ContenderRecord) -> str:
    return "-" if record.load_seconds is None else f"{record.load_seconds:.2f}"
