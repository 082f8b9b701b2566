"""What the page says beside the timings: whole processes, engines, kernels, and other results."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.cpu.runs import Runs

RESULTS = Path(__file__).parents[1] / "results"


def process_lines(read: Runs) -> Iterator[str]:
    """Yield a table of exports and of the command line's start."""
    if any("exports" not in run for run in read.measured):
        return
    yield "## Exporting, and starting the command line"
    yield ""
    yield "Wall time of processes, all runs together; imports are left out of the exports."
    yield ""
    yield "| what | median s | best s |"
    yield "| --- | ---: | ---: |"
    for kind, label in (("exports", "export of FLUX attention, {}"), ("starts", "`{}`")):
        for name in read.measured[0][kind]:
            seconds = [value for run in read.measured for value in run[kind][name]]
            median, best = statistics.median(seconds), min(seconds)
            yield f"| {label.format(name)} | {median:.3f} | {best:.3f} |"
    yield ""


def process_sentence(read: Runs) -> Iterator[str]:
    """Yield the same in a sentence, for README."""
    plain, ours = (_median(read, "exports", name) for name in ("plain", "ropeexport"))
    bare, command = (
        _median(read, "starts", name) for name in ("python -c pass", "ropeexport --help")
    )
    yield f"Exporting took {ours / plain:.2f} of the plain export's wall time (medians), and"
    yield f"`ropeexport --help` {command - bare:.2f} s more than `python -c pass`."


def _median(read: Runs, kind: str, name: str) -> float:
    return statistics.median(value for run in read.measured for value in run[kind][name])


def build_lines(parts: dict[str, Any]) -> Iterator[str]:
    """Yield a table of the engines that were built, and why others were not."""
    rows = [(name, impl, row) for name, part in parts.items() for impl, row in _builds(part)]
    built = [(name, impl, row) for name, impl, row in rows if row["status"] == "BUILT"]
    if not built:
        return
    yield "## Building engines"
    yield ""
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


def kernel_lines() -> Iterator[str]:
    """Yield the two branches of our Attention in onnxruntime, by length."""
    path = RESULTS / "attention-kernels.json"
    if not path.is_file():
        return
    record = json.loads(path.read_text())
    yield "## Attention at once and in blocks"
    yield ""
    yield (
        f"The two branches of `ropeexport::Attention` in onnxruntime, {record['date']}, "
        f"`python -m benchmarks.attention_kernels`: medians of {record['rounds']} turns, and the "
        "median of the ratio turn by turn. The file takes the second from the length in bold on."
    )
    yield ""
    yield "| type | length | at once ms | in blocks ms | ratio |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for row in record["rows"]:
        length = str(row["length"])
        bold = f"**{length}**" if row["length"] == row["blocks_from"] else length
        times = [statistics.median(row[f"{name}_ms"]) for name in ("at_once", "in_blocks")]
        yield (
            f"| {row['dtype']} | {bold} | {times[0]:.1f} | {times[1]:.1f} | {row['ratio']:.2f} |"
        )
    yield ""


def elsewhere_lines() -> Iterator[str]:
    """Yield the weightless export's table, and where further results are."""
    yield "## Elsewhere"
    yield ""
    weightless = RESULTS / "weightless.json"
    if weightless.is_file():
        yield from _weightless(json.loads(weightless.read_text()))
    yield (
        "Model classes: [models.md](models.md). The kernel and the engines on a GPU: "
        "[gpu.md](gpu.md) says what waits for one; an engine's build with a cold and a warm cache "
        "and its loading are timed there."
    )


def _weightless(record: dict[str, Any]) -> Iterator[str]:
    yield "Export whose cost does not grow with the weights, `python -m benchmarks.weightless`:"
    yield ""
    yield "| model | weights GB | seconds | peak MB | ONNX file MB |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for name, row in record["cases"].items():
        yield (
            f"| {name} | {row['weights_bytes'] / 1e9:.2f} | {row['seconds']:.0f} | "
            f"{row['peak_mb']:.0f} | {row['onnx_bytes'] / 1e6:.1f} |"
        )
    yield ""
    for name, row in record["cases"].items():
        if "added_mb" in row:
            yield f"{name}: beside them the export takes {row['added_mb']:.0f} MB; they are written"
            yield "tensor by tensor into a file of their own."
            yield ""
    if real := record.get("parity"):
        shares = ", ".join(f"{name} {share:.0%}" for name, share in real["share_of_bound"].items())
        yield (
            f"A Llama with {real['weights_bytes'] / 1e9:.2f} GB of real values, exported beside "
            f"them ({real['onnx_bytes'] / 1e6:.1f} MB) and checked in {real['cases']} cases: "
            f"{real['verdict']}, of the bound of [parity.md](parity.md) at most: {shares}."
        )
        yield ""
