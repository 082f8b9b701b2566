"""Whether the numbers hold: a further run against the range of those that the page shows."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.cpu.figures import Held, held
from benchmarks.cpu.runs import Runs
from benchmarks.page.parts import range_text
from ropeexport.bench.records import OURS


def lines(read: Runs) -> Iterator[str]:
    """Yield how many of the further run's medians lie within the ranges, and every other one."""
    found = list(held(read))
    if read.check is None or not found:
        return
    others = [each for each in found if each.row.contender != OURS]
    off = [each for each in others if not each.row.ratio.holds(each.ratio)]
    times = sum(each.row.time_ms.holds(each.time_ms) for each in found)
    yield "## Do the numbers hold?"
    yield ""
    yield (
        f"A further run, {read.check['date']}, that is in no table above: "
        f"{len(others) - len(off)} of its {len(others)} ratios to ropeexport lie within the range "
        f"that is stated for 95 % of them, and {times} of {len(found)} times within that of all "
        f"turns. Half of the ratios differ by {_median_change(others):.1%} or less from those of "
        "the tables."
    )
    yield ""
    yield from map(_off, off)
    if off:
        yield ""


def _off(each: Held) -> str:
    return (
        f"- outside: {each.part}, {each.size}: {each.row.label}: {each.ratio:.2f}, stated "
        f"{each.row.ratio.value:.2f}, {range_text(each.row)}"
    )


def _median_change(found: list[Held]) -> float:
    changes = sorted(abs(each.ratio / each.row.ratio.value - 1) for each in found)
    return changes[len(changes) // 2]
