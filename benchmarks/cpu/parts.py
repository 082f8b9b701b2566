"""The parts of the CPU's measurements: what is exported, and at which lengths it is timed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.cpu import engines

_MODELS = "benchmarks.cpu.models"


@dataclass(frozen=True)
class Part:
    """A model and its lengths; a built-in's options, or the name of a factory.

    ``against``, ``rounds`` and ``repeats`` stand where a part cannot have those of the run.
    """

    model: tuple[str, ...]
    lengths: tuple[int, ...]
    text: str
    against: str | None = None
    rounds: int | None = None
    repeats: int | None = None

    @property
    def reference(self) -> str | None:
        """The factory, where the model is none of the built-ins."""
        return self.model[0] if ":" in self.model[0] else None


def _factory(name: str) -> tuple[str, ...]:
    return (f"{_MODELS}:{name}",)


_ATTENTION = ("flux-attention", "--heads", "24", "--head-dim", "128", "--length", "1024")
PARTS: dict[str, Part] = {
    "rope": Part(
        _factory("rope_fp32"), (256, 1024, 4096, 8192), "rotating q and k, 24 heads of 128"
    ),
    "attention": Part(_ATTENTION, (256, 1024, 4096), "FLUX attention, 24 heads of 128"),
    # onnxruntime keeps all scores, 6 GB in each process, so not every contender fits
    "attention-long": Part(
        _ATTENTION,
        (8192,),
        "FLUX attention, 24 heads of 128",
        against="ropeexport,plain,compile,openvino",
        rounds=2,
        repeats=1,
    ),
    "attention-fp16": Part(
        (*_ATTENTION, "--dtype", "fp16"), (256, 1024), "FLUX attention, 24 heads of 128"
    ),
    "flux-block": Part(
        _factory("flux_block_fp32"), (512,), "one single-stream FLUX block, 12 heads of 128"
    ),
    "small-flux": Part(
        _factory("small_flux_fp32"), (256, 512), "FLUX of 1+2 blocks, 8 heads of 128"
    ),
    "small-llama": Part(
        _factory("small_llama_fp32"), (256, 1024), "Llama of 4 layers, 1,024 wide, prefill"
    ),
    "small-llama-fp16": Part(
        _factory("small_llama_fp16"), (256,), "Llama of 4 layers, 1,024 wide, prefill"
    ),
}


def measure(part: Part, rounds: int, repeats: int, threads: int, *, builds: bool) -> dict[str, Any]:
    """Export a part's model, build engines and run ``ropeexport bench``, all as a user would."""
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        _run("export", *part.model, "-o", folder)
        seconds = time.perf_counter() - start
        built = engines.builds(Path(folder)) if builds else {}
        options = ["--device", "cpu", "--threads", str(threads)]
        options += ["--lengths", ",".join(map(str, part.lengths))]
        options += ["--rounds", str(part.rounds or rounds)]
        options += ["--repeats", str(part.repeats or repeats)]
        options += ["--against", part.against] if part.against else []
        if part.reference:
            options += ["--module", part.reference]
        _run("bench", folder, *options)
        text = (Path(folder) / "bench.json").read_text()
    found: dict[str, Any] = json.loads(text.replace(folder, "out"))
    return {"text": part.text, "export_wall_seconds": seconds, "builds": built, "bench": found}


def _run(*arguments: str) -> None:
    command = [sys.executable, "-m", "ropeexport", *arguments]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise SystemExit(f"ropeexport {' '.join(arguments)}: exit code {done.returncode}")
