"""What the page says beside the timings: whole processes, engines, kernels, and other results."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.cpu.runs import Runs

RESULTS = Path(__file__).parents[1] / "results"


def table(headings: str, rows: Iterable[tuple[str, ...]], texts: int = 1) -> Iterator[str]:
    """Yield a table as Markdown, and an empty line: some columns of texts, then numbers."""
    names = headings.split("|")
    yield f"| {' | '.join(names)} |"
    yield f"|{' --- |' * texts}{' ---: |' * (len(names) - texts)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def process_lines(read: Runs) -> Iterator[str]:
    """Yield a table of exports and of the command line's start."""
    if any("exports" not in run for run in read.measured):
        return
    yield from ("## Exporting, and starting the command line", "")
    yield "Wall time of processes, all runs together; imports are left out of the exports."
    yield ""
    labels = {"exports": "export of FLUX attention, {}", "starts": "`{}`"}
    found = [(kind, name) for kind in labels for name in read.measured[0][kind]]
    times = ((labels[kind].format(name), _seconds(read, kind, name)) for kind, name in found)
    rows = ((label, f"{statistics.median(x):.3f}", f"{min(x):.3f}") for label, x in times)
    yield from table("what|median s|best s", rows)


def process_sentence(read: Runs) -> Iterator[str]:
    """Yield the same in a sentence, for README."""
    plain, ours, bare, command = (
        statistics.median(_seconds(read, kind, name))
        for kind, name in (
            *(("exports", "plain"), ("exports", "ropeexport")),
            *(("starts", "python -c pass"), ("starts", "ropeexport --help")),
        )
    )
    yield f"Exporting took {ours / plain:.2f} of the plain export's wall time (medians), and"
    yield f"`ropeexport --help` {command - bare:.2f} s more than `python -c pass`."


def _seconds(read: Runs, kind: str, name: str) -> list[float]:
    return [value for run in read.measured for value in run[kind][name]]


def build_lines(parts: dict[str, Any]) -> Iterator[str]:
    """Yield a table of the engines that were built, and why others were not."""
    found = [(n, impl, row) for n in parts for impl, row in parts[n].get("builds", {}).items()]
    built = [(name, impl, row) for name, impl, row in found if row["status"] == "BUILT"]
    if not built:
        return
    yield from ("## Building engines", "")
    figures = ("cold_seconds", "again_seconds", "engine_mb")
    rows = ((name, impl, *(f"{row[key]:.1f}" for key in figures)) for name, impl, row in built)
    yield from table("part|implementation|cold s|again s|engine MB", rows, texts=2)
    flavours = {f"{row['flavour']} {row['version']}" for _, _, row in built}
    yield f"The whole command, `ropeexport build`, by {', '.join(sorted(flavours))}."
    if not any(row["timing_cache"] for _, _, row in built):
        yield "It measures nothing while it builds, so there is no timing cache that a second build"
        yield "could use: it finishes an engine's kernels when that is loaded, which needs a GPU."
    for name, impl, row in found:
        if row["status"] != "BUILT":
            yield f"- {name}, {impl}: {row['status']}: {row['reason']}"
    yield ""


def kernel_lines() -> Iterator[str]:
    """Yield the two branches of our Attention in onnxruntime, by length."""
    path = RESULTS / "attention-kernels.json"
    if not path.is_file():
        return
    record = json.loads(path.read_text())
    yield from ("## Attention at once and in blocks", "")
    yield (
        f"The two branches of `ropeexport::AttentionInBlocks` in onnxruntime, {record['date']}, "
        f"`python -m benchmarks.attention_kernels`: medians of {record['rounds']} turns, and the "
        "median of the ratio turn by turn. The second is taken from the length in bold on."
    )
    yield ""
    yield from table("type|length|at once ms|in blocks ms|ratio", map(_kernel_row, record["rows"]))


def _kernel_row(row: dict[str, Any]) -> tuple[str, ...]:
    bold = "**" if row["length"] == row["blocks_from"] else ""
    times = (statistics.median(row[f"{name}_ms"]) for name in ("at_once", "in_blocks"))
    ratio = f"{row['ratio']:.2f}"
    return row["dtype"], f"{bold}{row['length']}{bold}", *(f"{x:.1f}" for x in times), ratio


def elsewhere_lines() -> Iterator[str]:
    """Yield the weightless export's table, and where further results are."""
    yield from ("## Elsewhere", "")
    sections = {
        "weightless": _weightless,
        "load": _load,
        "decoding": _decoding,
        "norms": _norms,
        "exporting": _exporting,
    }
    for name, lines in sections.items():
        path = RESULTS / f"{name}.json"
        if path.is_file():
            yield from lines(json.loads(path.read_text()))
    yield (
        "Model classes: [models.md](models.md). The kernel and the engines on a GPU: "
        "[gpu.md](gpu.md) says what waits for one; an engine's build with a cold and a warm cache "
        "and its loading are timed there."
    )


