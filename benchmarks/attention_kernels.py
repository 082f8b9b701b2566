"""``python -m benchmarks.attention_kernels``: from which length on attention in blocks is faster.

Times both branches of ``ropeexport::AttentionInBlocks`` in onnxruntime on this CPU, in turns, and
writes ``benchmarks/results/attention-kernels.json``.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from benchmarks import machine
from ropeexport import export
from ropeexport.onnx_files.variants import with_attention_in_blocks
from ropeexport.ops.attention import FROM
from ropeexport.ops.names import ATTENTION_IN_BLOCKS

RESULT = Path(__file__).parent / "results" / "attention-kernels.json"
HEADS, HEAD_DIM = 24, 128
LENGTHS = (256, 512, 1024, 1536, 2048, 3072, 4096)
_ALWAYS, _NEVER = 1, 2**31


@click.command()
@click.option("--rounds", default=15, show_default=True, help="Turns of each branch.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULT, show_default=True)
def main(rounds: int, output: Path) -> None:
    """Time attention at once and in blocks at several lengths, in float32 and float16."""
    rows = [row for dtype in ("fp32", "fp16") for row in _rows(dtype, rounds)]
    machine.write(output, {"rounds": rounds, "rows": rows})


def _rows(dtype: str, rounds: int) -> list[dict[str, Any]]:
    with TemporaryDirectory() as folder:
        export("flux-attention", out=folder, dtype=dtype, heads=HEADS, head_dim=HEAD_DIM)
        model = ir.to_proto(with_attention_in_blocks(ir.load(Path(folder, "model.onnx"))))
    node = next(node for node in model.graph.node if node.op_type == ATTENTION_IN_BLOCKS)
    limit = next(attribute for attribute in node.attribute if attribute.name == FROM)
    chosen = limit.i
    sessions = []
    for limit.i in (_NEVER, _ALWAYS):
        sessions.append(_session(model))
    rows = []
    for length in LENGTHS:
        at_once, in_blocks = _turns(sessions, _inputs(dtype, length), rounds)
        ratio = statistics.median(b / a for a, b in zip(at_once, in_blocks, strict=True))
        times = {"at_once_ms": at_once, "in_blocks_ms": in_blocks, "ratio": ratio}
        rows.append({"dtype": dtype, "length": length, "blocks_from": chosen} | times)
        click.echo(f"{dtype}, length {length}: in blocks / at once = {ratio:.2f}")
    return rows


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    options.log_severity_level = 4
    # threads that spin would take the cores from the other session
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, ["CPUExecutionProvider"]
    )


def _inputs(dtype: str, length: int) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    shape = (1, HEADS, length, HEAD_DIM)
    kind = np.float16 if dtype == "fp16" else np.float32
    angles = rng.random((1, 1, length, HEAD_DIM // 2), dtype=np.float32) * np.float32(2 * np.pi)
    cos, sin = np.cos(angles), np.sin(angles)
    pe = np.stack([cos, -sin, sin, cos], axis=-1).reshape(*angles.shape, 2, 2)
    return {x: rng.standard_normal(shape, np.float32).astype(kind) for x in "qkv"} | {"pe": pe}


def _turns(
    sessions: list[onnxruntime.InferenceSession], inputs: dict[str, Any], rounds: int
) -> list[list[float]]:
    """Return the milliseconds of each session's turns; the first of each warms it up."""

    def milliseconds(session: onnxruntime.InferenceSession) -> float:
        start = time.perf_counter()
        session.run(None, inputs)
        return 1e3 * (time.perf_counter() - start)

    turns = [[milliseconds(session) for session in sessions] for _ in range(rounds + 1)]
    return [list(column) for column in zip(*turns[1:], strict=True)]


if __name__ == "__main__":
    main()
