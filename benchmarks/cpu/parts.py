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

_OWN = "benchmarks.cpu.models:"
_ATTENTION = "flux-attention --heads 24 --head-dim 128 --length 1024"
_FLUX, _LLAMA = "FLUX attention, 24 heads of 128", "Llama of 4 layers, 1,024 wide, prefill"


@dataclass(frozen=True)
class Part:
    """A model and its lengths; a built-in with its options, or a factory.

    ``against``, ``rounds`` and ``repeats`` stand where a part cannot have those of the run.
    """

    model: str
    lengths: tuple[int, ...]
    text: str
    against: str | None = None
    rounds: int | None = None
    repeats: int | None = None

    @property
    def reference(self) -> str | None:
        """The factory, where the model is none of the built-ins."""
        return self.model if ":" in self.model else None


PARTS: dict[str, Part] = {
    "rope": Part(f"{_OWN}rope_fp32", (256, 1024, 4096, 8192), "rotating q and k, 24 heads of 128"),
    "attention": Part(_ATTENTION, (256, 1024, 4096), _FLUX),
    # onnxruntime keeps all scores, 6 GB in each process, so not every contender fits
    "attention-long": Part(_ATTENTION, (8192,), _FLUX, "ropeexport,plain,compile,openvino", 2, 1),
    "attention-fp16": Part(f"{_ATTENTION} --dtype fp16", (256, 1024), _FLUX),
    "flux-block": Part(
        f"{_OWN}flux_block_fp32", (512,), "one single-stream FLUX block, 12 heads of 128"
    ),
    "small-flux": Part(f"{_OWN}small_flux_fp32", (256, 512), "FLUX of 1+2 blocks, 8 heads of 128"),
    "small-llama": Part(f"{_OWN}small_llama_fp32", (256, 1024), _LLAMA),
    "small-llama-fp16": Part(f"{_OWN}small_llama_fp16", (256,), _LLAMA),
}


def measure(part: Part, rounds: int, repeats: int, threads: int, *, builds: bool) -> dict[str, Any]:
    """Export a part's model, build engines and run ``ropeexport bench``, all as a user would."""
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        _run("export", *part.model.split(), "-o", folder)
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
