"""What is measured on the CPU: models at some lengths, engines' builds, whole processes."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.commands import python
from ropeexport import manifest
from ropeexport.trt.build import TIMING_CACHE_NAME

_OWN = "benchmarks.cpu.models:"
_LONG = "--axis length=1:1024:8192"
_ATTENTION = f"flux-attention --heads 24 --head-dim 128 --length 1024 {_LONG}"
_FLUX, _LLAMA = "FLUX attention, 24 heads of 128", "Llama of 4 layers, 1,024 wide, prefill"
_IMPLEMENTATIONS = ("decomposed", "native", "plugin")
_ROUNDS = 5  # of exports and starts
_STARTS = 5  # of a round, of which the median counts


@dataclass(frozen=True)
class Part:
    """A model with the options of its export, and its lengths; a built-in, or a factory.

    ``against``, ``rounds`` and ``repeats`` stand where a part cannot have those of the run.
    """

    model: str
    lengths: tuple[int, ...]
    text: str
    against: str | None = None
    rounds: int | None = None
    repeats: int | None = None


PARTS: dict[str, Part] = {
    "rope": Part(
        f"{_OWN}rope_fp32 {_LONG}", (256, 1024, 4096, 8192), "rotating q and k, 24 heads of 128"
    ),
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
        model, *exported = part.model.split()
        start = time.perf_counter()
        _run("export", model, *exported, "-o", folder)
        seconds = time.perf_counter() - start
        built = {name: _build(Path(folder), name) for name in _IMPLEMENTATIONS if builds}
        options = ["--device", "cpu", "--threads", str(threads)]
        options += ["--lengths", ",".join(map(str, part.lengths))]
        options += ["--rounds", str(part.rounds or rounds)]
        options += ["--repeats", str(part.repeats or repeats)]
        options += ["--against", part.against] if part.against else []
        options += ["--module", model] if ":" in model else []  # none of the built-ins
        _run("bench", folder, *options)
        text = (Path(folder) / "bench.json").read_text()
    found: dict[str, Any] = json.loads(text.replace(folder, "out"))
    return {"text": part.text, "export_wall_seconds": seconds, "builds": built, "bench": found}


def _run(*arguments: str) -> None:
    command = [sys.executable, "-m", "ropeexport", *arguments]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise SystemExit(f"ropeexport {' '.join(arguments)}: exit code {done.returncode}")


def _build(folder: Path, implementation: str) -> dict[str, Any]:
    """Return the seconds of ``ropeexport build``, or why there is no engine.

    Cold, and once more with what the first one kept; the whole command, as a user starts it.
    """
    cache = folder / TIMING_CACHE_NAME
    cache.unlink(missing_ok=True)
    row: dict[str, Any] = {"status": "BUILT"}
    for key in ("cold_seconds", "again_seconds"):
        options = ("--force", "--impl", implementation)
        ran = python("-m", "ropeexport", "build", str(folder), *options)
        row[key] = ran.seconds
        if ran.code:
            return {"status": "SKIPPED", "reason": ran.fault.replace(str(folder), "out")}
    engine = manifest.read(folder).engine
    assert engine is not None  # the command said that it built one
    return row | {
        "engine_mb": (folder / engine.file).stat().st_size / 1e6,
        "timing_cache": cache.is_file(),
        "flavour": engine.flavour,
        "version": engine.version,
    }


_EXPORT = """
import sys, tempfile, time
from pathlib import Path
import ropeexport
from ropeexport.bench.peers import export_plain
from ropeexport.models.builtin_models import BUILTINS, BuiltinOptions
example, export = BUILTINS["flux-attention"](BuiltinOptions()), ropeexport.export
with tempfile.TemporaryDirectory() as folder:
    start = time.perf_counter()
    if sys.argv[1] == "plain":
        export_plain(example, Path(folder, "model.onnx"))
    else:
        export(example, out=folder)
    print("seconds", time.perf_counter() - start)
"""


def processes() -> dict[str, dict[str, list[float]]]:
    """Return the seconds of exports of FLUX attention, and of starts of the command line.

    Exports time themselves, each in a fresh process; a bare interpreter starts beside the command.
    """
    command = str(Path(sys.executable).with_name("ropeexport"))
    return {
        "exports": _in_turns({name: partial(_export, name) for name in ("plain", "ropeexport")}),
        "starts": _in_turns(
            {
                "python -c pass": partial(_start, [sys.executable, "-c", "pass"]),
                "ropeexport --help": partial(_start, [command, "--help"]),
            }
        ),
    }


def _in_turns(works: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    turns = [{name: work() for name, work in works.items()} for _ in range(_ROUNDS)]
    return {name: [turn[name] for turn in turns] for name in works}


def _export(name: str) -> float:
    return float(python("-c", _EXPORT, name).printed.rsplit("seconds", 1)[1])


def _start(command: Sequence[str]) -> float:
    seconds = []
    for _ in range(_STARTS):
        start = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
