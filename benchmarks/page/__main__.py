"""``python -m benchmarks.page``: write the page, its chart and README's table.

The page is its head, a section for each part of the measurements, and where something else is
faster or lighter; then what is beside the timings, and whether the numbers hold.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.cpu import runs
from benchmarks.cpu.runs import Row, Runs, held, rows
from benchmarks.page import other_lines
from benchmarks.page.other_lines import table
from ropeexport import atomic
from ropeexport.bench import show
from ropeexport.bench.bench import code_hash
from ropeexport.bench.records import BARE, OURS, Bench

ROOT = Path(__file__).parents[2]
PAGE, CHART = ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "attention.png"
README = ROOT / "README.md"
_CHARTED, _CHARTED_SIZE = "attention", 1
_WHY = Path(__file__).with_name("why.md")
# what README has between these is written here
_BEGIN, _END = "<!-- python -m benchmarks.page writes this -->\n", "<!-- to here -->\n"
_HEAD = Path(__file__).with_name("head.md")
_NOTABLE = 1.1  # of peak memory: less is the noise of an allocator


def write() -> None:
    """Write the page, its chart, and README's table."""
    read = runs.load()
    atomic.write_text(PAGE, render(read))
    atomic.write_text(README, with_table(README.read_text(), read))
    atomic.write_bytes(CHART, show.chart(read.benches(_CHARTED)[0]))


def render(read: Runs) -> str:
    """Return the page as Markdown."""
    return "\n".join(_lines(read)) + "\n"


def with_table(text: str, read: Runs) -> str:
    """Return README with the numbers of the results in their place."""
    lines = "\n".join(_short(read))
    pattern = re.escape(_BEGIN) + ".*?" + re.escape(_END)
    return re.sub(pattern, lambda _: f"{_BEGIN}\n{lines}\n\n{_END}", text, flags=re.DOTALL)


def _short(read: Runs) -> Iterator[str]:
    benches = read.benches(_CHARTED)
    first = benches[0]
    size = show.size_text(first.groups[_CHARTED_SIZE])
    yield f"{first.processor}, {first.threads} threads, {size}, 24 heads of 128, {first.dtype},"
    yield "rotations; each contender in a process of its own, held to the parity bound, then timed"
    yield f"in turns, in {len(benches)} whole runs:"
    yield ""
    columns = "attention|best ms|median ms|to ropeexport|range"
    yield from table(columns, map(_short_cells, rows(benches, _CHARTED_SIZE)))
    yield from other_lines.process_sentence(read)


def _lines(read: Runs) -> Iterator[str]:
    first = read.benches(read.parts[0])[0]
    yield _HEAD.read_text().format(runs=len(read.measured))
    versions = first.environment.packages
    named = [n for n in ("torch", "onnxruntime", "openvino") if n in versions]
    packages = ", ".join(f"{name} {versions[name]}" for name in named)
    yield f"Machine: {first.processor}, {first.threads} threads; {packages}."
    yield ""
    yield "![attention at three lengths](attention.png)"
    yield ""
    yield from ("## Where we are behind", "")
    found = [line for name in read.parts for line in behind(name, read.benches(name))]
    yield from found or ["Nowhere in these parts, by medians."]
    yield ""
    yield _WHY.read_text()
    for name in read.parts:
        yield from part_lines(read, name)
    yield from other_lines.process_lines(read)
    yield from other_lines.build_lines(read.measured[0]["parts"])
    yield from other_lines.kernel_lines()
    yield from repeated_lines(read)
    yield from other_lines.elsewhere_lines()


def stale(read: Runs) -> list[str]:
    """Return the parts that were measured on other sources than these."""
    now = code_hash()
    return [name for name in read.parts if any(b.code_sha256 != now for b in read.benches(name))]


