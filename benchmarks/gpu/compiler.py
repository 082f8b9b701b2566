"""nvcc: the kernel as a library, the sanitizer's driver, FlashInfer's kernel as a library.

What was compiled is kept under a hash of its sources and command, so that a run cut into several
calls compiles once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.verdict import Skipped
from ropeexport import atomic

ROOT = Path(__file__).parents[2]
NATIVE = Path(__file__).parent / "native"
HEADERS = ROOT / "plugins" / "include"
BUILD = ROOT / "build" / "gpu"

_ERROR_LINES = 8
_DEFAULT_HOME = "/usr/local/cuda"
_LIBRARY = ("-shared", "-Xcompiler=-fPIC,-fvisibility=hidden", "-Xlinker", "--exclude-libs=ALL")
_WARNINGS = ("--Werror=all-warnings", "-Xcompiler=-Wall,-Wextra")


class CompileError(Exception):
    """Sources that nvcc refuses."""


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
    """

    nvcc: Path
    architecture: str
    folder: Path = BUILD

    def kernel(self) -> Path:
        """Return the kernel as a library with the interface of ``native/launch.h``."""
        return self._compiled("libropeexport_launch.so", ("launch.cu",), (*_LIBRARY, *_WARNINGS))

    def driver(self) -> Path:
        """Return the program that the sanitizer runs."""
        # two host roundings stay two; line numbers do not change the machine code
        options = ("-lineinfo", "-Xcompiler=-ffp-contract=off", *_WARNINGS)
        return self._compiled("sanitizer_driver", ("launch.cu", "driver.cpp"), options)

    def flashinfer(self, data: Path) -> Path:
        """Return FlashInfer's kernel as a library, from its headers in ``data/include``."""
        # its own CCCL goes before the toolkit's, as in its own build
        bundled = [data / "cccl" / part for part in ("libcudacxx/include", "cub", "thrust")]
        places = [*(place for place in bundled if place.is_dir()), data / "include"]
        options = [*_LIBRARY, *(f"-I{place}" for place in places)]
        return self._compiled("libflashinfer_rope.so", ("flashinfer.cu",), options)

    def _compiled(self, name: str, sources: Sequence[str], options: Sequence[str]) -> Path:
        code = f"-gencode=arch=compute_{self.architecture},code=sm_{self.architecture}"
        command = [str(self.nvcc), "-O3", "-std=c++17", code, f"-I{HEADERS}", *options]
        command += [str(NATIVE / source) for source in sources]
        target = self.folder / f"{_digest(command)}" / name
        if not target.is_file():
            with atomic.replacing(target) as temporary:
                _run([*command, "-o", str(temporary)])
        target.chmod(0o755)  # a program, which appears without the right to run
        return target


def find_compiler(architecture: str) -> Compiler:
    """Return nvcc for a GPU; :class:`Skipped` where there is none."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), _DEFAULT_HOME]
    guesses = [os.environ.get("CUDACXX"), shutil.which("nvcc")]
    guesses += [f"{home}/bin/nvcc" for home in homes if home]
    found = next((guess for guess in guesses if guess and Path(guess).is_file()), None)
    if found is None:
        raise Skipped("MISSING: nvcc; install NVIDIA's CUDA toolkit 12 or later, or set CUDACXX")
    return Compiler(Path(found), architecture)


def _digest(command: Sequence[str]) -> str:
    """Return a hash of a command and of every source of ours that it can read."""
    digest = hashlib.sha256("\n".join(command).encode())
    for path in sorted((*NATIVE.iterdir(), *HEADERS.rglob("*.cuh"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = (done.stderr + done.stdout).splitlines()
        faults = [line for line in lines if "error" in line.lower()] or lines
        raise CompileError("nvcc failed: " + " / ".join(faults[:_ERROR_LINES]))
