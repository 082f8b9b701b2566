"""``python -m benchmarks.exporting``: exports beside torch's own, and experts in a file.

Times whole processes, in turns, that export a small Llama with ``ropeexport export`` and with plain
``torch.onnx.export``; and calls of a file whose experts are computed as ropeexport writes them
(tokens sorted by expert, a product for each) and as transformers' ``batched_mm`` does (a copy of
its experts' matrices for each token), which plain torch can export.  Writes
``benchmarks/results/exporting.json``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import onnxruntime
import torch
from transformers import AutoModel, LlamaConfig, MixtralConfig

import ropeexport
from benchmarks import machine
from benchmarks.commands import python, worker
from benchmarks.commands import ropeexport as command
from benchmarks.exporting.worker import PROOF
from ropeexport.bench.peers import export_plain
from ropeexport.models.example import Example

RESULT = Path(__file__).parents[1] / "results" / "exporting.json"
_WORKER = "benchmarks.exporting.worker"
_LLAMA: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 4096,
}  # fmt: skip
_MIXTRAL: dict[str, Any] = {
    "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 2,
    "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 4096,
    "num_local_experts": 8, "num_experts_per_tok": 2,
}  # fmt: skip
_TOKENS = (1, 16, 128, 512)
_CASES = 4


@click.command(help=__doc__)
@click.option("--rounds", default=5, show_default=True, help="Turns of the exports.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULT, show_default=True)
def main(rounds: int, output: Path) -> None:
    """Time exports and experts."""
    with TemporaryDirectory() as place:
        exports = _exports(_saved(LlamaConfig(**_LLAMA), Path(place, "llama")), rounds)
        experts = list(_experts(_saved(MixtralConfig(**_MIXTRAL), Path(place, "mixtral"))))
    found = {"rounds": rounds, "exports": exports, "experts": experts}
    machine.write(output, found, "benchmarks/exporting")


def _saved(config: Any, folder: Path) -> Path:
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    return folder


def _exports(folder: Path, rounds: int) -> dict[str, Any]:
    """Return the seconds of whole processes, in turns, and of the steps within."""
    whole: dict[str, list[float]] = {"ours": [], "plain": []}
    steps: dict[str, list[dict[str, float]]] = {"ours": [], "plain": []}
    for turn in range(rounds + 1):  # the first reads files that nobody has read
        place = str(folder)
        ours = command("export", f"transformers:{place}", "-o", place, "--force").seconds
        plain = python("-m", _WORKER, "plain", place).seconds
        if turn:
            whole["ours"].append(ours)
            whole["plain"].append(plain)
            for name, found in steps.items():
                found.append(worker(_WORKER, name, place))
    ratio = statistics.median(a / b for a, b in zip(whole["ours"], whole["plain"], strict=True))
    made = {
        name: {step: statistics.median(turn[step] for turn in found) for step in found[0]}
        for name, found in steps.items()
    }
    proof = sum(made["ours"][step] for step in PROOF)
    click.echo(f"a small Llama: {ratio:.2f} of plain torch's wall time, the proof {proof:.1f} s")
    return {"whole": whole, "ratio": ratio, "steps": made}


def _experts(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the milliseconds of calls of both files, in turns, by the number of tokens."""
    ours, plain = folder / "ours" / "model.onnx", folder / "plain.onnx"
    example = _example(folder)
    made = ropeexport.export(example, out=ours.parent)
    verdict = made.check(runtimes="onnxruntime", cases=_CASES).verdict
    if verdict != "PASS":
        raise SystemExit(f"experts: expected PASS, got {verdict}")
    example.module.set_experts_implementation("batched_mm")  # type: ignore[operator]
    export_plain(example, plain)
    sessions = [_session(path) for path in (ours, plain)]
    for tokens in _TOKENS:
        given = {
            "input_ids": np.arange(tokens)[None] * 31 % _MIXTRAL["vocab_size"],
            "position_ids": np.arange(tokens)[None],
        }
        x, y = (session.run(None, given)[0] for session in sessions)
        same = np.allclose(x, y, atol=1e-3)
        if not same:
            raise SystemExit(f"experts: the two files differ at {tokens} tokens")
        turns = [[_milliseconds(session, given) for session in sessions] for _ in range(25)][5:]
        sorted_, copied = (statistics.median(column) for column in zip(*turns, strict=True))
        ratio = statistics.median(b / a for a, b in turns)
        click.echo(f"{tokens} tokens: sorted {sorted_:.2f} ms, batched_mm {ratio:.2f} of that")
        yield {"tokens": tokens, "sorted_ms": sorted_, "batched_ms": copied, "ratio": ratio}


def _example(folder: Path) -> Example:
    """Return a model with its weights in memory: their files have the experts one by one."""
    tokens, axes = torch.zeros(2, 12, dtype=torch.int64), {0: "batch", 1: "length"}
    positions = torch.arange(12).expand(2, 12).contiguous()
    return Example(
        AutoModel.from_pretrained(folder).eval(),
        {"input_ids": tokens, "position_ids": positions},
        {"input_ids": axes, "position_ids": axes},
        constants={"use_cache": False},
    )


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])


def _milliseconds(session: onnxruntime.InferenceSession, given: dict[str, Any]) -> float:
    start = time.perf_counter()
    session.run(None, given)
    return 1e3 * (time.perf_counter() - start)


if __name__ == "__main__":
    main()