def _load(record: dict[str, Any]) -> Iterator[str]:
    yield (
        "A call through `ropeexport.load` beside the same call of a bare session of onnxruntime, "
        f"of one thread each, in {record['rounds']} turns, `python -m benchmarks.load` on "
        f"{record['machine']['processor']}, {record['date']}:"
    )
    yield ""
    rows = (
        (row["name"], f"{row['bare_ms']:.2f}", f"{row['ratio']:.3f}", f"{row['added_us']:.0f}")
        for row in record["calls"]
    )
    yield from table("call|bare ms|of that|more us", rows)
    through, bare = (statistics.median(seconds) for seconds in record["starts"].values())
    yield f"A process, from its start to the first output: {through:.2f} s, bare {bare:.2f} s."
    yield ""


def _norms(record: dict[str, Any]) -> Iterator[str]:
    yield (
        "A file whose norms of q and k are in their ropes' ops (`--fuse norm-rope`) beside the one "
        "where they are apart, in onnxruntime: calls in turns, medians of "
        f"{record['rounds']}, `python -m benchmarks.norms` on {record['machine']['processor']}, "
        f"{record['date']}. The outputs differ by at most the last column of the largest number:"
    )
    yield ""
    rows = (
        (row["model"], f"{row['joined']}", *(f"{x:.1f}" for x in reversed(row["median_ms"])),
         f"{row['ratio']:.3f}", f"{row['difference']:.0e}")
        for row in record["rows"]
    )  # fmt: skip
    yield from table("model|joined|norm-rope ms|rope ms|to rope|difference", rows)


def _exporting(record: dict[str, Any]) -> Iterator[str]:
    exports = record["exports"]
    ours, plain = (exports["steps"][name] for name in ("ours", "plain"))
    yield (
        "A small Llama (4 layers of 256, float32) by `ropeexport export transformers:DIR`, and by "
        "plain `torch.onnx.export` with the same axes: whole processes in turns, medians of "
        f"{record['rounds']}, `python -m benchmarks.exporting` on "
        f"{record['machine']['processor']}, {record['date']}. Ours takes {exports['ratio']:.2f} of "
        "the plain export's wall time. Within, in seconds:"
    )
    yield ""
    names = [name for name in ours if name not in ("imports", "export")]
    rest = ours["export"] - sum(ours[name] for name in names)
    rows = [
        ("imports", f"{ours['imports']:.2f}", f"{plain['imports']:.2f}"),
        ("all but the imports", f"{ours['export']:.2f}", f"{plain['export']:.2f}"),
        *((f"of these: {name}", f"{ours[name]:.2f}", "") for name in names),
        ("of these: the rest", f"{rest:.2f}", ""),
    ]
    yield from table("step|ropeexport|plain", rows)
    yield (
        "Experts (Mixtral with 2 layers of 512, 8 experts of which each token has 2, float32): our "
        "file sorts the tokens by expert and has a product for each; transformers' `batched_mm`, "
        "which plain torch can export, copies its experts' matrices for each token. Calls of "
        "onnxruntime in turns:"
    )
    yield ""
    each = (
        (f"{row['tokens']}", f"{row['sorted_ms']:.1f}", f"{row['batched_ms']:.1f}",
         f"{row['ratio']:.2f}")
        for row in record["experts"]
    )  # fmt: skip
    yield from table("tokens|ropeexport ms|batched_mm ms|to ropeexport", each)


def _decoding(record: dict[str, Any]) -> Iterator[str]:
    yield (
        "A small Llama (8 layers of 512, float32, random weights) after a prompt of "
        f"{record['prompt']} tokens, {record['new']} more, each contender in a process of its own "
        f"with {record['threads']} threads, medians of {record['rounds']} turns with their range, "
        f"`python -m benchmarks.decoding` on {record['machine']['processor']}, {record['date']}. "
        "Copied: what a step copies of the cache because it gets longer, halfway. Contenders "
        "without a star generate the same tokens as the first:"
    )
    yield ""
    for group in record["groups"]:
        best = max(row["decode"]["median"] for row in group["rows"])
        rows = (
            (
                row["name"] + ("" if row["same"] else " \\*"),
                _speed(row["prefill"]),
                _speed(row["decode"]),
                f"{row['decode']['median'] / best:.2f}",
                f"{row['copied'] / 1e6:.1f}",
            )
            for row in group["rows"]
        )
        heading = f"batch of {group['batch']}"
        yield from table(f"{heading}|prefill tokens/s|decode tokens/s|of the best|copied MB", rows)
        for name, why in group["left_out"].items():
            yield f"- {name}: left out: {why}"
        yield ""


def _speed(row: dict[str, float]) -> str:
    return f"{row['median']:,.0f} ({row['low']:,.0f} to {row['high']:,.0f})"


def _weightless(record: dict[str, Any]) -> Iterator[str]:
    yield "Export whose cost does not grow with the weights, `python -m benchmarks.weightless`:"
    yield ""
    rows = (
        (name, f"{row['weights_bytes'] / 1e9:.2f}", f"{row['seconds']:.0f}",
         f"{row['peak_mb']:.0f}", f"{row['onnx_bytes'] / 1e6:.1f}")
        for name, row in record["cases"].items()
    )  # fmt: skip
    yield from table("model|weights GB|seconds|peak MB|ONNX file MB", rows)
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
