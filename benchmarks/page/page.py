"""``python -m benchmarks.page``: docs/benchmarks.md, from the committed results alone."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.cpu import tables
from ropeexport import atomic
from ropeexport.bench import show
from ropeexport.bench.bench import code_hash
from ropeexport.bench.records import Bench, Group, Timing

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE, CHART = ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "attention.png"
_CHARTED = "attention"
_WHY = """
Why, and what was tried:

- Long attention: onnxruntime's Attention kernel keeps all scores (see its peak memory at lengths
  4096 and 8192, and that the floor without any rope takes as long); the rope is a few percent.
  OpenVINO's kernel does not, so a fourth runtime passes us there: its column runs our file with the
  function bodies inlined, which it takes of every model here. onnxruntime's own
  `MultiHeadAttention` in place of `Attention` was tried at length 1024: 76 ms against 75 ms, so
  nothing is gained by an operator of its own.
- Whole models: onnxruntime's MatMul takes three quarters of the time and Attention most of the
  rest, in every file alike; the norms and the rope are 1 % each, so all of onnxruntime's files lie
  within a few percent. What is left of the peak memory is weights that onnxruntime transposes while
  it loads: the file keeps each in its module's layout, so that it can refer to safetensors files.
  `Gemm` with `transB` instead was tried on the Llama: as fast; 25 MB less of 315 at length 256,
  15 MB more at 1024.
- Rope alone: in a profile at length 1024, onnxruntime's two RotaryEmbedding nodes take over four
  fifths of the time, and the look at the matrices the rest.
"""
_NOTABLE = 1.1
_HEAD = """# Benchmarks

Written by `python -m benchmarks.page` from `benchmarks/results/`; `python -m benchmarks.cpu`
(`pip install 'ropeexport[bench,models]'`) measures anew, `--only PART` a part of it.

