"""The plugin library and its harness, compiled for this GPU, and the harness run on it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu.cases import Case, extreme_case, random_case
from benchmarks.gpu.compiler import ROOT, CompileError, Compiler
from benchmarks.gpu.seed import seed_apply_rope
from benchmarks.gpu.verdict import FAIL, PASS, Check, Skipped
from ropeexport.errors import MissingError
from ropeexport.trt import toolchain

NAME = "the plugin's enqueue"

_TARGETS = ("ropeexport_plugin", "ropeexport_harness")
# in CMake's folder; the harness loads the last, which lies beside it
_PRODUCTS = (
    "libropeexport_plugin.so",
    "test/ropeexport_harness",
    "test/libropeexport_stand_in.so",
)
_SOURCES = {".cu", ".cuh", ".cpp", ".h", ".map", ".txt"}
_SUMMARY = re.compile(r"(\d+) passed, (\d+) failed")
_TIMEOUT_S = 300
_SHAPES = (
    (1, 24, 24, 256, 128, 1, 1),
    (2, 6, 6, 33, 64, 2, 6),
    (2, 32, 8, 65, 128, 1, 1),
    (64, 32, 8, 1, 128, 64, 1),
    (1, 3, 3, 7, 66, 1, 1),
)
_OFFSETS = (0, 1)


@dataclass(frozen=True)
class PluginFiles:
    """The plugin library, and the program that plays TensorRT for it."""

    library: Path
    harness: Path


def compile_plugin(compiler: Compiler) -> PluginFiles:
    """Compile both with CMake around the kernels' objects, where they are not kept or carried.

    Raises
    ------
    Skipped
        Where CMake or TensorRT's headers are missing.
    CompileError
        Where the sources do not compile.
    """
    try:
        headers = toolchain.header_folder()
    except MissingError as error:
        raise Skipped(f"MISSING: {error}") from error
    inputs = [*_plugin_texts(), ("TensorRT", (headers / "NvInferVersion.h").read_bytes())]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)

        def take(name: str, target: Path) -> None:
            if not any(folder.iterdir()):
                _build(compiler, headers, folder)
            shutil.copyfile(folder / name, target)

        library, harness, _ = (
            compiler.kept(Path(name).name, inputs, partial(take, name)) for name in _PRODUCTS
        )
    return PluginFiles(library, harness)


def _plugin_texts() -> list[tuple[str, bytes]]:
    folder = ROOT / "plugins"
    files = [path for path in folder.rglob("*") if path.suffix in _SOURCES]
    return [(str(path.relative_to(folder)), path.read_bytes()) for path in sorted(files)]


def _build(compiler: Compiler, headers: Path, folder: Path) -> None:
    """Build both with CMake in an empty folder."""
    cmake = toolchain.find_cmake()
    if cmake is None:
        raise Skipped(f"MISSING: cmake; run: {toolchain.CMAKE_CURE}")
    configure = [cmake, "-S", str(ROOT / "plugins"), "-B", str(folder)]
    configure += [f"-D{toolchain.HEADER_VARIABLE}={headers}"]
    configure += [f"-DCMAKE_CUDA_COMPILER={compiler.nvcc}", *toolchain.cmake_generator()]
    objects = ";".join(map(str, compiler.objects()))
    _run([*configure, f"-DROPEEXPORT_LAUNCH_OBJECTS={objects}"])
    jobs = str(os.cpu_count() or 1)
    _run([cmake, "--build", str(folder), "--target", *_TARGETS, "--parallel", jobs])


def enqueue_check(files: PluginFiles, folder: Path) -> Check:
    """Run the harness on the GPU: one stream, several at once, and CUDA graphs."""
    write_cases(folder, harness_cases())
    command = enqueue_command(files, folder)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return Check(NAME, FAIL, f"no end after {_TIMEOUT_S} s")
    return read_harness(done.returncode, done.stdout + done.stderr)


def enqueue_command(files: PluginFiles, folder: Path) -> list[str]:
    """Return the harness's command line for the cases of a folder."""
    return [str(files.harness), str(files.library), "--enqueue", str(folder)]


def read_harness(status: int, output: str) -> Check:
    """Return what the harness found: its exit code and its summary must both say so."""
    lines = output.splitlines()
    faults = [line for line in lines if line.startswith(("FAIL", "error:"))]
    summary = _SUMMARY.search(output)
    passed = int(summary[1]) if summary else 0
    if status == 0 and summary and summary[2] == "0" and passed:
        return Check(NAME, PASS, cases=passed)
    reason = "; ".join(faults[:5] or lines[-3:]) or "it said nothing"
    return Check(NAME, FAIL, f"exit code {status}: {reason}", passed)


def harness_cases() -> list[Case]:
    """Return the cases that the harness is given."""
    cases = [random_case(shape, name) for shape in _SHAPES for name in ("fp32", "fp16", "bf16")]
    return [*cases, *(extreme_case(name) for name in ("fp32", "fp16", "bf16"))]


def write_cases(folder: Path, cases: Iterable[Case]) -> None:
    """Write cases and what the seed's function makes of them, as the harness's enqueue.h says."""
    folder.mkdir(parents=True, exist_ok=True)
    rotate = seed_apply_rope()
    lines = []
    for index, case in enumerate(cases):
        q_out, k_out = rotate(case.q, case.k, case.pe)
        arrays = {"q": case.q, "k": case.k, "pe": case.pe, "q_out": q_out, "k_out": k_out}
        for offset in _OFFSETS:
            name = f"{index}_{offset}"
            for suffix, tensor in arrays.items():
                (folder / f"{name}.{suffix}").write_bytes(_raw(tensor))
            lines.append(_line(name, case, offset))
    (folder / "cases.txt").write_text("".join(lines))


def _line(name: str, case: Case, offset: int) -> str:
    batch, heads, length, head_size = case.q.shape
    sizes = (batch, heads, case.k.shape[1], length, head_size, *case.pe.shape[:2], offset)
    kind = str(case.q.dtype).removeprefix("torch.")
    return f"{name} {kind} {' '.join(map(str, sizes))}\n"


def _raw(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).splitlines()
        faults = [line for line in lines if "error" in line.lower()] or lines[-3:]
        raise CompileError(f"{' '.join(command[:2])} failed: {' / '.join(faults[:5])}")
