"""``python -m benchmarks.load``: what ``ropeexport.load`` adds to a bare session of onnxruntime.

Times a call through the loaded model and the same call of a bare session of the same file, in turns
and with one thread each, and writes ``benchmarks/results/load.json``; and whole processes, from
their start to the first output.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

import ropeexport
from benchmarks import machine
from ropeexport.inference.loaded import LoadedModel

RESULT = Path(__file__).parent / "results" / "load.json"
LAYERS, HEADS, WIDTH, PAST = 30, 2, 32, 32
_SIZES = {"heads": 8, "head_dim": 64, "attention": "blocks"}
_LENGTH = {"fp32": 320, "fp16": 256}  # of about a millisecond
_START = {
    "ropeexport.load": """
import numpy as np, ropeexport
inputs = dict(np.load({inputs!r}))
ropeexport.load({folder!r}, device="cpu", threads=1).run(inputs)
""",
    "bare onnxruntime": """
import numpy as np, onnxruntime
inputs = dict(np.load({inputs!r}))
onnxruntime.InferenceSession({folder!r} + "/model.onnx").run(None, inputs)
""",
}


class Caches(nn.Module):
    """A step of a decoder as far as its cache goes: sixty inputs, sixty outputs."""

    def forward(self, x: Tensor, past: list[dict[str, Tensor]]) -> tuple[Tensor, Any]:
        """Return an attention over each cache, and the caches grown by x."""
        present = []
        for layer in past:
            grown = {name: torch.cat([old, x], 2) for name, old in layer.items()}
            x = nn.functional.scaled_dot_product_attention(x, grown["key"], grown["value"])
            present.append(grown)
        return x, present


@click.command()
@click.option("--rounds", default=400, show_default=True, help="Turns of each call.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULT, show_default=True)
def main(rounds: int, output: Path) -> None:
    """Time calls and starts through ropeexport.load and without it."""
    with TemporaryDirectory() as place:
        calls = list(_calls(Path(place), rounds))
        starts = _starts(Path(place))
    machine.write(output, {"rounds": rounds, "calls": calls, "starts": starts})


def _calls(place: Path, rounds: int) -> Iterator[dict[str, Any]]:
    for dtype in ("fp32", "fp16"):
        folder = place / dtype
        ropeexport.export("flux-attention", out=folder, dtype=dtype, **_SIZES)  # type: ignore[arg-type]
        with ropeexport.load(folder, device="cpu", threads=1) as model:
            given = model.random_inputs({"batch": 1, "length": _LENGTH[dtype]})
            bare = _bare(folder)
            yield _row(f"{dtype}, 4 arrays", model, given, lambda x, b=bare: b.run(None, x), rounds)
            tensors = {name: torch.from_numpy(x) for name, x in given.items()}
            yield _row(f"{dtype}, 4 torch tensors", model, tensors, _by_hand(bare), rounds)
    folder = place / "caches"
    past = [
        {n: torch.zeros(1, HEADS, PAST, WIDTH) for n in ("key", "value")} for _ in range(LAYERS)
    ]
    axes = {"past": {2: "past"}}
    ropeexport.export(Caches(), {"x": torch.zeros(1, HEADS, 1, WIDTH), "past": past}, folder,
                      dynamic_axes=axes, attention="blocks")  # fmt: skip
    with ropeexport.load(folder, device="cpu", threads=1) as model:
        given = model.random_inputs({"past": PAST})
        bare = _bare(folder)
        yield _row("fp32, 60 caches as arrays", model, given, lambda x: bare.run(None, x), rounds)


def _bare(folder: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        str(folder / "model.onnx"), options, ["CPUExecutionProvider"]
    )


def _by_hand(bare: onnxruntime.InferenceSession) -> Callable[[dict[str, Tensor]], Any]:
    """Return what a user writes around a session for torch's tensors."""

    def run(tensors: dict[str, Tensor]) -> list[Tensor]:
        arrays = {name: x.numpy() for name, x in tensors.items()}
        return [torch.from_numpy(x) for x in bare.run(None, arrays)]

    return run


def _row(
    name: str, model: LoadedModel, given: Any, bare: Callable[[Any], Any], rounds: int
) -> dict[str, Any]:
    """Return the times of a call through the loaded model and of the bare session's, in turns."""
    turns = [[_milliseconds(call, given) for call in (model.run, bare)] for _ in range(rounds + 20)]
    through, without = (list(column) for column in zip(*turns[20:], strict=True))
    ratio = statistics.median(a / b for a, b in zip(through, without, strict=True))
    added = 1e3 * statistics.median(a - b for a, b in zip(through, without, strict=True))
    without_ms = statistics.median(without)
    click.echo(f"{name}: {ratio:.3f} of a bare session's {without_ms:.2f} ms, {added:.0f} us more")
    return {"name": name, "ratio": ratio, "added_us": added, "bare_ms": without_ms}


def _milliseconds(call: Callable[[Any], Any], given: Any) -> float:
    start = time.perf_counter()
    call(given)
    return 1e3 * (time.perf_counter() - start)


def _starts(place: Path) -> dict[str, list[float]]:
    """Return the seconds of processes from their start to the first output, in turns."""
    folder, inputs = place / "fp32", place / "inputs.npz"
    with ropeexport.load(folder, device="cpu") as model:
        np.savez(inputs, **model.random_inputs({"length": 32}))  # type: ignore[arg-type]
    found: dict[str, list[float]] = {name: [] for name in _START}
    for _ in range(8):
        for name, code in _START.items():
            start = time.perf_counter()
            text = code.format(folder=str(folder), inputs=str(inputs))
            subprocess.run([sys.executable, "-c", text], check=True)
            found[name].append(time.perf_counter() - start)
    for name, seconds in found.items():
        click.echo(f"{name}, start to first output: {statistics.median(seconds[1:]):.2f} s")
    return {name: seconds[1:] for name, seconds in found.items()}


if __name__ == "__main__":
    main()