Every contender runs in a process of its own and takes turns with the others; one that waits is
stopped. It is held to the parity bound of [parity.md](parity.md) before it is timed. A turn is the
median of {repeats} runs over inputs that rotate, so that they do not lie in a cache; the table has
the best and the median of {rounds} turns, and half the distance of their quartiles as the spread. A
run includes the call from Python with NumPy arrays on both sides. Peak memory is the whole
process's, libraries included. "Load" is loading or compiling and the first run. `without any
rope` computes less on purpose: it is the floor.
"""


def write() -> None:
    """Write the page and its chart."""
    cpu = json.loads((RESULTS / "cpu.json").read_text())
    atomic.write_text(PAGE, render())
    atomic.write_bytes(CHART, show.chart(_bench(cpu, _CHARTED)))


def render() -> str:
    """Return the page as Markdown."""
    cpu = json.loads((RESULTS / "cpu.json").read_text())
    return "\n".join(_lines(cpu)) + "\n"


def stale(cpu: dict[str, Any]) -> list[str]:
    """Return the parts that were measured on other sources than these."""
    now = code_hash()
    return [name for name in cpu["parts"] if _bench(cpu, name).code_sha256 != now]


def _bench(cpu: dict[str, Any], name: str) -> Bench:
    return Bench.model_validate(cpu["parts"][name]["bench"])


def _lines(cpu: dict[str, Any]) -> Iterator[str]:
    first = _bench(cpu, next(iter(cpu["parts"])))
    yield _HEAD.format(rounds=first.rounds, repeats=first.repeats)
    packages = ", ".join(f"{name} {version}" for name, version in _packages(cpu))
    yield f"Machine: {first.processor}, {first.threads} threads; {packages}."
    yield ""
    yield "![attention at three lengths](attention.png)"
    yield ""
    yield "## Where we are behind"
    yield ""
    yield from _behind(cpu)
    for name in cpu["parts"]:
        yield from _part(cpu, name)
    yield from _processes(cpu)
    yield from _engines(cpu)
    yield from _second_run(cpu)
    yield from _others()


def _packages(cpu: dict[str, Any]) -> list[tuple[str, str]]:
    versions = _bench(cpu, next(iter(cpu["parts"]))).environment.packages
    return [
        (name, versions[name]) for name in ("torch", "onnxruntime", "openvino") if name in versions
    ]


def _behind(cpu: dict[str, Any]) -> Iterator[str]:
    found = [line for name in cpu["parts"] for line in _behind_in(cpu, name)]
    yield from found or ["Nowhere in these parts, by medians."]
    yield _WHY


def _behind_in(cpu: dict[str, Any], name: str) -> Iterator[str]:
    found = _bench(cpu, name)
    labels = {record.name: record.label for record in found.contenders}
    for group in found.groups:
        timings = {t.contender: t for t in group.timings}
        ours = timings.get("ropeexport")
        if ours is None:
            continue
        for timing in group.timings:
            if show.is_floor(timing) or timing.median >= ours.median:
                continue
            noise = ours.spread + timing.spread
            ratio = ours.median / timing.median
            sure = "" if ratio - 1 > noise else ", within the spread"
            yield (
                f"- {name}, {show.size_text(group)}: {labels[timing.contender]} takes "
                f"{1 / ratio:.2f} of our time{sure}."
            )
        yield from _heavier(name, group, timings)


def _heavier(name: str, group: Group, timings: dict[str, Timing]) -> Iterator[str]:
    """Say where the process takes more memory than the plain export's does."""
    ours, plain = timings["ropeexport"], timings.get("plain")
    if plain is not None and ours.peak_mb > _NOTABLE * plain.peak_mb:
        yield (
            f"- {name}, {show.size_text(group)}: the peak memory is "
            f"{ours.peak_mb / plain.peak_mb:.2f} of the plain export's."
        )


def _part(cpu: dict[str, Any], name: str) -> Iterator[str]:
    part, found = cpu["parts"][name], _bench(cpu, name)
    yield f"## {name}: {part['text']}, {found.dtype}"
    yield ""
    old = " **Older than the code it measures.**" if name in stale(cpu) else ""
    yield f"Measured {found.date}, `{found.command}`.{old}"
    for group in found.groups:
        yield ""
        yield f"{show.size_text(group)}:"
        yield ""
        yield from _table(found, group)
    yield ""
    yield from _left_out(found)
    yield from tables.file_lines(part)
    yield ""


def _table(found: Bench, group: Group) -> Iterator[str]:
    yield "| contender | best ms | median ms | ± | tokens/s | peak MB | load s | to ropeexport |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for row in show.rows(found, group):
        yield f"| {' | '.join(row)} |"


def _left_out(found: Bench) -> Iterator[str]:
    for record in found.contenders:
        if record.status != "TIMED":
            yield f"- {record.label}: {record.status}: {record.reason}"
    yield ""


def _processes(cpu: dict[str, Any]) -> Iterator[str]:
    if "exports" not in cpu:
        return
    yield "## Exporting, and starting the command line"
    yield ""
    yield "Wall time, imports left out of the export; medians and best of five."
    yield ""
    yield "| what | median s | best s |"
    yield "| --- | ---: | ---: |"
    for kind in ("exports", "starts"):
        for name, seconds in cpu[kind].items():
            label = f"export of FLUX attention, {name}" if kind == "exports" else f"`{name}`"
            yield f"| {label} | {statistics.median(seconds):.3f} | {min(seconds):.3f} |"
    yield ""


def _engines(cpu: dict[str, Any]) -> Iterator[str]:
    lines = list(tables.build_lines(cpu["parts"]))
    if lines:
        yield "## Building engines"
        yield ""
        yield from lines


def _second_run(cpu: dict[str, Any]) -> Iterator[str]:
    again = RESULTS / "cpu-again.json"
    if again.is_file():
        yield "## Do the numbers hold?"
        yield ""
        yield from tables.again_lines(cpu, json.loads(again.read_text()))


def _others() -> Iterator[str]:
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


if __name__ == "__main__":
    write()
    record = json.loads((RESULTS / "cpu.json").read_text())
    for name in stale(record):
        print(f"{name}: measured on older sources: python -m benchmarks.cpu --only {name}")
