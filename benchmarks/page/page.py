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
_HEAD = Path(__file__).with_name("head.md")


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
    yield from parts.short_table(benches, _CHARTED_SIZE)
    yield ""
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
