"""Compile the plugin library with CMake and nvcc, and put it where a build finds it."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ropeexport import atomic
from ropeexport.errors import MissingError, PluginError
from ropeexport.trt import toolchain
from ropeexport.trt.cache import make_cache_folder
from ropeexport.trt.plugin_library import FILE_NAME, cached_library

_TARGET = "ropeexport_plugin"
_ERROR_LINES = 8

OnLine = Callable[[str], None]


def source_folder() -> Path:
    """Return the folder of the plugin's sources, which a checkout has and a wheel has not."""
    folder = Path(__file__).parents[2] / "plugins"
    if not (folder / "CMakeLists.txt").is_file():
        raise MissingError(
            f"{folder}: the plugin's sources are not in this installation; clone the repository, "
            "run 'pip install -e .' in it, and try again"
        )
    return folder


def compile_plugin(
    architectures: Sequence[str] = (),
    include: Path | None = None,
    on_line: OnLine | None = None,
) -> Path:
    """Compile the plugin library into the cache folder and return its path.

    Parameters
    ----------
    architectures : sequence of str
        CUDA architectures as CMake writes them, ``89`` or ``90-real``; none: CMakeLists.txt's own.
    include : Path, optional
        Folder of TensorRT's headers; else the environment's, the system's, or a wheel's.
    on_line : callable
        Called with each line that CMake and the compilers print.

    Raises
    ------
    MissingError
        Where CMake, nvcc or the headers are missing, with the command that brings them.
    PluginError
        Where the sources do not compile.
    """
    sources = source_folder()
    cmake, nvcc = toolchain.find_cmake(), toolchain.find_nvcc()
    if cmake is None:
        raise MissingError(f"cmake is not installed; run: {toolchain.CMAKE_CURE}")
    if nvcc is None:
        raise MissingError(f"nvcc, the CUDA compiler, is not installed; run: {toolchain.NVCC_CURE}")
    headers = toolchain.header_folder(include)
    generator = toolchain.cmake_generator()
    build = make_cache_folder("plugin-build", _build_name(sources, generator))
    configure = [cmake, "-S", str(sources), "-B", str(build), "-DCMAKE_BUILD_TYPE=Release"]
    configure += generator
    configure += [f"-D{toolchain.HEADER_VARIABLE}={headers}", f"-DCMAKE_CUDA_COMPILER={nvcc}"]
    # -U: a former build's choice stays in CMake's cache otherwise
    chosen = f"-DCMAKE_CUDA_ARCHITECTURES={';'.join(architectures)}"
    configure.append(chosen if architectures else "-UCMAKE_CUDA_ARCHITECTURES")
    _run(configure, on_line)
    jobs = str(os.cpu_count() or 1)
    _run([cmake, "--build", str(build), "--target", _TARGET, "--parallel", jobs], on_line)
    return _install(build)


def _run(command: Sequence[str], on_line: OnLine | None) -> None:
    lines = []
    with (
        atomic.ended_cleanly(),
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # a group of its own: CMake ends no compiler that it started
        ) as process,
    ):
        assert process.stdout is not None  # a pipe
        try:
            for line in process.stdout:
                lines.append(line.rstrip())
                if on_line is not None:
                    on_line(line.rstrip())
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            raise
    if process.returncode != 0:
        faults = [line for line in lines if "error" in line.lower()] or lines
        raise PluginError(
            f"{' '.join(command[:2])} failed:\n  " + "\n  ".join(faults[:_ERROR_LINES])
        )


def _build_name(sources: Path, generator: Sequence[str]) -> str:
    """Return a name for a build; CMake keeps a folder to one of sources and to one generator."""
    return hashlib.sha256("\n".join([str(sources), *generator[:2]]).encode()).hexdigest()[:12]


def _install(build: Path) -> Path:
    made = sorted(build.rglob(FILE_NAME))
    if not made:
        raise PluginError(f"{build}: expected {FILE_NAME} from CMake, found none")
    make_cache_folder()
    with atomic.replacing(cached_library()) as temporary:
        shutil.copyfile(made[0], temporary)
    return cached_library()
