"""The page as a whole: its head, its order, and the table that README shows of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.cpu import runs
from benchmarks.cpu.runs import Runs
from benchmarks.page import other_lines, parts, repeated
from ropeexport import atomic
from ropeexport.bench import show

ROOT = Path(__file__).parents[2]
PAGE, CHART = ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "attention.png"
README = ROOT / "README.md"
_CHARTED, _CHARTED_SIZE = "attention", 1
_WHY = Path(__file__).with_name("why.md")
# what README has between these is written here
_BEGIN, _END = "<!-- python -m benchmarks.page writes this -->\n", "<!-- to here -->\n"
_HEAD = """# Benchmarks

Written by `python -m benchmarks.page` from `benchmarks/results/`, but for the reasons in
`benchmarks/page/why.md`; `make bench` measures anew and writes the page again, `python -m
benchmarks.cpu --only PART` measures a part of it.

Every contender runs in a process of its own and takes turns with the others; one that waits is
stopped. It is held to the parity bound of [parity.md](parity.md) before it is timed, and again
where a longer input is computed by another kernel of ours. A turn is the median of a few times
(`--repeats`) over inputs that rotate, so that they do not lie in a cache. The tables show {runs}
whole runs of some turns of each contender (`--rounds`): the best turn, and the median of the runs'
medians. `to ropeexport` is a contender's time over ours, turn by turn, so that what slows the
machine down for a while slows both; `range` is where that ratio lay, from the lowest of all turns to
the highest. A time includes the call from Python with NumPy arrays on both sides. Peak memory is the
whole process's, libraries included, the largest of the runs. "Load" is loading or compiling and the
first time. `without any rope` computes less on purpose: it is the floor.
"""


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
    yield (
        f"{first.processor}, {first.threads} threads, {show.size_text(first.groups[_CHARTED_SIZE])}, "
        f"24 heads of 128, {first.dtype}, rotations; each contender in a process of its own, held to"
    )
    yield f"the parity bound and then timed in turns, in {len(benches)} whole runs:"
    yield ""
    yield from parts.short_table(benches, _CHARTED_SIZE)
    yield ""
    yield from other_lines.process_sentence(read)


def _lines(read: Runs) -> Iterator[str]:
    first = read.benches(read.parts[0])[0]
    yield _HEAD.format(runs=len(read.measured))
    versions = first.environment.packages
    named = [n for n in ("torch", "onnxruntime", "openvino") if n in versions]
    packages = ", ".join(f"{name} {versions[name]}" for name in named)
    yield f"Machine: {first.processor}, {first.threads} threads; {packages}."
    yield ""
    yield "![attention at three lengths](attention.png)"
    yield ""
    yield "## Where we are behind"
    yield ""
    yield from parts.behind_lines(read)
    yield ""
    yield _WHY.read_text()
    for name in read.parts:
        yield from parts.part_lines(read, name)
    yield from other_lines.process_lines(read)
    yield from other_lines.build_lines(read.measured[0]["parts"])
    yield from other_lines.kernel_lines()
    yield from repeated.lines(read)
    yield from other_lines.elsewhere_lines()
