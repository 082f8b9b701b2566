"""A part of the measurements as tables, and where something else is faster or lighter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.cpu.figures import Row, rows
from benchmarks.cpu.runs import Runs
from ropeexport.bench import show
from ropeexport.bench.bench import code_hash
from ropeexport.bench.records import OURS, Bench

_NOTABLE = 1.1  # of peak memory: less is the noise of an allocator
_COLUMNS = "contender|best ms|median ms|tokens/s|peak MB|load s|to ropeexport|range"


def stale(read: Runs) -> list[str]:
    """Return the parts that were measured on other sources than these."""
    now = code_hash()
    return [name for name in read.parts if any(b.code_sha256 != now for b in read.benches(name))]


def part_lines(read: Runs, name: str) -> Iterator[str]:
    """Yield a section: a table for each size, who was left out, and the files."""
    benches = read.benches(name)
    first = benches[0]
    yield f"## {name}: {read.measured[0]['parts'][name]['text']}, {first.dtype}"
    yield ""
    old = " **Older than the code it measures.**" if name in stale(read) else ""
    dates = " and ".join(dict.fromkeys(bench.date for bench in benches))
    yield f"Measured {dates}, `{first.command}`.{old}"
    for size, group in enumerate(first.groups):
        yield ""
        yield f"{show.size_text(group)}:"
        yield ""
        yield from table(benches, size)
    yield ""
    yield from _left_out(first)
    yield ""
    yield from _file_lines(read, name)


def table(benches: Sequence[Bench], size: int) -> Iterator[str]:
    """Yield the table of one size, as Markdown."""
    columns = _COLUMNS.split("|")
    yield f"| {' | '.join(columns)} |"
    yield f"| --- |{' ---: |' * (len(columns) - 1)}"
    for row in rows(benches, size):
        speed = 1e3 * row.tokens / row.time_ms.value
        yield (
            f"| {row.label} | {row.time_ms.low:.1f} | {row.time_ms.value:.1f} | {speed:,.0f} | "
            f"{row.peak_mb:,.0f} | {row.load_seconds:.2f} | {row.ratio.value:.2f} | "
            f"{range_text(row)} |"
        )


def short_table(benches: Sequence[Bench], size: int) -> Iterator[str]:
    """Yield the table of one size for README: times and ratios alone."""
    yield "| attention | best ms | median ms | to ropeexport | range |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for row in rows(benches, size):
        yield (
            f"| {row.label} | {row.time_ms.low:.1f} | {row.time_ms.value:.1f} | "
            f"{row.ratio.value:.2f} | {range_text(row)} |"
        )


def range_text(row: Row) -> str:
    """Return the range that is stated for a ratio."""
    return f"{row.ratio.low:.2f} to {row.ratio.high:.2f}" if row.contender != OURS else ""


def behind_lines(read: Runs) -> Iterator[str]:
    """Yield a line for whatever is faster than ropeexport's file, or takes less memory."""
    found = [line for name in read.parts for line in behind(name, read.benches(name))]
    yield from found or ["Nowhere in these parts, by medians."]


def behind(name: str, benches: Sequence[Bench]) -> Iterator[str]:
    """Yield the lines of one part; of contenders in onnxruntime, and of others, apart."""
    for size, group in enumerate(benches[0].groups):
        found = {row.contender: row for row in rows(benches, size)}
        where = f"- {name}, {show.size_text(group)}"
        for row in found.values():
            if row.is_floor or row.ratio.value >= 1:
                continue
            sure = "" if row.ratio.high < 1 else f", in a range of {range_text(row)}"
            yield f"{where}: {row.label} takes {row.ratio.value:.2f} of our time{sure}."
        ours, plain = found.get(OURS), found.get("plain")
        if ours and plain and ours.peak_mb > _NOTABLE * plain.peak_mb:
            more = ours.peak_mb / plain.peak_mb
            yield f"{where}: the peak memory is {more:.2f} of the plain export's."


def _left_out(found: Bench) -> Iterator[str]:
    for record in found.contenders:
        if record.status != "TIMED":
            yield f"- {record.label}: {record.status}: {record.reason}"


def _file_lines(read: Runs, name: str) -> Iterator[str]:
    """Yield the size of each file with its weights, and how long it took to make."""
    files = [
        f"{record.label} {record.file_mb:,.2f} MB"
        + ("" if record.prepare_seconds is None else f" in {record.prepare_seconds:.1f} s")
        for record in read.benches(name)[0].contenders
        if record.file_mb is not None and record.status == "TIMED"
    ]
    if files:
        seconds = read.measured[0]["parts"][name]["export_wall_seconds"]
        yield f"Files with weights, and making them: {'; '.join(files)}. `ropeexport export`, the"
        yield f"whole command with its imports: {seconds:.1f} s."
        yield ""
