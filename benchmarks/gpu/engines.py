"""Engines on this GPU: plugin, native and decomposed in each type, built, loaded, run, checked.

Everything goes through the ``ropeexport`` command, as a user goes, in processes of their own.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.gpu.compiler import ROOT
from benchmarks.gpu.verdict import FAIL, PASS, REFUSED, SKIPPED, Skipped
from ropeexport.trt.flavour import names_gpu

IMPLEMENTATIONS = ("plugin", "native", "decomposed")
DTYPES = ("fp32", "fp16", "bf16")

_FLAVOURS = {"tensorrt-rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}
_NEEDED = ("pydantic", "click", "rich", "onnx", "onnxscript", "onnx_ir", "ml_dtypes")
_SIZES = ("--heads", "8", "--head-dim", "128", "--length", "512")
_TIMEOUT_S = 240

Run = Callable[[Sequence[str]], tuple[int, str, str]]  # exit code, standard output and error


@dataclass(frozen=True)
class Engines:
    """What is to be built: where, for which GPU, with which plugin library."""

    folder: Path
    compute_capability: str
    plugin: Path | None  # None: why is in plugin_reason
    plugin_reason: str = ""
    exported: Path | None = None  # folders fp32, fp16, bf16 that were exported beforehand
    quick: bool = False


def find_flavours() -> list[str]:
    """Return the installed flavours of TensorRT; :class:`Skipped` names what is missing."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise Skipped(f"MISSING: {', '.join(missing)}; run: pip install ropeexport, with its needs")
    found = [name for name, module in _FLAVOURS.items() if find_spec(module) is not None]
    if not found:
        raise Skipped("MISSING: tensorrt-rtx and tensorrt; run: pip install tensorrt-rtx")
    return found


def engine_records(
    flavours: Sequence[str], engines: Engines, say: Callable[[str], None], run: Run | None = None
) -> Iterator[dict[str, Any]]:
    """Yield a record for each flavour, type and implementation."""
    run = run or _process
    for dtype in DTYPES[1:2] if engines.quick else DTYPES:
        exported, reason = _export(engines, dtype, run)
        for flavour in flavours:
            for implementation in IMPLEMENTATIONS:
                say(f"engines: {flavour} {implementation} {dtype}")
                start = {"flavour": flavour, "implementation": implementation, "dtype": dtype}
                if exported is None:
                    yield start | {"stage": "export", "verdict": FAIL, "message": reason}
                else:
                    yield start | _one(engines, start, exported, run)


def _export(engines: Engines, dtype: str, run: Run) -> tuple[Path | None, str]:
    """Return a folder with the model of a type, or None and the message."""
    if engines.exported is not None:
        given = engines.exported / dtype
        return (given, "") if given.is_dir() else (None, f"{given}: no such folder")
    folder = engines.folder / f"exported-{dtype}"
    options = ("flux-attention", "-o", str(folder), "--dtype", dtype, *_SIZES, "--force")
    status, _, errors = run(["export", *options])
    return (folder, "") if status == 0 else (None, message_of(errors))


def _one(engines: Engines, which: dict[str, str], exported: Path, run: Run) -> dict[str, Any]:
    """Build and check one engine; the record says how far it came."""
    needs_plugin = which["implementation"] == "plugin"
    if needs_plugin and engines.plugin is None:
        return {"stage": "build", "verdict": SKIPPED, "message": engines.plugin_reason}
    folder = engines.folder / "-".join(which.values())
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(exported, folder)
    options = ["--impl", which["implementation"], "--flavour", which["flavour"], "--force"]
    if needs_plugin:
        options += ["--plugins", str(engines.plugin)]
    status, _, errors = run(["build", str(folder), *options])
    if status != 0:
        refused = _not_run(which["flavour"], engines)
        return {"stage": "build", "verdict": refused, "message": message_of(errors)}
    status, output, errors = run(["check", str(folder), "--require", "tensorrt", "--json"])
    checked = read_check(status, output, errors)
    verdict = checked.verdict
    if verdict == FAIL and not checked.ran:
        verdict = _not_run(which["flavour"], engines)
    return {"stage": "check", "verdict": verdict, "message": checked.message}


@dataclass(frozen=True)
class Checked:
    """What ``check`` says of the runtime ``tensorrt``; ``ran``: it produced numbers."""

    verdict: str
    message: str
    ran: bool


def read_check(status: int, output: str, errors: str) -> Checked:
    """Read the report of ``check --json``; a process that died left none."""
    try:
        report = json.loads(output)
    except json.JSONDecodeError:
        return Checked(FAIL, f"exit code {status}: {message_of(errors)}", ran=False)
    runtime = next((r for r in report["runtimes"] if r["name"] == "tensorrt"), None)
    if runtime is None:
        return Checked(FAIL, "the report has no runtime tensorrt", ran=False)
    mine = [c for c in report["comparisons"] if c["runtime"] == "tensorrt"]
    verdict = runtime["status"] if runtime["status"] in (PASS, FAIL) else SKIPPED
    ran = any(c["numbers"] is not None for c in mine)
    return Checked(verdict, str(runtime["reason"]), ran)


def message_of(errors: str) -> str:
    """Return the error that a command printed, else its last lines."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return told[-1] if told else " / ".join(lines[-3:]) or "it said nothing"


def _not_run(flavour: str, engines: Engines) -> str:
    """Return what it is where nothing ran: on a GPU that the flavour does not name, a refusal."""
    return FAIL if names_gpu(flavour, engines.compute_capability) else REFUSED


def _process(arguments: Sequence[str]) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "ropeexport", *arguments]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return -1, "", f"error: no end after {_TIMEOUT_S} s"
    return done.returncode, done.stdout, done.stderr
