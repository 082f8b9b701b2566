"""nvcc: the kernels as objects, and what links them, each kept under a hash of what it is made of.

The kernels are compiled once, as the three objects that the plugin consists of; the library that
Python calls, the sanitizer's driver and the plugin link the same ones.  A hash covers the texts of
sources and headers, the options, the architecture and nvcc's release, and no path: a run that is
cut into several calls compiles once, and what was compiled on one machine is found on another.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.gpu.verdict import Skipped
from ropeexport import atomic
from ropeexport.trt import toolchain

ROOT = Path(__file__).parents[2]
NATIVE = Path(__file__).parent / "native"
HEADERS = ROOT / "plugins" / "include"
LAUNCHES = ROOT / "plugins" / "src"
BUILD = ROOT / "build" / "gpu"
KEPT = BUILD / "compiled"
CARRIED = ROOT / ".gpu" / "compiled"  # what benchmarks.gpu.prepare compiled to be taken along

KERNELS = ("launch_matrices.cu", "launch_neighbours.cu", "launch_halves.cu")
# the plugin's sources that the kernels and their callers read
_LAUNCH_SOURCES = (*KERNELS, "launch.h", "form.h", "identity.h")

_ERROR_LINES = 8
_SHARED = ("-shared", "-Xcompiler=-fPIC,-fvisibility=hidden", "-Xlinker", "--exclude-libs=ALL")
_OBJECT = ("-c", "-DNDEBUG", "-Xcompiler=-fPIC,-fvisibility=hidden")
_WARNINGS = ("--Werror=all-warnings", "-Xcompiler=-Wall,-Wextra")

Inputs = Iterable[tuple[str, bytes]]  # what a product is made of: a name without a path, a text


class CompileError(Exception):
    """Sources that a compiler refuses."""


@dataclass(frozen=True)
class Compiler:
    """nvcc for one GPU.

    Parameters
    ----------
    nvcc : Path
        The compiler.
    architecture : str
        Compute capability without the dot: ``90``.
    folder : Path
        Where the results are kept.
    carried : Path or None
        Where results of another machine are looked for.
    """

    nvcc: Path
    architecture: str
    folder: Path = KEPT
    carried: Path | None = CARRIED

    def objects(self) -> list[Path]:
        """Return the kernels, an object for each of the plugin's launch_*.cu."""
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            return list(pool.map(self._object, KERNELS))

    def kernel(self) -> Path:
        """Return the kernels as a library with the interface of ``native/kernel.h``."""
        return self._linked("libropeexport_launch.so", ("launch.cpp", "copy.cu"), _SHARED)

    def driver(self) -> Path:
        """Return the program that the sanitizer runs."""
        # two roundings on the host stay two
        options = ("-Xcompiler=-ffp-contract=off",)
        return self._linked("sanitizer_driver", ("launch.cpp", "copy.cu", "driver.cpp"), options)

    def flashinfer(self, data: Path) -> Path:
        """Return FlashInfer's kernel as a library, from its headers in ``data/include``."""
        # its own CCCL goes before the toolkit's, as in its own build
        bundled = [data / "cccl" / part for part in ("libcudacxx/include", "cub", "thrust")]
        places = [*(place for place in bundled if place.is_dir()), data / "include"]
        source = NATIVE / "flashinfer.cu"

        def arguments() -> list[str]:
            return [*(f"-I{place}" for place in places), str(source)]

        inputs = [*_texts(NATIVE, (source,)), *_texts(data, _headers_of(places))]
        return self._made("libflashinfer_rope.so", inputs, _SHARED, arguments)

    def kept(self, name: str, inputs: Inputs, make: Callable[[Path], None]) -> Path:
        """Return the file of a name that is made of certain inputs, made where there is none yet.

        Files of the same inputs lie side by side.

        Parameters
        ----------
        name : str
            Of the file.
        inputs : iterable of (str, bytes)
            All that decides its content, beside the architecture and nvcc's release.
        make : callable
            Writes the file to a path.
        """
        place = Path(self._key(inputs), name)
        target = self.folder / place
        if not target.is_file():
            carried = self.carried and self.carried / place
            with atomic.replacing(target) as temporary:
                if carried and carried.is_file():
                    shutil.copyfile(carried, temporary)
                else:
                    make(temporary)
        target.chmod(0o755)  # a program, which appears without the right to run
        return target

    def _object(self, source: str) -> Path:
        return self._made(
            Path(source).with_suffix(".o").name,
            [("source", source.encode()), *kernel_texts()],
            (*_OBJECT, "-lineinfo", *_WARNINGS),  # line numbers do not change the machine code
            lambda: [*_includes(), str(LAUNCHES / source)],
        )

    def _linked(self, name: str, sources: Sequence[str], options: Sequence[str]) -> Path:
        def arguments() -> list[str]:
            files = [str(NATIVE / source) for source in sources]
            return [*_includes(), *files, *map(str, self.objects())]

        inputs = [
            *kernel_texts(),
            *_texts(NATIVE, (*NATIVE.glob("*.h"), *map(NATIVE.joinpath, sources))),
        ]
        return self._made(name, inputs, (*options, *_WARNINGS), arguments)

    def _made(
        self, name: str, inputs: Inputs, options: Sequence[str], arguments: Callable[[], list[str]]
    ) -> Path:
        """Return a file that nvcc makes; ``arguments`` are those that hold paths."""
        code = f"-gencode=arch=compute_{self.architecture},code=sm_{self.architecture}"
        plain = ("-O3", "-std=c++17", code, *options)

        def make(target: Path) -> None:
            _run([str(self.nvcc), *plain, *arguments(), "-o", str(target)])

        return self.kept(name, [("options", " ".join(plain).encode()), *inputs], make)

    def _key(self, inputs: Inputs) -> str:
        digest = hashlib.sha256()
        own = (("architecture", self.architecture), ("nvcc", release(self.nvcc)))
        for what, text in (*((key, value.encode()) for key, value in own), *inputs):
            digest.update(f"{what} {len(text)} ".encode() + text)
        return digest.hexdigest()[:16]


def find_compiler(architecture: str) -> Compiler:
    """Return nvcc for a GPU; :class:`Skipped` where there is none."""
    found = toolchain.find_nvcc()
    if found is None:
        raise Skipped(f"MISSING: nvcc; run: {toolchain.NVCC_CURE}, or set CUDACXX")
    return Compiler(Path(found), architecture)


@cache
def release(nvcc: Path) -> str:
    """Return the release of an nvcc, ``13.0``; empty where it does not say."""
    try:
        done = subprocess.run(
            [str(nvcc), "--version"], capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    match = re.search(r"release ([\d.]+)", done.stdout)
    return match[1] if match else ""


def _includes() -> list[str]:
    return [f"-I{HEADERS}", f"-I{LAUNCHES}"]


def kernel_texts() -> list[tuple[str, bytes]]:
    """Return all that the kernels are made of."""
    launches = _texts(LAUNCHES, [LAUNCHES / name for name in _LAUNCH_SOURCES])
    return [*launches, *_texts(HEADERS, HEADERS.rglob("*.cuh"))]


def _texts(folder: Path, files: Iterable[Path]) -> list[tuple[str, bytes]]:
    return [(str(file.relative_to(folder)), file.read_bytes()) for file in sorted(set(files))]


def _headers_of(places: Iterable[Path]) -> list[Path]:
    return [file for place in places for file in place.rglob("*") if file.is_file()]


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = (done.stderr + done.stdout).splitlines()
        faults = [line for line in lines if "error" in line.lower()] or lines
        raise CompileError("nvcc failed: " + " / ".join(faults[:_ERROR_LINES]))
