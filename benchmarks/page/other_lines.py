"""Lines of the page beside the timings: files, engines' builds, and a second run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.cpu.again import Pair, pairs
from ropeexport.bench.records import Bench

_WORST = 5


def file_lines(part: dict[str, Any]) -> Iterator[str]:
    """Yield one line: the size of each file with its weights, and how long it took to make."""
    found = Bench.model_validate(part["bench"])
    files = [
        f"{record.label} {record.file_mb:,.2f} MB"
        + ("" if record.prepare_seconds is None else f" in {record.prepare_seconds:.1f} s")
        for record in found.contenders
        if record.file_mb is not None and record.status == "TIMED"
    ]
    if files:
        seconds = part["export_wall_seconds"]
        yield f"Files with weights, and making them: {'; '.join(files)}. `ropeexport export`, the "
        yield f"whole command with its imports: {seconds:.1f} s."


def build_lines(parts: dict[str, Any]) -> Iterator[str]:
    """Yield a table of the engines that were built, and why others were not."""
    rows = [(name, impl, row) for name, part in parts.items() for impl, row in _builds(part)]
    built = [(name, impl, row) for name, impl, row in rows if row["status"] == "BUILT"]
    if not built:
        return
    yield "| part | implementation | cold s | again s | engine MB |"
    yield "| --- | --- | ---: | ---: | ---: |"
    for name, impl, row in built:
        yield (
            f"| {name} | {impl} | {row['cold_seconds']:.1f} | {row['again_seconds']:.1f} | "
            f"{row['engine_mb']:.1f} |"
        )
    yield ""
    flavours = {f"{row['flavour']} {row['version']}" for _, _, row in built}
    yield f"The whole command, `ropeexport build`, by {', '.join(sorted(flavours))}."
    if not any(row["timing_cache"] for _, _, row in built):
        yield "It measures nothing while it builds, so there is no timing cache that a second build"
        yield "could use: it finishes an engine's kernels when that is loaded, which needs a GPU."
    for name, impl, row in rows:
        if row["status"] != "BUILT":
            yield f"- {name}, {impl}: {row['status']}: {row['reason']}"
    yield ""


def _builds(part: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from part.get("builds", {}).items()


def again_lines(first: dict[str, Any], second: dict[str, Any]) -> Iterator[str]:
    """Yield how a second run compares with the first, and the medians that lie furthest off."""
    found = list(pairs(first, second))
    if not found:
        return
    times = sum(pair.holds for pair in found)
    ratios = sum(pair.holds_to_ours for pair in found)
    yield (
        f"A second run, {second['date']}, of {len(second['parts'])} of the {len(first['parts'])} "
        f"parts: {times} of {len(found)} medians lie within the sum of both runs' spreads, and "
        f"{ratios} of {len(found)} ratios to ropeexport. {_median_text(found)}"
    )
    off = sorted((p for p in found if not p.holds_to_ours), key=_excess, reverse=True)
    if off:
        yield "The ratios to ropeexport that moved by more, the worst first:"
        yield ""
    for pair in off[:_WORST]:
        yield (
            f"- {pair.part}, {pair.size}, {pair.contender}: times {pair.to_ours:.2f}, "
            f"spreads {pair.spread_to_ours:.0%}"
        )
    if len(off) > _WORST:
        yield f"- and {len(off) - _WORST} more."
    yield ""


def _excess(pair: Pair) -> float:
    return abs(pair.to_ours - 1) - pair.spread_to_ours


def _median_text(found: list[Pair]) -> str:
    changes = sorted(abs(pair.to_ours - 1) for pair in found)
    return f"Half of the ratios moved by {changes[len(changes) // 2]:.1%} or less."