def part_lines(read: Runs, name: str) -> Iterator[str]:
    """Yield a section: a table for each size, who was left out, and the files."""
    benches = read.benches(name)
    first, part = benches[0], read.measured[0]["parts"][name]
    yield from (f"## {name}: {part['text']}, {first.dtype}", "")
    old = " **Older than the code it measures.**" if name in stale(read) else ""
    dates = " and ".join(dict.fromkeys(bench.date for bench in benches))
    yield f"Measured {dates}, `{first.command}`.{old}"
    yield ""
    for size, group in enumerate(first.groups):
        yield f"{show.size_text(group)}:"
        yield ""
        columns = "contender|best ms|median ms|tokens/s|peak MB|load s|to ropeexport|range"
        yield from table(columns, map(_cells, rows(benches, size)))
    for record in first.contenders:
        if record.status != "TIMED":
            yield f"- {record.label}: {record.status}: {record.reason}"
    yield ""
    files = [
        f"{record.label} {record.file_mb:,.2f} MB"
        + ("" if record.prepare_seconds is None else f" in {record.prepare_seconds:.1f} s")
        for record in first.contenders
        if record.file_mb is not None and record.status == "TIMED"
    ]
    if files:
        yield f"Files with weights, and making them: {'; '.join(files)}. `ropeexport export`, the"
        yield f"whole command with its imports: {part['export_wall_seconds']:.1f} s."
        yield ""


def _cells(row: Row) -> tuple[str, ...]:
    name, *times = _short_cells(row)
    speed = 1e3 * row.tokens / row.time_ms.value
    more = (f"{speed:,.0f}", f"{row.peak_mb:,.0f}", f"{row.load_seconds:.2f}")
    return name, *times[:2], *more, *times[2:]


def _short_cells(row: Row) -> tuple[str, ...]:
    times = (f"{row.time_ms.low:.1f}", f"{row.time_ms.value:.1f}")
    return row.label, *times, f"{row.ratio.value:.2f}", range_text(row)


def range_text(row: Row) -> str:
    """Return the range that is stated for a ratio."""
    return f"{row.ratio.low:.2f} to {row.ratio.high:.2f}" if row.contender != OURS else ""


def behind(name: str, benches: Sequence[Bench]) -> Iterator[str]:
    """Yield the lines of one part; of contenders in onnxruntime, and of others, apart."""
    for size, group in enumerate(benches[0].groups):
        found = {row.contender: row for row in rows(benches, size)}
        where = f"- {name}, {show.size_text(group)}"
        for row in found.values():
            is_sure = row.ratio.high < 1
            same_file = row.contender == BARE and not is_sure  # the same, but for chance
            if row.is_floor or row.ratio.value >= 1 or same_file:
                continue
            sure = "" if is_sure else f", in a range of {range_text(row)}"
            yield f"{where}: {row.label} takes {row.ratio.value:.2f} of our time{sure}."
        ours, plain = found.get(OURS), found.get("plain")
        if ours and plain and ours.peak_mb > _NOTABLE * plain.peak_mb:
            more = ours.peak_mb / plain.peak_mb
            yield f"{where}: the peak memory is {more:.2f} of the plain export's."


def repeated_lines(read: Runs) -> Iterator[str]:
    """Yield how many of the further run's medians lie within the ranges, and every other one."""
    found = list(held(read))
    if read.check is None or not found:
        return
    others = [each for each in found if each.row.contender != OURS]
    off = [each for each in others if not each.row.ratio.holds(each.ratio)]
    times = sum(each.row.time_ms.holds(each.time_ms) for each in found)
    change = statistics.median_high(abs(x.ratio / x.row.ratio.value - 1) for x in others)
    yield from ("## Do the numbers hold?", "")
    yield (
        f"A further run, {read.check['date']}, that is in no table above: "
        f"{len(others) - len(off)} of its {len(others)} ratios to ropeexport lie within the range "
        f"that is stated for 95 % of them, and {times} of {len(found)} times within that of all "
        f"turns. Half of the ratios differ by {change:.1%} or less from those of "
        "the tables."
    )
    yield ""
    for each in off:
        yield (
            f"- outside: {each.part}, {each.size}: {each.row.label}: {each.ratio:.2f}, stated "
            f"{each.row.ratio.value:.2f}, {range_text(each.row)}"
        )
    if off:
        yield ""


if __name__ == "__main__":
    write()
    for name in stale(runs.load()):
        print(f"{name}: measured on older sources: python -m benchmarks.cpu --only {name}")
